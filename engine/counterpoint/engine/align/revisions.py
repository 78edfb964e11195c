"""Windows that were given and may be given again, until their lateness is over."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from counterpoint.engine.align.window import Status
from counterpoint.streams.types import Modality

NEVER_NS = 1 << 62


@dataclass(slots=True)
class Given:
    """A window since its first output.

    Fields:
        settles_ns: from then on it is settled; what arrives at that instant still counts.
        status, revision: of its last output.
        changed: modalities whose content is no longer what that output named.
    """

    index: int
    end_ns: int
    settles_ns: int
    epoch: int
    status: Status = Status.FINAL
    revision: int = 0
    changed: set[Modality] = field(default_factory=set)


class Revisions:
    """The windows given and not settled, in order.

    Attributes:
        pending: all of them, the oldest first; they follow each other without a gap.
        provisional: those of them that are still to be given as final.
        settles_ns: when the oldest is settled.
        amend_ns: when the oldest that is final and has changed is given again.
    """

    def __init__(self) -> None:
        self.pending: deque[Given] = deque()
        self.provisional: deque[Given] = deque()
        self.settles_ns = NEVER_NS
        self.amend_ns = NEVER_NS

    def add(self, given: Given) -> None:
        """Keep a window that was given for the first time."""
        if not self.pending:
            self.settles_ns = given.settles_ns
        self.pending.append(given)
        if given.status is Status.PROVISIONAL:
            self.provisional.append(given)

    def touch(self, modality: Modality, windows: range) -> None:
        """The content of ``windows``, as far as they were given, is another than they named."""
        for given in self.pending:
            if given.index in windows:
                given.changed.add(modality)
                if given.status is Status.FINAL and given.settles_ns < self.amend_ns:
                    self.amend_ns = given.settles_ns

    def finalise(self) -> Given:
        """The oldest provisional window, which is final from now on."""
        given = self.provisional.popleft()
        given.status = Status.FINAL
        given.revision += 1
        return given

    def settle(self) -> tuple[Given, bool]:
        """The oldest window, kept no longer, and whether it is to be given a last time."""
        given = self.pending.popleft()
        self.settles_ns = self.pending[0].settles_ns if self.pending else NEVER_NS
        if given.status is Status.PROVISIONAL:
            return self.finalise(), True
        if not given.changed:
            return given, False
        given.status = Status.AMENDED
        given.revision += 1
        self.amend_ns = min(
            (
                other.settles_ns
                for other in self.pending
                if other.changed and other.status is Status.FINAL
            ),
            default=NEVER_NS,
        )
        return given, True

    def check(self, most: int) -> None:
        """Assert what holds between any two calls of the aligner; at most ``most`` are pending."""
        assert len(self.pending) <= most, f"{len(self.pending)} windows not settled"
        statuses = [given.status for given in self.pending]
        assert Status.AMENDED not in statuses, "an amended window is settled"
        provisional = statuses.count(Status.PROVISIONAL)
        assert provisional == len(self.provisional)
        assert provisional == 0 or self.pending[-provisional] is self.provisional[0]
        for before, given in zip(self.pending, list(self.pending)[1:], strict=False):
            assert given.index == before.index + 1
        changed = [given for given in self.pending if given.changed]
        finals = [given.settles_ns for given in changed if given.status is Status.FINAL]
        assert self.amend_ns == min(finals, default=NEVER_NS)
        for given in self.pending:
            assert given.revision <= 1
            assert given.revision == 0 or given.status is Status.FINAL
