"""A fused window becomes a prediction: probabilities, states, losses, times."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from counterpoint.engine.adapt.adapter import Adapter
from counterpoint.engine.bundle import Bundle
from counterpoint.engine.calibrate import probabilities
from counterpoint.engine.fuse import MODALITIES, Fused
from counterpoint.engine.prediction import (
    HeadResult,
    ModalityReport,
    NumberResult,
    Prediction,
    StageTimes,
)
from counterpoint.engine.work import Due

DIGEST_CHARS = 12


class Reporter:
    """Makes the predictions of one session.

    Args:
        session: its name.
        bundle: whose models were used.
        stride: bundle hops from one window to the next.
        wall_ns: session time -> nanoseconds since the Unix epoch.
        heads: those that may be told, of heads and numbers; of the others nothing leaves this
            place.
        adapter: the session's; None where nothing is adapted.
    """

    def __init__(
        self,
        *,
        session: str,
        bundle: Bundle,
        stride: int,
        wall_ns: Callable[[int], int],
        heads: frozenset[str],
        adapter: Adapter | None = None,
    ) -> None:
        self._session = session
        self._bundle = bundle
        self._stride = stride
        self._wall_ns = wall_ns
        self._told = {name: spec for name, spec in bundle.manifest.heads.items() if name in heads}
        self._told_numbers = {
            name: spec for name, spec in bundle.manifest.numbers.items() if name in heads
        }
        self._adapter = adapter
        self._stated: dict[str, int] = {}

    def report(
        self,
        due: Due,
        fused: Fused,
        *,
        skipped: int,
        lost: Mapping[str, int],
        stages_ms: Mapping[str, float],
        emitted_wall_ns: int,
    ) -> Prediction:
        """The prediction of one window.

        Args:
            due: the window.
            fused: what the models made of it.
            skipped: windows that got no prediction since the previous one.
            lost: items lost on purpose since the session began, by reason; what is new since the
                previous prediction is stated.
            stages_ms: where the time went.
            emitted_wall_ns: now, in nanoseconds since the Unix epoch.
        """
        window = due.window
        new = {
            reason: count - self._stated.get(reason, 0)
            for reason, count in lost.items()
            if count > self._stated.get(reason, 0)
        }
        self._stated = dict(lost)
        start_ns = min(part.start_ns for part in window.parts.values())
        heads, adaptation = self._heads(fused), None
        if self._adapter is not None:
            heads, adaptation = self._adapter.adapt(
                window.index, fused, heads, learn=window.revision == 0
            )
        contributions = {head: fused.contributions[head].tolist() for head in self._told}
        return Prediction(
            session=self._session,
            epoch=window.epoch,
            window=window.index // self._stride,
            start_ns=start_ns,
            end_ns=window.end_ns,
            start_wall_ns=self._wall_ns(start_ns),
            end_wall_ns=self._wall_ns(window.end_ns),
            emitted_wall_ns=emitted_wall_ns,
            status=window.status,
            revision=window.revision,
            heads=heads,
            numbers=self._numbers(fused),
            modalities={
                modality: ModalityReport(
                    state=fused.parts[modality].state,
                    reason=fused.parts[modality].reason,
                    coverage=fused.parts[modality].coverage,
                    age_ns=fused.parts[modality].age_ns,
                    contributions={head: tuple(rows[row]) for head, rows in contributions.items()},
                )
                for row, modality in enumerate(MODALITIES)
            },
            align_error_ms=(window.align_error_ns + due.placing_error_ns) / 1e6,
            align_tier=window.tier.value,
            skipped_windows=skipped,
            dropped=new,
            stages=StageTimes(ms=stages_ms),
            bundle_id=self._bundle.manifest.id,
            bundle_digest=self._bundle.digest[:DIGEST_CHARS],
            adaptation=adaptation,
        )

    def _numbers(self, fused: Fused) -> Mapping[str, NumberResult]:
        return {
            name: NumberResult(
                value=fused.values[name],
                low=spec.low,
                high=spec.high,
                contributions=dict(
                    zip(MODALITIES, fused.contributions[name][:, 0].tolist(), strict=True)
                ),
            )
            for name, spec in self._told_numbers.items()
        }

    def _heads(self, fused: Fused) -> Mapping[str, HeadResult]:
        # With nothing heard the prior speaks, which needs no calibration.
        temperatures = {
            head: self._bundle.temperature(head, fused.mask) if "1" in fused.mask else 1.0
            for head in self._told
        }
        return {
            head: HeadResult(
                labels=spec.labels,
                probabilities=probabilities(fused.logits[head], temperatures[head]),
            )
            for head, spec in self._told.items()
        }
