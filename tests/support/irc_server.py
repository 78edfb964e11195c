"""A real IRC server (ngircd) for tests, one that a test plays, and a client to talk on either."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from tests.support.requirements import require

TIMEOUT_S = 20.0


def free_port() -> int:
    """A port of the loopback that nobody uses now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def find_ngircd() -> str | None:
    return shutil.which("ngircd") or shutil.which("ngircd", path="/usr/sbin:/usr/local/sbin")


class IrcServer:
    """``ngircd`` on a port of the loopback; the port stays over `kill` and `start`.

    It has the channels #locked (key ``sesame``), #members (by invitation) and #full (none fit in).

    Args:
        directory: where its files lie.
        tls: PEM files of certificate and key; it then has `tls_port` too.
        password: what clients must give.
    """

    def __init__(
        self, directory: Path, *, tls: tuple[Path, Path] | None = None, password: str = ""
    ) -> None:
        self.port = free_port()
        self.tls_port = free_port() if tls is not None else 0
        self._config = directory / "ngircd.conf"
        self._process: subprocess.Popen[str] | None = None
        lines = [
            "[Global]",
            "Name = irc.test",
            "Info = test",
            "AdminInfo1 = test",
            "AdminEMail = admin@irc.test",
            "Listen = 127.0.0.1",
            f"Ports = {self.port}",
            "MotdPhrase = hello",
            *([f"Password = {password}"] if password else []),
            "[Limits]",
            "MaxConnectionsIP = 0",
            "MaxPenaltyTime = 0",  # else each command costs a second
            "[Options]",
            "DNS = no",
            "Ident = no",
            "PAM = no",
            "[Channel]",
            "Name = #locked",
            "Modes = +k sesame",
            "[Channel]",
            "Name = #members",
            "Modes = +i",
        ]
        if tls is not None:
            lines += ["[SSL]", f"CertFile = {tls[0]}", f"KeyFile = {tls[1]}"]
            lines += [f"Ports = {self.tls_port}"]
        self._config.write_text("\n".join(lines) + "\n")

    def start(self) -> None:
        """Start it and return once it accepts connections."""
        assert self._process is None
        program = find_ngircd()
        assert program is not None
        process = self._process = subprocess.Popen(
            [program, "-n", "-f", str(self._config)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        said: list[str] = []
        for line in process.stdout:
            said.append(line)
            if line.rstrip().endswith("ready."):
                return
        raise AssertionError("ngircd did not start:\n" + "".join(said))

    def kill(self) -> None:
        """End it at once."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """It stays connected and says no more."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        if self._process is not None:
            self.kill()

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        assert process is not None
        assert process.stdout is not None
        process.send_signal(number)
        process.wait(timeout=10)
        process.stdout.close()


@contextmanager
def irc_server(*, tls: tuple[Path, Path] | None = None, password: str = "") -> Iterator[IrcServer]:
    """A started server; skips the test where there is no server program."""
    require("ngircd", find_ngircd() is not None, "no such program on the PATH")
    with tempfile.TemporaryDirectory(prefix="cp") as directory:
        # The server gives up root, if it has it, and must still read its configuration.
        Path(directory).chmod(0o755)
        server = IrcServer(Path(directory), tls=tls, password=password)
        try:
            server.start()
            yield server
        finally:
            server.close()


class IrcClient:
    """Someone else on the server: says what it is told to, and waits for words."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.heard: list[str] = []

    async def say(self, *lines: str | bytes) -> None:
        for line in lines:
            self._writer.write((line.encode() if isinstance(line, str) else line) + b"\r\n")
        async with asyncio.timeout(TIMEOUT_S):
            await self._writer.drain()

    async def hear(self, words: str) -> str:
        """The next line that has ``words`` in it; answers the server's PINGs on the way."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                line = (await self._reader.readuntil(b"\r\n")).decode().rstrip("\r\n")
                self.heard.append(line)
                if line.startswith("PING"):
                    await self.say(line.replace("PING", "PONG", 1))
                if words in line:
                    return line


@asynccontextmanager
async def irc_client(port: int, nick: str, channel: str = "") -> AsyncIterator[IrcClient]:
    """A client that is on the server, and in the channel if one is named."""
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        client = IrcClient(reader, writer)
        await client.say(f"NICK {nick}", f"USER {nick} 0 * :{nick}")
        await client.hear(" 001 ")
        if channel:
            await client.say(f"JOIN {channel}")
            await client.hear(" 366 ")
        yield client
    finally:
        await _close(writer)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await writer.wait_closed()
    except (ConnectionError, ssl.SSLError):
        writer.transport.abort()


Script = Callable[["PlayedServer"], Awaitable[None]]


class PlayedServer:
    """The server's side of one connection, as the test's script plays it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.heard: list[str] = []

    async def expect(self, words: str) -> str:
        """The client's next line that has ``words`` in it."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                line = (await self._reader.readuntil(b"\r\n")).decode().rstrip("\r\n")
                self.heard.append(line)
                if words in line:
                    return line

    async def say(self, *lines: str | bytes) -> None:
        for line in lines:
            self._writer.write((line.encode() if isinstance(line, str) else line) + b"\r\n")
        async with asyncio.timeout(TIMEOUT_S):
            await self._writer.drain()

    async def until_gone(self) -> Sequence[str]:
        """What the client has said once it hangs up."""
        async with asyncio.timeout(TIMEOUT_S):
            rest = await self._reader.read()
        self.heard += rest.decode(errors="replace").splitlines()
        return self.heard


@asynccontextmanager
async def played_server(script: Script) -> AsyncIterator[int]:
    """The port of a server that plays ``script`` to whoever connects, then hangs up.

    What goes wrong in the script goes wrong in the test.
    """
    failures: list[BaseException] = []
    done: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        done.add(task)
        try:
            await script(PlayedServer(reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the client went first, as it may
        except (AssertionError, TimeoutError) as error:
            failures.append(error)
        finally:
            await _close(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        if done:
            await asyncio.wait(done, timeout=TIMEOUT_S)
    if failures:
        raise failures[0]
