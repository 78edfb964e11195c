"""Encoders, pooling and fusion: what they are called, what they take, and what has no influence."""

# ruff: noqa: E402 - the skip comes before what needs torch
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.trainer.support import need_trainer

need_trainer()

import torch
from torch import Tensor, nn
from transformers import AutoModel, BertConfig

from counterpoint.streams.errors import UsageError
from counterpoint.trainer.data.index import Task
from counterpoint.trainer.fit.build import build_model, sample_inputs
from counterpoint.trainer.fit.bundle import FusionGraph
from counterpoint.trainer.fit.config import RunConfig, config_of
from counterpoint.trainer.fit.dropout import drop_modalities, states_of
from counterpoint.trainer.fit.specs import specs_of
from counterpoint.trainer.fit.words import vocabulary, write_tokenizer
from counterpoint.trainer.nets.fusion import OPERATORS, LowRank
from counterpoint.trainer.nets.model import (
    MISSING,
    PRESENT,
    SILENT,
    Answers,
    LineEncoder,
    Model,
)
from counterpoint.trainer.nets.pooling import make_pool
from tests.support.bundles import WORDS, tiny_tokenizer

pytestmark = pytest.mark.trainer

TASKS = (Task(name="mood", labels=("bad", "good")), Task(name="type", labels=()))
FUSIONS = (*OPERATORS, "late")


