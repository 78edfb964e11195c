"""Stage ``text``: MiniLM int8 as it is, and a bag of hashed n-grams with both heads beside it.

MiniLM stays frozen: each line's embedding is computed once, through the very int8 graph that the
bundle ships. N-gram table and heads are trained on all sets at once; a label that a set lacks is
masked in the loss.
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
from counterpoint.engine.preprocess.text import hashed_ngrams, pad_ids
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
from counterpoint.trainer.sentence import drift, embed_lines, export_int8, load_minilm

SPEC = ChatSpec()


class TextModel(nn.Module):
    """N-gram bag and heads on top of a given sentence embedding."""

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
class EncodedLines:
    """Lines ready for `TextModel`.

    Fields:
        sentences: (N, 384) float32.
        buckets: N rows of n-gram ids.
        emotion: (N, 7) float32 shares, zeros where there is no label.
        sentiment: (N,) int64, ``UNLABELLED`` where there is no label.
    """

    sentences: Tensor
    buckets: list[np.ndarray]  # type: ignore[type-arg]
    emotion: Tensor
    sentiment: Tensor

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        padded = pad_ids([self.buckets[row] for row in rows.tolist()])
        return self.sentences[rows], torch.from_numpy(padded)


def encode_lines(lines: Sequence[TextLine], out: Path) -> EncodedLines:
    """Through the int8 graph of ``out``/text, cached."""
    sentences = embed_lines(
        out / "text" / "model.int8.onnx",
        minilm_folder() / "tokenizer.json",
        [line.text for line in lines],
        out / "cache",
    )
    return EncodedLines(
        sentences=torch.from_numpy(sentences),
        buckets=[hashed_ngrams(line.text, SPEC) for line in lines],
        emotion=torch.from_numpy(emotion_targets(lines)),
        sentiment=torch.from_numpy(sentiment_targets(lines)),
    )


def sentiment_given_emotion(sets: TextSets) -> Float32Array:
    """(7, 3): P(sentiment | emotion) counted on MELD's training utterances, one added to each."""
    table = np.ones((len(EMOTION), len(SENTIMENT)))
    for line in sets.training:
        if line.source == "meld":
            table[line.emotion[0], line.sentiment] += 1
    shares: Float32Array = (table / table.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def train_text(data: Path, out: Path, config: AffectConfig) -> None:
    """Export MiniLM, embed all lines, fit n-grams and heads; write all of it to ``out``/text."""
    text = config.text
    record = StageRecord(out / "text", "text")
    generator = seed_everything(config.seed + 2)

    sets = read_text(data)
    record.metrics["removed_from_training"] = sets.removed
    record.say(f"{len(sets.training)} lines; removed as in a validation set: {sets.removed}")
    with record.timed("export MiniLM"):
        encoder = load_minilm()
        export_int8(encoder, out / "text" / "model.int8.onnx")
        record.metrics["minilm_int8_cosine"] = drift(
            encoder,
            out / "text" / "model.int8.onnx",
            minilm_folder() / "tokenizer.json",
            [line.text for line in sets.calibration[::20]],
        )
    with record.timed("embed"):
        training = encode_lines(sets.training, out)
        valid = {name: encode_lines(lines, out) for name, lines in sets.validation.items()}
    save_arrays(out / "text" / "table.npz", table=sentiment_given_emotion(sets))

    model = TextModel(text)
    weights = _line_weights(sets.training, text)
    class_weight = _sentiment_weight(training.sentiment)
    optimiser = torch.optim.AdamW(
        [
            {"params": model.ngrams.parameters(), "lr": text.ngram_learning_rate},
            {"params": model.heads.parameters(), "lr": text.learning_rate},
        ],
        weight_decay=text.weight_decay,
    )
    batches = len(sets.training) // text.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        [text.ngram_learning_rate, text.learning_rate],
        total_steps=batches * text.epochs,
        pct_start=0.1,
    )
    with record.timed("fit"):
        for epoch in range(text.epochs):
            model.train()
            total = 0.0
            drawn = torch.multinomial(
                weights, batches * text.batch_size, replacement=True, generator=generator
            )
            for rows in drawn.split(text.batch_size):
                sentences, buckets = training.batch(rows)
                dropped = torch.rand(buckets.shape, generator=generator) < text.ngram_dropout
                sentiment, emotion = model(sentences, buckets.masked_fill(dropped, 0))
                loss = masked_loss(
                    sentiment,
                    emotion,
                    training.sentiment[rows],
                    training.emotion[rows],
                    class_weight,
                )
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                total += float(loss.detach())
            record.say(f"epoch {epoch + 1}/{text.epochs} loss {total / batches:.4f}")
    save_weights(out / "text" / "model.safetensors", model)
    record.metrics |= _score(model, valid)
    record.say(f"validation: {record.metrics}")
    record.finish()


