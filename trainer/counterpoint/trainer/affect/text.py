"""Stage ``text``: the upper layers of MiniLM, a bag of hashed n-grams and both heads, together.

Trained on all sets at once; a label that a set lacks is masked in the loss. The encoder is then
exported with int8 weights, and from there on (calibration, validation) only that graph counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterpoint.engine.preprocess.spec import ChatSpec
from counterpoint.engine.preprocess.text import Int64Array, Tokenizer, hashed_ngrams, pad_ids
from counterpoint.streams.types import Float32Array
from counterpoint.trainer.config import AffectConfig, TextConfig
from counterpoint.trainer.data.text import (
    TextLine,
    TextSets,
    emotion_targets,
    read_text,
    sentiment_targets,
)
from counterpoint.trainer.labels import EMOTION, SENTIMENT, UNLABELLED
from counterpoint.trainer.metrics import macro_f1, macro_recall, weighted_f1
from counterpoint.trainer.models import NgramBag, TextHeads
from counterpoint.trainer.pretrained import minilm_folder
from counterpoint.trainer.records import StageRecord, save_arrays, save_weights, seed_everything
from counterpoint.trainer.sentence import (
    SentenceEncoder,
    drift,
    embed_lines,
    export_int8,
    load_minilm,
)

SPEC = ChatSpec()


class TextModel(nn.Module):
    """N-gram bag and heads on top of a sentence embedding."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.ngrams = NgramBag(SPEC.ngram_buckets)
        self.heads = TextHeads(len(SENTIMENT), len(EMOTION), config.dropout)

    def forward(self, sentences: Tensor, buckets: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 384), (N, B) -> sentiment (N, 3), emotion (N, 7) logits."""
        logits: tuple[Tensor, Tensor] = self.heads(
            torch.cat((sentences, self.ngrams(buckets)), dim=1)
        )
        return logits


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lines:
    """Lines with their targets, ready for `TextModel`.

    Fields:
        lines: N lines.
        buckets: N rows of n-gram ids.
        emotion: (N, 7) float32 shares, zeros where there is no label.
        sentiment: (N,) int64, ``UNLABELLED`` where there is no label.
    """

    lines: tuple[TextLine, ...]
    buckets: list[Int64Array]
    emotion: Tensor
    sentiment: Tensor

    @classmethod
    def of(cls, lines: Sequence[TextLine]) -> Lines:
        return cls(
            lines=tuple(lines),
            buckets=[hashed_ngrams(line.text, SPEC) for line in lines],
            emotion=torch.from_numpy(emotion_targets(lines)),
            sentiment=torch.from_numpy(sentiment_targets(lines)),
        )

    def bags(self, rows: Tensor) -> Tensor:
        """(len(rows), B) n-gram ids, padded."""
        return torch.from_numpy(pad_ids([self.buckets[row] for row in rows.tolist()]))


def sentiment_given_emotion(sets: TextSets) -> Float32Array:
    """(7, 3): P(sentiment | emotion) counted on MELD's training utterances, one added to each."""
    table = np.ones((len(EMOTION), len(SENTIMENT)))
    for line in sets.training:
        if line.source == "meld":
            table[line.emotion[0], line.sentiment] += 1
    shares: Float32Array = (table / table.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def train_text(data: Path, out: Path, config: AffectConfig) -> None:
    """Fine-tune, export MiniLM as int8, score through it; write all of it to ``out``/text."""
    text = config.text
    record = StageRecord(out / "text", "text")
    generator = seed_everything(config.seed + 2)

    sets = read_text(data)
    record.metrics["removed_from_training"] = sets.removed
    record.say(f"{len(sets.training)} lines; removed as in a validation set: {sets.removed}")
    save_arrays(out / "text" / "table.npz", table=sentiment_given_emotion(sets))
    with record.timed("tokenise"):
        training = Lines.of(sets.training)
        tokenizer = Tokenizer(minilm_folder() / "tokenizer.json", SPEC)
        ids = [tokenizer.encode(line.text)[0][0] for line in sets.training]

    encoder = load_minilm()
    tuned = thaw(encoder, text.tuned_layers)
    model = TextModel(text)
    weights = _line_weights(sets.training, text)
    has_sentiment = training.sentiment != UNLABELLED
    sentiment_weight = class_weights(
        torch.bincount(training.sentiment[has_sentiment], weights=weights[has_sentiment]),
        text.sentiment_balance,
    )
    emotion_weight = class_weights(weights @ training.emotion, text.emotion_balance)
    rates = [text.encoder_learning_rate, text.ngram_learning_rate, text.learning_rate]
    groups = [tuned, list(model.ngrams.parameters()), list(model.heads.parameters())]
    optimiser = torch.optim.AdamW(
        [{"params": group, "lr": rate} for group, rate in zip(groups, rates, strict=True)],
        weight_decay=text.weight_decay,
    )
    batches = text.lines_per_epoch // text.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rates, total_steps=batches * text.epochs, pct_start=0.1, anneal_strategy="linear"
    )
    step = 0
    total = 0.0
    with record.timed("fit"):
        for epoch in range(text.epochs):
            encoder.train()
            model.train()
            drawn = torch.multinomial(
                weights, batches * text.batch_size, replacement=True, generator=generator
            )
            for rows in batches_of_like_length(drawn, ids, text.batch_size, generator):
                tokens = torch.from_numpy(pad_ids([ids[row] for row in rows.tolist()]))
                with torch.autocast("cpu", torch.bfloat16, enabled=text.bfloat16):
                    sentences = encoder(tokens, (tokens > 0).long())
                buckets = training.bags(rows)
                dropped = torch.rand(buckets.shape, generator=generator) < text.ngram_dropout
                sentiment, emotion = model(sentences.float(), buckets.masked_fill(dropped, 0))
                loss = masked_loss(
                    sentiment,
                    emotion,
                    training.sentiment[rows],
                    training.emotion[rows],
                    sentiment_weight,
                    emotion_weight,
                )
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(tuned, 1.0)
                optimiser.step()
                schedule.step()
                step += 1
                total += float(loss.detach())
                if step % 100 == 0:
                    record.say(
                        f"epoch {epoch + 1}/{text.epochs} step {step}/{batches * text.epochs} "
                        f"loss {total / 100:.4f}"
                    )
                    total = 0.0
    save_weights(out / "text" / "model.safetensors", model)
    save_weights(out / "text" / "encoder.safetensors", encoder)

    with record.timed("export MiniLM"):
        graph = out / "text" / "model.int8.onnx"
        export_int8(encoder, graph)
        record.metrics["minilm_int8_cosine"] = drift(
            encoder,
            graph,
            minilm_folder() / "tokenizer.json",
            [line.text for line in sets.calibration[::20]],
        )
    with record.timed("score"):
        for name, lines in (("calibration", sets.calibration), ("meld", sets.validation["meld"])):
            record.metrics |= _score(name, model, Lines.of(lines), out)
    record.say(f"through int8: {record.metrics}")
    record.finish()


