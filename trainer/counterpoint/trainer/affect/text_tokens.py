"""What the text encoder reads in the stage ``text``: lines and those before them, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from counterpoint.engine.preprocess.spec import ChatSpec
from counterpoint.engine.preprocess.text import Int64Array, Tokenizer, pad_ids, read_with
from counterpoint.trainer.config import TextConfig
from counterpoint.trainer.data.text import BEFORE_LINES, TextLine
from counterpoint.trainer.sentence import SentenceEncoder

SPEC: Final = ChatSpec(before_lines=BEFORE_LINES)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tokens:
    """Token ids of N lines, and of the lines before each of them.

    Fields:
        own: N times (L,) int64.
        before: N times those of the lines before, from the oldest to the newest, without marks.
        source: N names of sets.
        marks: tokens that mark the beginning of a line.
    """

    own: Sequence[Int64Array]
    before: Sequence[tuple[Int64Array, ...]]
    source: Sequence[str]
    marks: int = 1

    @classmethod
    def of(cls, lines: Sequence[TextLine], tokenizer: Tokenizer) -> Tokens:
        known = {text: tokenizer.ids(text) for line in lines for text in (line.text, *line.before)}
        return cls(
            own=[known[line.text] for line in lines],
            before=[
                tuple(known[text][tokenizer.marks :] for text in line.before) for line in lines
            ],
            source=[line.source for line in lines],
            marks=tokenizer.marks,
        )

    def drawn(
        self, rows: Tensor, config: TextConfig, generator: torch.Generator
    ) -> list[tuple[Int64Array, Int64Array]]:
        """Ids and mask of each row, with some of what was said before it.

        How much is drawn anew each time: so the encoder can do with less, and sees a line in more
        than one light. Lines of sets without dialogues sometimes get others of their set: in a
        chat the lines before need not have to do with a line.
        """
        of_source: dict[str, list[int]] = {}
        for row, source in enumerate(self.source):
            of_source.setdefault(source, []).append(row)
        chance = torch.rand(len(rows), 2, generator=generator).tolist()
        places = torch.rand(len(rows), SPEC.before_lines, generator=generator).tolist()
        found = []
        for row, (some, count), draws in zip(rows.tolist(), chance, places, strict=True):
            before = self.before[row]
            if before:
                if some >= config.whole_context:
                    before = before[len(before) - int(count * len(before)) :]
            elif some < config.strange_context:
                among = of_source[self.source[row]]
                before = tuple(
                    self.own[among[int(draw * len(among))]][self.marks :]
                    for draw in draws[: 1 + int(count * SPEC.before_lines)]
                )
            found.append(read_with(self.own[row], before, SPEC))
        return found


def embed_batch(
    encoder: SentenceEncoder, batch: Sequence[tuple[Int64Array, Int64Array]], *, bfloat16: bool
) -> Tensor:
    """(len(batch), width) float32 embeddings of ids and masks, padded."""
    ids, mask = (torch.from_numpy(pad_ids(rows)) for rows in zip(*batch, strict=True))
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        sentences: Tensor = encoder(ids, mask).float()
    return sentences


def batches_of_like_length(
    lengths: Sequence[int], size: int, generator: torch.Generator
) -> list[Tensor]:
    """Batches of places in ``lengths`` of like length, in random order, so that little is padding.

    None is of one row alone, of which batch normalisation could learn nothing.
    """
    jitter = 3 * torch.rand(len(lengths), generator=generator)
    ordered = torch.argsort(torch.tensor(lengths) + jitter)
    batches = list(ordered.split(size))  # type: ignore[no-untyped-call]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
