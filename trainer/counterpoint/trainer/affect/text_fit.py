"""Fine-tuning of the text encoder together with its heads, on all sets at once.

Lines are drawn evenly, not at random: each line has a credit that grows every epoch by how often
the line is to be seen, and is drawn whenever its credit reaches one. So no line comes twice before
every other line of its set and class has come, which matters where an epoch is a small part of a
set. The learning rate stays level and then falls to zero (Hägele et al. 2024, arXiv:2405.18392),
so up to the fall a run does not depend on how long it will be.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from counterpoint.engine.preprocess.text import Int64Array, hashed_ngrams, pad_ids
from counterpoint.trainer.affect.heads import (
    EMOTION_STYLES,
    SENTIMENT_STYLES,
    STYLE_OF,
    STYLES,
    Answers,
    StyleHeads,
    mix,
)
from counterpoint.trainer.affect.text_tokens import (
    SPEC,
    Tokens,
    batches_of_like_length,
    embed_batch,
)
from counterpoint.trainer.config import TextConfig
from counterpoint.trainer.data.recordings import TWEET_EMOTIONS
from counterpoint.trainer.data.text import (
    TWEET_CHOICE,
    TextLine,
    emotion_targets,
    sentiment_targets,
)
from counterpoint.trainer.fit.checkpoint import read_checkpoint, write_checkpoint
from counterpoint.trainer.labels import EMOTION, SENTIMENT, UNLABELLED
from counterpoint.trainer.models import NgramBag
from counterpoint.trainer.records import multiplies_in_bfloat16
from counterpoint.trainer.sentence import SentenceEncoder

CHECKPOINT: Final = "unfinished.safetensors"
_NONE: Final[Mapping[str, float]] = {}


class TextModel(nn.Module):
    """N-gram bag and heads on top of a sentence embedding.

    ``tweets`` tells TweetEval's four emotions apart. It is there for the loss and for a figure
    that can be held against others'; no graph of the bundle has it.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.ngrams = NgramBag(SPEC.ngram_buckets)
        self.heads = StyleHeads(config.dropout)
        self.tweets = nn.Linear(StyleHeads.HIDDEN, len(TWEET_EMOTIONS))

    def answers(self, sentences: Tensor, buckets: Tensor) -> Answers:
        """(N, 384), (N, B) -> the answer of each style."""
        return self.heads.answers(torch.cat((sentences, self.ngrams(buckets)), dim=1))

    def forward(self, sentences: Tensor, buckets: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 384), (N, B) -> log-probabilities of sentiment (N, 3) and emotion (N, 7)."""
        return mix(self.answers(sentences, buckets))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Targets:
    """What N lines are held against.

    Fields:
        style: (N,) int64 position in `STYLES`.
        emotion: (N, 7) float32 shares, zeros where there is no label.
        sentiment: (N,) int64, ``UNLABELLED`` where there is no label.
        tweet: (N,) int64 position in `TWEET_EMOTIONS`, else ``UNLABELLED``.
    """

    style: Tensor
    emotion: Tensor
    sentiment: Tensor
    tweet: Tensor

    def of(self, rows: Tensor) -> Targets:
        return Targets(
            style=self.style[rows],
            emotion=self.emotion[rows],
            sentiment=self.sentiment[rows],
            tweet=self.tweet[rows],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lines:
    """Lines with their targets, ready for `TextModel`.

    Fields:
        lines: N lines.
        buckets: N rows of n-gram ids.
    """

    lines: tuple[TextLine, ...]
    buckets: list[Int64Array]
    targets: Targets

    @classmethod
    def of(cls, lines: Sequence[TextLine], smoothing: Mapping[str, float] = _NONE) -> Lines:
        """
        Args:
            smoothing: by set, the part of an emotion's share that all emotions have alike.
        """
        emotion = torch.from_numpy(emotion_targets(lines))
        part = torch.tensor([[smoothing.get(line.source, 0.0)] for line in lines])
        labelled = (emotion.sum(dim=1, keepdim=True) > 0).float()
        return cls(
            lines=tuple(lines),
            buckets=[hashed_ngrams(line.text, SPEC) for line in lines],
            targets=Targets(
                style=torch.tensor(
                    [STYLES.index(STYLE_OF[line.source]) for line in lines], dtype=torch.int64
                ),
                emotion=(1 - part) * emotion + part * labelled / len(EMOTION),
                sentiment=torch.from_numpy(sentiment_targets(lines)),
                tweet=torch.tensor([line.tweet_emotion for line in lines], dtype=torch.int64),
            ),
        )

    @property
    def emotion(self) -> Tensor:
        """(N, 7) float32 shares, zeros where there is no label."""
        return self.targets.emotion

    @property
    def sentiment(self) -> Tensor:
        """(N,) int64, ``UNLABELLED`` where there is no label."""
        return self.targets.sentiment

    def bags(self, rows: Tensor) -> Tensor:
        """(len(rows), B) n-gram ids, padded."""
        return torch.from_numpy(pad_ids([self.buckets[row] for row in rows.tolist()]))


def fit_text(
    encoder: SentenceEncoder, model: TextModel, training: Lines, tokens: Tokens,
    config: TextConfig, seed: int, generator: torch.Generator, folder: Path,
    say: Callable[[str], None],
) -> float:  # fmt: skip
    """Fit encoder and model in place. Interrupted, the same call goes on from the last whole
    epoch, to the same weights; what it needs for that is in ``folder`` until it is done.

    Args:
        tokens: of each training line.
        seed: with the configuration, what a run is recognised by.
        generator: for the order of lines and which n-grams are dropped.

    Returns:
        CPU seconds of all epochs.
    """
    optimiser = optimiser_of(encoder, model, config)
    weights = line_weights(training.lines, config)
    credit = torch.rand(len(training.lines), generator=generator)
    settings = dataclasses.asdict(config) | {"seed": seed}
    path = folder / CHECKPOINT
    first, spent = 0, 0.0
    saved = read_checkpoint(path) if path.exists() else None
    if saved is not None and _goes_on(saved, settings):
        first, spent, credit = saved["epoch"], saved["seconds"], saved["credit"]
        encoder.load_state_dict(saved["encoder"], strict=False)  # the rest is as it was
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        generator.set_state(saved["generator"])
        torch.set_rng_state(saved["random"])
        say(f"goes on after epoch {first}")
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = config.encoder_dropout
    for epoch in range(first, config.epochs):
        started = time.process_time()
        credit = credit + weights * config.lines_per_epoch
        times = credit.floor()
        credit = credit - times
        drawn = torch.repeat_interleave(torch.arange(len(times)), times.long())
        loss = _epoch(encoder, model, training, tokens, drawn, optimiser, epoch, config, generator)
        spent += time.process_time() - started
        say(f"epoch {epoch + 1}/{config.epochs} loss {loss:.4f}, {spent:.0f} s of CPU")
        kept = {name: value for name, value in encoder.named_parameters() if value.requires_grad}
        write_checkpoint(
            path,
            {
                "settings": settings,
                "epoch": epoch + 1,
                "seconds": spent,
                "credit": credit,
                "encoder": kept,
                "model": model.state_dict(),
                "optimiser": optimiser.state_dict(),
                "generator": generator.get_state(),
                "random": torch.get_rng_state(),
            },
        )
    return spent


def _epoch(
    encoder: SentenceEncoder, model: TextModel, training: Lines, tokens: Tokens, drawn: Tensor,
    optimiser: torch.optim.Optimizer, epoch: int, config: TextConfig,
    generator: torch.Generator,
) -> float:  # fmt: skip
    """One epoch over the rows ``drawn``; the mean loss of its batches."""
    encoder.train()
    model.train()
    tuned = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    said = tokens.drawn(drawn, config, generator)
    batches = batches_of_like_length([len(ids) for ids, _ in said], config.batch_size, generator)
    total = 0.0
    bfloat16 = config.bfloat16 and multiplies_in_bfloat16()
    for index, places in enumerate(batches):
        rows = drawn[places]
        factor = rate_factor(epoch + (index + 1) / len(batches), config)
        for group in optimiser.param_groups:
            group["lr"] = group["full_rate"] * factor
        batch = [said[place] for place in places.tolist()]
        sentences = embed_batch(encoder, batch, bfloat16=bfloat16)
        buckets = training.bags(rows)
        dropped = torch.rand(buckets.shape, generator=generator) < config.ngram_dropout
        dropped |= torch.rand(len(rows), 1, generator=generator) < config.bag_dropout
        answers = model.answers(sentences, buckets.masked_fill(dropped, 0))
        loss = line_loss(
            answers, model.tweets(answers.hidden), training.targets.of(rows), config.style_weight
        )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(tuned, 1.0)
        optimiser.step()
        total += float(loss.detach())
    return total / len(batches)


def _goes_on(saved: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Whether a run with ``settings`` had come by the same way to where ``saved`` is."""
    before, now = dict(saved["settings"]), dict(settings)
    if before == now:
        return True
    level = min(run.pop("epochs") - run.pop("falling_epochs") for run in (before, now))
    return before == now and bool(saved["epoch"] <= level)


