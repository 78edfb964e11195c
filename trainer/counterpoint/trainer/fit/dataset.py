"""Examples as batches of what the encoders take, and the loaders of a fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from counterpoint.engine.kernels import cpu
from counterpoint.engine.preprocess.audio import clip_log_mel, windows_of
from counterpoint.engine.preprocess.text import (
    ENGLISH_STOP_WORDS,
    Tokenizer,
    hashed_ngrams,
    pad_ids,
)
from counterpoint.streams.errors import UsageError
from counterpoint.streams.types import Float32Array
from counterpoint.trainer.data.index import Example, Index, Split
from counterpoint.trainer.fit import augment
from counterpoint.trainer.fit.config import RunConfig
from counterpoint.trainer.fit.media import HOP_SAMPLES, Media, read_media, read_noise
from counterpoint.trainer.fit.specs import Specs
from counterpoint.trainer.fit.words import lines_of

Item: TypeAlias = dict[str, np.ndarray[Any, Any]]
Batch: TypeAlias = dict[str, Tensor]
NO_LABEL: Final = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What batches are made of.

    Fields:
        tokenizer: ``tokenizer.json``; None where there is no text.
        cache: folder of decoded examples.
        noises: sounds that are mixed in, at 16 kHz.
    """

    config: RunConfig
    index: Index
    specs: Specs
    tokenizer: Path | None
    cache: Path
    noises: tuple[Float32Array, ...] = ()


class Windows(Dataset[Item]):
    """One window of each example.

    In training it lies at random in the recording and is augmented; else in its middle, as it is.

    Args:
        epoch: of training; None: not in training.
    """

    def __init__(self, source: Source, examples: Sequence[Example], epoch: int | None) -> None:
        self._source, self._examples, self._epoch = source, examples, epoch
        self._tokenizer = (
            None if source.tokenizer is None else Tokenizer(source.tokenizer, source.specs.chat)
        )
        use = source.config.text
        self._stop_words = ENGLISH_STOP_WORDS if use.stop_words else frozenset[str]()

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, position: int) -> Item:
        source, example = self._source, self._examples[position]
        training = self._epoch is not None
        # By row, not by place in an order: whatever draws examples, they are changed alike.
        random = np.random.default_rng([source.config.fit.seed, self._epoch or 0, example.row])
        item: Item = {"row": np.array(example.row)}
        change = random if training and source.config.augment.use else None
        if source.config.video.use or source.config.audio.use:
            media = read_media(example, source.config, source.cache)
            end = self._end(media, random if training else None)
            if source.config.video.use:
                item.update(self._pictures(media, end, change))
            if source.config.audio.use:
                item.update(self._sound(media, end, change, training=training))
        if source.config.text.use:
            item.update(self._lines(example, change))
        item["labels"] = np.array(
            [example.labels.get(task.name, NO_LABEL) for task in source.index.tasks], np.float32
        )
        return item

    def _end(self, media: Media, random: Generator | None) -> int:
        """The hop before which the window ends."""
        specs, hops = self._source.specs, media.hops
        shortest = min(max(specs.hops, specs.video.steps), hops)
        if random is None:
            return (hops + shortest) // 2
        return int(random.integers(shortest, hops + 1))

    def _pictures(self, media: Media, end: int, random: Generator | None) -> Item:
        spec = self._source.specs.video
        size, steps = spec.image_size_px, spec.steps
        faces = np.zeros((steps, 1, size, size), np.float32)
        mask = np.zeros(steps, np.float32)
        # A picture by itself counts as just seen.
        last = 1 if len(media.faces) == 1 else min(end, len(media.faces))
        first = max(0, last - steps)
        if last > first:
            found = media.faces[first:last]
            if random is not None:
                found = augment.change_pictures(found, self._source.config.augment.image, random)
            faces[steps - len(found) :, 0] = cpu.normalise_face(found, spec)
            mask[steps - len(found) :] = media.seen[first:last]
        return {"faces": faces, "video_mask": mask}

    def _sound(self, media: Media, end: int, random: Generator | None, *, training: bool) -> Item:
        spec, hops = self._source.specs.audio, self._source.specs.hops
        steps, config = spec.steps_per_hop, self._source.config
        frames = spec.context_frames + HOP_SAMPLES // spec.frame_samples
        windows = np.zeros((hops, frames, spec.mel_bins), np.float32)
        mask = np.zeros((hops, steps), np.float32)
        first = max(0, end - hops)
        before = min(first, 1)  # one hop more, for the frames that reach back
        part = media.sound[(first - before) * HOP_SAMPLES : end * HOP_SAMPLES]
        if len(part) > before * HOP_SAMPLES:
            valid = np.zeros((end - first) * HOP_SAMPLES, np.bool_)
            valid[: len(part) - before * HOP_SAMPLES] = True
            there = valid.reshape(end - first, steps, -1).mean(axis=2) >= 0.5
            if training and config.data.denoise:
                part = augment.clean(part)
            if random is not None:
                how = config.augment.audio
                part = augment.change_sound(part, how, self._source.noises, random)
            log_mel = clip_log_mel(part, spec)
            if random is not None:
                fill = np.asarray(spec.mean, np.float32)
                log_mel = augment.mask_log_mel(log_mel, fill, config.augment.audio, random)
            found = windows_of(log_mel, spec)[before:]
            windows[hops - (end - first) : hops - (end - first) + len(found)] = found
            mask[hops - (end - first) :] = there
        return {"logmel": windows, "audio_mask": mask.reshape(-1)}

    def _lines(self, example: Example, random: Generator | None) -> Item:
        spec, config = self._source.specs.chat, self._source.config
        lines = lines_of(example.text or "")
        before = [*lines_of("\n".join(example.before)), *lines]
        lines = lines[-spec.max_lines :]
        if random is not None:
            share = config.augment.text.token_dropout
            lines = [augment.drop_tokens(line, share, random) for line in lines]
        empty = np.zeros(0, np.int64)
        read = [(empty, empty)] * (spec.max_lines - len(lines))
        if self._tokenizer is not None:
            for place, line in enumerate(lines, start=len(before) - len(lines)):
                ids, mask = self._tokenizer.encode(line, before[:place])
                read.append((ids[0], mask[0]))
        else:
            read += [(empty, empty)] * len(lines)
        buckets = [empty] * (spec.max_lines - len(lines))
        buckets += [hashed_ngrams(line, spec, stop_words=self._stop_words) for line in lines]
        present = (np.arange(spec.max_lines) >= spec.max_lines - len(lines)).astype(np.float32)
        return {
            "input_ids": pad_ids(ids for ids, _ in read),
            "attention_mask": pad_ids(mask for _, mask in read),
            "buckets": pad_ids(buckets),
            "text_mask": present,
        }


