"""The configuration of a fit: every number that training depends on, typed and checked.

A TOML file gives what differs from the defaults here; ``--set a.b=c`` goes over both. The resolved
whole is saved with the run.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from counterpoint.engine.strict import ShapeError, decode, encode, join
from counterpoint.streams.errors import UsageError

Option: TypeAlias = str | int | float | bool
Options: TypeAlias = Mapping[str, Option]
Pooling: TypeAlias = Literal["mean", "attention", "gru", "lstm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """What is learned from.

    Fields:
        index: the table (docs/datasets.md), relative to the configuration file.
        allow_random_split: draw rows where there are no speakers.
        validation, test: shares, where the table has no column ``split``.
        noise: folder of sound files that ``augment.audio.noise`` mixes in; empty: none.
        denoise: clean the training part's sound of steady noise; validation stays as served.
        workers: processes that prepare batches; 0: this one.
    """

    index: str
    allow_random_split: bool = False
    validation: float = 0.15
    test: float = 0.15
    noise: str = ""
    denoise: bool = False
    workers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskConfig:
    """One task, a column ``label:TASK`` of the table.

    Fields:
        kind: ``auto`` leaves it to the column.
        labels: the classes and their order; empty: those of the column, alphabetically.
        weight: of its loss.
        balance: 0 weighs all rows alike, 1 all classes alike, by inverse frequency.
    """

    kind: Literal["auto", "classes", "number"] = "auto"
    labels: tuple[str, ...] = ()
    weight: float = 1.0
    balance: float = 0.0

    def __post_init__(self) -> None:
        if self.weight <= 0 or not 0 <= self.balance <= 1:
            raise ValueError("weight must be > 0 and balance within 0..1")
        if self.labels and self.kind == "number":
            raise ValueError("a number has no labels")
        if len(set(self.labels)) != len(self.labels) or len(self.labels) == 1:
            raise ValueError(f"labels must be two or more, all different, not {self.labels}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoConfig:
    """Pictures.

    Fields:
        use: whether the model has this modality.
        encoder: a name (``cnn``, ``mobilenet_v2``, ``resnet``) or the dotted path of a module.
        options: keyword arguments of the encoder.
        pool: over the pictures of a window.
        image_size_px: side of the square grey picture.
        pictures: of a window, one each 250 ms.
        face: ``detect`` cuts out the face as the engine does; ``whole`` takes the picture as a
            face already cut out.
    """

    use: bool = True
    encoder: str = "cnn"
    options: Options = field(default_factory=dict)
    pool: Pooling = "mean"
    image_size_px: int = 48
    pictures: int = 8
    face: Literal["detect", "whole"] = "detect"


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioConfig:
    """Sound.

    Fields:
        encoder: ``gru``, ``lstm``, ``crnn``, ``cnn``, or the dotted path of a module.
        pool: over the steps of a window; empty: what goes with the encoder's name.
        context_ms: how far a window looks back, a multiple of 250.
    """

    use: bool = True
    encoder: str = "crnn"
    options: Options = field(default_factory=dict)
    pool: Literal["", "mean", "attention", "gru", "lstm"] = ""
    context_ms: int = 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """Words.

    Fields:
        encoder: ``ngrams`` (hashed), ``bag`` (of words), ``embedding``, ``bert``, or the dotted
            path of a module.
        checkpoint: ``bert``: folder of a transformers checkpoint; nothing is downloaded.
        ngrams: hashed n-grams beside the encoder.
        pool: over the lines of a window.
        stop_words: leave out English function words (``ngrams``, ``bag``, ``embedding``).
        vocabulary: most words of ``bag`` and ``embedding``, the most frequent of train.
        max_tokens: longer lines are cut.
        before_lines: lines said before a line that are read with it (``bert`` or an own module).
    """

    use: bool = True
    encoder: str = "embedding"
    options: Options = field(default_factory=dict)
    checkpoint: str = ""
    ngrams: bool = False
    pool: Pooling = "mean"
    stop_words: bool = False
    vocabulary: int = 20_000
    max_tokens: int = 64
    before_lines: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionConfig:
    """How the modalities come together.

    Fields:
        kind: ``concat``, ``add``, ``multiply``, ``gated``, ``cross_attention``, ``low_rank``,
            ``late``, or the dotted path of a module.
        options: keyword arguments of the operator (``rank``, ``heads``).
        width: of each modality's vector.
        hidden: of the perceptron after it.
        modality_dropout: probability that a modality of a row is made missing, silent, stalled or
            partial in training; one always stays.
        auxiliary: weight of the losses of the heads on single modalities.
    """

    kind: str = "late"
    options: Options = field(default_factory=dict)
    width: int = 64
    hidden: int = 64
    dropout: float = 0.2
    modality_dropout: float = 0.4
    auxiliary: float = 0.3

    def __post_init__(self) -> None:
        if not (0 <= self.modality_dropout <= 1 and 0 <= self.dropout < 1 and self.auxiliary >= 0):
            raise ValueError("modality_dropout is within 0..1, dropout below 1, auxiliary >= 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageAugment:
    """Of training pictures; all of a window alike.

    Fields:
        crop: largest share of the side cut away and moved.
        flip: probability of a mirrored picture.
        light: largest change of brightness and contrast, as a share.
        occlusion: probability that a rectangle is covered.
    """

    crop: float = 0.1
    flip: float = 0.5
    light: float = 0.2
    occlusion: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioAugment:
    """Of training sound.

    Fields:
        noise: probability that a recording of ``data.noise`` is mixed in.
        snr_db: drawn evenly from [first, second].
        gain_db: drawn evenly from [-x, x].
        time_masks, time_frames, bin_masks, bins: SpecAugment (Park et al. 2019): number and
            greatest width of the masks.
    """

    noise: float = 0.5
    snr_db: tuple[float, ...] = (0.0, 20.0)
    gain_db: float = 6.0
    time_masks: int = 1
    time_frames: int = 20
    bin_masks: int = 1
    bins: int = 8

    def __post_init__(self) -> None:
        if len(self.snr_db) != 2 or self.snr_db[0] > self.snr_db[1]:
            raise ValueError("snr_db must be [lowest, highest]")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextAugment:
    """Of training words: the share of tokens that is left out."""

    token_dropout: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """What is changed at random in training, and only there."""

    use: bool = True
    image: ImageAugment = field(default_factory=ImageAugment)
    audio: AudioAugment = field(default_factory=AudioAugment)
    text: TextAugment = field(default_factory=TextAugment)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """How it is learned.

    Fields:
        patience: epochs without a better score on validation after which it stops; 0: never.
        warmup: share of the steps in which the learning rate rises; then it falls as a cosine.
        encoder_rate: factor of the learning rate for a BERT.
        precision: ``bf16`` and ``16`` compute in mixed precision.
        progress: a bar on a terminal.
        steps: at most so many batches an epoch; 0: all. For trying things out.
    """

    seed: int = 0
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 2e-3
    encoder_rate: float = 0.05
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip_norm: float = 1.0
    label_smoothing: float = 0.0
    patience: int = 8
    precision: Literal["32", "bf16", "16"] = "32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    progress: bool = True
    steps: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size) < 1 or self.learning_rate <= 0:
            raise ValueError("epochs and batch_size must be >= 1, learning_rate > 0")
        if self.seed < 0 or self.steps < 0 or not 0 <= self.warmup < 1:
            raise ValueError("seed and steps must be >= 0, warmup within 0..1")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleConfig:
    """What an exported bundle says of itself."""

    id: str = "own"
    licence_notice: str = "Terms of the training data apply."


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """All of it."""

    data: DataConfig
    tasks: Mapping[str, TaskConfig] = field(default_factory=dict)
    video: VideoConfig = field(default_factory=VideoConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)
    text: TextConfig = field(default_factory=TextConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    bundle: BundleConfig = field(default_factory=BundleConfig)

    def __post_init__(self) -> None:
        if not (self.video.use or self.audio.use or self.text.use):
            raise ValueError("one of video.use, audio.use, text.use must be true")

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those that the model has, in the engine's order: video, audio, text."""
        return tuple(name for name in ("video", "audio", "text") if getattr(self, name).use)


