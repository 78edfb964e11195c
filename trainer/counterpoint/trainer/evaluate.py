"""Validation of the bundle ``affect`` on the sets that it was made from, through its own graphs.

On sets of other people: `counterpoint.trainer.evaluation`.

Nothing of torch's models is used here: what is measured is what the engine will run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from counterpoint.engine.bundle import Bundle, load_bundle
from counterpoint.engine.device import Device, Graph, open_device
from counterpoint.engine.kernels import cpu
from counterpoint.engine.manifest import MASKS, Metric
from counterpoint.engine.preprocess.audio import windows_of
from counterpoint.engine.preprocess.text import Tokenizer, hashed_ngrams, pad_ids
from counterpoint.streams.types import Float32Array
from counterpoint.trainer.calibrate import softmax
from counterpoint.trainer.data.ferplus import Faces, read_ferplus
from counterpoint.trainer.data.speech import RAVDESS_VALIDATION, SpokenClips, read_speech
from counterpoint.trainer.data.text import (
    BEFORE_LINES,
    TWEET_CHOICE,
    Said,
    TextLine,
    read_goemotions,
    read_meld,
    read_tweeteval_emotion,
    read_tweeteval_sentiment,
)
from counterpoint.trainer.labels import EMOTION, MODALITIES, SENTIMENT
from counterpoint.trainer.metrics import (
    accuracy,
    calibration_floor,
    expected_calibration_error,
    macro_f1,
    macro_recall,
    weighted_f1,
)

Array: TypeAlias = npt.NDArray[Any]
BATCH = 256
TRIPLES = 2_000
MATCHED = "class-matched triples of FER+ valid, RAVDESS actors 17-20, MELD dev"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Present:
    """One modality's encoded samples, each as the fusion graph takes it.

    Fields:
        values: (N, T, D) float32 embeddings.
        mask: (N, T) float32.
    """

    values: Float32Array
    mask: Float32Array


class Evaluator:
    """A bundle's graphs on the CPU and the few calls that validation needs."""

    def __init__(self, bundle: Bundle, device: Device) -> None:
        self._bundle = bundle
        self._graphs: dict[str, Graph] = {
            role: device.load(bundle, role)
            for role in ("vision", "audio", "text", "ngrams", "fusion")
        }
        self._modalities = bundle.manifest.modalities
        self._tokenizer = Tokenizer(bundle.tokenizer_path, self._modalities.chat)

    def faces(self, images: Array) -> Present:
        """(N, 48, 48) uint8 -> one picture in the newest place of each row."""
        spec = self._modalities.video
        inputs = cpu.normalise_face(images, spec)[:, None]
        embeddings = np.concatenate(
            [
                self._graphs["vision"].run({"faces": inputs[at : at + BATCH]})["embedding"]
                for at in range(0, len(inputs), BATCH)
            ]
        )
        return _in_newest_place(embeddings, spec.steps)

    def clip(self, log_mel: Float32Array) -> Present:
        """A clip's raw log-mel -> a row for each window of it, hop by hop as it would stream."""
        spec, hop_ns = self._modalities.audio, self._bundle.manifest.hop_ns
        steps = self._graphs["audio"].run({"logmel": windows_of(log_mel, spec, hop_ns=hop_ns)})
        embeddings = steps["embedding"].reshape(-1, steps["embedding"].shape[2])
        context = spec.context_ns // hop_ns * spec.steps_per_hop
        values, masks = [], []
        for end in range(min(context, len(embeddings)), len(embeddings) + 1, spec.steps_per_hop):
            kept = embeddings[max(0, end - context) : end]
            padding = context - len(kept)
            values.append(np.pad(kept, ((padding, 0), (0, 0))))
            masks.append((np.arange(context) >= padding).astype(np.float32))
        return Present(values=np.stack(values), mask=np.stack(masks))

    def lines(self, lines: Sequence[Said]) -> Present:
        """Lines, read with those before them -> one line in the newest place of each row."""
        rows = []
        for text, before in lines:
            ids, mask = self._tokenizer.encode(text, before)
            buckets = pad_ids([hashed_ngrams(text, self._modalities.chat)])
            sentence = self._graphs["text"].run({"input_ids": ids, "attention_mask": mask})
            bag = self._graphs["ngrams"].run({"buckets": buckets})
            rows.append(np.concatenate([sentence["embedding"][0], bag["embedding"][0]]))
        return _in_newest_place(np.stack(rows), self._modalities.chat.max_lines)

    def fuse(self, parts: dict[str, Present]) -> dict[str, Array]:
        """Calibrated probabilities (N, C) of each head with just these modalities present."""
        count = len(next(iter(parts.values())).values)
        mask = "".join("1" if name in parts else "0" for name in MODALITIES)
        inputs: dict[str, Array] = {
            "state": np.repeat([[int(bit) for bit in mask]], count, axis=0).astype(np.int64)
        }
        for name, tensor in zip(MODALITIES, ("vision", "audio", "text"), strict=True):
            shape = next(
                spec.shape for spec in self._graphs["fusion"].spec.inputs if spec.name == tensor
            )
            places, width = int(shape[1]), int(shape[2])
            part = parts.get(name) or Present(
                values=np.zeros((count, places, width), np.float32),
                mask=np.zeros((count, places), np.float32),
            )
            inputs[tensor], inputs[f"{tensor}_mask"] = part.values, part.mask
        chunks = [
            self._graphs["fusion"].run(
                {name: array[at : at + BATCH] for name, array in inputs.items()}
            )
            for at in range(0, count, BATCH)
        ]
        return {
            head: softmax(
                np.concatenate([chunk[f"{head}_logits"] for chunk in chunks]),
                self._bundle.temperature(head, mask),
            )
            for head in self._bundle.manifest.heads
        }