def optimiser_of(
    encoder: SentenceEncoder, model: TextModel, config: TextConfig
) -> torch.optim.Optimizer:
    """AdamW on the encoder's last ``tuned_layers`` layers, each slower than the one above it
    (Howard & Ruder 2018, arXiv:1801.06146), on n-grams and heads. The other layers are frozen."""
    for parameter in encoder.parameters():
        parameter.requires_grad = False
    groups = []
    for depth, layer in enumerate(reversed(encoder.layers[-config.tuned_layers :])):
        rate = config.encoder_learning_rate * config.layer_decay**depth
        groups.append({"params": list(layer.parameters()), "full_rate": rate})
        for parameter in layer.parameters():
            parameter.requires_grad = True
    groups.append(
        {"params": list(model.ngrams.parameters()), "full_rate": config.ngram_learning_rate}
    )
    heads = [*model.heads.parameters(), *model.tweets.parameters()]
    groups.append({"params": heads, "full_rate": config.learning_rate})
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=config.weight_decay, fused=True)


def rate_factor(progress: float, config: TextConfig) -> float:
    """Part of the full learning rate after ``progress`` epochs: up over the first one, level, and
    down to zero over the last ``falling_epochs``."""
    return min(progress, 1.0, max(0.0, (config.epochs - progress) / config.falling_epochs))


