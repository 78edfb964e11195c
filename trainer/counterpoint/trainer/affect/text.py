"""Stage ``text``: the upper layers of MiniLM, a bag of hashed n-grams and both heads, together.

Trained on all sets at once (`counterpoint.trainer.affect.text_fit`); a label that a set lacks is
masked in the loss. The encoder is then exported with int8 weights, and from there on (calibration,
validation) only that graph counts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from counterpoint.engine.preprocess.text import Tokenizer
from counterpoint.streams.types import Float32Array
from counterpoint.trainer.affect.heads import (
    EMOTION_STYLES,
    SENTIMENT_STYLES,
    STYLES,
    Answers,
    mix,
)
from counterpoint.trainer.affect.start import start_from
from counterpoint.trainer.affect.text_fit import (
    CHECKPOINT,
    Lines,
    TextModel,
    fit_text,
    one_hot,
)
from counterpoint.trainer.affect.text_tokens import SPEC, Tokens
from counterpoint.trainer.calibrate import fit_temperature, softmax
from counterpoint.trainer.config import AffectConfig
from counterpoint.trainer.data.recordings import TWEET_EMOTIONS
from counterpoint.trainer.data.text import TWEET_CHOICE, TextSets, read_text
from counterpoint.trainer.labels import EMOTION, SENTIMENT, UNLABELLED
from counterpoint.trainer.metrics import (
    expected_calibration_error,
    macro_f1,
    macro_recall,
    weighted_f1,
)
from counterpoint.trainer.pretrained import minilm_folder
from counterpoint.trainer.records import StageRecord, save_arrays, save_weights, seed_everything
from counterpoint.trainer.sentence import drift, embed_lines, export_int8, load_minilm

__all__ = ["Lines", "TextModel", "sentiment_given_emotion", "text_logits", "train_text"]


def sentiment_given_emotion(sets: TextSets) -> Float32Array:
    """(7, 3): P(sentiment | emotion) counted on MELD's training utterances, one added to each."""
    table = np.ones((len(EMOTION), len(SENTIMENT)))
    for line in sets.training:
        if line.source == "meld":
            table[line.emotion[0], line.sentiment] += 1
    shares: Float32Array = (table / table.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def train_text(data: Path, out: Path, config: AffectConfig) -> None:
    """Fine-tune, export MiniLM as int8, score through it; write all of it to ``out``/text.

    Interrupted, the same call goes on from the last whole epoch.
    """
    folder = out / "text"
    record = StageRecord(folder, "text")
    generator = seed_everything(config.seed + 2)

    sets = read_text(data)
    record.metrics["removed_from_training"] = sets.removed
    record.say(f"{len(sets.training)} lines; removed as in a validation set: {sets.removed}")
    save_arrays(folder / "table.npz", table=sentiment_given_emotion(sets))
    with record.timed("tokenise"):
        training = Lines.of(sets.training, config.text.smoothing)
        tokenizer = Tokenizer(minilm_folder() / "tokenizer.json", SPEC)
        tokens = Tokens.of(sets.training, tokenizer)

    encoder = load_minilm()
    model = TextModel(config.text)
    if config.text.start:
        record.metrics["started_from"] = start_from(Path(config.text.start), encoder, model)
    with record.timed("fit"):
        record.metrics["fit_cpu_seconds"] = round(
            fit_text(
                encoder, model, training, tokens, config.text, config.seed, generator, folder,
                record.say,
            )
        )  # fmt: skip
    encoder.eval()
    model.eval()
    save_weights(folder / "encoder.safetensors", encoder)

    with record.timed("export MiniLM"):
        graph = folder / "model.int8.onnx"
        export_int8(encoder, graph)
        record.metrics["minilm_int8_cosine"] = drift(
            encoder,
            graph,
            minilm_folder() / "tokenizer.json",
            SPEC,
            [line.said for line in sets.calibration[::20]],
        )
    with record.timed("temperatures"):
        record.metrics["style_temperatures"] = cool_styles(model, Lines.of(sets.calibration), out)
    save_weights(folder / "model.safetensors", model)
    with record.timed("score"):
        for name, lines in (("calibration", sets.calibration), *sets.validation.items()):
            record.metrics |= _score(name, model, Lines.of(lines), out)
    (folder / CHECKPOINT).unlink()
    record.say(f"through int8: {record.metrics}")
    record.finish()


def cool_styles(model: TextModel, lines: Lines, out: Path) -> dict[str, float]:
    """Fit a temperature for each style's answer on the calibration lines of that style, through
    the int8 graph, and make it part of the answer: so one temperature for all of chat, which is
    what a bundle has, does not have to be right for sets that differ."""
    answers, _ = text_answers(model, lines, out)
    found = {}
    sentiment = one_hot(lines.sentiment, len(SENTIMENT))
    for head, styles, logits, target in (
        ("emotion", EMOTION_STYLES, answers.emotion, lines.emotion),
        ("sentiment", SENTIMENT_STYLES, answers.sentiment, sentiment),
    ):
        for column, style in enumerate(styles):
            rows = (lines.targets.style == STYLES.index(style)) & (target.sum(dim=1) > 0)
            temperature = fit_temperature(logits[rows, column], target[rows])
            model.heads.cool(head, style, temperature)
            found[f"{head} of a {style}"] = round(temperature, 4)
    return found


def text_answers(model: TextModel, lines: Lines, out: Path) -> tuple[Answers, Tensor]:
    """Through the int8 graph of ``out``/text: each style's answers, and TweetEval's (N, 4)."""
    sentences = torch.from_numpy(
        embed_lines(
            out / "text" / "model.int8.onnx",
            minilm_folder() / "tokenizer.json",
            SPEC,
            [line.said for line in lines.lines],
            out / "cache",
        )
    )
    model.eval()
    with torch.inference_mode():
        parts = [
            model.answers(sentences[rows], lines.bags(rows))
            for rows in torch.arange(len(lines.lines)).split(256)  # type: ignore[no-untyped-call]
        ]
        answers = Answers(
            hidden=torch.cat([part.hidden for part in parts]),
            style=torch.cat([part.style for part in parts]),
            sentiment=torch.cat([part.sentiment for part in parts]),
            emotion=torch.cat([part.emotion for part in parts]),
        )
        return answers, model.tweets(answers.hidden)


def text_logits(model: TextModel, lines: Lines, out: Path) -> tuple[Tensor, Tensor]:
    """Sentiment (N, 3) and emotion (N, 7) log-probabilities through the int8 graph of
    ``out``/text."""
    answers, _ = text_answers(model, lines, out)
    return mix(answers)


def _score(name: str, model: TextModel, lines: Lines, out: Path) -> dict[str, float]:
    """Figures of one set; the calibration lines are scored by the set they are from.

    ECE is that of the heads by themselves, without a temperature of the fusion.
    """
    answers, tweets = text_answers(model, lines, out)
    sentiment, emotion = (logits.numpy() for logits in mix(answers))
    sources = np.array([line.source for line in lines.lines])
    truth, felt = lines.sentiment.numpy(), lines.emotion.argmax(dim=1).numpy()
    chosen = lines.targets.tweet.numpy()
    single = (lines.emotion.max(dim=1).values == 1).numpy()
    style = (answers.style.argmax(dim=1) == lines.targets.style).numpy()
    scores = {}
    for source in sorted(set(sources.tolist())):
        label = source if name == source else f"{name}_{source}"
        own = sources == source
        scores[f"{label}_style_accuracy"] = float(style[own].mean())
        if (rows := own & single).any():
            found = emotion[rows].argmax(axis=1)
            scores[f"{label}_emotion_weighted_f1"] = weighted_f1(felt[rows], found, len(EMOTION))
            scores[f"{label}_emotion_macro_f1"] = macro_f1(felt[rows], found, len(EMOTION))
            scores[f"{label}_emotion_ece"] = expected_calibration_error(
                felt[rows], softmax(emotion[rows], 1.0)
            )
        if (rows := own & (chosen != UNLABELLED)).any():
            choice = np.array(TWEET_CHOICE)
            scores[f"{label}_of_three_macro_f1"] = macro_f1(
                felt[rows], choice[emotion[rows][:, choice].argmax(axis=1)], len(EMOTION)
            )
            scores[f"{label}_of_four_macro_f1"] = macro_f1(
                chosen[rows], tweets[rows].argmax(dim=1).numpy(), len(TWEET_EMOTIONS)
            )
        if (rows := own & (truth != UNLABELLED)).any():
            scores[f"{label}_sentiment_macro_recall"] = macro_recall(
                truth[rows], sentiment[rows].argmax(axis=1), len(SENTIMENT)
            )
            scores[f"{label}_sentiment_weighted_f1"] = weighted_f1(
                truth[rows], sentiment[rows].argmax(axis=1), len(SENTIMENT)
            )
            scores[f"{label}_sentiment_ece"] = expected_calibration_error(
                truth[rows], softmax(sentiment[rows], 1.0)
            )
    return {key: round(value, 4) for key, value in scores.items()}
