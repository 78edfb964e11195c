"""From the command line to a served bundle: init, fit, bundle, and a session of the engine."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.support import need_trainer

need_trainer()

import torch
from transformers import AutoModel, BertConfig

from counterpoint.engine.bundle import load_bundle
from counterpoint.engine.golden import verify_bundle
from counterpoint.engine.manifest import MASKS
from counterpoint.engine.prediction import Prediction
from counterpoint.engine.sources import open_sources
from counterpoint.streams.errors import UsageError
from counterpoint.streams.types import Modality
from counterpoint.trainer.cli import main
from counterpoint.trainer.fit.bundle import export_run
from counterpoint.trainer.fit.config import read_config
from counterpoint.trainer.fit.dataset import batches
from counterpoint.trainer.fit.dropout import states_of
from counterpoint.trainer.fit.init import TEXTBOOK, init
from counterpoint.trainer.fit.run import fit, load_best
from tests.support.bundles import WORDS, tiny_tokenizer
from tests.support.fit_data import SMALL, make_data
from tests.support.sessions import GRID_CLIP, load_models, play

pytestmark = pytest.mark.trainer

TEXTBOOK_SMALL = [
    "fit.epochs=15", "fit.learning_rate=0.01", "fit.patience=0", "fusion.kind=concat",
    "audio.encoder=lstm", "audio.options={out=16}",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The textbook model, small: CNN, LSTM, embeddings, joined."""
    folder = tmp_path_factory.mktemp("own")
    make_data(folder)
    (folder / "config.toml").write_text(SMALL)
    fit(read_config(folder / "config.toml", TEXTBOOK_SMALL), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def bundle(run: Path) -> Path:
    assert main(["bundle", str(run), "--out", str(run.parent / "bundle"), "--task", "mood"]) == 0
    return run.parent / "bundle"


def last_of(bundle: Path, tmp_path: Path, text: str, *, clip: bool) -> Prediction:
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"seconds": 0.4, "author": "ann", "text": text}) + "\n")
    media = f"file:{GRID_CLIP}" if clip else "none"
    sources = open_sources(video=media, audio=media, chat=f"file:{path}")
    return play(load_models(load_bundle(bundle)), sources).predictions[-1]


def test_the_engine_verifies_and_serves_it(bundle: Path, tmp_path: Path) -> None:
    assert all(result.passed for result in verify_bundle(bundle, "cpu").results)
    manifest = load_bundle(bundle).manifest
    assert manifest.heads["mood"].labels == ("bad", "good")
    assert any(name.startswith("validation_mood_") for name in manifest.metrics)
    good = last_of(bundle, tmp_path, "what a lovely happy day", clip=False)
    bad = last_of(bundle, tmp_path, "how awful and sad it is", clip=False)
    assert good.heads["mood"].top[0] == "good"
    assert bad.heads["mood"].top[0] == "bad"
    whole = last_of(bundle, tmp_path, "what a lovely happy day", clip=True)
    states = {name.value: report.state.value for name, report in whole.modalities.items()}
    assert states["video"] == states["audio"] == "present"
    assert any(abs(value) > 0 for report in whole.modalities.values()
               for value in report.contributions["mood"])  # fmt: skip


def test_a_number_is_served_and_scored_as_the_fit_has_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = export_run(run, tmp_path / "both")
    assert all(result.passed for result in verify_bundle(bundle.root, "cpu").results)
    spec = bundle.manifest.numbers["stress"]
    labels = [
        float(row["label:stress"])
        for row in csv.DictReader((run / "index.csv").read_text().splitlines())
        if row["label:stress"] and row["split"] == "train"
    ]
    assert (spec.low, spec.high) == (min(labels), max(labels))
    assert spec.mean == pytest.approx(np.mean(labels))
    assert spec.std == pytest.approx(np.std(labels))
    assert set(bundle.manifest.temperatures) == {"mood"}

    # What the engine says of a line is what the network says of it.
    said = last_of(bundle.root, tmp_path, "what a lovely happy day", clip=False).numbers["stress"]
    best = load_best(run)
    batch = next(iter(batches(best.source, "train")))
    masks = {name: batch[f"{name}_mask"] * (name == "text") for name in best.model.modalities}
    lines = [row.text for row in best.source.index.of("train")]
    with torch.inference_mode():
        tokens = best.model.encode({**batch, **{f"{n}_mask": m for n, m in masks.items()}})
        answers = best.model(tokens, states_of(masks)).fused["stress"][:, 0]
    row = lines.index("what a lovely happy day")
    assert said.value == pytest.approx(spec.mean + spec.std * float(answers[row]), abs=1e-3)
    assert said.contributions[Modality.VIDEO] == said.contributions[Modality.AUDIO] == 0
    assert said.contributions[Modality.CHAT] != 0

    out = tmp_path / "report"
    options = ["--split", "validation", "--out", str(out), "--resamples", "20"]
    assert main(["evaluate", str(bundle.root), str(run / "index.csv"), *options]) == 0
    assert "mean absolute error" in capsys.readouterr().out
    found = json.loads((out / "metrics.json").read_text())["numbers"]["stress"]
    rows = [
        row
        for row in csv.DictReader((out / "predictions.csv").read_text().splitlines())
        if row["head"] == "stress"
    ]
    errors = [abs(float(row["actual"]) - float(row["predicted"])) for row in rows]
    assert found["rows"] == len(rows) > 1
    assert found["figures"]["mae"]["value"] == pytest.approx(np.mean(errors), abs=1e-4)
    assert "Number stress" in (out / "report.md").read_text()
    assert (out / "stress-scatter.svg").is_file()
    assert set(found["subsets"]) <= set(MASKS)


