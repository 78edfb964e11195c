"""Runs the application under uvicorn, in our loop.

uvicorn is kept from what is not its business here: signals (the command line has them), logging
set-up, and leaving the process when a port is taken. Added are limits that it lacks: a request's
head must come in time, a client that reads nothing is cut off, and connections are counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from counterpoint.engine.background import background
from counterpoint.engine.server.limits import MAX_HEAD_BYTES, Slots, counted_address
from counterpoint.engine.server.metrics import ServerCounters
from counterpoint.engine.server.settings import ServerSettings
from counterpoint.streams.errors import UnavailableError, UsageError
from counterpoint.streams.runtime import Runtime, Timer

log = logging.getLogger(__name__)

MAX_UNWANTED_BYTES: Final = 16_000_000
"""Of a body whose request is answered: more, and the connection is cut."""
BACKLOG: Final = 128
KEEP_ALIVE_S: Final = 15
_CLEANUP_S: Final = 2.0
_NS_PER_S: Final = 1_000_000_000


@asynccontextmanager
async def serving(app: Starlette, settings: ServerSettings, runtime: Runtime) -> AsyncIterator[str]:
    """Serve while the body of ``async with`` lasts; it is given the URL.

    At the end streams are told so, and requests in work have ``settings.grace_s``.

    Raises:
        UnavailableError: the port is taken, or the address is not this machine's.
        UsageError: the certificate or its key cannot be used.
    """
    server = _Server(app, settings, runtime)
    if not settings.on_loopback and settings.tls_cert is None and not settings.proxies:
        log.warning(
            "the server can be reached from elsewhere without TLS: tokens can be read on the way, "
            "and browsers give its page no camera; set server.tls_cert and server.tls_key"
        )
    async with background(runtime, "http", server.serve()) as task:
        try:
            yield await server.bound
        finally:
            app.state.closing.set()
            server.should_exit = True
            await asyncio.wait({task}, timeout=settings.grace_s + _CLEANUP_S)
            await server.cut_off()


async def serve(
    app: Starlette,
    settings: ServerSettings,
    runtime: Runtime,
    *,
    on_bound: Callable[[str], None] | None = None,
) -> None:
    """`serving` until cancelled.

    Args:
        on_bound: called with the URL once connections are taken.
    """
    async with serving(app, settings, runtime) as url:
        if on_bound is not None:
            on_bound(url)
        await asyncio.Event().wait()


class _Server(uvicorn.Server):
    def __init__(self, app: Starlette, settings: ServerSettings, runtime: Runtime) -> None:
        super().__init__(_uvicorn_config(app, settings))
        self._settings = settings
        self._runtime = runtime
        self._counters: ServerCounters = app.state.counters
        total = settings.max_connections
        self._slots = Slots(total, settings.share(total))
        self.bound: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[Any] | None = None) -> None:  # noqa: ARG002 - uvicorn's
        # uvicorn's own leaves the process when the port is taken.
        settings = self._settings
        try:
            listener = await asyncio.get_running_loop().create_server(
                self._protocol,
                host=settings.host,
                port=settings.port,
                ssl=self.config.ssl,
                ssl_handshake_timeout=settings.header_timeout_s if self.config.ssl else None,
                backlog=BACKLOG,
            )
        except OSError as error:
            raise UnavailableError(
                f"cannot listen on {settings.host} port {settings.port}: "
                f"{error.strerror or error}; choose another with server.port or server.host"
            ) from error
        self.servers = [listener]
        self.started = True
        self.bound.set_result(self._url(listener.sockets[0].getsockname()[1]))

    def _protocol(self) -> asyncio.Protocol:
        return _Protocol(
            self.config,
            self.server_state,
            settings=self._settings,
            runtime=self._runtime,
            slots=self._slots,
            counters=self._counters,
        )

    def _url(self, port: int) -> str:
        host = self._settings.host
        scheme = "http" if self.config.ssl is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    async def cut_off(self) -> None:
        """End what is left after the grace: tasks, then connections."""
        if tasks := set(self.server_state.tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_CLEANUP_S)
        for connection in list(self.server_state.connections):
            connection.transport.abort()


class _Protocol(H11Protocol):
    """One connection, with the limits that uvicorn lacks."""

    def __init__(
        self,
        config: uvicorn.Config,
        state: Any,
        *,
        settings: ServerSettings,
        runtime: Runtime,
        slots: Slots,
        counters: ServerCounters,
    ) -> None:
        super().__init__(config, state, {})
        self._settings = settings
        self._runtime = runtime
        self._slots = slots
        self._counters = counters
        self._address: str | None = None
        self._unwanted_bytes = 0
        self._head_timer: Timer | None = None
        self._stall_timer: Timer | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do what asyncio's do, and are no `asyncio.Transport`.
        super().connection_made(cast("asyncio.Transport", transport))
        address = counted_address(self.client[0] if self.client else "")
        if not self._slots.take(address):
            self._counters.connections_refused += 1
            self.transport.abort()
            return
        self._address = address
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._address is not None:
            self._slots.give(self._address)
            self._address = None
        self._stop_head_timer()
        self._stop_stall_timer()

    def data_received(self, data: bytes) -> None:
        if self._address is None:
            return  # it was refused
        super().data_received(data)
        # Between requests, or with what is left of a body that nobody wants: a client gets to read
        # why it is not wanted, but neither for ever nor for any size.
        if self.cycle is None or self.cycle.response_complete:
            self._await_head()
            self._unwanted_bytes += len(data)
            if self._unwanted_bytes > MAX_UNWANTED_BYTES:
                self.transport.abort()
        else:
            self._stop_head_timer()
            self._unwanted_bytes = 0

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall_timer = self._after(self._settings.stall_timeout_s)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_stall_timer()

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self._after(self._settings.header_timeout_s)

    def _after(self, seconds: float) -> Timer:
        t_ns = self._runtime.now_ns() + int(seconds * _NS_PER_S)
        return self._runtime.call_at(t_ns, self.transport.abort)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None


def _uvicorn_config(app: Starlette, settings: ServerSettings) -> uvicorn.Config:
    context = _tls(settings)
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http="h11",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level=logging.ERROR,  # a warning for each bad request would fill the log
        access_log=False,  # it would log tokens in queries
        server_header=False,
        proxy_headers=bool(settings.proxies),
        forwarded_allow_ips=list(settings.proxies),
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.grace_s)),
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        ssl_context_factory=None if context is None else lambda *_: context,
    )


def _tls(settings: ServerSettings) -> ssl.SSLContext | None:
    """
    Raises:
        UsageError: the files cannot be used.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"server.tls_cert {settings.tls_cert} with server.tls_key {settings.tls_key} "
            f"cannot be used: {error}"
        ) from error
    return context
