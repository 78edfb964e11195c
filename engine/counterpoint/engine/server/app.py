"""The ASGI application: routes, and what each asks of the live sessions.

    GET     /  /page/NAME  /healthz  /readyz  /api/terms     no token
    POST    /whip/SESSION[?participant=NAME]                 publish
    PATCH   /whip/SESSION/CONNECTION                         publish
    DELETE  /whip/SESSION/CONNECTION                         publish
    POST    /sessions/SESSION/chat                           chat
    GET     /sessions  /sessions/SESSION                     read
    GET     /sessions/SESSION/predictions                    read; also as ?token=
    GET     /metrics                                         read, for all sessions
    DELETE  /sessions/SESSION                                erase

Errors are ``{"error": REASON, "message": LINE}``.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from counterpoint.engine.server import metrics, whip
from counterpoint.engine.server.answers import (
    SECURITY_HEADERS,
    HttpError,
    as_http,
    error_answer,
)
from counterpoint.engine.server.auth import Access, Tokens
from counterpoint.engine.server.events import EventStream
from counterpoint.engine.server.files import Page
from counterpoint.engine.server.limits import Guard, Slots, client_address
from counterpoint.engine.server.names import checked_connection, checked_name
from counterpoint.engine.server.port import LiveSessions, UnknownError
from counterpoint.engine.server.settings import ServerSettings
from counterpoint.streams.chat_file import MAX_AUTHOR_CHARACTERS, MAX_TEXT_CHARACTERS
from counterpoint.streams.errors import CounterpointError
from counterpoint.streams.runtime import Runtime

log = logging.getLogger(__name__)

DEFAULT_PARTICIPANT: Final = "main"
Handler = Callable[[Request], Awaitable[Response]]


def make_app(sessions: LiveSessions, settings: ServerSettings, runtime: Runtime) -> Starlette:
    """The application. ``app.state.closing``, an `asyncio.Event`, ends its streams when set."""
    return _Server(sessions, settings, runtime).app()


class _Server:
    def __init__(self, sessions: LiveSessions, settings: ServerSettings, runtime: Runtime) -> None:
        self._sessions = sessions
        self._settings = settings
        self._runtime = runtime
        key = settings.token_key
        self._access = Access(None if key is None else Tokens(key, runtime))
        self._counters = metrics.ServerCounters()
        self._page = Page(settings.page, runtime)
        self._tags = whip.EntityTags()
        self._streams = Slots(settings.max_streams, settings.share(settings.max_streams))
        self._closing = asyncio.Event()

    def app(self) -> Starlette:
        app = Starlette(
            routes=[
                _route("/", GET=self._index, HEAD=self._index),
                _route("/page/{name}", GET=self._page_file, HEAD=self._page_file),
                _route("/healthz", GET=self._healthz, HEAD=self._healthz),
                _route("/readyz", GET=self._readyz, HEAD=self._readyz),
                _route("/metrics", GET=self._metrics),
                _route("/api/terms", GET=self._terms),
                _route("/whip/{session}", POST=self._join),
                _route("/whip/{session}/{connection}", PATCH=self._trickle, DELETE=self._leave),
                _route("/sessions", GET=self._names),
                _route("/sessions/{session}", GET=self._describe, DELETE=self._erase),
                _route("/sessions/{session}/chat", POST=self._chat),
                _route("/sessions/{session}/predictions", GET=self._predictions),
            ],
            middleware=[
                Middleware(
                    Guard,
                    settings=self._settings,
                    runtime=self._runtime,
                    counters=self._counters,
                )
            ],
            exception_handlers={
                HttpError: _on_http_error,
                HTTPException: _on_routing_error,
                CounterpointError: _on_engine_error,
                ClientDisconnect: _on_disconnect,
                Exception: _on_unexpected,
            },
        )
        app.router.redirect_slashes = False
        app.state.closing = self._closing
        app.state.counters = self._counters
        return app

    # -- the page ------------------------------------------------------------------------------

    async def _index(self, request: Request) -> Response:
        return await self._page.file(request, "index.html")

    async def _page_file(self, request: Request) -> Response:
        return await self._page.file(request, request.path_params["name"])

    async def _terms(self, request: Request) -> Response:
        terms = dict(self._settings.terms)
        # A TURN server's credentials are not for everyone who finds the page.
        told = not self._access.guarded or (
            "authorization" in request.headers and self._access.grant(request).may("publish")
        )
        if not told:
            terms["ice_servers"] = []
        return JSONResponse(terms | {"token_required": self._access.guarded})

    # -- WHIP ----------------------------------------------------------------------------------

    async def _join(self, request: Request) -> Response:
        session = _session(request)
        self._access.require(request, "publish", session)
        participant = checked_name(
            "participant", request.query_params.get("participant", DEFAULT_PARTICIPANT)
        )
        offer = await whip.text_body(request, whip.OFFER_TYPE)
        async with self._in_time("joining"):
            joined = await self._sessions.join(session, participant, offer)
        self._tags.remember(session, joined.connection, joined.etag)
        answer = Response(
            joined.answer,
            status_code=201,
            media_type=whip.OFFER_TYPE,
            headers={
                "Location": f"/whip/{session}/{joined.connection}",
                "ETag": f'"{joined.etag}"',
            },
        )
        for link in whip.ice_links(self._settings.terms.get("ice_servers", ())):
            answer.headers.append("Link", link)
        return answer

    async def _trickle(self, request: Request) -> Response:
        session, connection = self._resource(request)
        self._tags.check(session, connection, request.headers.get("if-match"))
        fragment = await whip.text_body(request, whip.FRAGMENT_TYPE)
        async with self._in_time("taking candidates"), self._forgetting(session, connection):
            await self._sessions.trickle(session, connection, fragment)
        return Response(status_code=204)

    async def _leave(self, request: Request) -> Response:
        session, connection = self._resource(request)
        async with self._in_time("leaving"), self._forgetting(session, connection):
            await self._sessions.leave(session, connection)
        self._tags.forget(session, connection)
        return Response(status_code=200)

    def _resource(self, request: Request) -> tuple[str, str]:
        session = _session(request)
        self._access.require(request, "publish", session)
        return session, checked_connection(request.path_params["connection"])

    @asynccontextmanager
    async def _forgetting(self, session: str, connection: str) -> AsyncIterator[None]:
        try:
            yield
        except UnknownError:
            self._tags.forget(session, connection)
            raise

    # -- sessions ------------------------------------------------------------------------------

    async def _names(self, request: Request) -> Response:
        grant = self._access.require(request, "read")
        return JSONResponse({"sessions": [n for n in self._sessions.names() if grant.covers(n)]})

    async def _describe(self, request: Request) -> Response:
        session = _session(request)
        self._access.require(request, "read", session)
        return JSONResponse(dict(self._sessions.describe(session)))

    async def _erase(self, request: Request) -> Response:
        session = _session(request)
        self._access.require(request, "erase", session)
        async with self._in_time("erasing"):
            erased = await self._sessions.erase(session)
        return JSONResponse(dict(erased))

    async def _chat(self, request: Request) -> Response:
        session = _session(request)
        self._access.require(request, "chat", session)
        author, text = _chat_line(await whip.text_body(request, "application/json"))
        self._sessions.chat(session, author, text)
        return Response(status_code=204)

    async def _predictions(self, request: Request) -> Response:
        session = _session(request)
        grant = self._access.require(request, "read", session, in_query=True)
        self._sessions.describe(session)  # 404 now, where `follow` may say so only when it is read
        address = client_address(request.scope)
        if self._closing.is_set() or not self._streams.take(address):
            raise HttpError(503, "streams", "too many readers", {"Retry-After": "5"})
        self._counters.streams = self._streams.in_use

        def done() -> None:
            self._streams.give(address)
            self._counters.streams = self._streams.in_use

        return EventStream(
            lambda: self._sessions.follow(session),
            runtime=self._runtime,
            closing=self._closing,
            heartbeat_s=self._settings.heartbeat_s,
            until_ns=self._monotonic(grant.until_wall_ns),
            done=done,
        )

    def _monotonic(self, wall_ns: int | None) -> int | None:
        if wall_ns is None:
            return None
        return self._runtime.now_ns() + wall_ns - self._runtime.wall_ns()

    # -- operations ----------------------------------------------------------------------------

    async def _metrics(self, request: Request) -> Response:
        self._access.require_everywhere(request, "read")
        text = metrics.exposition(self._sessions.counters(), self._counters.series())
        return Response(text, headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _healthz(self, request: Request) -> Response:  # noqa: ARG002 - a handler's shape
        return PlainTextResponse("ok\n")

    async def _readyz(self, request: Request) -> Response:  # noqa: ARG002 - a handler's shape
        if self._closing.is_set():
            raise HttpError(503, "closing", "the server is ending", {"Retry-After": "5"})
        return PlainTextResponse("ready\n")

    @asynccontextmanager
    async def _in_time(self, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._settings.work_timeout_s):
                yield
        except TimeoutError as error:
            log.warning("%s took longer than %g s", what, self._settings.work_timeout_s)
            raise HttpError(
                503, "timeout", f"{what} took too long", {"Retry-After": "5"}
            ) from error


def _route(path: str, **handlers: Handler) -> Route:
    """A route that answers OPTIONS too, and 405 with ``Allow`` to all methods but its own."""
    headers = {"Allow": ", ".join([*handlers, "OPTIONS"])}
    if path.startswith("/whip/"):
        # RFC 9725, section 4.2
        accepts = "Accept-Post" if "POST" in handlers else "Accept-Patch"
        media_type = whip.OFFER_TYPE if "POST" in handlers else whip.FRAGMENT_TYPE
        options_headers = headers | {accepts: media_type}
    else:
        options_headers = headers

    async def endpoint(request: Request) -> Response:
        if request.method == "OPTIONS":
            return Response(status_code=200, headers=options_headers)
        if (handler := handlers.get(request.method)) is None:
            raise HttpError(405, "method", f"{request.method[:16]} is not for this", headers)
        return await handler(request)

    route = Route(path, endpoint)
    route.methods = None  # all of them; told apart above
    return route


def _session(request: Request) -> str:
    return checked_name("session", request.path_params["session"])


def _chat_line(body: str) -> tuple[str, str]:
    """Author and text of ``{"author": ..., "text": ...}``.

    Raises:
        HttpError: 400.
    """
    try:
        line = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HttpError(400, "json", "the body is no JSON") from error
    if not isinstance(line, dict) or set(line) != {"author", "text"}:
        raise HttpError(400, "json", 'a line of chat is {"author": "...", "text": "..."}')
    for key, most in (("author", MAX_AUTHOR_CHARACTERS), ("text", MAX_TEXT_CHARACTERS)):
        value = line[key]
        if not isinstance(value, str) or not value.strip():
            raise HttpError(400, "usage", f"{key} must be text that is not empty")
        if len(value) > most:
            raise HttpError(413, "size", f"{key} is longer than {most} characters")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise HttpError(400, "json", f"{key} holds half a character (a lone surrogate)")
    return line["author"], line["text"]


async def _on_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HttpError)
    return error_answer(error)


async def _on_routing_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reason = "unknown" if error.status_code == 404 else "request"
    message = "there is nothing here" if error.status_code == 404 else error.detail
    return error_answer(HttpError(error.status_code, reason, message, error.headers))


async def _on_engine_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, CounterpointError)
    told = as_http(error)
    if told.status == 500:
        log.error("a request failed: %s", error)
    return error_answer(told)


async def _on_disconnect(_: Request, __: Exception) -> Response:
    return error_answer(HttpError(400, "gone", "the client went away"))  # nobody hears it


async def _on_unexpected(_: Request, __: Exception) -> Response:
    # The error is raised on after this, and logged by what runs the application.
    message = "an error in the server; its log says which"
    headers: Mapping[str, Any] = {**SECURITY_HEADERS, "Connection": "close"}
    return error_answer(HttpError(500, "internal", message, headers))