def _in_newest_place(embeddings: Float32Array, places: int) -> Present:
    values = np.zeros((len(embeddings), places, embeddings.shape[1]), np.float32)
    mask = np.zeros((len(embeddings), places), np.float32)
    values[:, -1], mask[:, -1] = embeddings, 1
    return Present(values=values, mask=mask)


def evaluate_bundle(path: Path, data: Path, cache: Path) -> dict[str, Metric]:
    """The figures of a bundle on the validation splits, by name.

    Args:
        cache: where the decoded speech is kept.

    Raises:
        BundleError: the bundle cannot be used.
        UsageError: a validation set is missing.
    """
    bundle = load_bundle(path)
    device = open_device("cpu")
    try:
        evaluator = Evaluator(bundle, device)
        faces = read_ferplus(data, "Valid")
        speech = read_speech(data, cache, bundle.manifest.modalities.audio).chosen(
            RAVDESS_VALIDATION
        )
        metrics: dict[str, Metric] = {}
        pools: list[tuple[Present, Array, Array]] = [
            _score_faces(evaluator, faces, metrics),
            _score_speech(evaluator, speech, metrics),
            _score_text(evaluator, data, metrics),
        ]
        _score_subsets(evaluator, pools, metrics)
        return metrics
    finally:
        device.close()


def _score_faces(
    evaluator: Evaluator, faces: Faces, metrics: dict[str, Metric]
) -> tuple[Present, Array, Array]:
    present = evaluator.faces(faces.images)
    found = evaluator.fuse({"video": present})["emotion"]
    predicted = found.argmax(axis=1)
    split = "FER+ valid, majority of seven classes"
    for name, value in {
        "ferplus_accuracy": accuracy(faces.hard, predicted),
        "ferplus_macro_f1": macro_f1(faces.hard, predicted, len(EMOTION)),
        "ferplus_ece": expected_calibration_error(faces.hard, found),
        "ferplus_ece_floor": calibration_floor(found),
    }.items():
        metrics[name] = _validation(value, split)
    return present, faces.hard, np.full(len(faces.hard), -1)


