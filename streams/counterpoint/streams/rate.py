"""Rates held to a limit: what may pass now, and when the next may. Numbers in, numbers out.

The generic cell rate algorithm (ITU-T I.371): a bucket is one integer, the instant at which it
would be full again, so nothing has to be filled in the background.
"""

from __future__ import annotations

from collections import OrderedDict

from counterpoint.streams.types import NS_PER_S


class TokenBucket:
    """A bucket of ``burst`` tokens, full at first, into which ``per_s`` tokens fall a second.

    Instants are any clock's nanoseconds; one that lies before an earlier one gives nothing back.

    Raises:
        ValueError: a rate that is not between 0 and 10**9 a second, or a burst below 1.
    """

    __slots__ = ("_burst_ns", "_full_at_ns", "_token_ns")

    def __init__(self, *, per_s: float, burst: int) -> None:
        if not 0 < per_s <= NS_PER_S:
            raise ValueError(f"per_s must be above 0 and at most {NS_PER_S}, not {per_s}")
        if burst < 1:
            raise ValueError(f"burst must be at least 1, not {burst}")
        self._token_ns = max(1, round(NS_PER_S / per_s))
        self._burst_ns = burst * self._token_ns
        self._full_at_ns: int | None = None

    def take(self, now_ns: int, count: int = 1) -> bool:
        """Take ``count`` tokens, or none and False where there are not that many."""
        if self.wait_ns(now_ns, count):
            return False
        self._full_at_ns = self._base_ns(now_ns) + count * self._token_ns
        return True

    def charge(self, now_ns: int, count: int) -> None:
        """Take ``count`` tokens, also those that are not there yet: at most as many as the bucket
        holds are owed."""
        most_ns = now_ns + 2 * self._burst_ns
        self._full_at_ns = min(self._base_ns(now_ns) + count * self._token_ns, most_ns)

    def wait_ns(self, now_ns: int, count: int = 1) -> int:
        """How long until ``count`` tokens are there if none is taken; 0: now.

        Raises:
            ValueError: more than the bucket ever holds, or less than one.
        """
        cost_ns = count * self._token_ns
        if not 0 < cost_ns <= self._burst_ns:
            raise ValueError(f"count must be from 1 to {self._burst_ns // self._token_ns}")
        return max(0, self._base_ns(now_ns) + cost_ns - self._burst_ns - now_ns)

    def full(self, now_ns: int) -> bool:
        """Whether it is as a new one would be."""
        return self._full_at_ns is None or self._full_at_ns <= now_ns

    def _base_ns(self, now_ns: int) -> int:
        return now_ns if self._full_at_ns is None else max(self._full_at_ns, now_ns)


class TokenBuckets:
    """A bucket for each key (an author, an address), for a bounded number of keys.

    A bucket that is full again is as good as none and goes. Where all of ``keys`` buckets are in
    use, the one used longest ago gives way to a new key.
    """

    def __init__(self, *, per_s: float, burst: int, keys: int = 1_024) -> None:
        if keys < 1:
            raise ValueError(f"keys must be at least 1, not {keys}")
        self._per_s, self._burst, self._keys = per_s, burst, keys
        self._fresh = TokenBucket(per_s=per_s, burst=burst)  # refuses what no bucket takes
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def wait_ns(self, key: str, now_ns: int, count: int = 1) -> int:
        """As `TokenBucket.wait_ns`, for the bucket of ``key``. Makes none."""
        return self._buckets.get(key, self._fresh).wait_ns(now_ns, count)

    def take(self, key: str, now_ns: int, count: int = 1) -> bool:
        """As `TokenBucket.take`, from the bucket of ``key``."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = TokenBucket(per_s=self._per_s, burst=self._burst)
        if not bucket.take(now_ns, count):
            return False
        self._buckets[key] = bucket
        self._buckets.move_to_end(key)
        self._forget(now_ns)
        return True

    def charge(self, key: str, now_ns: int, count: int) -> None:
        """As `TokenBucket.charge`, to the bucket of ``key``."""
        bucket = self._buckets.pop(key, None) or TokenBucket(per_s=self._per_s, burst=self._burst)
        bucket.charge(now_ns, count)
        self._buckets[key] = bucket
        self._forget(now_ns)

    def _forget(self, now_ns: int) -> None:
        while next(iter(self._buckets.values())).full(now_ns):
            self._buckets.popitem(last=False)
        if len(self._buckets) > self._keys:
            self._buckets.popitem(last=False)
