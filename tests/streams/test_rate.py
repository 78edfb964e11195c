"""`TokenBucket` and `TokenBuckets`, against a count of what passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoint.streams.rate import TokenBucket, TokenBuckets
from counterpoint.streams.types import NS_PER_S

MS = NS_PER_S // 1_000


def test_a_burst_passes_and_then_the_rate() -> None:
    bucket = TokenBucket(per_s=5, burst=3)
    assert [bucket.take(0) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait_ns(0) == 200 * MS
    assert not bucket.take(199 * MS)
    assert bucket.take(200 * MS)
    assert not bucket.take(399 * MS)
    assert not bucket.full(799 * MS)
    assert bucket.full(800 * MS)
    assert [bucket.take(60 * NS_PER_S) for _ in range(4)] == [True, True, True, False]


def test_many_tokens_at_once() -> None:
    bucket = TokenBucket(per_s=1_000, burst=100)
    assert bucket.take(0, 90)
    assert not bucket.take(0, 11)
    assert bucket.take(0, 10)
    assert bucket.wait_ns(0, 50) == 50 * MS
    with pytest.raises(ValueError, match="from 1 to 100"):
        bucket.take(0, 101)
    with pytest.raises(ValueError, match="from 1 to 100"):
        bucket.take(0, 0)


def test_what_is_charged_is_owed_up_to_a_burst() -> None:
    bucket = TokenBucket(per_s=10, burst=5)
    bucket.charge(0, 3)
    assert bucket.take(0, 2)
    assert not bucket.take(0)
    bucket.charge(0, 2)  # two more than there are
    assert bucket.wait_ns(0) == 300 * MS
    bucket.charge(0, 1_000)
    assert bucket.wait_ns(0) == 600 * MS
    assert bucket.take(600 * MS)


@pytest.mark.parametrize("per_s", [0, -1, 2e9, float("nan")])
def test_rates_that_are_none(per_s: float) -> None:
    with pytest.raises(ValueError, match="per_s"):
        TokenBucket(per_s=per_s, burst=1)


def test_a_burst_below_one_is_none() -> None:
    with pytest.raises(ValueError, match="burst"):
        TokenBucket(per_s=1, burst=0)


@given(
    per_s=st.integers(1, 1_000),
    burst=st.integers(1, 20),
    steps_ms=st.lists(st.integers(-50, 2_000), max_size=60),
)
def test_no_more_passes_in_any_span_than_burst_and_rate_allow(
    per_s: int, burst: int, steps_ms: list[int]
) -> None:
    bucket = TokenBucket(per_s=per_s, burst=burst)
    now_ns, passed = 0, []
    for step_ms in steps_ms:
        now_ns += step_ms * MS
        wait_ns = bucket.wait_ns(now_ns)
        if bucket.take(now_ns):
            assert wait_ns == 0
            passed.append(now_ns)
        else:
            # It would have passed after the wait, and not before.
            assert bucket.wait_ns(now_ns + wait_ns) == 0
            assert bucket.wait_ns(now_ns + wait_ns - 1) == 1
    passed.sort()
    token_ns = round(NS_PER_S / per_s)
    for first, start_ns in enumerate(passed):
        for last in range(first, len(passed)):
            assert last - first + 1 <= burst + (passed[last] - start_ns) // token_ns


def test_a_charge_is_that_keys_alone() -> None:
    buckets = TokenBuckets(per_s=1, burst=2)
    buckets.charge("a", 0, 3)
    assert buckets.wait_ns("a", 0) == 2 * NS_PER_S
    assert buckets.take("b", 0)
    assert len(buckets) == 2


def test_each_key_has_its_own_bucket() -> None:
    buckets = TokenBuckets(per_s=1, burst=2)
    assert [buckets.take("a", 0) for _ in range(3)] == [True, True, False]
    assert buckets.wait_ns("a", 0) == NS_PER_S
    assert buckets.wait_ns("b", 0) == 0
    assert buckets.take("b", 0)


def test_buckets_that_are_full_again_go_and_their_number_is_bounded() -> None:
    buckets = TokenBuckets(per_s=1, burst=1, keys=10)
    for number in range(100):
        assert buckets.take(str(number), 0)
    assert len(buckets) == 10
    assert not buckets.take("99", 0)  # the newest are still held to their limit
    assert not buckets.take("90", 0)
    assert buckets.take("0", 0)  # the oldest gave way
    assert buckets.take("late", 5 * NS_PER_S)
    assert len(buckets) == 1


def test_asking_makes_no_bucket() -> None:
    buckets = TokenBuckets(per_s=1, burst=1, keys=10)
    for number in range(100):
        assert buckets.wait_ns(str(number), 0) == 0
    assert len(buckets) == 0
