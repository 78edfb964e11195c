"""Readers on tiny sets made here, with the quirks of the real ones."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

import wave
from pathlib import Path

import av
import numpy as np
import pytest

from tests.trainer.support import need_trainer

need_trainer()

from counterpoint.engine.preprocess.spec import AudioSpec
from counterpoint.streams.errors import UsageError
from counterpoint.streams.types import UInt8Array
from counterpoint.trainer.data.ferplus import read_ferplus, soft_labels
from counterpoint.trainer.data.recordings import TWEET_EMOTIONS
from counterpoint.trainer.data.speech import (
    CALIBRATION,
    RAVDESS_VALIDATION,
    list_nemo,
    list_ravdess,
    read_speech,
)
from counterpoint.trainer.data.text import (
    BEFORE_LINES,
    TWEET_CHOICE,
    emotion_targets,
    read_meld,
    read_text,
    read_tweeteval_emotion,
    same_text_key,
    sentiment_targets,
)
from counterpoint.trainer.labels import EMOTION, GOEMOTIONS, SENTIMENT, UNLABELLED

pytestmark = pytest.mark.trainer

VOTES = "index,name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"


def write_png(path: Path, picture: UInt8Array) -> None:
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = picture.shape[1], picture.shape[0], "gray"
        frame = av.VideoFrame.from_ndarray(picture, format="gray")
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def make_ferplus(data: Path, rows: list[str], drop: list[str]) -> None:
    folder = data / "ferplus"
    folder.mkdir(parents=True)
    (folder / "FER2013Train.labels.csv").write_text(VOTES + "\n".join(rows) + "\n")
    (folder / "duplicates_to_drop.csv").write_text(
        "split,name\n" + "".join(f"Train,{name}\n" for name in drop) + "Valid,a.png\n"
    )
    # Two columns of pictures; picture k has grey level 10 k.
    tiles = np.repeat(np.arange(6).reshape(3, 2) * 10, 48, axis=0).repeat(48, axis=1)
    write_png(folder / "FER2013Train.00.png", tiles.astype(np.uint8))


def test_faces_keep_their_votes_and_leave_out_duplicates_and_other_classes(tmp_path: Path) -> None:
    make_ferplus(
        tmp_path,
        [
            "0,a.png,4,0,0,4,1,0,0,0,1,0",  # tie: neutral stands first
            "1,b.png,0,10,0,0,0,0,0,0,0,0",  # dropped as a duplicate
            "2,c.png,1,0,0,2,0,0,0,6,1,0",  # contempt has most: left out
            "3,d.png,0,0,3,0,0,0,3,0,3,1",  # unknown ties with a class: kept
            "4,e.png,0,0,0,0,0,0,0,0,0,10",  # no face
        ],
        ["b.png"],
    )
    faces = read_ferplus(tmp_path, "Train")
    assert faces.left_out == {"duplicate": 1, "other_class": 2}
    assert faces.images[:, 0, 0].tolist() == [0, 30]
    assert faces.images.shape == (2, 48, 48)
    assert [EMOTION[index] for index in faces.hard] == ["neutral", "fear"]
    assert faces.soft[0, EMOTION.index("sad")] == pytest.approx(0.5)
    assert faces.soft[0, EMOTION.index("angry")] == 0
    assert faces.soft.sum(axis=1) == pytest.approx(1)


def test_a_single_vote_counts_where_nobody_agrees() -> None:
    assert soft_labels(np.array([[1, 1, 0, 0, 0, 0, 0]]))[0, :2] == pytest.approx(0.5)


def test_a_missing_set_is_named_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"FER\+.*ferplus"):
        read_ferplus(tmp_path, "Train")
    with pytest.raises(UsageError, match="RAVDESS"):
        list_ravdess(tmp_path)


def write_tone(path: Path, seconds: float, rate: int = 16_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(int(seconds * rate)) / rate
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((8_000 * np.sin(2 * np.pi * 440 * times)).astype(np.int16).tobytes())


def make_speech(data: Path) -> None:
    audio = data / "ravdess_speech" / "audio"
    for name in ("03-01-02-01-01-01-17", "03-01-05-01-01-01-01", "03-01-08-01-01-01-15"):
        write_tone(audio / f"{name}.opus", 0.4)
    write_tone(data / "nemo" / "audio" / "EB0_anger_1.opus", 0.3)
    (data / "nemo" / "data.tsv").write_text(
        "file\temotion\tspeaker\tgender\tage\ttext\n"
        'EB0_anger_1.opus\tanger\tEB0\tfemale\t27\tPies "Azor.\n',
        encoding="utf-8",
    )


def test_speech_is_labelled_by_its_names_and_split_by_speaker(tmp_path: Path) -> None:
    make_speech(tmp_path)
    clips = list_ravdess(tmp_path) + list_nemo(tmp_path)
    assert {(clip.speaker, EMOTION[clip.emotion]) for clip in clips} == {
        ("ravdess-17", "neutral"),  # calm
        ("ravdess-01", "angry"),
        ("ravdess-15", "surprise"),
        ("nemo-EB0", "angry"),
    }
    assert not CALIBRATION & RAVDESS_VALIDATION


def test_speech_is_decoded_once_into_whole_hops(tmp_path: Path) -> None:
    make_speech(tmp_path)
    cache = tmp_path / "cache"
    speech = read_speech(tmp_path, cache, AudioSpec())
    assert [len(frames) for frames in speech.log_mel] == [50] * 4
    for path in tmp_path.rglob("*.opus"):
        path.write_bytes(b"no sound any more")
    again = read_speech(tmp_path, cache, AudioSpec())
    assert np.array_equal(np.concatenate(again.log_mel), np.concatenate(speech.log_mel))
    chosen = speech.chosen(RAVDESS_VALIDATION)
    assert chosen.speakers == {"ravdess-17"}
    assert len(chosen.log_mel) == len(chosen.clips) == 1


def make_text(data: Path) -> None:
    text = data / "text"
    for name in (
        "semeval2017_task4a",
        "goemotions",
        "meld",
        "tweeteval_sentiment",
        "tweeteval_emotion",
    ):
        (text / name).mkdir(parents=True)
    tweets = [
        "1\tpositive\tWhat a lovely day in \\u201cParis\\u201d",
        "1\tpositive\tWhat a lovely day in \\u201cParis\\u201d",  # the same tweet again
        "2\tnegative\t@Microsoft this update is the worst thing http://t.co/x",
        "3\tneutral\tMeeting at nine",
    ]
    (text / "semeval2017_task4a" / "a.tsv").write_text("\n".join(tweets) + "\n", encoding="utf-8")
    (text / "tweeteval_sentiment" / "val_text.txt").write_text(
        "@user this update is the worst thing \nI like it \n", encoding="utf-8"
    )
    (text / "tweeteval_sentiment" / "val_labels.txt").write_text("0\n2\n")
    emotions = text / "tweeteval_emotion"
    (emotions / "train_text.txt").write_text(
        "Worry is a waste. Onwards and upwards\nNOBODY told me about this @user\n"
    )
    (emotions / "train_labels.txt").write_text("2\n0\n")
    (emotions / "val_text.txt").write_text("nobody told me about this\n")
    (emotions / "val_labels.txt").write_text("0\n")
    names = [name for group in GOEMOTIONS.values() for name in group]
    (text / "goemotions" / "original_labels.txt").write_text("\n".join(names))
    joy, love, fear = (names.index(name) for name in ("joy", "love", "fear"))
    (text / "goemotions" / "train.tsv").write_text(
        f"How nice\t{joy},{love}\tx1\nHelp, how nice\t{joy},{fear}\tx2\n"
    )
    (text / "goemotions" / "dev.tsv").write_text(f"Something else entirely\t{fear}\tx3\n")
    header = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID\n"
    (text / "meld" / "train_sent_emo.csv").write_text(
        header
        + '1,"What?",A,surprise,negative,0,0\n2,"No, really?",B,joy,positive,0,1\n'
        + '3," ",A,neutral,neutral,0,2\n'
        + "".join(f"{n},and {n},A,neutral,neutral,0,{n - 1}\n" for n in range(4, 8))
        + "8,Hello,A,joy,positive,1,0\n9,Well,A,joy,positive,1,1\n",
        encoding="utf-8",
    )
    (text / "meld" / "dev_sent_emo.csv").write_text(
        header + '1,"What?",A,surprise,negative,0,0\n', encoding="utf-8"
    )


def test_labels_that_a_set_lacks_are_absent(tmp_path: Path) -> None:
    make_text(tmp_path)
    sets = read_text(tmp_path)
    lines = {line.text: line for line in (*sets.training, *sets.calibration)}
    tweet = lines['What a lovely day in "Paris"']
    assert SENTIMENT[tweet.sentiment] == "positive"
    assert emotion_targets([tweet]).sum() == 0
    comment = lines["Help, how nice"]
    assert comment.sentiment == UNLABELLED
    shares = emotion_targets([comment])[0]
    assert shares[EMOTION.index("happy")] == shares[EMOTION.index("fear")] == 0.5
    # Two labels of one group are one emotion.
    assert lines["How nice"].emotion == (EMOTION.index("happy"),)
    assert sentiment_targets(read_meld(tmp_path, "dev")).tolist() == [0]


def test_a_line_of_a_dialogue_knows_those_before_it_and_none_of_another(tmp_path: Path) -> None:
    make_text(tmp_path)
    before = {line.text: line.before for line in read_meld(tmp_path, "train")}
    assert before["What?"] == before["Hello"] == ()
    assert before["Well"] == ("Hello",)
    assert before["and 4"] == ("What?", "No, really?")
    assert before["and 7"] == ("and 4", "and 5", "and 6")
    assert BEFORE_LINES == 3
    sets = read_text(tmp_path)
    lines = (*sets.training, *sets.calibration)
    assert all(not line.before for line in lines if line.source != "meld")
    # An utterance without a word is no line, and comes before none.
    assert "" not in [line.text for line in lines]


def test_optimism_counts_as_happy_and_its_own_label_is_kept(tmp_path: Path) -> None:
    make_text(tmp_path)
    found = read_tweeteval_emotion(tmp_path, "train")
    assert [EMOTION[line.emotion[0]] for line in found] == ["happy", "angry"]
    assert [TWEET_EMOTIONS[line.tweet_emotion] for line in found] == ["optimism", "anger"]
    assert {EMOTION[place] for place in TWEET_CHOICE} == {"happy", "sad", "angry"}
    assert {line.sentiment for line in found} == {UNLABELLED}


def test_training_never_has_a_line_of_a_validation_set(tmp_path: Path) -> None:
    make_text(tmp_path)
    sets = read_text(tmp_path)
    assert sets.removed == {"semeval": 1, "goemotions": 0, "meld": 1, "tweeteval_emotion": 1}
    texts = [line.text for line in (*sets.training, *sets.calibration)]
    assert not [text for text in texts if "worst thing" in text]
    assert texts.count('What a lovely day in "Paris"') == 1
    # Too short to be a sign of copying: all dialogue has it.
    assert "What?" in texts


def test_handles_links_and_punctuation_do_not_hide_a_copy() -> None:
    key = same_text_key("@user: LOOK at this... http")
    assert key == same_text_key("Look at this! @SomeBody https://t.co/1") == "lookatthis"
