"""What every request passes first: host, origin, rate, room, and how much body in how much time.

Pure ASGI. What is refused here costs no routing, no token and no body.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections import Counter
from collections.abc import Callable
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from counterpoint.engine.server.answers import SECURITY_HEADERS, HttpError, error_answer
from counterpoint.engine.server.metrics import ServerCounters
from counterpoint.engine.server.settings import LOOPBACK_HOSTS, ServerSettings
from counterpoint.streams.rate import TokenBuckets
from counterpoint.streams.runtime import Runtime

log = logging.getLogger(__name__)

MAX_HEAD_BYTES: Final = 16_384
_ALLOW_METHODS: Final = "GET, POST, PATCH, DELETE, OPTIONS"
_ALLOW_HEADERS: Final = "Authorization, Content-Type, If-Match, Last-Event-ID"
_EXPOSE_HEADERS: Final = "Location, ETag, Link, Retry-After, Accept-Post"
_PREFLIGHT_S: Final = 600
_NS_PER_S: Final = 1_000_000_000
PUT_OFF_NS: Final = _NS_PER_S // 4
TOO_LARGE_COSTS: Final = 10
"""Requests that one with too large a body counts for, beside itself: all of it still comes in."""


class Slots:
    """Room for so many at once, and for so many of one address."""

    def __init__(self, total: int, per_address: int) -> None:
        self._total = total
        self._per_address = per_address
        self._taken: Counter[str] = Counter()
        self.in_use = 0

    def take(self, address: str) -> bool:
        """Whether there was room; what was taken must be given back."""
        if self.in_use >= self._total or self._taken[address] >= self._per_address:
            return False
        self.in_use += 1
        self._taken[address] += 1
        return True

    def give(self, address: str) -> None:
        """Give one back."""
        self.in_use -= 1
        self._taken[address] -= 1
        if self._taken[address] <= 0:
            del self._taken[address]


class Guard:
    """The middleware."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: ServerSettings,
        runtime: Runtime,
        counters: ServerCounters,
    ) -> None:
        self._app = app
        self._settings = settings
        self._runtime = runtime
        self._counters = counters
        self._rates = TokenBuckets(
            per_s=settings.requests_per_s,
            burst=settings.request_burst,
            keys=settings.max_addresses,
        )
        self._slots = Slots(settings.max_requests, settings.share(settings.max_requests))
        self._hosts = settings.hosts | (LOOPBACK_HOSTS if settings.on_loopback else frozenset())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        address = client_address(scope)
        answer = _Answer(self._settings, self._counters, scope, headers, send)
        try:
            self._check(scope, headers, address)
            self._take_slot(address)
        except HttpError as refusal:
            self._counters.refused(refusal.reason)
            if refusal.status == 429:
                # Who asks too often waits for the answer; else they would ask the sooner.
                await self._runtime.sleep_until(self._runtime.now_ns() + PUT_OFF_NS)
            await error_answer(refusal)(scope, receive, answer.send)
            return
        self._counters.in_work = self._slots.in_use
        answer.on_stream = lambda: self._give_slot(address)
        try:
            await self._app(scope, self._limited(headers, address, receive), answer.send)
        finally:
            if not answer.is_stream:
                self._give_slot(address)

    def _check(self, scope: Scope, headers: Headers, address: str) -> None:
        now_ns = self._runtime.now_ns()
        if not self._rates.take(address, now_ns):
            seconds = str(-(-self._rates.wait_ns(address, now_ns) // _NS_PER_S))
            raise HttpError(
                429, "rate", "too many requests from this address", {"Retry-After": seconds}
            )
        if self._hosts and host_name(headers.get("host", "")) not in self._hosts:
            raise HttpError(403, "host", "this server has another name; see server.hosts")
        if (origin := headers.get("origin")) is not None and not self._is_allowed(
            origin.lower(), scope, headers
        ):
            raise HttpError(403, "origin", "pages from there may not use this; see server.origins")
        # h11 counts a head only while it is incomplete; what comes in one piece passes it.
        if _head_bytes(scope) > MAX_HEAD_BYTES:
            raise HttpError(431, "head", f"the head is larger than {MAX_HEAD_BYTES} bytes")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._settings.max_body_bytes:
            raise self._too_large(address)

    def _is_allowed(self, origin: str, scope: Scope, headers: Headers) -> bool:
        own = f"{scope['scheme']}://{headers.get('host', '')}".lower()
        return origin == own or origin in self._settings.origins

    def _take_slot(self, address: str) -> None:
        if not self._slots.take(address):
            raise HttpError(503, "busy", "too many requests are in work", {"Retry-After": "1"})

    def _give_slot(self, address: str) -> None:
        self._slots.give(address)
        self._counters.in_work = self._slots.in_use

    def _too_large(self, address: str) -> HttpError:
        self._rates.charge(address, self._runtime.now_ns(), TOO_LARGE_COSTS)
        kib = self._settings.max_body_bytes // 1024
        # Not closed at once, or the client might lose this answer; see `serve` for the rest.
        return HttpError(413, "size", f"the body is larger than {kib} KiB")

    def _limited(self, headers: Headers, address: str, receive: Receive) -> Receive:
        """``receive`` that gives up on a body too large or too slow."""
        if "content-length" not in headers and "transfer-encoding" not in headers:
            return receive
        deadline_ns = self._runtime.now_ns() + int(self._settings.body_timeout_s * _NS_PER_S)
        size = 0
        more = True

        async def limited() -> Message:
            nonlocal size, more
            if not more:
                return await receive()
            left_s = max(0, deadline_ns - self._runtime.now_ns()) / _NS_PER_S
            try:
                async with asyncio.timeout(left_s):
                    message = await receive()
            except TimeoutError as error:
                raise HttpError(
                    408, "slow", "the body took too long to come", {"Connection": "close"}
                ) from error
            more = message.get("more_body", False)
            size += len(message.get("body", b""))
            if size > self._settings.max_body_bytes:
                raise self._too_large(address)
            return message

        return limited


class _Answer:
    """The way back: headers that every answer has, and counting."""

    def __init__(
        self,
        settings: ServerSettings,
        counters: ServerCounters,
        scope: Scope,
        request: Headers,
        send: Send,
    ) -> None:
        self._settings = settings
        self._counters = counters
        self._scope = scope
        self._request = request
        self._send = send
        self.is_stream = False
        self.on_stream: Callable[[], None] = lambda: None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            self._allow_origin(headers)
            if headers.get("content-type", "").startswith("text/event-stream"):
                # From here on it holds a stream's place, no longer a request's.
                self.is_stream = True
                self.on_stream()
            method, status = self._scope["method"], message["status"]
            self._counters.answered(method, status)
            # The path alone, still quoted: a query may hold a token, a path a line break.
            log.debug("%s %s %d", method, self._scope["raw_path"].decode("ascii"), status)
        await self._send(message)

    def _allow_origin(self, headers: MutableHeaders) -> None:
        if not self._settings.origins:
            return
        headers.add_vary_header("Origin")
        origin = self._request.get("origin", "")
        if origin.lower() not in self._settings.origins:
            return
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Expose-Headers"] = _EXPOSE_HEADERS
        if "access-control-request-method" in self._request:
            headers["Access-Control-Allow-Methods"] = _ALLOW_METHODS
            headers["Access-Control-Allow-Headers"] = _ALLOW_HEADERS
            headers["Access-Control-Max-Age"] = str(_PREFLIGHT_S)


def _head_bytes(scope: Scope) -> int:
    fields = sum(len(name) + len(value) for name, value in scope["headers"])
    return len(scope["raw_path"]) + len(scope["query_string"]) + fields


def client_address(scope: Scope) -> str:
    """Whom a request is counted for: an IPv4 address, or the /64 of an IPv6 one, all of which
    one machine may call its own."""
    client = scope.get("client")
    return counted_address(client[0] if client else "")


def counted_address(host: str) -> str:
    """`client_address` of a host; one that is no address is taken as it is."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def host_name(host: str) -> str:
    """The name in a Host header, without port and brackets, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].rstrip(".").lower()
