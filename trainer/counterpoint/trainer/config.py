"""The recipe of the bundle ``affect`` as data: every number that training depends on.

Saved with each run as ``config.json``.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionPhase:
    """One run through a one-cycle schedule.

    Fields whose name does not say it all:
        warm_up: share of the steps in which the learning rate rises.
        average: share of itself that the running mean of the weights keeps at a step; 0: none.
        still: the early blocks and what batch normalisation measures stay as they are.
        degrade_share, erase_share: shares of the pictures that lose detail, or a rectangle.
        bfloat16: multiply in it where the processor has the instructions.
        dropout: share of the features that fall out before the embedding; half of it of the maps.
        smallest: edge of the pictures at the beginning, px; 48 at the end.
    """

    epochs: int
    learning_rate: float
    warm_up: float
    weight_decay: float
    dropout: float
    average: float
    still: bool
    rotation_degrees: float
    zoom: float
    shift: float
    degrade_share: float
    erase_share: float
    bfloat16: bool
    smallest: int = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """``first`` learns all from nothing; ``second`` goes on gently with pictures nearer to real
    ones; ``third`` lets all learn once more (a warm restart, Loshchilov & Hutter 2017,
    arXiv:1608.03983), with less in its way: after two phases faces that were learned from were
    hardly better known than others (86.3 against 84.6 %).

    Fields whose name does not say it all:
        start: folder of a bundle whose vision part is there in place of ``first``, and ``second``
            is all that follows; empty: none.
    """

    start: str = ""
    batch_size: int = 128
    calibration_share: float = 0.1
    first: VisionPhase = VisionPhase(
        epochs=42, learning_rate=3e-3, warm_up=0.2, weight_decay=0.05, dropout=0.25, average=0.0,
        still=False, rotation_degrees=14.0, zoom=0.14, shift=0.10, degrade_share=0.25,
        erase_share=0.2, bfloat16=True, smallest=32,
    )  # fmt: skip
    second: VisionPhase = VisionPhase(
        epochs=3, learning_rate=5e-4, warm_up=0.1, weight_decay=0.05, dropout=0.25, average=0.99,
        still=True, rotation_degrees=8.0, zoom=0.08, shift=0.05, degrade_share=0.1,
        erase_share=0.1, bfloat16=True,
    )  # fmt: skip
    third: VisionPhase = VisionPhase(
        epochs=60, learning_rate=1.5e-3, warm_up=0.1, weight_decay=0.05, dropout=0.1,
        average=0.998, still=False, rotation_degrees=10.0, zoom=0.1, shift=0.07,
        degrade_share=0.15, erase_share=0.15, bfloat16=True, smallest=40,
    )  # fmt: skip

    @property
    def phases(self) -> dict[str, VisionPhase]:
        """Those that are run, in order."""
        # A bundle has no measures of batch normalisation for ``third`` to go on with.
        if self.start:
            return {"second": self.second}
        return {"first": self.first, "second": self.second, "third": self.third}

    @property
    def epochs(self) -> int:
        return sum(phase.epochs for phase in self.phases.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioPhase:
    """One run over the clips.

    Fields whose name does not say it all:
        average: share of itself that the running mean of the weights keeps at a step; 0: none, and
            the learning rate goes through one cycle. With a mean it stays level.
        still: what batch normalisation measures stays as it is.
        ravdess_share: of the clips drawn; the others are nEMO's.
        pitch: greatest stretch of the frequency axis.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    average: float
    still: bool
    ravdess_share: float
    pitch: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioConfig:
    """``first`` learns all from nothing; ``finish`` goes on, and its mean of weights counts.

    Fields whose name does not say it all:
        start: folder of a bundle whose audio part is there in place of ``first``; empty: none.
    """

    start: str = ""
    first: AudioPhase = AudioPhase(
        epochs=90, batch_size=64, learning_rate=3e-3, average=0.0, still=False,
        ravdess_share=0.45, pitch=0.06,
    )  # fmt: skip
    finish: AudioPhase = AudioPhase(
        epochs=8, batch_size=32, learning_rate=6e-4, average=0.997, still=True,
        ravdess_share=0.55, pitch=0.08,
    )  # fmt: skip
    clips_per_epoch: int = 4096
    weight_decay: float = 0.05
    dropout: float = 0.35
    label_smoothing: float = 0.05
    gain_db: float = 10.0
    noise_share: float = 0.5
    snr_db: tuple[float, float] = (0.0, 30.0)
    tempo: float = 0.15
    mixup_share: float = 0.5
    mixup_alpha: float = 0.3
    masks: int = 2
    mask_bins: int = 10
    mask_frames: int = 25
    start_share: float = 0.2

    @property
    def epochs(self) -> int:
        return self.finish.epochs + (0 if self.start else self.first.epochs)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """Stage ``text``. An epoch is ``lines_per_epoch`` lines, a small part of the sets.

    Fields:
        start: folder of a bundle to go on from; empty for MiniLM alone.
        falling_epochs: the last ones, in which the learning rates fall to zero.
        layer_decay: of the learning rate, from each layer to the one below it.
        ngram_dropout: of single n-grams.
        bag_dropout: how often a line is read without any of its n-grams, whose vectors else learn
            the training lines by heart and leave the encoder little to learn.
        shares: of the lines drawn, by set.
        balance: 0 draws the classes of a set as they occur, 1 equally often.
        smoothing: by set, the part of a label's share that goes to all emotions alike (Szegedy et
            al. 2016, arXiv:1512.00567), where those who labelled agreed little.
        style_weight: of the loss of the guess where a line comes from.
        whole_context: how often a line of a dialogue is read with all lines before it that count;
            else with some or none of them.
        strange_context: how often a line of another set is read with others of its set.
        bfloat16: let the encoder multiply in it where the processor has the instructions.
    """

    start: str = ""
    epochs: int = 50
    falling_epochs: int = 30
    lines_per_epoch: int = 3_000
    batch_size: int = 32
    tuned_layers: int = 6
    layer_decay: float = 0.85
    encoder_learning_rate: float = 1e-4
    encoder_dropout: float = 0.1
    learning_rate: float = 1e-3
    ngram_learning_rate: float = 3e-4
    weight_decay: float = 0.02
    dropout: float = 0.3
    ngram_dropout: float = 0.3
    bag_dropout: float = 0.5
    shares: dict[str, float] = field(
        default_factory=lambda: {
            "semeval": 0.18,
            "goemotions": 0.42,
            "meld": 0.28,
            "tweeteval_emotion": 0.12,
        }
    )
    balance: dict[str, float] = field(
        default_factory=lambda: {
            "semeval": 0.4,
            "goemotions": 0.25,
            "meld": 0.2,
            "tweeteval_emotion": 0.25,
        }
    )
    smoothing: dict[str, float] = field(default_factory=lambda: {"meld": 0.1})
    style_weight: float = 0.15
    whole_context: float = 0.85
    strange_context: float = 0.4
    bfloat16: bool = True

    @classmethod
    def going_on(cls, bundle: str) -> TextConfig:
        """From the text part of ``bundle``: shorter, gentler, and more of what it has not seen."""
        return cls(
            start=bundle,
            epochs=6,
            falling_epochs=3,
            encoder_learning_rate=1e-4,
            encoder_dropout=0.1,
            learning_rate=5e-4,
            shares={"semeval": 0.15, "goemotions": 0.4, "meld": 0.25, "tweeteval_emotion": 0.2},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionConfig:
    steps: int = 2100
    batch_size: int = 256
    learning_rate: float = 0.02
    prior_decay: float = 1e-3
    samples: int = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class AffectConfig:
    seed: int = 0
    vision: VisionConfig = field(default_factory=VisionConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)
    text: TextConfig = field(default_factory=TextConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
