"""Stage ``fusion``: weights, priors and temperatures of the late fusion, on calibration data.

No set here has face, speech and text of one moment with labels. So the fusion is fitted on
*class-matched triples*: a FER+ picture, a speech window and a chat line of the same emotion, drawn
independently from the calibration splits (training-side speakers, pictures and lines that no
encoder was trained on). They teach how far to trust each modality; they cannot teach how
modalities of one real moment depend on each other.

Calibration data is halved: one half fits weights and priors, the other the temperatures. Where one
modality is heard alone, its answer has one number of the fit in it, its weight, and that only as a
factor of the temperature. So there all of the data count for the temperature: what matters is how
many speakers there are. Of chat alone, each set of lines has the same say.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from counterpoint.engine.manifest import MASKS
from counterpoint.trainer.affect.audio import (
    SPEC,
    WINDOW_FRAMES,
    AudioModel,
    Track,
    clip_windows,
    inside_mask,
)
from counterpoint.trainer.affect.text import Lines, TextModel, text_logits
from counterpoint.trainer.affect.text_fit import one_hot
from counterpoint.trainer.affect.vision import VisionModel, predict
from counterpoint.trainer.calibrate import fit_temperature, mean_shares, softmax
from counterpoint.trainer.config import AffectConfig
from counterpoint.trainer.data.ferplus import read_ferplus
from counterpoint.trainer.data.speech import CALIBRATION, read_speech
from counterpoint.trainer.data.text import read_text
from counterpoint.trainer.labels import EMOTION, HEADS, SENTIMENT, UNLABELLED
from counterpoint.trainer.metrics import accuracy, expected_calibration_error
from counterpoint.trainer.models import LateFusion
from counterpoint.trainer.records import (
    StageRecord,
    load_arrays,
    load_weights,
    save_weights,
    seed_everything,
    write_json,
)

CLASSES = len(EMOTION)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoders:
    """The trained parts, and the fusion module that holds their heads."""

    vision: VisionModel
    audio: AudioModel
    text: TextModel
    fusion: LateFusion


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pool:
    """Single samples of one modality with their unimodal logits.

    Fields:
        emotion_logits: (N, 7); sentiment_logits: (N, 3).
        emotion: (N,) int64 class.
        sentiment: (N, 3) target shares; derived from the emotion by the table where a set has no
            sentiment labels.
    """

    emotion_logits: Tensor
    sentiment_logits: Tensor
    emotion: Tensor
    sentiment: Tensor

    def half(self, which: int, groups: Tensor) -> Pool:
        rows = torch.nonzero(groups == which).squeeze(1)
        return Pool(
            emotion_logits=self.emotion_logits[rows],
            sentiment_logits=self.sentiment_logits[rows],
            emotion=self.emotion[rows],
            sentiment=self.sentiment[rows],
        )

    def and_also(self, other: Pool) -> Pool:
        """The samples of both."""
        return Pool(
            emotion_logits=torch.cat((self.emotion_logits, other.emotion_logits)),
            sentiment_logits=torch.cat((self.sentiment_logits, other.sentiment_logits)),
            emotion=torch.cat((self.emotion, other.emotion)),
            sentiment=torch.cat((self.sentiment, other.sentiment)),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lone:
    """Lines that have one of the two labels: they are for chat alone, which needs no match.

    Fields:
        tweets: SemEval's, with a sentiment.
        comments: GoEmotions', with an emotion.
    """

    tweets: Pool
    comments: Pool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Triples:
    """Class-matched draws from the three pools.

    Fields:
        emotion_logits: (N, 3, 7); sentiment_logits: (N, 3, 3); axis 1 is video, audio, chat.
        emotion: (N, 7) and sentiment: (N, 3) target shares.
        state: (N, 3) int64.
    """

    emotion_logits: Tensor
    sentiment_logits: Tensor
    emotion: Tensor
    sentiment: Tensor
    state: Tensor


def load_encoders(out: Path, config: AffectConfig) -> Encoders:
    """The encoders that the stages before have written, with a fusion that is not fitted yet.

    Raises:
        UsageError: a stage has not run.
    """
    vision, audio = VisionModel(), AudioModel(config.audio)
    text = TextModel(config.text)
    load_weights(out / "vision" / "model.safetensors", vision)
    load_weights(out / "audio" / "model.safetensors", audio)
    load_weights(out / "text" / "model.safetensors", text)
    table = torch.from_numpy(load_arrays(out / "text" / "table.npz")["table"])
    fusion = LateFusion(vision.emotion, audio.sequence, audio.emotion, text.heads, table)
    for module in (vision, audio, text, fusion):
        module.eval()
    return Encoders(vision=vision, audio=audio, text=text, fusion=fusion)


def train_fusion(data: Path, out: Path, config: AffectConfig) -> None:
    """Fit weights and priors on one half of the calibration data, temperatures on the other."""
    record = StageRecord(out / "fusion", "fusion")
    generator = seed_everything(config.seed + 3)
    encoders = load_encoders(out, config)
    with record.timed("unimodal logits"):
        # All of them at once: what the stage text has embedded is in the cache.
        lines = Lines.of(read_text(data).calibration)
        said = text_logits(encoders.text, lines, out)
        pools = (
            _video_pool(encoders, data, out),
            _audio_pool(encoders, data, out),
            _chat_pool(lines, said, "meld"),
        )
        tweets = _chat_pool(lines, said, "semeval")
        comments = _chat_pool(lines, said, "goemotions")
    halves = [[pool[half] for pool in pools] for half in (0, 1)]
    everything = [first.and_also(second) for first, second in pools]
    lone = [Lone(tweets=tweets[half], comments=comments[half]) for half in (0, 1)]
    record.say(f"samples a half: {[[len(pool.emotion) for pool in half] for half in halves]}")

    fusion = encoders.fusion
    parameters = [*fusion.sentiment.parameters(), *fusion.emotion.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=config.fusion.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.fusion.steps)
    with record.timed("fit weights"):
        for step in range(config.fusion.steps):
            mask = MASKS[step % len(MASKS)]
            triples = draw_triples(halves[0], mask, config.fusion.batch_size, generator)
            loss = torch.zeros(())
            for head in HEADS:
                logits, target = answers_of(fusion, head, triples, mask, lone[0], generator)
                loss = loss + F.cross_entropy(logits, target)
            for combine in (fusion.sentiment, fusion.emotion):
                loss = loss + config.fusion.prior_decay * combine.prior.square().sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    with torch.no_grad():
        fusion.emotion.unheard.copy_(_log_shares([_one_hot(pool.emotion) for pool in halves[0]]))
        fusion.sentiment.unheard.copy_(_log_shares([pool.sentiment for pool in halves[0]]))
    both = Lone(tweets=tweets[0].and_also(tweets[1]), comments=comments[0].and_also(comments[1]))
    with record.timed("fit temperatures"):
        temperatures: dict[str, dict[str, float]] = {head: {} for head in HEADS}
        shares: dict[str, dict[str, list[float]]] = {head: {} for head in HEADS}
        table: dict[str, dict[str, float]] = {}
        for mask in MASKS:
            alone = mask.count("1") == 1
            drawn_from, singly = (everything, both) if alone else (halves[1], lone[1])
            triples = draw_triples(drawn_from, mask, config.fusion.samples, generator)
            table[mask] = {}
            for head in HEADS:
                with torch.inference_mode():
                    logits, target = answers_of(fusion, head, triples, mask, singly, generator)
                temperature = fit_temperature(logits, target)
                temperatures[head][mask] = temperature
                shares[head][mask] = mean_shares(logits, temperature)
                table[mask] |= _figures(head, logits, target, temperature)
            record.say(f"{mask} {table[mask]}")
    write_json(out / "fusion" / "temperatures.json", temperatures)
    write_json(out / "fusion" / "shares.json", shares)
    save_weights(out / "fusion" / "sentiment.safetensors", fusion.sentiment)
    save_weights(out / "fusion" / "emotion.safetensors", fusion.emotion)
    record.metrics = {
        "calibration_subsets": table,
        "temperatures": temperatures,
        "weights": {
            head: combine.weight.tolist()
            for head, combine in (("sentiment", fusion.sentiment), ("emotion", fusion.emotion))
        },
    }
    record.finish()


def _log_shares(targets: list[Tensor]) -> Tensor:
    """(C,) log of the mean over the pools of their mean target shares (N, C)."""
    return torch.log(torch.stack([rows.mean(dim=0) for rows in targets]).mean(dim=0))


def _figures(head: str, logits: Tensor, target: Tensor, temperature: float) -> dict[str, float]:
    """Accuracy, and ECE with the temperature 1 and with the one fitted, held against the likeliest
    class of ``target``."""
    truth = target.argmax(dim=1).numpy()
    scaled = softmax(logits.numpy(), temperature)
    return {
        f"{head}_accuracy": accuracy(truth, scaled.argmax(axis=1)),
        f"{head}_ece_before": expected_calibration_error(truth, softmax(logits.numpy(), 1.0)),
        f"{head}_ece_after": expected_calibration_error(truth, scaled),
    }


def answers_of(
    fusion: LateFusion, head: str, triples: Triples, mask: str, lone: Lone,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Logits of ``head`` and what they are held against, (N, C) each.

    With chat alone, half of the rows are ``triples``' lines and half are lines of the set that has
    only this label: tweets for sentiment, comments for emotion.
    """
    if head == "sentiment":
        combine, logits, target = fusion.sentiment, triples.sentiment_logits, triples.sentiment
        more, labels = lone.tweets.sentiment_logits, lone.tweets.sentiment
    else:
        combine, logits, target = fusion.emotion, triples.emotion_logits, triples.emotion
        more, labels = lone.comments.emotion_logits, _one_hot(lone.comments.emotion)
    state = triples.state
    if mask == "001":
        rows = torch.randint(len(labels), (len(logits),), generator=generator)
        absent = torch.zeros_like(more[rows])
        logits = torch.cat((logits, torch.stack((absent, absent, more[rows]), dim=1)))
        target = torch.cat((target, labels[rows]))
        state = state.repeat(2, 1)
    fused, _ = combine(logits, state)
    return fused, target