def _score_speech(
    evaluator: Evaluator, clips: SpokenClips, metrics: dict[str, Metric]
) -> tuple[Present, Array, Array]:
    """A clip's answer is the mean of its windows' probabilities."""
    windows = [evaluator.clip(log_mel) for log_mel in clips.log_mel]
    counts = [len(present.values) for present in windows]
    everything = Present(
        values=np.concatenate([present.values for present in windows]),
        mask=np.concatenate([present.mask for present in windows]),
    )
    found = evaluator.fuse({"audio": everything})["emotion"]
    by_clip = np.stack([part.mean(axis=0) for part in np.split(found, np.cumsum(counts)[:-1])])
    truth = clips.emotions
    window_truth = np.repeat(truth, counts)
    clip_of = np.repeat(np.arange(len(counts)), counts)
    for name, value in {
        "ravdess_unweighted_recall": macro_recall(truth, by_clip.argmax(axis=1), len(EMOTION)),
        "ravdess_accuracy": accuracy(truth, by_clip.argmax(axis=1)),
        "ravdess_window_unweighted_recall": macro_recall(
            window_truth, found.argmax(axis=1), len(EMOTION)
        ),
        "ravdess_window_ece": expected_calibration_error(window_truth, found),
        "ravdess_window_ece_floor": calibration_floor(found, clip_of),
        "ravdess_clip_ece": expected_calibration_error(truth, by_clip),
        "ravdess_clip_ece_floor": calibration_floor(by_clip),
    }.items():
        metrics[name] = _validation(value, "RAVDESS actors 17-20, speakers never trained on")
    return everything, window_truth, np.full(len(window_truth), -1)


def _score_text(
    evaluator: Evaluator, data: Path, metrics: dict[str, Metric]
) -> tuple[Present, Array, Array]:
    meld = read_meld(data, "dev")
    emotion, sentiment = _labels(meld)
    present = evaluator.lines([line.said for line in meld])
    found = evaluator.fuse({"chat": present})
    alone = evaluator.fuse({"chat": evaluator.lines([(line.text, ()) for line in meld])})
    for name, value in {
        "meld_emotion_weighted_f1": weighted_f1(
            emotion, found["emotion"].argmax(axis=1), len(EMOTION)
        ),
        "meld_single_lines_emotion_weighted_f1": weighted_f1(
            emotion, alone["emotion"].argmax(axis=1), len(EMOTION)
        ),
        "meld_emotion_macro_f1": macro_f1(emotion, found["emotion"].argmax(axis=1), len(EMOTION)),
        "meld_emotion_ece": expected_calibration_error(emotion, found["emotion"]),
        "meld_emotion_ece_floor": calibration_floor(found["emotion"]),
        "meld_sentiment_weighted_f1": weighted_f1(
            sentiment, found["sentiment"].argmax(axis=1), len(SENTIMENT)
        ),
    }.items():
        metrics[name] = _validation(value, "MELD dev, text only")

    tweets = read_tweeteval_sentiment(data)
    _, truth = _labels(tweets)
    tweeted = evaluator.fuse({"chat": evaluator.lines([line.said for line in tweets])})["sentiment"]
    among_others = evaluator.fuse({"chat": evaluator.lines(_among_others(tweets))})["sentiment"]
    for name, value in {
        "tweeteval_sentiment_macro_recall": macro_recall(
            truth, tweeted.argmax(axis=1), len(SENTIMENT)
        ),
        "tweeteval_sentiment_among_others_macro_recall": macro_recall(
            truth, among_others.argmax(axis=1), len(SENTIMENT)
        ),
        "tweeteval_sentiment_ece": expected_calibration_error(truth, tweeted),
        "tweeteval_sentiment_ece_floor": calibration_floor(tweeted),
    }.items():
        metrics[name] = _validation(value, "TweetEval sentiment validation")

    _score_emotion_lines(evaluator, data, metrics)
    return present, emotion, sentiment


