"""``export``: a bundle in another precision that the engine runs as it is."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.trainer.support import need_trainer

need_trainer()

from counterpoint.engine.bundle import Bundle, load_bundle
from counterpoint.engine.golden import verify_bundle
from counterpoint.engine.manifest import MODEL_CARD_FILE
from counterpoint.trainer.cli import main
from counterpoint.trainer.data.index import read_index
from counterpoint.trainer.evaluation.capture import capture
from counterpoint.trainer.parity import GATES, GOLDEN, Gate
from tests.support.bundles import tiny_bundle
from tests.support.sessions import GRID_CLIP, load_models
from tests.trainer.evaluation.test_report import write_index

pytestmark = pytest.mark.trainer


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clip = str(GRID_CLIP)
    return write_index(
        tmp_path_factory.mktemp("set") / "index.csv",
        [
            ["a", clip, clip, "so good", "0.75", "ann", "happy"],
            ["b", clip, clip, "bad", "0.75", "bob", "sad"],
            ["c", "", "", "i am sad", "", "cem", "sad"],
            ["d", "", "", "wow", "", "dan", "surprise"],
        ],
        ("id", "video", "audio", "text", "end_s", "speaker", "label:emotion"),
    )


@pytest.mark.parametrize(
    ("precision", "options", "changed"),
    [
        ("fp16", [], {"vision", "audio", "text", "ngrams", "fusion"}),
        ("int8", ["--role", "vision"], {"vision"}),
    ],
)
def test_the_engine_runs_the_bundle_in_another_precision(
    bundle: Bundle, index: Path, tmp_path: Path, precision: str, options: list[str],
    changed: set[str], capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / precision
    words = ["export", str(bundle.root), str(index), "--precision", precision]
    assert main([*words, "--out", str(out), *options]) == 0, capsys.readouterr().err
    made = load_bundle(out)
    for role, spec in made.manifest.graphs.items():
        old = bundle.manifest.graphs[role]
        assert (spec.inputs, spec.outputs) == (old.inputs, old.outputs)
        if role in changed:
            assert spec.precision == precision
            assert spec.file == f"models/{role}/model.{precision}.onnx"
            assert spec.tolerance == GOLDEN[spec.precision]
            # Golden outputs are its own, on the same inputs.
            assert made.read_bytes(spec.golden) != bundle.read_bytes(old.golden)
        else:
            assert spec == old
            assert made.read_bytes(spec.file) == bundle.read_bytes(old.file)
    assert not any(f"models/{role}/model.fp32.onnx" in made.manifest.files for role in changed)
    assert all(result.passed for result in verify_bundle(out, "cpu").results)
    card = made.read_bytes(MODEL_CARD_FILE).decode()
    assert f"## Precision {precision}" in card
    assert bundle.digest[:12] in card
    for role in changed:
        sizes = [
            source.manifest.files[source.manifest.graphs[role].file].bytes
            for source in (bundle, made)
        ]
        assert f"| {role} | {sizes[0]} | {sizes[1]} |" in card


def test_a_gate_that_fails_leaves_no_bundle(
    bundle: Bundle, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    strict = Gate(error=1e-9, cosine=1.0, agreement=1.0)
    monkeypatch.setitem(GATES, "fp16", strict)
    out = tmp_path / "out"
    words = ["export", str(bundle.root), str(index), "--precision", "fp16", "--role", "vision"]
    assert main([*words, "--out", str(out)]) == 1
    message = capsys.readouterr().err
    assert "graph 'vision' in fp16 is not near enough" in message
    assert "error of at most 1e-09" in message
    assert not out.exists()


def test_what_is_fp16_already_is_not_converted_again(
    bundle: Bundle, index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = tmp_path / "half"
    words = ["--precision", "fp16", "--role", "vision"]
    assert main(["export", str(bundle.root), str(index), *words, "--out", str(half)]) == 0
    assert main(["export", str(half), str(index), *words, "--out", str(tmp_path / "again")]) == 2
    assert "none of the graphs vision" in capsys.readouterr().err
    assert main(["export", str(half), str(index), *words, "--out", str(half)]) == 2
    assert "--out" in capsys.readouterr().err


def test_what_graphs_are_given_is_kept_evenly_and_unchanged(bundle: Bundle, index: Path) -> None:
    examples = read_index(index).examples
    models = load_models(bundle)
    everything, scored = capture(models, examples, most=1_000, seed=0)
    assert len(everything["text"]) == 4
    assert len(everything["audio"]) == 6  # two rows of three hops
    assert len(scored) == 4
    few, _ = capture(models, examples, most=2, seed=0)
    assert [len(few[role]) for role in ("text", "audio", "fusion")] == [2, 2, 2]
    kept = [tuple(given["logmel"].ravel()) for given in everything["audio"]]
    assert all(tuple(given["logmel"].ravel()) in kept for given in few["audio"])
    for given in everything["audio"]:
        outputs = models.graphs["audio"].run(given)
        assert np.isfinite(outputs["embedding"]).all()
