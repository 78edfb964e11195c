"""The bundle that ships: whole, unchanged, and sensible on plain cases through the engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from counterpoint.engine.align import State
from counterpoint.engine.bundle import Bundle, default_bundle_path, load_bundle
from counterpoint.engine.golden import verify_bundle
from counterpoint.engine.models import Models
from counterpoint.engine.prediction import Prediction, stable_json
from counterpoint.engine.sources import open_demo, open_sources
from counterpoint.streams.types import Modality
from tests.support.sessions import GRID_CLIP, load_models, play

HOP_NS = 250_000_000


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(default_bundle_path())


@pytest.fixture(scope="module")
def models(bundle: Bundle) -> Models:
    return load_models(bundle)


def chat_only(models: Models, tmp_path: Path, text: str) -> Prediction:
    """The last prediction of a session in which one line was written and nothing else."""
    path = tmp_path / "chat.jsonl"
    line = {"seconds": 0.4, "author": "ann", "text": text}
    path.write_text(json.dumps(line) + "\n", encoding="utf-8")
    return play(models, open_sources(video="none", audio="none", chat=f"file:{path}")).predictions[
        -1
    ]


def test_every_graph_gives_its_golden_outputs(bundle: Bundle) -> None:
    results = verify_bundle(bundle.root, "cpu").results
    assert {r.role for r in results} == {"vision", "audio", "text", "ngrams", "fusion", "vad"}
    assert all(r.passed for r in results)


def test_the_card_and_the_manifest_state_licence_data_and_limits(bundle: Bundle) -> None:
    card = (bundle.root / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "non-commercial" in bundle.manifest.licence_notice.lower()
    for words in ("FER+", "RAVDESS", "nEMO", "SemEval", "GoEmotions", "MELD", "non-commercial"):
        assert words.lower() in card.lower(), words
    assert "5(1)(f)" in card


@pytest.mark.parametrize(
    ("metric", "floor"),
    [
        ("ferplus_accuracy", 0.80),
        ("ravdess_unweighted_recall", 0.55),
        ("meld_emotion_weighted_f1", 0.55),
        ("tweeteval_sentiment_macro_recall", 0.60),
    ],
)
def test_the_recorded_metrics_are_above_the_floors(
    bundle: Bundle, metric: str, floor: float
) -> None:
    assert bundle.manifest.metrics[metric].value >= floor


@pytest.mark.parametrize(
    ("text", "head", "label"),
    [
        ("I love this, what a wonderful day! I am so happy", "sentiment", "positive"),
        ("this is terrible, I hate it so much", "sentiment", "negative"),
        ("I love this, what a wonderful day! I am so happy", "emotion", "happy"),
        ("I am so angry with you, stop it now!", "emotion", "angry"),
        ("oh my god! I did not expect that at all, wow!", "emotion", "surprise"),
        ("the meeting is at three in room four", "emotion", "neutral"),
    ],
)
def test_plain_lines_are_read_as_people_read_them(
    models: Models, tmp_path: Path, text: str, head: str, label: str
) -> None:
    assert chat_only(models, tmp_path, text).heads[head].top[0] == label


def test_nothing_heard_gives_the_prior_and_says_so(models: Models, tmp_path: Path) -> None:
    """Before its only line a chat session has heard nothing at all."""
    path = tmp_path / "chat.jsonl"
    path.write_text('{"seconds": 2.1, "author": "ann", "text": "hello"}\n', encoding="utf-8")
    played = play(models, open_sources(video="none", audio="none", chat=f"file:{path}"))
    first, second = played.predictions[:2]
    assert first.modalities[Modality.CHAT].state is State.SILENT
    assert first.heads == second.heads
    assert first.heads["emotion"].top[0] == "neutral"
    for report in first.modalities.values():
        assert not any(any(values) for values in report.contributions.values())


def test_the_demo_session_shows_every_modality_and_a_silent_chat(models: Models) -> None:
    played = play(models, open_demo())
    predictions = played.predictions
    assert [p.window for p in predictions] == list(range(1, len(predictions) + 1))
    assert 20 <= predictions[-1].end_ns / 1e9 <= 30
    states = {m: {p.modalities[m].state for p in predictions} for m in Modality}
    assert State.PRESENT in states[Modality.VIDEO]
    assert State.PRESENT in states[Modality.AUDIO]
    assert {State.PRESENT, State.SILENT} <= states[Modality.CHAT]
    assert len({p.heads["emotion"].top[0] for p in predictions}) >= 2
    encoded = played.summary.encoded
    assert encoded.windows == encoded.hops == len(predictions)
    assert encoded.frames <= len(predictions)
    assert played.summary.dropped == {}


def test_taking_a_modality_away_leaves_what_the_others_say_as_it_was(models: Models) -> None:
    both = play(
        models, open_sources(video=f"file:{GRID_CLIP}", audio=f"file:{GRID_CLIP}", chat="none")
    )
    sound = play(models, open_sources(video="none", audio=f"file:{GRID_CLIP}", chat="none"))
    for with_video, without in zip(both.predictions, sound.predictions, strict=True):
        for head in ("sentiment", "emotion"):
            assert with_video.modalities[Modality.AUDIO].contributions[head] == pytest.approx(
                without.modalities[Modality.AUDIO].contributions[head], abs=1e-4
            )
            assert not any(without.modalities[Modality.VIDEO].contributions[head])
            assert any(with_video.modalities[Modality.VIDEO].contributions[head])


def test_the_shipped_bundle_replays_to_the_same_bytes(models: Models) -> None:
    sources = {"video": f"file:{GRID_CLIP}", "audio": f"file:{GRID_CLIP}", "chat": "none"}
    first, second = (play(models, open_sources(**sources)).predictions for _ in range(2))
    assert [stable_json(p) for p in first] == [stable_json(p) for p in second]