def _score_emotion_lines(evaluator: Evaluator, data: Path, metrics: dict[str, Metric]) -> None:
    """Lines with an emotion alone. Of TweetEval's four, two are happy here, and the answer is
    taken from the three that its annotators could choose."""
    comments = [line for line in read_goemotions(data, "dev") if len(line.emotion) == 1]
    truth, _ = _labels(comments)
    found = evaluator.fuse({"chat": evaluator.lines([line.said for line in comments])})["emotion"]
    among_others = evaluator.fuse({"chat": evaluator.lines(_among_others(comments))})["emotion"]
    for name, value in {
        "goemotions_ekman_macro_f1": macro_f1(truth, found.argmax(axis=1), len(EMOTION)),
        "goemotions_ekman_among_others_macro_f1": macro_f1(
            truth, among_others.argmax(axis=1), len(EMOTION)
        ),
        "goemotions_ekman_ece": expected_calibration_error(truth, found),
        "goemotions_ekman_ece_floor": calibration_floor(found, draws=50),
    }.items():
        metrics[name] = _validation(value, "GoEmotions dev, lines of one Ekman group")

    tweets = read_tweeteval_emotion(data, "val")
    truth, _ = _labels(tweets)
    found = evaluator.fuse({"chat": evaluator.lines([line.said for line in tweets])})["emotion"]
    choice = np.array(TWEET_CHOICE)
    metrics["tweeteval_emotion_of_three_macro_f1"] = _validation(
        macro_f1(truth, choice[found[:, choice].argmax(axis=1)], len(EMOTION)),
        "TweetEval emotion validation, joy and optimism as one",
    )


def _among_others(lines: Sequence[TextLine]) -> list[Said]:
    """Each line after lines of its set that have nothing to do with it, as a busy chat goes."""
    random = np.random.default_rng(0)
    drawn = random.integers(len(lines), size=(len(lines), BEFORE_LINES))
    return [
        (line.text, tuple(lines[place].text for place in places))
        for line, places in zip(lines, drawn.tolist(), strict=True)
    ]


def _labels(lines: Sequence[TextLine]) -> tuple[Array, Array]:
    """Emotion (-1 where there is none) and sentiment positions."""
    return (
        np.array([line.emotion[0] if line.emotion else -1 for line in lines], np.int64),
        np.array([line.sentiment for line in lines], np.int64),
    )


def _score_subsets(
    evaluator: Evaluator,
    pools: Sequence[tuple[Present, Array, Array]],
    metrics: dict[str, Metric],
) -> None:
    """Every subset of modalities on the same draws, all seven emotions equally often.

    The three parts of a triple are recordings of different people that share a label, so this
    shows how the fusion adds evidence up, not how well it does on a real session.
    """
    random = np.random.default_rng(0)
    truth = np.arange(TRIPLES) % len(EMOTION)
    rows = [
        np.array([random.choice(np.flatnonzero(emotion == wanted)) for wanted in truth])
        for _, emotion, _ in pools
    ]
    sentiment = pools[2][2][rows[2]]
    for mask in MASKS:
        parts = {
            name: Present(values=pool[0].values[chosen], mask=pool[0].mask[chosen])
            for name, bit, pool, chosen in zip(MODALITIES, mask, pools, rows, strict=True)
            if bit == "1"
        }
        found = evaluator.fuse(parts)
        figures = {
            f"subset_{mask}_emotion_recall": macro_recall(
                truth, found["emotion"].argmax(axis=1), len(EMOTION)
            ),
            f"subset_{mask}_emotion_ece": expected_calibration_error(truth, found["emotion"]),
            f"subset_{mask}_sentiment_recall": macro_recall(
                sentiment, found["sentiment"].argmax(axis=1), len(SENTIMENT)
            ),
        }
        for name, value in figures.items():
            metrics[name] = Metric(value=round(value, 4), split=MATCHED, kind="class-matched")


def _validation(value: float, split: str) -> Metric:
    return Metric(value=round(value, 4), split=split, kind="validation")
