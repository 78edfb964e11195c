"""Tasks whose answers are numbers: from the bundle to what is published, mixed and shown."""

from __future__ import annotations

import dataclasses
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from counterpoint.engine.align import State
from counterpoint.engine.bundle import Bundle, describe, load_bundle
from counterpoint.engine.capsule.verify import _tolerated
from counterpoint.engine.config import Config, ConfigError, PurposeSection
from counterpoint.engine.encode import SessionEncoder
from counterpoint.engine.fuse import Fused
from counterpoint.engine.golden import verify_bundle
from counterpoint.engine.live.mixer import mix
from counterpoint.engine.manifest import (
    BundleError,
    Manifest,
    NumberSpec,
    format_manifest,
)
from counterpoint.engine.manifest_reader import parse_manifest
from counterpoint.engine.prediction import (
    NumberResult,
    Prediction,
    PredictionFormatError,
    from_json,
    to_document,
    to_json,
)
from counterpoint.engine.render import LiveTable
from counterpoint.engine.sources import open_replay
from counterpoint.streams.types import Modality
from tests.support.bundles import NUMBERS, tiny_bundle, tiny_parts
from tests.support.sessions import GRID_CHAT, GRID_CLIP, load_models, play

SPEC = NUMBERS["arousal"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("numbers") / "tiny", numbers=True)


@pytest.fixture(scope="module")
def played(bundle: Bundle) -> list[Prediction]:
    return play(load_models(bundle), open_replay(GRID_CLIP, GRID_CHAT)).predictions