def _one_hot(emotion: Tensor) -> Tensor:
    return F.one_hot(emotion, CLASSES).to(torch.float32)


def draw_triples(pools: list[Pool], mask: str, count: int, generator: torch.Generator) -> Triples:
    """``count`` class-matched draws where the modalities of ``mask`` are present.

    Classes are drawn as they occur in the pools that are present (the mean of their shares): with
    one modality alone these are that set's own shares.

    Args:
        pools: video, audio, chat.
    """
    present = [character == "1" for character in mask]
    shares = torch.stack(
        [
            torch.bincount(pool.emotion, minlength=CLASSES) / len(pool.emotion)
            for pool, there in zip(pools, present, strict=True)
            if there
        ]
    )
    # A class that one of the pools lacks cannot be matched.
    prior = shares.mean(dim=0) * (shares > 0).all(dim=0)
    classes = torch.multinomial(prior, count, replacement=True, generator=generator)
    rows = [_draw_rows(pool.emotion, classes, generator) for pool in pools]
    # Real sentiment labels only come with chat lines; without chat the table gives the shares.
    labelled = 2 if present[2] else present.index(True)
    return Triples(
        emotion_logits=torch.stack(
            [pool.emotion_logits[chosen] for pool, chosen in zip(pools, rows, strict=True)], dim=1
        ),
        sentiment_logits=torch.stack(
            [pool.sentiment_logits[chosen] for pool, chosen in zip(pools, rows, strict=True)],
            dim=1,
        ),
        emotion=_one_hot(classes),
        sentiment=pools[labelled].sentiment[rows[labelled]],
        state=torch.tensor(present).long().repeat(count, 1),
    )


