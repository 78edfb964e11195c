"""What a line of dialogue says by itself, and what with the lines before it: MELD's emotions.

    python -m counterpoint.trainer.studies.meld_context --data DIR --out DIR

Fine-tunes MiniLM with a linear head on MELD's training dialogues alone, once on single lines and
once with the lines before in the same input, as the bundle affect reads them, and scores MELD's
dev file after each epoch. It says what the lines before are worth.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from counterpoint.engine.preprocess.text import Int64Array, Tokenizer
from counterpoint.streams.errors import CounterpointError
from counterpoint.trainer.affect.text_tokens import SPEC, batches_of_like_length, embed_batch
from counterpoint.trainer.data.text import BEFORE_LINES, TextLine, read_meld
from counterpoint.trainer.labels import EMOTION
from counterpoint.trainer.metrics import accuracy, macro_f1, weighted_f1
from counterpoint.trainer.pretrained import minilm_folder
from counterpoint.trainer.records import multiplies_in_bfloat16, write_json
from counterpoint.trainer.sentence import SentenceEncoder, load_minilm

SCALE: Final = 8.0
"""Sentence embeddings have length 1; logits need more."""
WARM_UP: Final = 0.1
BATCH: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lines:
    """What the encoder reads of each line, ids and mask, and its emotion, (N,) int64."""

    read: Sequence[tuple[Int64Array, Int64Array]]
    emotion: Tensor

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for ids, _ in self.read]


def with_context(lines: Sequence[TextLine], tokenizer: Tokenizer, before: int) -> Lines:
    """Each line with up to ``before`` of the lines before it."""
    found = []
    for line in lines:
        ids, mask = tokenizer.encode(line.text, line.before[max(0, len(line.before) - before) :])
        found.append((ids[0], mask[0]))
    return Lines(read=found, emotion=torch.tensor([line.emotion[0] for line in lines]))


def fit(
    encoder: SentenceEncoder, training: Lines, held_out: Lines, *, epochs: int,
    learning_rate: float, seed: int, say: Callable[[str], None] = print,
) -> list[dict[str, float]]:  # fmt: skip
    """Fine-tune ``encoder`` in place; figures of ``held_out`` after each epoch.

    Nothing is chosen by them: the learning rate rises and falls to zero over all epochs.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    width = int(encoder.bert.get_parameter("embeddings.word_embeddings.weight").shape[1])
    head = nn.Sequential(nn.Dropout(0.2), nn.Linear(width, len(EMOTION)))
    tuned = [*encoder.parameters()]
    for parameter in tuned:
        parameter.requires_grad = True
    optimiser = torch.optim.AdamW(
        [
            {"params": tuned, "full_rate": learning_rate},
            {"params": list(head.parameters()), "full_rate": 1e-3},
        ],
        lr=0.0,
        weight_decay=0.02,
        fused=True,
    )
    steps = epochs * len(batches_of_like_length(training.lengths, BATCH, generator))
    step, found = 0, []
    for epoch in range(epochs):
        started = time.perf_counter()
        encoder.train()
        head.train()
        for rows in batches_of_like_length(training.lengths, BATCH, generator):
            step += 1
            factor = min(step / (WARM_UP * steps), (steps - step) / ((1 - WARM_UP) * steps))
            for group in optimiser.param_groups:
                group["lr"] = group["full_rate"] * max(0.0, factor)
            loss = F.cross_entropy(_logits(encoder, head, training, rows), training.emotion[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(tuned, 1.0)
            optimiser.step()
        found.append(_score(encoder, head, held_out))
        spent = time.perf_counter() - started
        say(f"epoch {epoch + 1}/{epochs} {found[-1]}, {spent:.0f} s")
    return found


def _logits(encoder: SentenceEncoder, head: nn.Module, lines: Lines, rows: Tensor) -> Tensor:
    batch = [lines.read[row] for row in rows.tolist()]
    sentences = embed_batch(encoder, batch, bfloat16=multiplies_in_bfloat16())
    logits: Tensor = head(SCALE * sentences)
    return logits


def _score(encoder: SentenceEncoder, head: nn.Module, lines: Lines) -> dict[str, float]:
    encoder.eval()
    head.eval()
    predicted = np.zeros(len(lines.read), np.int64)
    order = torch.argsort(torch.tensor(lines.lengths), stable=True)
    with torch.inference_mode():
        for rows in order.split(BATCH):  # type: ignore[no-untyped-call]
            predicted[rows] = _logits(encoder, head, lines, rows).argmax(dim=1).numpy()
    truth = lines.emotion.numpy()
    return {
        "weighted_f1": round(weighted_f1(truth, predicted, len(EMOTION)), 4),
        "macro_f1": round(macro_f1(truth, predicted, len(EMOTION)), 4),
        "accuracy": round(accuracy(truth, predicted), 4),
    }


def run(options: argparse.Namespace) -> None:
    """Both kinds of input with each seed; ``figures.json`` after each."""
    tokenizer = Tokenizer(minilm_folder() / "tokenizer.json", SPEC)
    training, dev = (read_meld(options.data, split) for split in ("train", "dev"))
    results: list[dict[str, object]] = []
    for seed in range(options.seeds):
        for before in (0, options.before):
            print(f"seed {seed}, {before} lines before", flush=True)
            sets = [with_context(lines, tokenizer, before) for lines in (training, dev)]
            epochs = fit(
                load_minilm(), *sets, epochs=options.epochs, learning_rate=options.learning_rate,
                seed=seed, say=lambda text: print(text, flush=True),
            )  # fmt: skip
            results.append({"seed": seed, "before": before, "dev": epochs})
            write_json(
                options.out / "figures.json",
                {"learning_rate": options.learning_rate, "results": results},
            )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m counterpoint.trainer.studies.meld_context", description=__doc__
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for figures.json")
    parser.add_argument("--before", type=int, default=BEFORE_LINES, help="lines before")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=6e-5, help="of the encoder")
    parser.add_argument("--seeds", type=int, default=1)
    try:
        run(parser.parse_args(arguments))
    except CounterpointError as error:
        print(f"meld_context: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
