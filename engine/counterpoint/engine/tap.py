"""What a recorder sees of a session while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from counterpoint.engine.fuse import Feature
from counterpoint.engine.prediction import Prediction
from counterpoint.engine.work import Batch
from counterpoint.streams.types import Item


class Tap(Protocol):
    """Called on the session's loop, in the order in which things happen; must not wait."""

    @property
    def wants_features(self) -> bool:
        """Whether `encoded` is to be called."""
        ...

    def arrived(self, at_ns: int, item: Item) -> None:
        """An item on its way into the aligner, as its source gave it.

        Args:
            at_ns: its effective arrival: the session instant at which the aligner took it.
        """
        ...

    def batch(self, batch: Batch, lost: Mapping[str, int]) -> None:
        """The models are given ``batch``.

        Args:
            lost: items lost on purpose since the session began, by reason, as they will be stated.
        """
        ...

    def encoded(self, features: Sequence[Feature]) -> None:
        """What the encoders made of the batch before."""
        ...

    def predicted(self, prediction: Prediction) -> None:
        """A prediction, as it is given to the publisher."""
        ...

    def finished(self, end_ns: int) -> None:
        """The session came to its end, at ``end_ns``; some predictions may still follow."""
        ...