def test_a_bundle_of_numbers_alone_is_served_and_has_nothing_to_calibrate(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = export_run(run, tmp_path / "number", tasks=["stress"])
    assert not bundle.manifest.heads
    said = last_of(bundle.root, tmp_path, "what a lovely happy day", clip=True)
    assert not said.heads
    assert said.numbers["stress"].contributions[Modality.AUDIO] != 0
    out = ["--out", str(tmp_path / "again")]
    assert main(["calibrate", str(bundle.root), str(run / "index.csv"), *out]) == 2
    assert "tells numbers alone" in capsys.readouterr().err


def test_what_a_bundle_has_no_place_for_is_refused_by_name(run: Path, bundle: Path) -> None:
    out = run.parent / "other"
    with pytest.raises(UsageError, match="there is no 'joy'"):
        export_run(run, out, tasks=["joy"])
    with pytest.raises(UsageError, match="is there already"):
        export_run(run, bundle, tasks=["mood"])
    with pytest.raises(UsageError, match=r"is no run of counterpoint-trainer"):
        export_run(run.parent, out)


def test_stop_words_with_ngrams_do_not_fit_and_a_single_modality_does(tmp_path: Path) -> None:
    make_data(tmp_path)
    (tmp_path / "config.toml").write_text(SMALL)
    sets = ["fit.epochs=1", "video.use=false", "audio.use=false", "text.encoder=ngrams",
            "text.options={out=8}", "tasks.mood.kind=classes"]  # fmt: skip
    fit(read_config(tmp_path / "config.toml", [*sets, "text.stop_words=true"]), tmp_path / "stop")
    with pytest.raises(UsageError, match=r"text\.stop_words with hashed n-grams"):
        export_run(tmp_path / "stop", tmp_path / "bundle")
    fit(read_config(tmp_path / "config.toml", sets), tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "bundle")
    said = last_of(tmp_path / "bundle", tmp_path, "what a lovely happy day", clip=True)
    assert said.heads["mood"].labels == ("bad", "good")
    for name, report in said.modalities.items():
        silent = all(value == 0 for value in report.contributions["mood"])
        assert silent is (name.value != "chat")


@pytest.mark.parametrize("before", [0, 2])
def test_bert_goes_into_a_bundle_as_int8(tmp_path: Path, before: int) -> None:
    small = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    checkpoint = tmp_path / "bert"
    AutoModel.from_config(small).save_pretrained(checkpoint)  # type: ignore[no-untyped-call]
    tiny_tokenizer().save(str(checkpoint / "tokenizer.json"))
    make_data(tmp_path)
    (tmp_path / "config.toml").write_text(SMALL)
    sets = ["fit.epochs=1", "video.use=false", "text.encoder=bert", "text.checkpoint=bert",
            "text.options={tuned_layers=1}", "text.ngrams=true",
            f"text.before_lines={before}"]  # fmt: skip
    fit(read_config(tmp_path / "config.toml", sets), tmp_path / "run")
    bundle = export_run(tmp_path / "run", tmp_path / "bundle", tasks=["mood"])
    assert bundle.manifest.graphs["text"].precision == "int8"
    assert bundle.manifest.modalities.chat.before_lines == before
    said = last_of(tmp_path / "bundle", tmp_path, "what a happy day", clip=False)
    assert said.modalities[Modality.CHAT].state == "present"


def test_init_writes_what_fit_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = ["--task", "mood=glad,sad", "--task", "stress=number"]
    assert main(["init", str(tmp_path / "own"), "--modality", "audio", *tasks]) == 0
    config = read_config(tmp_path / "own" / "config.toml")
    assert config.modalities == ("audio",)
    assert config.tasks["mood"].labels == ("glad", "sad")
    assert config.tasks["stress"].kind == "number"
    header = (tmp_path / "own" / "index.csv").read_text()
    assert header == "id,audio,start_s,end_s,speaker,label:mood,label:stress\n"
    assert main(["init", str(tmp_path / "own")]) == 2
    assert main(["fit", str(tmp_path / "own" / "config.toml")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert "is there already" in errors[0]
    assert "the table has no rows" in errors[1]
    for tasks_of, message in (
        ({"a b": None}, "a name has letters"),
        ({"mood": ("glad",)}, "--task mood: two classes or more, all different"),
        ({"mood": ("glad", "glad")}, "--task mood: two classes or more, all different"),
    ):
        with pytest.raises(UsageError, match=message):
            init(tmp_path / "third", tasks=tasks_of)
        assert not (tmp_path / "third").exists()
    odd = ('"so so"', "back\\slash", "très")
    config_file, _ = init(tmp_path / "odd", tasks={"mood": odd})
    assert read_config(config_file).tasks["mood"].labels == odd


def test_the_textbook_configuration_is_as_it_says() -> None:
    config = read_config(TEXTBOOK)
    assert (config.video.encoder, config.audio.encoder, config.text.encoder) == (
        "cnn", "lstm", "embedding",
    )  # fmt: skip
    for kind in ("concat", "add", "multiply"):
        assert read_config(TEXTBOOK, [f"fusion.kind={kind}"]).fusion.kind == kind


def test_fit_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_data(tmp_path)
    config = tmp_path / "config.toml"
    config.write_text(SMALL)
    one = ["fit", str(config), "--set", "fit.epochs=1"]
    assert main(one) == 0
    assert main([*one, "--resume"]) == 0
    said = capsys.readouterr().out
    assert said.count("macro_f1") == 2
    assert main(one) == 2
    assert "has a run already" in capsys.readouterr().err
    assert main(["fit", "affect"]) == 2
    assert main(["fit", "other"]) == 2
