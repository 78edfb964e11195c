"""Addresses, reachability and the wait between attempts."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from counterpoint.engine.redis_client import (
    Backoff,
    ErrorReply,
    RedisLostError,
    RedisTimeoutError,
    check_reachable,
    connector,
    format_stream_id,
    parse_stream_id,
    redact,
)
from counterpoint.streams.errors import UnavailableError, UsageError
from tests.support.redis import RedisServer, redis_server, run_async


@pytest.fixture(name="server")
def fixture_server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.mark.redis_server
def test_a_redis_that_answers_is_reachable(server: RedisServer) -> None:
    run_async(lambda: check_reachable(server.url))


def test_a_redis_that_is_not_there_is_an_error_that_says_what_to_do() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # Taken, but nobody listens.
        url = f"redis://user:secret@127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(UnavailableError) as caught:
            run_async(lambda: check_reachable(url))
    message = str(caught.value)
    assert caught.value.exit_code == 3
    assert "cannot be reached" in message
    assert "--redis embedded" in message
    assert "secret" not in message
    assert "\n" not in message


def test_a_server_that_accepts_and_does_not_answer_is_not_reachable() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(UnavailableError, match=r"no answer within 0\.05 s"):
            run_async(lambda: check_reachable(url, timeout_s=0.05))


def test_a_socket_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="No such file"):
        run_async(lambda: check_reachable(f"unix://{tmp_path}/none.sock"))


@pytest.mark.redis_server
def test_a_redis_that_wants_a_password_is_an_error_until_it_is_given() -> None:
    with redis_server(options="--requirepass hush") as server:
        with pytest.raises(UnavailableError, match=r"refuses us .*Authentication required"):
            run_async(lambda: check_reachable(server.url))
        with pytest.raises(UnavailableError, match="refuses us") as caught:
            run_async(lambda: check_reachable(f"{server.url}?password=wrong"))
        assert "wrong" not in str(caught.value)
        run_async(lambda: check_reachable(f"{server.url}?password=hush"))


@pytest.mark.parametrize(
    "url", ["localhost:6379", "http://localhost", "", "redis://localhost:port", "redis://h/?db=x"]
)
def test_an_address_that_is_none_is_wrong_usage(url: str) -> None:
    with pytest.raises(UsageError, match="--redis") as caught:
        connector(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://user:secret@host:1/2", "redis://***@host:1/2"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("unix:///run/redis.sock?password=secret", "unix://***@/run/redis.sock"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert redact(url) == shown


@pytest.mark.redis_server
def test_a_link_gives_a_reply_or_an_error_for_each_command(server: RedisServer) -> None:
    async def main() -> None:
        link = await connector(server.url)()
        replies = await link.execute(
            [("SET", "k", "naïve"), ("INCR", "k"), ("GET", "k"), ("NONSENSE",), ("GET", "none")]
        )
        assert replies[0] == "OK"
        assert replies[1] == ErrorReply("value is not an integer or out of range")
        assert replies[2] == "naïve"
        assert isinstance(replies[3], ErrorReply)
        assert replies[4] is None
        await link.close()
        await link.close()
        with pytest.raises(RedisLostError, match="not connected"):
            await link.execute([("PING",)])

    run_async(main)


@pytest.mark.redis_server
def test_a_link_is_of_no_use_after_a_timeout(server: RedisServer) -> None:
    async def main() -> None:
        link = await connector(server.url, timeout_s=0.05)()
        server.freeze()
        with pytest.raises(RedisTimeoutError):
            await link.execute([("PING",)])
        server.thaw()
        with pytest.raises(RedisLostError, match="not connected"):
            await link.execute([("PING",)])

    run_async(main)


@pytest.mark.parametrize(("text", "value"), [("5-3", (5, 3)), ("5", (5, 0)), ("0-0", (0, 0))])
def test_stream_ids_are_read(text: str, value: tuple[int, int]) -> None:
    assert parse_stream_id(text) == value
    assert parse_stream_id(format_stream_id(value)) == value


@pytest.mark.parametrize("text", ["", "-", "5-", "-5", "5-x", "x", "5-3-1", "$", "²"])
def test_what_is_no_stream_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a stream ID"):
        parse_stream_id(text)


def test_the_wait_is_none_at_first_then_doubles_up_to_a_bound_and_starts_anew() -> None:
    backoff = Backoff(random.Random(1).random, first_ms=50, longest_ms=5_000)
    waits_ms = [backoff.next_ns() / 1e6 for _ in range(2_000)]
    assert waits_ms[0] == 0
    for number, wait_ms in enumerate(waits_ms[1:]):
        ceiling_ms = min(5_000, 50 * 2 ** min(number, 60))
        assert ceiling_ms / 2 <= wait_ms <= ceiling_ms
    assert len({round(wait_ms, 6) for wait_ms in waits_ms[10:]}) > 1_000
    backoff.reset()
    assert backoff.next_ns() == 0