class Brightness(nn.Module):
    """An encoder that somebody else wrote."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, pictures: Tensor) -> Tensor:
        return self.scale * pictures.mean(dim=(2, 3)).repeat(1, 5)


class Wrong(nn.Module):
    def forward(self, pictures: Tensor) -> Tensor:
        return pictures


class Largest(nn.Module):
    """A fusion operator that somebody else wrote."""

    def __init__(self, *, modalities: int, width: int) -> None:
        super().__init__()
        self.out = width

    def forward(self, tokens: Tensor, there: Tensor) -> Tensor:
        return tokens.amax(dim=1)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    write_tokenizer(path, config().text, ["what a lovely day", "what an awful day it is"])
    return path


def config(**sections: Mapping[str, object]) -> RunConfig:
    document: dict[str, object] = {
        "data": {"index": "index.csv"},
        "fusion": {"width": 8, "hidden": 8},
        "audio": {"context_ms": 500},
    }
    return config_of({**document, **sections})


def make(tokenizer: Path, **sections: Mapping[str, object]) -> Model:
    torch.manual_seed(0)
    chosen = config(**sections)
    return build_model(chosen, specs_of(chosen), TASKS, tokenizer).eval()


def cells_of(model: Model, rows: int = 5) -> dict[str, tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    chosen = config()
    specs = specs_of(chosen)
    places = {"video": 8, "audio": 10, "text": 8}
    cells = {}
    with torch.inference_mode():
        for name in model.modalities:
            width = model.encoders[name](*sample_inputs(name, specs)).shape[-1]
            cells[name] = (torch.randn(rows, places[name], width), torch.ones(rows, places[name]))
    return cells


@pytest.mark.parametrize(
    "sections",
    [
        {"video": {"encoder": "mobilenet_v2", "options": {"depth_multiplier": 0.1}}},
        {"video": {"encoder": "resnet", "options": {"width": 8}}},
        {"video": {"encoder": "tests.trainer.test_nets.Brightness", "options": {"scale": 2.0}}},
        {"video": {"encoder": "cnn", "image_size_px": 64, "pool": "gru"}},
        {"audio": {"encoder": "gru"}},
        {"audio": {"encoder": "lstm"}},
        {"audio": {"encoder": "crnn"}},
        {"audio": {"encoder": "cnn"}},
        {"text": {"encoder": "bag"}},
        {"text": {"encoder": "ngrams"}},
        {"text": {"encoder": "embedding", "ngrams": True, "pool": "attention"}},
        {"fusion": {"kind": "tests.trainer.test_nets.Largest", "width": 8}},
    ],
)
def test_every_encoder_by_its_name(sections: dict[str, dict[str, object]], tokenizer: Path) -> None:
    model = make(tokenizer, **sections)
    state = torch.full((5, 3), PRESENT)
    answers = model(cells_of(model), state)
    assert answers.fused["mood"].shape == (5, 2)
    assert answers.fused["type"].shape == (5, 1)
    assert answers.single["mood"].shape == (5, 3, 2)


def test_what_is_no_encoder_is_refused_with_the_reason(tokenizer: Path) -> None:
    with pytest.raises(UsageError, match=r"video\.encoder: must give a tensor \(K, W\)"):
        make(tokenizer, video={"encoder": "tests.trainer.test_nets.Wrong"})
    with pytest.raises(UsageError, match="options"):
        make(tokenizer, video={"encoder": "cnn", "options": {"depth": 3}})
    with pytest.raises(UsageError, match=r"not an nn\.Module"):
        make(tokenizer, video={"encoder": "builtins.dict"})
    with pytest.raises(UsageError, match="no transformers checkpoint"):
        make(tokenizer, video={"encoder": "resnet", "options": {"checkpoint": "/nowhere"}})


def test_bert_from_a_local_checkpoint_with_its_last_layers_tuned(tmp_path: Path) -> None:
    small = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
    )
    AutoModel.from_config(small).save_pretrained(tmp_path)  # type: ignore[no-untyped-call]
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    text = {"encoder": "bert", "checkpoint": str(tmp_path), "options": {"tuned_layers": 1}}
    path = tmp_path / "run" / "tokenizer.json"
    write_tokenizer(path, config(text=text).text, [])
    assert vocabulary(path)[0] == len(WORDS)
    model = make(path, text=text)
    tuned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("encoder.layer.1." in name for name in tuned)
    assert not any("encoder.layer.0." in name for name in tuned)
    assert model(cells_of(model), torch.full((5, 3), PRESENT)).fused["mood"].shape == (5, 2)
    with pytest.raises(UsageError, match=r"text\.stop_words: only with"):
        write_tokenizer(path, config(text={**text, "stop_words": True}).text, [])


@pytest.mark.parametrize("encoder", ["bag", "embedding"])
def test_words_of_lines_before_do_not_count(tokenizer: Path, encoder: str) -> None:
    line = make(tokenizer, text={"encoder": encoder}).encoders["text"]
    assert isinstance(line, LineEncoder)
    words = line.words.eval()
    ids = torch.tensor([[2, 3, 4, 5]])
    whole, part = (words(ids, torch.tensor([mask])) for mask in ([1, 1, 1, 1], [1, 1, 2, 2]))
    torch.testing.assert_close(part, words(ids[:, :2], torch.tensor([[1, 1]])))
    assert not torch.allclose(part, whole)
    with pytest.raises(UsageError, match=rf"text\.before_lines: {encoder} reads each line by"):
        write_tokenizer(
            tokenizer.parent / "other.json",
            config(text={"encoder": encoder, "before_lines": 1}).text,
            [],
        )


def test_stop_words_do_not_count_and_are_part_of_the_graph(tokenizer: Path) -> None:
    model = make(tokenizer, text={"encoder": "bag", "stop_words": True})
    line = model.encoders["text"]
    words, stop = vocabulary(tokenizer)
    assert len(stop) > 1
    said = torch.tensor([[words - 1, stop[1]], [words - 1, 0]])
    mask = torch.tensor([[1, 1], [1, 0]])
    with torch.inference_mode():
        both = line(said, mask, torch.ones(2, 1, dtype=torch.long))
    assert torch.equal(both[0], both[1])


@pytest.mark.parametrize("kind", FUSIONS)
def test_what_is_masked_or_absent_has_no_influence(kind: str, tokenizer: Path) -> None:
    model = make(tokenizer, fusion={"kind": kind, "width": 8, "hidden": 8})
    nn.init.normal_(model.missing)
    cells = cells_of(model)
    masks = {name: mask.clone() for name, (_, mask) in cells.items()}
    masks["video"][:, :5] = 0
    masks["audio"][:] = 0
    masks["text"][:, -1] = 0
    state = torch.tensor([[PRESENT, MISSING, PRESENT]] * 5)
    poisoned = {
        name: torch.where(masks[name].unsqueeze(2) > 0, values, torch.nan)
        for name, (values, _) in cells.items()
    }
    one = model({name: (cells[name][0], masks[name]) for name in cells}, state)
    two = model({name: (poisoned[name], masks[name]) for name in cells}, state)
    for task in ("mood", "type"):
        assert torch.isfinite(two.fused[task]).all()
        assert torch.equal(one.fused[task], two.fused[task])


@pytest.mark.parametrize("kind", FUSIONS)
def test_states_are_told_apart_and_nothing_heard_gives_the_prior(
    kind: str, tokenizer: Path
) -> None:
    model = make(tokenizer, fusion={"kind": kind, "width": 8, "hidden": 8})
    nn.init.normal_(model.missing)
    model.set_prior("mood", torch.tensor([-2.0, -0.1]))
    cells = cells_of(model)

    def said(*state: int) -> Tensor:
        answers: Answers = model(cells, torch.tensor([state] * 5))
        return answers.fused["mood"]

    assert said(0, 0, 0).tolist() == [[-2.0, pytest.approx(-0.1)]] * 5
    assert torch.equal(said(0, 0, 0), said(2, 2, 2))
    assert not torch.allclose(said(1, 1, 1), said(1, 1, 0))
    if kind != "late":  # one alone keeps its own answer there, whatever the others' state
        assert not torch.allclose(said(1, 0, 0), said(1, 2, 0))


def test_low_rank_is_the_outer_product_through_its_tensor() -> None:
    torch.manual_seed(0)
    fusion = LowRank(modalities=2, width=3, rank=2)
    tokens = torch.randn(4, 2, 3)
    # Every entry of the full tensor, from the factors.
    full = torch.zeros(4, 4, 3)
    for rank in range(2):
        parts = []
        for factor in fusion.factors:
            assert isinstance(factor, nn.Linear)
            rows = slice(3 * rank, 3 * rank + 3)
            parts.append(torch.cat((factor.weight[rows], factor.bias[rows, None]), dim=1))
        full = full + fusion.weight[rank] * torch.einsum("oa,ob->abo", *parts)
    ones = torch.cat((tokens, torch.ones(4, 2, 1)), dim=2)
    expected = torch.einsum("na,nb,abo->no", ones[:, 0], ones[:, 1], full) + fusion.bias
    torch.testing.assert_close(fusion(tokens, torch.ones(4, 2).bool()), expected)


@pytest.mark.parametrize("kind", FUSIONS)
def test_contributions_and_what_is_said_of_nothing_sum_to_the_logits(
    kind: str, tokenizer: Path
) -> None:
    model = make(tokenizer, fusion={"kind": kind, "width": 8, "hidden": 8})
    nn.init.normal_(model.missing)
    graph = FusionGraph(model, ("mood",))
    cells = cells_of(model, rows=4)
    state = torch.tensor([[1, 1, 1], [1, 2, 1], [0, 1, 0], [2, 0, 2]])
    with torch.inference_mode():
        logits, parts = graph(*cells["video"], *cells["audio"], *cells["text"], state)
        torch.testing.assert_close(logits, model(cells, state).fused["mood"])
        hidden = torch.where(state == PRESENT, MISSING, state)
        nothing = model(cells, hidden).fused["mood"]
    torch.testing.assert_close(nothing + parts.sum(dim=1), logits)
    assert (parts[state != PRESENT] == 0).all()
    assert (parts[2, 1] != 0).any()


@pytest.mark.parametrize("kind", ["mean", "attention", "gru", "lstm"])
def test_a_pool_is_learned_through_and_finite_with_nothing_there(kind: str) -> None:
    pool = make_pool(kind, 4, 6)
    cells = torch.randn(3, 7, 4, requires_grad=True)
    mask = torch.ones(3, 7)
    mask[1] = 0
    pooled = pool(cells, mask)
    assert pooled.shape == (3, 6)
    assert torch.isfinite(pooled).all()
    pooled.sum().backward()
    assert cells.grad is not None
    assert (cells.grad[1] == 0).all()
    assert (cells.grad[0] != 0).any()


def test_modality_dropout_gives_the_states_that_the_engine_knows() -> None:
    torch.manual_seed(0)
    masks = {"video": torch.ones(4000, 8), "audio": torch.ones(4000, 60)}
    masks["audio"][:1000] = 0
    changed, state = drop_modalities(masks, 0.8)
    assert set(state.flatten().tolist()) == {MISSING, PRESENT, SILENT}
    assert (state == PRESENT).any(dim=1).all()
    assert torch.equal(states_of(changed) == PRESENT, state == PRESENT)
    # A row that had one modality keeps it, and all cells of it or most: stalled, partial.
    alone = changed["video"][:1000]
    assert (alone.amax(dim=1) == 1).all()
    stalled = (alone[:, -1] == 0) & (alone[:, 0] == 1)
    assert 0.05 < stalled.float().mean() < 0.5
    assert 0.2 < (alone.sum(dim=1) < 8).float().mean() < 0.8
    same, kept = drop_modalities(masks, 0.0)
    assert all(torch.equal(same[name], masks[name]) for name in masks)
    assert (kept[1000:] == PRESENT).all()