def collate(items: Sequence[Item]) -> Batch:
    """Items as one batch; ids of different lengths are filled with 0 at the end."""
    batch: Batch = {}
    for name in items[0]:
        arrays = [item[name] for item in items]
        if name in ("input_ids", "attention_mask", "buckets"):
            longest = max(array.shape[1] for array in arrays)
            arrays = [np.pad(a, ((0, 0), (0, longest - a.shape[1]))) for a in arrays]
        batch[name] = torch.from_numpy(np.stack(arrays))
    return batch


class Order:
    """Batches of positions, the same number for each process.

    Args:
        seed: of the order; None: as they are, and no position twice.
    """

    def __init__(
        self, count: int, batch_size: int, *, rank: int, world: int, seed: Sequence[int] | None
    ) -> None:
        positions = np.arange(count)
        if seed is not None:
            positions = np.random.default_rng(list(seed)).permutation(count)
            # Processes step together, so each needs as many.
            positions = np.resize(positions, -(-count // world) * world)
        mine = positions[rank::world]
        self._batches = [
            mine[at : at + batch_size].tolist() for at in range(0, len(mine), batch_size)
        ]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


class FitData(pl.LightningDataModule):
    """Loaders of train and validation; train anew for each epoch."""

    def __init__(self, source: Source, *, rank: int = 0, world: int = 1) -> None:
        super().__init__()
        self.source, self._rank, self._world = source, rank, world

    def train_dataloader(self) -> DataLoader[Item]:
        epoch = 0 if self.trainer is None else self.trainer.current_epoch
        seed = (self.source.config.fit.seed, epoch)
        return self._loader(self.source.index.of("train"), epoch, seed)

    def val_dataloader(self) -> DataLoader[Item]:
        return self._loader(self.source.index.of("validation"), None, None)

    def _loader(
        self, examples: Sequence[Example], epoch: int | None, seed: Sequence[int] | None
    ) -> DataLoader[Item]:
        config = self.source.config
        order = Order(
            len(examples),
            config.fit.batch_size,
            rank=self._rank,
            world=self._world,
            seed=seed,
        )
        return DataLoader(
            Windows(self.source, examples, epoch),
            batch_sampler=order,
            collate_fn=collate,
            num_workers=config.data.workers,
        )


def batches(source: Source, split: Split) -> Iterator[Batch]:
    """All of a split in the table's order, as it is."""
    examples = source.index.of(split)
    windows = Windows(source, examples, None)
    size = source.config.fit.batch_size
    for at in range(0, len(examples), size):
        yield collate([windows[place] for place in range(at, min(at + size, len(examples)))])


def read_noises(folder: str) -> tuple[Float32Array, ...]:
    """Every sound file of a folder, at 16 kHz; none where no folder is named.

    Raises:
        UsageError: there is no such folder, nothing in it, or what is in it is no sound.
    """
    if not folder:
        return ()
    paths = sorted(path for path in Path(folder).glob("*") if path.is_file())
    if not paths:
        raise UsageError(f"data.noise: there are no files in {folder}")
    return tuple(read_noise(path) for path in paths)


def shares(index: Index) -> Mapping[str, np.ndarray]:
    """Task -> (C,) counts of its classes in train."""
    return {
        task.name: np.bincount(
            [int(row.labels[task.name]) for row in index.of("train") if task.name in row.labels],
            minlength=len(task.labels),
        )
        for task in index.tasks
        if task.kind == "classes"
    }
