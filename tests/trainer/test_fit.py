"""Fits of a tiny data set: learned, interrupted, resumed, refused, in two processes."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.support import need_trainer

need_trainer()

import lightning.pytorch as pl
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from counterpoint.streams.errors import CounterpointError, FailedError, UsageError
from counterpoint.trainer.fit.checkpoint import (
    SCHEMA_VERSION,
    read_checkpoint,
    weights_of,
    write_checkpoint,
)
from counterpoint.trainer.fit.config import RunConfig, read_config
from counterpoint.trainer.fit.dataset import batches
from counterpoint.trainer.fit.dropout import states_of
from counterpoint.trainer.fit.run import BEST, LAST, fit, load_best
from counterpoint.trainer.records import read_json
from tests.support.fit_data import SMALL, make_data

pytestmark = pytest.mark.trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_data(folder)
    (folder / "config.toml").write_text(SMALL)
    return folder


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    fit(small(data), out)
    return out


def small(data: Path, sets: Sequence[str] = ()) -> RunConfig:
    return read_config(data / "config.toml", sets)


class StopAt(pl.Callback):
    """The power cut: in the middle of an epoch."""

    def __init__(self, step: int, error: BaseException | None = None) -> None:
        self._step, self._error = step, error or FailedError("cut")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        if trainer.global_step == self._step:
            raise self._error


def test_a_run_leaves_its_record(whole: Path, data: Path) -> None:
    config = read_json(whole / "config.json")
    assert config["fit"]["epochs"] == 3
    assert config["data"]["index"] == str(data / "index.csv")
    about = read_json(whole / "run.json")
    assert about["finished"]
    assert {"commit", "versions"} <= set(about)
    splits = read_json(whole / "dataset.json")["splits"]
    assert sorted(splits.values()).count("validation") == 4
    assert set(read_json(whole / "metrics.json")["validation"]) == {"mood", "stress"}
    assert "| id | split | task | actual | predicted" in (whole / "report.md").read_text()
    assert len((whole / "predictions.csv").read_text().splitlines()) == 1 + 4 * 2
    assert list((whole / "tensorboard").glob("events*"))
    # No pickle anywhere: Lightning's own checkpoints would be.
    assert {path.suffix for path in (whole / "checkpoints").iterdir()} == {".safetensors"}


def test_subsets_are_reported_on_the_rows_that_have_them(whole: Path) -> None:
    """Also of a number, which no bundle has a place for. Of four rows two have all three."""
    found = read_json(whole / "subsets.json")["validation"]
    rows = {part: figures["rows"] for part, figures in found["mood"].items()}
    assert rows == {
        "video": 3, "audio": 3, "text": 4, "video + audio": 2, "video + text": 3,
        "audio + text": 3, "video + audio + text": 2,
    }  # fmt: skip
    run = load_best(whole)
    batch = next(batches(run.source, "validation"))
    only = {name: batch[f"{name}_mask"] * (name == "text") for name in run.model.modalities}
    cells = run.model.encode({**batch, **{f"{name}_mask": mask for name, mask in only.items()}})
    with torch.inference_mode():
        said = run.model(cells, states_of(only)).fused["mood"].argmax(dim=1)
    right = (said == batch["labels"][:, 0].long()).float().mean()
    assert found["mood"]["text"]["accuracy"] == pytest.approx(float(right))
    assert found["stress"]["text"]["mae"] > 0
    # Who always says the mean of train: what a fit has to be better than.
    index = run.source.index
    learned, held = (
        [
            row.labels["stress"]
            for row in index.examples
            if row.split == part and len(row.labels) > 1
        ]
        for part in ("train", "validation")
    )
    mean = sum(learned) / len(learned)
    expected = sum(abs(value - mean) for value in held) / len(held)
    figures = read_json(whole / "metrics.json")["validation"]["stress"]
    assert figures["mae_of_mean"] == pytest.approx(expected, rel=1e-4)
    assert "| validation | stress | audio + text |" in (whole / "report.md").read_text()


def test_an_interrupted_run_resumes_to_the_same_result(
    whole: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(FailedError, match="cut"):
        fit(small(data), out, callbacks=[StopAt(5)])
    assert not read_json(out / "run.json")["finished"]
    assert read_checkpoint(out / LAST)["epoch"] == 0
    result = fit(small(data), out, resume=True)
    for name in (BEST, LAST):
        expected, found = weights_of(whole / name), weights_of(out / name)
        assert set(expected) == set(found)
        for key, tensor in expected.items():
            assert torch.equal(tensor, found[key]), (name, key)
    assert result == read_json(whole / "metrics.json")
    # Once more changes nothing: it is finished.
    assert fit(small(data), out, resume=True) == result
    # Cut before its first epoch was over there is no checkpoint: it begins anew.
    with pytest.raises(FailedError, match="cut"):
        fit(small(data), tmp_path / "early", callbacks=[StopAt(1)])
    assert not (tmp_path / "early" / LAST).exists()
    assert fit(small(data), tmp_path / "early", resume=True) == result


def test_control_c_says_how_to_go_on(data: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(FailedError, match="interrupted; the same with --resume goes on"):
        fit(small(data), tmp_path / "run", callbacks=[StopAt(2, KeyboardInterrupt())])
    assert signal.getsignal(signal.SIGINT) is before


def test_the_same_seed_gives_the_same_and_another_seed_does_not(
    whole: Path, data: Path, tmp_path: Path
) -> None:
    fit(small(data, ["fit.epochs=1"]), tmp_path / "one")
    fit(small(data, ["fit.epochs=1", "data.workers=1"]), tmp_path / "two")
    fit(small(data, ["fit.epochs=1", "fit.seed=1"]), tmp_path / "three")
    one, two, three = (weights_of(tmp_path / name / LAST) for name in ("one", "two", "three"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not all(torch.equal(one[key], three[key]) for key in one)


def test_easy_data_is_learned(data: Path, tmp_path: Path) -> None:
    sets = ["fit.epochs=12", "fit.learning_rate=0.01", "fusion.kind=concat", "fit.patience=0"]
    result = fit(small(data, sets), tmp_path / "run")
    assert result["validation"]["mood"]["accuracy"] == 1.0
    # The best weights are those that were measured, and are read back whole.
    run = load_best(tmp_path / "run")
    assert not run.model.training
    batch = next(batches(run.source, "validation"))
    cells = run.model.encode(batch)
    states = states_of({name: mask for name, (_, mask) in cells.items()})
    with torch.inference_mode():
        said = run.model(cells, states).fused["mood"].argmax(dim=1)
    assert said.tolist() == batch["labels"][:, 0].long().tolist()


def test_the_last_epoch_is_kept_where_it_is_not_the_best(data: Path, tmp_path: Path) -> None:
    """What a resumed run goes on from. At this rate nothing is learned, so the first stays best."""
    fit(small(data, ["fit.learning_rate=1e-12", "fit.patience=0"]), tmp_path / "run")
    assert read_checkpoint(tmp_path / "run" / BEST)["epoch"] == 0
    assert read_checkpoint(tmp_path / "run" / LAST)["epoch"] == 2


def test_early_stopping(data: Path, tmp_path: Path) -> None:
    sets = ["fit.epochs=30", "fit.patience=1", "fit.learning_rate=1e-9", "fit.steps=1"]
    fit(small(data, sets), tmp_path / "run")
    assert read_checkpoint(tmp_path / "run" / LAST)["epoch"] < 5


def test_bf16_computes_in_mixed_precision_and_keeps_float32(data: Path, tmp_path: Path) -> None:
    fit(small(data, ["fit.precision=bf16", "fit.epochs=1"]), tmp_path / "run")
    weights = weights_of(tmp_path / "run" / LAST)
    assert all(tensor.dtype != torch.bfloat16 for tensor in weights.values())
    with pytest.raises(UsageError, match=r"fit\.precision: '16' needs a GPU"):
        fit(small(data, ['fit.precision="16"']), tmp_path / "other")


def test_a_loss_that_is_no_number_names_step_and_rows(data: Path, tmp_path: Path) -> None:
    with pytest.raises(FailedError, match=r"loss is nan in step \d+ \(epoch 0, batch \d+, rows"):
        fit(small(data, ["fit.learning_rate=1e30", "fit.clip_norm=0.0"]), tmp_path / "run")


def test_a_run_is_not_overwritten_and_not_resumed_as_another(
    whole: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="has a run already"):
        fit(small(data), whole)
    with pytest.raises(UsageError, match=r"began with another fit\.batch_size, fusion\.width"):
        fit(small(data, ["fit.batch_size=2", "fusion.width=8"]), whole, resume=True)
    with pytest.raises(UsageError, match="there is no run to resume"):
        fit(small(data), tmp_path / "nothing", resume=True)


def test_a_checkpoint_of_another_schema_is_refused(whole: Path, tmp_path: Path) -> None:
    with safe_open(str(whole / LAST), framework="pt") as file:
        metadata = file.metadata()
    old = tmp_path / "old.safetensors"
    tensor = {"x": torch.zeros(1)}
    save_file(tensor, str(old), metadata={**metadata, "schema_version": "0"})
    with pytest.raises(UsageError, match=f"of schema 0, this trainer reads {SCHEMA_VERSION};"):
        read_checkpoint(old)
    save_file(tensor, str(old))
    with pytest.raises(UsageError, match="is no checkpoint of"):
        read_checkpoint(old)
    old.write_bytes((whole / LAST).read_bytes()[:1000])
    with pytest.raises(UsageError, match="cannot be read"):
        read_checkpoint(old)


def test_a_checkpoint_keeps_what_was_in_it(tmp_path: Path) -> None:
    shared = torch.arange(3.0)
    content = {
        "a": {1: [shared, (True, None, "x")], "inf": float("inf")},
        "b": [shared, torch.tensor(2, dtype=torch.int64)],
    }
    write_checkpoint(tmp_path / "c.safetensors", content)
    found = read_checkpoint(tmp_path / "c.safetensors")
    assert torch.equal(found["a"][1][0], shared)
    assert found["a"][1][1] == (True, None, "x")
    assert found["a"]["inf"] == float("inf")
    assert int(found["b"][1]) == 2
    with pytest.raises(TypeError, match="cannot hold /a of object"):
        write_checkpoint(tmp_path / "d.safetensors", {"a": object()})


def test_a_file_that_cannot_be_decoded_is_named_by_row(tmp_path: Path) -> None:
    make_data(tmp_path)
    (tmp_path / "config.toml").write_text(SMALL)
    (tmp_path / "r4.wav").write_bytes(b"no sound at all")
    with pytest.raises(CounterpointError, match=r"row 6, column 'audio': cannot decode .*r4\.wav"):
        fit(small(tmp_path), tmp_path / "run")


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["fit.epoch=3"], r"--set fit\.epoch=3: fit\.epoch: unknown key"),
        (["fit.seed=-1"], r"fit: seed and steps must be"),
        (["fit.epochs=many"], r"fit\.epochs: must be an integer"),
        (["video.encoder=vgg"], r"video\.encoder: there is no 'vgg'; there are cnn, mobilenet"),
        (["video.encoder=torch.nn.Nothing"], r"video\.encoder = 'torch\.nn\.Nothing'"),
        (["video.encoder=torch.nn.Flatten", "video.options={start=1}"], "with options"),
        (["audio.encoder=torch.nn.ReLU", "audio.options={}"], r"audio\.encoder"),
        (["fusion.kind=sum"], r"fusion\.kind: there is no 'sum'"),
        (["text.encoder=bert", "text.options={}"], r"text\.checkpoint: 'bert' needs"),
        (["audio.context_ms=900"], r"audio\.context_ms: must be a multiple of 250"),
        (['tasks.mood.labels=["good"]'], r"tasks\.mood: labels must be two or more"),
        (["tasks.joy.weight=2.0"], r"no column 'label:joy'"),
        (["data.validation=0.0"], r"data: validation must be > 0"),
        (["video.use=false", "audio.use=false", "text.use=false"], "one of video.use"),
    ],
)
def test_wrong_configuration_is_said_by_key(
    sets: list[str], message: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        fit(small(data, sets), tmp_path / "run")