def test_a_session_tells_the_number_in_its_own_unit(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw: list[Fused] = []
    fuse = SessionEncoder.fuse

    def remembering(self: SessionEncoder, window: object) -> Fused:
        raw.append(fuse(self, window))  # type: ignore[arg-type]
        return raw[-1]

    monkeypatch.setattr(SessionEncoder, "fuse", remembering)
    models = load_models(bundle)
    run = models.graphs["fusion"].run
    outputs: list[dict[str, np.ndarray]] = []

    def running(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs.append(run(inputs))
        return outputs[-1]

    monkeypatch.setattr(models.graphs["fusion"], "run", running, raising=False)
    predictions = play(models, open_replay(GRID_CLIP, GRID_CHAT)).predictions
    assert len(predictions) == len(outputs) > 3
    for prediction, said in zip(predictions, outputs, strict=True):
        number = prediction.numbers["arousal"]
        assert number.value == pytest.approx(40.0 + 10.0 * float(said["arousal_value"][0, 0]))
        assert (number.low, number.high) == (10.0, 90.0)
        given = [number.contributions[modality] for modality in Modality]
        assert given == pytest.approx((10.0 * said["arousal_contributions"][0, :, 0]).tolist())
    assert len({prediction.numbers["arousal"].value for prediction in predictions}) > 3


def test_contributions_and_what_is_said_of_nothing_sum_to_it(played: list[Prediction]) -> None:
    bias = {
        round(number.value - sum(number.contributions.values()), 3)
        for number in (prediction.numbers["arousal"] for prediction in played)
    }
    assert len(bias) == 1
    assert any(report.state is State.PRESENT for report in played[-1].modalities.values())


def test_the_document_says_it_and_reads_back(played: list[Prediction]) -> None:
    document = to_document(played[-1])
    number = document["numbers"]["arousal"]
    assert number["range"] == [10.0, 90.0]
    assert set(number["contributions"]) == {"video", "audio", "chat"}
    assert to_json(from_json(to_json(played[-1]))) == to_json(played[-1])
    assert "arousal" not in document["heads"]
    assert "arousal" not in document["modalities"]["video"]["contributions"]


@pytest.mark.parametrize(
    "bad",
    [
        {"value": "high", "range": [0, 1], "contributions": {}},
        {"value": 1.0, "range": [0], "contributions": {"video": 0, "audio": 0, "chat": 0}},
        {"value": 1.0, "range": [1, 0], "contributions": {"video": 0, "audio": 0, "chat": 0}},
        {"value": 1.0, "range": [0, 1], "contributions": {"video": 0}},
    ],
)
def test_a_document_with_a_wrong_number_is_no_prediction(
    played: list[Prediction], bad: dict[str, object]
) -> None:
    document = to_document(played[-1])
    document["numbers"]["arousal"] = bad
    with pytest.raises(PredictionFormatError):
        from_json(json.dumps(document))


def test_a_number_that_is_not_finite_is_no_result() -> None:
    with pytest.raises(ValueError, match="not finite"):
        NumberResult(value=float("nan"), low=0.0, high=1.0, contributions={})


def test_a_number_that_is_not_asked_for_is_not_told(bundle: Bundle) -> None:
    config = replace(Config(), purpose=PurposeSection(heads="sentiment"))
    models = load_models(bundle)
    played = play(models, open_replay(GRID_CLIP), config=config)
    assert all(not prediction.numbers for prediction in played.predictions)
    only = replace(Config(), purpose=PurposeSection(heads="arousal"))
    played = play(models, open_replay(GRID_CLIP), config=only)
    assert all(
        not prediction.heads and set(prediction.numbers) == {"arousal"}
        for prediction in played.predictions
    )
    # A profile locks what it does not name, whatever kind it is.
    section = PurposeSection(profile="workplace")
    assert section.allowed_heads(bundle.manifest.tasks) == {"sentiment"}
    with pytest.raises(ConfigError, match="allows none"):
        section.allowed_heads(["arousal"])


def test_of_several_voices_it_is_the_mean(played: list[Prediction]) -> None:
    def saying(value: float, added: float) -> Prediction:
        number = NumberResult(
            value=value, low=10.0, high=90.0, contributions=dict.fromkeys(Modality, added)
        )
        return replace(played[-1], numbers={"arousal": number})

    by = {"ann": saying(30.0, 1.0), "bob": saying(60.0, 3.0)}
    mixed = mix("s", by, revision=0, wall_ns=0).numbers["arousal"]
    assert (mixed.value, mixed.low, mixed.high) == (45.0, 10.0, 90.0)
    assert set(mixed.contributions.values()) == {2.0}


def test_on_another_platform_it_may_differ_by_a_share_of_its_range(
    played: list[Prediction],
) -> None:
    recorded = to_document(played[-1])
    for path in ("numbers.arousal.value", "numbers.arousal.contributions.video"):
        assert _tolerated(path, 40.0, 41.5, recorded)
        assert not _tolerated(path, 40.0, 41.7, recorded)
    assert not _tolerated("numbers.arousal.range[0]", 10.0, 10.1, recorded)


def test_it_is_shown(played: list[Prediction]) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=110, color_system=None)
    with LiveTable(console, "t", paced=False) as table:
        table.show(played[-1])
    shown = out.getvalue()
    number = played[-1].numbers["arousal"]
    line = next(line for line in shown.splitlines() if "arousal" in line)
    assert f"{number.value:.3g}" in line
    assert "10 to 90" in line
    assert f"arousal {number.contributions[Modality.VIDEO]:+.2g}" in shown


def test_the_bundle_verifies_and_describes_it(bundle: Bundle) -> None:
    assert all(result.passed for result in verify_bundle(bundle.root, "cpu").results)
    assert describe(bundle)["numbers"] == {"arousal": dataclasses.asdict(SPEC)}
    assert load_bundle(bundle.root).manifest.tasks == ("sentiment", "emotion", "arousal")


def test_a_bundle_without_numbers_does_not_mention_them(tmp_path: Path) -> None:
    plain = tiny_bundle(tmp_path / "plain").manifest
    assert b"numbers" not in format_manifest(plain)
    assert parse_manifest(format_manifest(plain)) == plain


def change(**fields: object) -> Manifest:
    manifest, files = tiny_parts(numbers=True)
    entries = {path: {"sha256": "0" * 64, "bytes": len(content)} for path, content in files.items()}
    document = json.loads(format_manifest(manifest)) | {"files": entries} | fields
    return parse_manifest(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"arousal": {"mean": 0, "std": 0, "low": 0, "high": 1}}, "numbers.arousal: std must be"),
        ({"arousal": {"mean": 0, "std": 1, "low": 1, "high": 1}}, "low must be below high"),
        ({"arousal": {"mean": 0, "std": 1, "low": 0}}, r"numbers.arousal.high: missing key"),
        ({"emotion": {"mean": 0, "std": 1, "low": 0, "high": 1}}, "is the name of a head, too"),
        ({}, "graphs.fusion.outputs: must be tensors"),
    ],
)
def test_a_manifest_with_wrong_numbers_is_refused_by_name(
    numbers: dict[str, object], message: str
) -> None:
    assert change().numbers["arousal"] == NumberSpec(mean=40.0, std=10.0, low=10.0, high=90.0)
    with pytest.raises(BundleError, match=message):
        change(numbers=numbers)


def test_there_must_be_something_to_tell() -> None:
    with pytest.raises(BundleError, match="at least one head, or one of numbers"):
        change(heads={}, numbers={}, temperatures={})