def read_config(path: Path, sets: Iterable[str] = ()) -> RunConfig:
    """Read a configuration file; paths in it are relative to it.

    Raises:
        UsageError: naming the file and the key.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such configuration file") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    pairs = list(sets)
    for pair in pairs:
        _put(document, pair)
    try:
        config = config_of(document)
    except ShapeError as error:
        named = [pair for pair in pairs if str(error).startswith(pair.split("=")[0])]
        where = f"--set {named[-1]}" if named else str(path)
        raise UsageError(f"{where}: {error}") from error
    home = path.parent

    def at_home(value: str) -> str:
        return str((home / value).resolve()) if value else ""

    return dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data, index=at_home(config.data.index), noise=at_home(config.data.noise)
        ),
        text=dataclasses.replace(config.text, checkpoint=at_home(config.text.checkpoint)),
    )


def config_of(document: Mapping[str, Any]) -> RunConfig:
    """The configuration that differs from the defaults as ``document`` says.

    Raises:
        ShapeError: an unknown key, a missing one, or a value of the wrong type.
    """
    return decode(RunConfig, _with_defaults(RunConfig, document, ""))


def _with_defaults(hint: Any, value: Any, path: str) -> Any:
    """``value`` with the defaults of the dataclass ``hint`` where it says nothing."""
    if get_origin(hint) is Mapping and isinstance(value, Mapping):
        inner = get_args(hint)[1]
        return {key: _with_defaults(inner, item, join(path, key)) for key, item in value.items()}
    if not (isinstance(hint, type) and dataclasses.is_dataclass(hint)):
        return value
    if not isinstance(value, Mapping):
        return value
    hints, merged = get_type_hints(hint), dict(value)
    for spec in dataclasses.fields(hint):
        here = join(path, spec.name)
        if spec.name in merged:
            merged[spec.name] = _with_defaults(hints[spec.name], merged[spec.name], here)
        elif spec.default is not dataclasses.MISSING:
            merged[spec.name] = encode(spec.default)
        elif spec.default_factory is not dataclasses.MISSING:
            merged[spec.name] = encode(spec.default_factory())
        elif dataclasses.is_dataclass(hints[spec.name]):
            merged[spec.name] = _with_defaults(hints[spec.name], {}, here)
    return merged


def _put(document: dict[str, Any], pair: str) -> None:
    match = re.fullmatch(r"([^=\s]+)=(.*)", pair, flags=re.DOTALL)
    if match is None:
        raise UsageError(f"--set {pair}: write it as section.key=value")
    try:
        value: Any = tomllib.loads(f"value = {match[2]}")["value"]
    except tomllib.TOMLDecodeError:
        value = match[2]
    *sections, key = match[1].split(".")
    if not sections:
        raise UsageError(f"--set {pair}: write it as section.key=value")
    table = document
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise UsageError(f"--set {pair}: {section!r} is no section")
    table[key] = value


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Keys (``fit.seed``) in which two documents differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = dict.fromkeys((*old, *new))
        return [
            found
            for key in keys
            for found in differences(old.get(key), new.get(key), join(path, str(key)))
        ]
    return [] if old == new else [path]