def _draw_rows(labels: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
    """For each wanted class a random row of that class; row 0 where there is none."""
    order = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels, minlength=CLASSES)
    first = torch.cumsum(counts, 0) - counts
    offset = (torch.rand(len(classes), generator=generator) * counts[classes]).long()
    return torch.where(counts[classes] > 0, order[(first[classes] + offset) % len(order)], 0)


def _video_pool(encoders: Encoders, data: Path, out: Path) -> tuple[Pool, Pool]:
    faces = read_ferplus(data, "Train")
    split = load_arrays(out / "vision" / "split.npz")
    rows = split["calibration"]
    logits = torch.from_numpy(
        predict(
            encoders.vision,
            torch.from_numpy(faces.images[rows]),
            float(split["mean"]),
            float(split["std"]),
        )
    )
    pool = _derived_pool(encoders.fusion, logits, torch.from_numpy(faces.hard[rows]))
    groups = torch.arange(len(rows)) % 2
    return pool.half(0, groups), pool.half(1, groups)


def _audio_pool(encoders: Encoders, data: Path, out: Path) -> tuple[Pool, Pool]:
    """Windows of the held-out speakers; half 0 has RAVDESS actor 15, half 1 actor 16."""
    clips = read_speech(data, out / "cache", SPEC).chosen(CALIBRATION)
    stored = load_arrays(out / "audio" / "normalisation.npz")
    mean, std = torch.from_numpy(stored["mean"]), torch.from_numpy(stored["std"])
    track = Track(clips.log_mel)
    logits, emotions, groups = [], [], []
    with torch.inference_mode():
        for index, clip in enumerate(clips.clips):
            ends = torch.tensor(clip_windows(int(track.counts[index])))
            crops = track.crops(torch.full_like(ends, index), ends, WINDOW_FRAMES)
            logits.append(encoders.audio((crops - mean) / std, inside_mask(ends)))
            emotions += [clip.emotion] * len(ends)
            half = {"ravdess-15": 0, "ravdess-16": 1}.get(clip.speaker, index % 2)
            groups += [half] * len(ends)
    pool = _derived_pool(encoders.fusion, torch.cat(logits), torch.tensor(emotions))
    return pool.half(0, torch.tensor(groups)), pool.half(1, torch.tensor(groups))


