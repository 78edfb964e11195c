"""What happened in a run: a batch in which a fault never struck proves nothing about it."""

from __future__ import annotations

from collections import Counter


class Coverage(Counter[str]):
    """How often each fault struck and each item or document was dropped, by reason."""

    def saw(self, name: str, count: int = 1) -> None:
        if count:
            self[name] += count


REASONS = (
    "dropped: video: late",
    "dropped: video: mailbox full",
    "dropped: video: out of range",
    "dropped: audio: late",
    "dropped: models: overload",
    "dropped: models: revision skipped",
    "dropped: publish_queue_full",
    "skipped windows",
    "provisional",
    "amended",
    "epochs",
)
"""What a batch must have seen, beside every fault."""