def thaw(encoder: SentenceEncoder, layers: int) -> list[nn.Parameter]:
    """Freeze the encoder but for its last ``layers`` layers; the parameters that still learn."""
    for parameter in encoder.parameters():
        parameter.requires_grad = False
    tuned = []
    for layer in encoder.layers[-layers:]:
        for parameter in layer.parameters():
            parameter.requires_grad = True
            tuned.append(parameter)
    return tuned


def batches_of_like_length(
    drawn: Tensor, ids: Sequence[Int64Array], size: int, generator: torch.Generator
) -> list[Tensor]:
    """Batches of rows of like token counts, in random order, so that little is padding."""
    lengths = torch.tensor([len(ids[row]) for row in drawn.tolist()])
    jitter = torch.rand(len(drawn), generator=generator)
    batches = drawn[torch.argsort(lengths + jitter)].split(size)  # type: ignore[no-untyped-call]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def masked_loss(
    sentiment: Tensor, emotion: Tensor, sentiment_target: Tensor, emotion_target: Tensor,
    sentiment_weight: Tensor, emotion_weight: Tensor,
) -> Tensor:  # fmt: skip
    """Sum over the heads of the mean cross-entropy over the rows that have the label."""
    loss = sentiment.sum() * 0
    labelled = sentiment_target != UNLABELLED
    if labelled.any():
        loss = loss + F.cross_entropy(
            sentiment[labelled], sentiment_target[labelled], weight=sentiment_weight
        )
    has_emotion = emotion_target.sum(dim=1) > 0
    if has_emotion.any():
        loss = loss + F.cross_entropy(
            emotion[has_emotion], emotion_target[has_emotion], weight=emotion_weight
        )
    return loss


def text_logits(model: TextModel, lines: Lines, out: Path) -> tuple[Tensor, Tensor]:
    """Sentiment (N, 3) and emotion (N, 7) logits through the int8 graph of ``out``/text."""
    sentences = torch.from_numpy(
        embed_lines(
            out / "text" / "model.int8.onnx",
            minilm_folder() / "tokenizer.json",
            [line.text for line in lines.lines],
            out / "cache",
        )
    )
    model.eval()
    with torch.inference_mode():
        parts = [
            model(sentences[rows], lines.bags(rows))
            for rows in torch.arange(len(lines.lines)).split(256)  # type: ignore[no-untyped-call]
        ]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _line_weights(lines: Sequence[TextLine], config: TextConfig) -> Tensor:
    """How often each line is drawn: every set by its configured share."""
    counts = dict.fromkeys(config.shares, 0)
    for line in lines:
        counts[line.source] += 1
    return torch.tensor([config.shares[line.source] / counts[line.source] for line in lines])


def class_weights(drawn: Tensor, power: float) -> Tensor:
    """(C,) loss weights ``share ** -power`` that average to one over what is drawn.

    Args:
        drawn: (C,) how often each class is drawn, to any scale.
        power: 0 leaves the classes as they are, 1 makes them weigh the same.
    """
    share = drawn / drawn.sum()
    weight = share**-power
    return weight / (share * weight).sum()


def _score(name: str, model: TextModel, lines: Lines, out: Path) -> dict[str, float]:
    """Figures of one set; the calibration lines are scored by the set they are from."""
    sentiment, emotion = text_logits(model, lines, out)
    sources = np.array([line.source for line in lines.lines])
    truth, said = lines.sentiment.numpy(), sentiment.argmax(dim=1).numpy()
    felt, found = lines.emotion.argmax(dim=1).numpy(), emotion.argmax(dim=1).numpy()
    single = (lines.emotion.max(dim=1).values == 1).numpy()
    scores = {}
    for source in sorted(set(sources.tolist())):
        label = source if name == source else f"{name}_{source}"
        rows = (sources == source) & single
        if rows.any():
            scores[f"{label}_emotion_weighted_f1"] = weighted_f1(
                felt[rows], found[rows], len(EMOTION)
            )
            scores[f"{label}_emotion_macro_f1"] = macro_f1(felt[rows], found[rows], len(EMOTION))
        rows = (sources == source) & (truth != UNLABELLED)
        if rows.any():
            scores[f"{label}_sentiment_macro_recall"] = macro_recall(
                truth[rows], said[rows], len(SENTIMENT)
            )
    return {key: round(value, 4) for key, value in scores.items()}
