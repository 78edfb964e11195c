"""An encoder that has been there before: what the models made of each batch, from a capsule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from counterpoint.engine.align import AudioCell, Line, VideoCell, Window
from counterpoint.engine.encode import Counts, StageClock
from counterpoint.engine.fuse import Feature, Fused, Fusion
from counterpoint.engine.models import Models


class RecordedFeatures:
    """Implements `Encoder`. Fusion runs; the encoders before it do not.

    Args:
        models: for the fusion graph; must be those of the recording.
        features: one list for each batch, in order.
        clock: monotonic nanoseconds, for stage times only.
        unsettled: windows that may still be given again.
    """

    def __init__(
        self,
        models: Models,
        features: Iterator[list[Feature]],
        clock: Callable[[], int],
        *,
        unsettled: int,
    ) -> None:
        self._fusion = Fusion(models, unsettled=unsettled)
        self._features = features
        self._stages = StageClock(clock)
        self._windows = 0

    @property
    def counts(self) -> Counts:
        return Counts(windows=self._windows)

    @property
    def stages(self) -> StageClock:
        return self._stages

    def encode(self, outputs: Iterable[VideoCell | AudioCell | Line]) -> None:  # noqa: ARG002
        """Put in place what this batch gave when it was recorded."""
        for feature in next(self._features, []):
            self._fusion.put(feature)

    def fuse(self, window: Window) -> Fused:
        started = self._stages.now_ns()
        fused = self._fusion.fuse(window)
        self._windows += 1
        self._stages.add("fusion", started)
        return fused

    def take_features(self) -> list[Feature]:
        return []
