"""What a fit learns from: media as the engine would see them, augmentation, cleaning."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.support import need_trainer

need_trainer()

from counterpoint.engine.preprocess.audio import clip_hops
from counterpoint.engine.preprocess.text import Tokenizer
from counterpoint.streams.errors import UsageError
from counterpoint.trainer.data.files import read_sound
from counterpoint.trainer.data.index import Example, read_index
from counterpoint.trainer.data.split import Shares, split_index
from counterpoint.trainer.fit.augment import (
    change_pictures,
    change_sound,
    clean,
    drop_tokens,
    mask_log_mel,
    mix,
)
from counterpoint.trainer.fit.config import (
    AudioAugment,
    ImageAugment,
    RunConfig,
    config_of,
    read_config,
)
from counterpoint.trainer.fit.dataset import Order, Source, Windows, collate, read_noises
from counterpoint.trainer.fit.media import read_media
from counterpoint.trainer.fit.specs import measure, read_specs, specs_of, write_specs
from tests.support.bundles import tiny_tokenizer
from tests.support.fit_data import SMALL, make_data, write_tone

pytestmark = pytest.mark.trainer
GRID_CLIP = Path(__file__).parents[1] / "data" / "grid_clip.mp4"


def example_of(path: Path, *, start_s: float = 0, end_s: float | None = None) -> Example:
    return Example(
        row=2, id="a", video=path, audio=path, text=None, start_ns=round(start_s * 1e9),
        end_ns=None if end_s is None else round(end_s * 1e9), speaker=None, split="train",
        labels={"m": 0},
    )  # fmt: skip


def plain(**sections: object) -> RunConfig:
    return config_of({"data": {"index": "index.csv"}, "text": {"use": False}, **sections})


def source_of(tmp_path: Path, config: RunConfig, example: Example) -> Source:
    index = tmp_path / "index.csv"
    index.write_text("id,text,label:m\na,hi,x\nb,ho,y\n")
    read = replace(read_index(index), examples=(example,))
    return Source(
        config=config, index=read, specs=specs_of(config), tokenizer=None, cache=tmp_path / "cache"
    )


def test_sound_and_faces_are_what_the_engine_makes_of_them(tmp_path: Path) -> None:
    config, example = plain(), example_of(GRID_CLIP)
    media = read_media(example, config, tmp_path)
    assert media.faces.shape == (12, 48, 48)
    assert media.seen.all()
    again = read_media(example, config, tmp_path)
    assert np.array_equal(again.sound, media.sound)
    assert len(list(tmp_path.iterdir())) == 2  # faces, sound
    # Another row of the same recording decodes nothing again.
    read_media(replace(example, row=3, id="other"), config, tmp_path)
    read_media(replace(example, video=None), config, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    item = Windows(source_of(tmp_path, config, example), (example,), None)[0]
    specs = specs_of(config)
    hops = clip_hops(media.sound, specs.audio)[:12]
    assert np.array_equal(item["logmel"][: len(hops)], hops)
    assert item["video_mask"].sum() == 8
    np.testing.assert_allclose(media.sound, read_sound(GRID_CLIP), atol=1 / 32767)


def test_a_window_in_the_middle_has_the_frames_before_it(tmp_path: Path) -> None:
    config = plain(audio={"context_ms": 1000})
    example = example_of(GRID_CLIP)
    item = Windows(source_of(tmp_path, config, example), (example,), None)[0]
    media = read_media(example, config, tmp_path)
    end = (media.hops + 8) // 2
    whole = clip_hops(media.sound, specs_of(config).audio)
    np.testing.assert_allclose(item["logmel"], whole[end - 4 : end], atol=1e-5)
    assert item["audio_mask"].all()


def test_a_span_is_what_is_meant(tmp_path: Path) -> None:
    config = plain()
    whole = read_media(example_of(GRID_CLIP), config, tmp_path)
    part = read_media(example_of(GRID_CLIP, start_s=1.0, end_s=2.0), config, tmp_path)
    assert len(part.faces) == 4
    assert np.array_equal(part.sound, whole.sound[16_000:32_000])
    item = Windows(source_of(tmp_path, config, example_of(GRID_CLIP)), (), None)
    assert len(item) == 0


def test_changes_hang_on_seed_epoch_and_row_only(tmp_path: Path) -> None:
    config, example = plain(), example_of(GRID_CLIP)
    source = source_of(tmp_path, config, example)
    first, same, other, still = (Windows(source, (example,), epoch)[0] for epoch in (1, 1, 2, None))
    for name in ("faces", "logmel"):
        assert np.array_equal(first[name], same[name])
        assert not np.array_equal(first[name], other[name])
        assert not np.array_equal(first[name], still[name])


def test_noise_has_the_ratio_that_was_asked_for() -> None:
    random = np.random.default_rng(0)
    sound, noise = (random.standard_normal(16_000).astype(np.float32) for _ in range(2))
    for snr_db in (-5.0, 0.0, 10.0):
        added = mix(sound, 3 * noise, snr_db) - sound
        ratio = 10 * np.log10(np.mean(sound**2) / np.mean(added**2))
        assert ratio == pytest.approx(snr_db, abs=0.01)
    silence = np.zeros(100, np.float32)
    assert np.array_equal(mix(silence, noise[:100], 0), silence)
    how = AudioAugment(noise=1.0, snr_db=(0.0, 0.0), gain_db=0.0)
    changed = change_sound(sound, how, [noise[:1000]], random)
    assert np.mean((changed - sound) ** 2) == pytest.approx(np.mean(sound**2), rel=0.01)


def test_real_recordings_are_read_as_noise(tmp_path: Path) -> None:
    write_tone(tmp_path / "hum.wav", 60, 0.5, np.random.default_rng(0))
    (noise,) = read_noises(str(tmp_path))
    assert noise.shape == (8_000,)
    assert read_noises("") == ()
    with pytest.raises(UsageError, match=r"data\.noise: there are no files in"):
        read_noises(str(tmp_path / "nowhere"))
    (tmp_path / "a.txt").write_text("no sound")
    with pytest.raises(UsageError, match=r"data\.noise: cannot decode .*a\.txt"):
        read_noises(str(tmp_path))


def test_cleaning_takes_noise_away_and_leaves_the_voice() -> None:
    random = np.random.default_rng(0)
    time = np.arange(32_000) / 16_000
    voice = (0.3 * np.sin(2 * np.pi * 440 * time) * (time % 0.5 < 0.25)).astype(np.float32)
    noisy = voice + 0.02 * random.standard_normal(len(voice)).astype(np.float32)
    cleaned = clean(noisy)
    assert cleaned.shape == voice.shape
    assert np.mean((cleaned - voice) ** 2) < 0.35 * np.mean((noisy - voice) ** 2)
    assert np.array_equal(clean(voice[:100]), voice[:100])


def test_pictures_words_and_masks_change_within_bounds() -> None:
    random = np.random.default_rng(0)
    faces = random.integers(0, 256, (3, 24, 24), dtype=np.uint8)
    nothing = ImageAugment(crop=0, flip=0, light=0, occlusion=0)
    assert np.array_equal(change_pictures(faces, nothing, random), faces)
    mirrored = change_pictures(faces, replace(nothing, flip=1.0), random)
    assert np.array_equal(mirrored, faces[:, :, ::-1])
    covered = change_pictures(faces, replace(nothing, occlusion=1.0), random)
    assert 0.01 < (covered != faces).any(axis=0).mean() < 0.2
    log_mel, fill = random.standard_normal((100, 64)).astype(np.float32), np.zeros(64, np.float32)
    masked = mask_log_mel(log_mel, fill, AudioAugment(time_frames=20, bins=8), random)
    assert 0 < (masked == 0).mean() < 0.4
    words = "one two three four five six seven eight"
    kept = drop_tokens(words, 0.5, random).split()
    assert 0 < len(kept) < 8
    assert [word for word in words.split() if word in kept] == kept
    assert drop_tokens("one", 1.0, random) == "one"


def test_lines_are_read_with_those_before_them_as_in_the_engine(tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer.json"
    tiny_tokenizer().save(str(tokenizer))
    config = plain(text={"encoder": "bert", "before_lines": 2}, video={"use": False},
                   audio={"use": False})  # fmt: skip
    example = replace(example_of(GRID_CLIP), text="good day\nwhat", before=("so", "happy", "you"))
    source = replace(source_of(tmp_path, config, example), tokenizer=tokenizer)
    item = Windows(source, [example], None)[0]
    encode = Tokenizer(tokenizer, source.specs.chat).encode
    for place, (line, before) in enumerate(
        (("good day", ("happy", "you")), ("what", ("you", "good day"))), start=6
    ):
        ids, mask = encode(line, before)
        length = ids.shape[1]
        assert item["input_ids"][place, :length].tolist() == ids[0].tolist()
        assert item["attention_mask"][place].tolist() == [
            *mask[0].tolist(), *[0] * (item["attention_mask"].shape[1] - length),
        ]  # fmt: skip
    assert not item["attention_mask"][:6].any()


def test_means_are_those_of_train_and_survive_the_file(tmp_path: Path) -> None:
    index = split_index(read_index(make_data(tmp_path)), shares=Shares(validation=0.25, test=0))
    (tmp_path / "config.toml").write_text(SMALL)
    config = read_config(tmp_path / "config.toml")
    specs = measure(config, index.of("train"), tmp_path / "cache")
    assert 0.3 < specs.video.mean < 0.7
    assert len(set(specs.audio.mean)) > 10
    write_specs(tmp_path / "specs.json", specs)
    assert read_specs(tmp_path / "specs.json") == specs
    source = Source(
        config=replace(config, text=replace(config.text, encoder="ngrams", stop_words=True)),
        index=index,
        specs=specs,
        tokenizer=None,
        cache=tmp_path / "cache",
    )
    windows = Windows(source, index.of("train"), 0)
    batch = collate([windows[place] for place in range(3)])
    assert batch["video_mask"].sum(dim=1).tolist() == [1, 1, 0]
    assert batch["labels"].shape == (3, 2)
    # 1.3 s of sound in a window of 1 s: every step there.
    assert batch["audio_mask"][0].all()


def test_each_process_has_as_many_batches_and_all_rows_are_met() -> None:
    orders = [Order(11, 2, rank=rank, world=3, seed=(0, 1)) for rank in range(3)]
    assert {len(order) for order in orders} == {2}
    assert sorted({row for order in orders for batch in order for row in batch}) == list(range(11))
    held = [list(Order(5, 2, rank=rank, world=2, seed=None)) for rank in range(2)]
    assert held == [[[0, 2], [4]], [[1, 3]]]
