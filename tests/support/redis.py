"""A real Redis server for tests, that can be stopped, killed, frozen and started again."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import redis

from counterpoint.engine.prediction import Prediction, from_json
from counterpoint.engine.redis_client import predictions_key
from counterpoint.engine.redis_server import find_server_binary
from counterpoint.streams.errors import UnavailableError
from tests.support.requirements import require

T = TypeVar("T")


class RedisServer:
    """``redis-server`` on a Unix socket in a directory of its own.

    Args:
        directory: where socket and data lie; short, for the sake of the socket's path.
        appendonly: write every command to disk, so that data survive `kill` and `stop`.
        options: more of the server's command line.
    """

    def __init__(self, directory: Path, *, appendonly: bool = False, options: str = "") -> None:
        self.socket = directory / "s"
        self.url = f"unix://{self.socket}"
        persistence = ("--appendonly", "yes", "--appendfsync", "always")
        self._command = [
            str(find_server_binary()),
            *("--port", "0", "--unixsocket", str(self.socket), "--dir", str(directory)),
            *("--save", "", *(persistence if appendonly else ())),
            *options.split(),
        ]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it and return once it accepts connections."""
        assert self._process is None
        # A socket that a killed server left behind would not be in the way, but would mislead.
        self.socket.unlink(missing_ok=True)
        process = self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        said: list[str] = []
        for line in process.stdout:
            said.append(line)
            if "ready to accept connections" in line.lower():
                return
        raise AssertionError("redis-server did not start:\n" + "".join(said))

    def stop(self) -> None:
        """End it in an orderly way."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def freeze(self) -> None:
        """It stays connected and says no more."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    @contextmanager
    def client(self) -> Iterator[redis.Redis]:
        """A plain client, to look at what is there and to play the operator."""
        client = redis.Redis(unix_socket_path=str(self.socket), decode_responses=True, protocol=2)
        try:
            yield client
        finally:
            client.close()

    def kill_clients(self) -> int:
        """Cut every other connection; returns how many."""
        with self.client() as client:
            return client.client_kill_filter(_type="normal", skipme=True)

    def predictions(self, session: str = "demo") -> list[Prediction]:
        """What the session's stream holds."""
        with self.client() as client:
            entries: Any = client.xrange(predictions_key(session))
        return [from_json(fields["data"]) for _, fields in entries]

    def windows(self, session: str = "demo") -> list[int]:
        """Window indices in the session's stream."""
        return [prediction.window for prediction in self.predictions(session)]

    def close(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self.kill()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        assert process is not None
        assert process.stdout is not None
        process.send_signal(number)
        process.wait(timeout=10)
        process.stdout.close()


@contextmanager
def redis_server(*, appendonly: bool = False, options: str = "") -> Iterator[RedisServer]:
    """A started server; skips the test where there is no server program."""
    try:
        find_server_binary()
    except UnavailableError as error:
        require("redis-server", available=False, reason=str(error))
    # Not pytest's tmp_path: its names are too long for the path of a socket.
    with tempfile.TemporaryDirectory(prefix="cp") as directory:
        server = RedisServer(Path(directory), appendonly=appendonly, options=options)
        try:
            server.start()
            yield server
        finally:
            server.close()


def run_async(main: Callable[[], Coroutine[Any, Any, T]], *, timeout_s: float = 30.0) -> T:
    """Run a test's coroutine in a loop of its own; it fails if it takes too long."""

    async def bounded() -> T:
        async with asyncio.timeout(timeout_s):
            return await main()

    return asyncio.run(bounded())