def line_loss(answers: Answers, tweets: Tensor, targets: Targets, style_weight: float) -> Tensor:
    """Cross-entropies of all labels that the lines have, summed and divided by the lines.

    A line teaches the answer of its own style, and the gate which style that is. TweetEval's
    emotions were chosen from three: they teach which of the three, through the mixture.

    Args:
        tweets: (N, 4) logits of `TWEET_EMOTIONS`.
        style_weight: of the cross-entropy of the gate.
    """
    loss = style_weight * nn.functional.cross_entropy(answers.style, targets.style, reduction="sum")
    for logits, styles, shares in (
        (answers.emotion, EMOTION_STYLES, targets.emotion),
        (answers.sentiment, SENTIMENT_STYLES, one_hot(targets.sentiment, len(SENTIMENT))),
    ):
        for column, style in enumerate(styles):
            rows = (targets.style == STYLES.index(style)) & (shares.sum(dim=1) > 0)
            loss = loss - (torch.log_softmax(logits[rows, column], dim=1) * shares[rows]).sum()
    chosen = targets.tweet != UNLABELLED
    _, emotion = mix(answers)
    choice = list(TWEET_CHOICE)
    among = torch.log_softmax(emotion[chosen][:, choice], dim=1)
    loss = loss - (among * targets.emotion[chosen][:, choice]).sum()
    loss = loss + nn.functional.cross_entropy(
        tweets[chosen], targets.tweet[chosen], reduction="sum"
    )
    return loss / len(targets.style)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """(N,) int64 -> (N, classes) float32, zeros where ``UNLABELLED``."""
    found = nn.functional.one_hot(labels.clamp(min=0), classes).to(torch.float32)
    return found * (labels != UNLABELLED).unsqueeze(1)


def line_weights(lines: Sequence[TextLine], config: TextConfig) -> Tensor:
    """(N,) how often each line is drawn, sum 1: every set by its share, and within a set a class
    of share s by s ** (1 - balance). So the balance costs no loss weights, and frequent classes,
    of which there is more than enough, less time."""
    weights = torch.zeros(len(lines), dtype=torch.float64)
    for source, share in config.shares.items():
        rows = [row for row, line in enumerate(lines) if line.source == source]
        if not rows:
            continue
        classes = [_classes(lines[row]) for row in rows]
        counts: dict[int, float] = {}
        for found in classes:
            for label in found:
                counts[label] = counts.get(label, 0.0) + 1 / len(found)
        factor = {
            label: (count / len(rows)) ** -config.balance[source] for label, count in counts.items()
        }
        drawn = torch.tensor(
            [sum(factor[label] for label in found) / len(found) for found in classes],
            dtype=torch.float64,
        )
        weights[rows] = share * drawn / drawn.sum()
    return (weights / weights.sum()).float()


def _classes(line: TextLine) -> tuple[int, ...]:
    if line.tweet_emotion != UNLABELLED:
        return (line.tweet_emotion,)
    return line.emotion or (line.sentiment,)