def masked_loss(
    sentiment: Tensor, emotion: Tensor, sentiment_target: Tensor, emotion_target: Tensor,
    class_weight: Tensor,
) -> Tensor:  # fmt: skip
    """Sum over the heads of the mean cross-entropy over the rows that have the label."""
    loss = sentiment.sum() * 0
    labelled = sentiment_target != UNLABELLED
    if labelled.any():
        loss = loss + F.cross_entropy(
            sentiment[labelled], sentiment_target[labelled], weight=class_weight
        )
    has_emotion = emotion_target.sum(dim=1) > 0
    if has_emotion.any():
        loss = loss + F.cross_entropy(emotion[has_emotion], emotion_target[has_emotion])
    return loss


def text_logits(model: TextModel, lines: EncodedLines) -> tuple[Tensor, Tensor]:
    """Sentiment (N, 3) and emotion (N, 7) logits in inference mode."""
    model.eval()
    with torch.inference_mode():
        parts = [model(*lines.batch(rows)) for rows in torch.arange(len(lines.buckets)).split(256)]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _line_weights(lines: Sequence[TextLine], config: TextConfig) -> Tensor:
    """How often each line is drawn: every set by its configured share."""
    counts = dict.fromkeys(config.shares, 0)
    for line in lines:
        counts[line.source] += 1
    return torch.tensor([config.shares[line.source] / counts[line.source] for line in lines])


def _sentiment_weight(targets: Tensor) -> Tensor:
    counts = torch.bincount(targets[targets != UNLABELLED], minlength=len(SENTIMENT)).float()
    weight = counts.rsqrt()
    return weight / weight.mean()


def _score(model: TextModel, valid: dict[str, EncodedLines]) -> dict[str, float]:
    sentiment, emotion = text_logits(model, valid["meld"])
    meld_emotion = valid["meld"].emotion.argmax(dim=1).numpy()
    tweets, _ = text_logits(model, valid["tweeteval"])
    _, comments = text_logits(model, valid["goemotions"])
    single = (valid["goemotions"].emotion.max(dim=1).values == 1).numpy()
    comment_truth = valid["goemotions"].emotion.argmax(dim=1).numpy()[single]
    classes, sentiments = len(EMOTION), len(SENTIMENT)
    return {
        "meld_emotion_weighted_f1": weighted_f1(
            meld_emotion, emotion.argmax(dim=1).numpy(), classes
        ),
        "meld_emotion_macro_f1": macro_f1(meld_emotion, emotion.argmax(dim=1).numpy(), classes),
        "meld_sentiment_weighted_f1": weighted_f1(
            valid["meld"].sentiment.numpy(), sentiment.argmax(dim=1).numpy(), sentiments
        ),
        "tweeteval_sentiment_macro_recall": macro_recall(
            valid["tweeteval"].sentiment.numpy(), tweets.argmax(dim=1).numpy(), sentiments
        ),
        "goemotions_ekman_macro_f1": macro_f1(
            comment_truth, comments.argmax(dim=1).numpy()[single], classes
        ),
    }