def _chat_pool(lines: Lines, said: tuple[Tensor, Tensor], source: str) -> tuple[Pool, Pool]:
    """The calibration lines of ``source``, halved, MELD's by dialogue: the only lines with both
    labels. SemEval's emotion and GoEmotions' sentiment are not known and not used; GoEmotions'
    lines with several emotions are left out.

    Args:
        said: sentiment (N, 3) and emotion (N, 7) logits of ``lines``.
    """
    chosen = [
        row
        for row, line in enumerate(lines.lines)
        if line.source == source and len(line.emotion) < 2
    ]
    rows = torch.tensor(chosen)
    known = lines.emotion[rows].sum(dim=1) > 0
    pool = Pool(
        emotion_logits=said[1][rows],
        sentiment_logits=said[0][rows],
        emotion=lines.emotion[rows].argmax(dim=1).masked_fill(~known, UNLABELLED),
        sentiment=one_hot(lines.sentiment[rows], len(SENTIMENT)),
    )
    names = sorted({lines.lines[row].group for row in chosen})
    position = {name: index for index, name in enumerate(names)}
    groups = torch.tensor([position[lines.lines[row].group] % 2 for row in chosen])
    return pool.half(0, groups), pool.half(1, groups)


def _derived_pool(fusion: LateFusion, logits: Tensor, emotion: Tensor) -> Pool:
    with torch.inference_mode():
        return Pool(
            emotion_logits=logits,
            sentiment_logits=fusion.derive(logits),
            emotion=emotion,
            sentiment=fusion.table[emotion],
        )
