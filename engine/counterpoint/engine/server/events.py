"""Predictions as server-sent events (WHATWG HTML, section 9.2).

``event: prediction`` with ``id: WINDOW.REVISION`` and the JSON document, comments in between, and
at last ``event: end`` with ``{"reason": ...}``: ``ended`` (the session), ``closing`` (the server),
``token`` (it has expired) or ``failed``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from counterpoint.engine.background import unwrapped
from counterpoint.engine.prediction import Prediction, to_json
from counterpoint.engine.server.port import UnknownError
from counterpoint.streams.errors import CounterpointError
from counterpoint.streams.runtime import Runtime

log = logging.getLogger(__name__)

_RETRY_MS: Final = 2_000
_NS_PER_S: Final = 1_000_000_000


class EventStream(Response):
    """An answer that lasts as long as the session, the client and the server.

    What waits for a slow client is one prediction here and what `LiveSessions.follow` keeps, which
    drops its oldest; a client that reads nothing at all is cut off by the protocol (`serve`).

    Args:
        follow: gives the predictions, which are read until their end.
        closing: set when the server ends.
        until_ns: it ends at this instant of the runtime's; None: at none.
        done: called once, whatever ends it.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        follow: Callable[[], AsyncIterator[Prediction]],
        *,
        runtime: Runtime,
        closing: asyncio.Event,
        heartbeat_s: float,
        until_ns: int | None,
        done: Callable[[], None],
    ) -> None:
        # A proxy that buffers would hold predictions back.
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._follow = follow
        self._runtime = runtime
        self._closing = closing
        self._heartbeat_ns = int(heartbeat_s * _NS_PER_S)
        self._until_ns = until_ns
        self._done = done
        self._reason = "ended"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._run(receive, send)
        except BaseExceptionGroup as failed:
            raise unwrapped(failed) from None
        finally:
            self._done()

    async def _run(self, receive: Receive, send: Send) -> None:
        await _write(send, f"retry: {_RETRY_MS}\n\n")
        async with asyncio.TaskGroup() as group:
            spawn = self._runtime.spawn
            writer = spawn(group, "events", self._write_all(send))
            others = [
                spawn(group, "events heartbeat", self._beat(send)),
                spawn(group, "events client", _until_gone(receive)),
                spawn(group, "events server", self._until_closing()),
            ]
            if self._until_ns is not None:
                others.append(spawn(group, "events token", self._until_expired(self._until_ns)))
            # Whichever ends first ends all.
            await asyncio.wait({writer, *others}, return_when=asyncio.FIRST_COMPLETED)
            for task in (writer, *others):
                task.cancel()
        end = f'event: end\ndata: {{"reason":"{self._reason}"}}\n\n'
        await _write(send, end, more=False)

    async def _write_all(self, send: Send) -> None:
        try:
            predictions = self._follow()
            try:
                async for prediction in predictions:
                    number = f"{prediction.window}.{prediction.revision}"
                    data = to_json(prediction)
                    await _write(send, f"event: prediction\nid: {number}\ndata: {data}\n\n")
            finally:
                if isinstance(predictions, AsyncGenerator):
                    await predictions.aclose()
        except UnknownError:
            return  # it has just ended
        except CounterpointError as error:
            log.warning("a stream of predictions ends: %s", error)
            self._reason = "failed"

    async def _beat(self, send: Send) -> None:
        while True:
            await self._runtime.sleep_until(self._runtime.now_ns() + self._heartbeat_ns)
            await _write(send, ": still here\n\n")

    async def _until_closing(self) -> None:
        await self._closing.wait()
        self._reason = "closing"

    async def _until_expired(self, until_ns: int) -> None:
        await self._runtime.sleep_until(until_ns)
        self._reason = "token"


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def _write(send: Send, text: str, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": more})
