"""Answers: errors as JSON, and the headers that every answer carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.responses import JSONResponse

from counterpoint.engine.server.port import RefusedError, SignalError, UnknownError
from counterpoint.streams.errors import CounterpointError, UsageError

SECURITY_HEADERS: Final[Mapping[str, str]] = {
    # No inline script or style, nothing from elsewhere; blob: is the camera's own preview.
    "Content-Security-Policy": (
        "default-src 'self'; connect-src 'self'; media-src 'self' blob:; object-src 'none'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(self)",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class HttpError(Exception):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        reason: a word for programs.
        message: one line for people.
        headers: besides those of every answer.
    """

    def __init__(
        self, status: int, reason: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.headers = dict(headers or {})


def error_answer(error: HttpError) -> JSONResponse:
    """``{"error": REASON, "message": LINE}``."""
    return JSONResponse(
        {"error": error.reason, "message": " ".join(str(error).split())},
        status_code=error.status,
        headers=error.headers,
    )


def as_http(error: CounterpointError) -> HttpError:
    """What a client is told of an error of the engine's. Only errors meant to be read are told."""
    match error:
        case UnknownError():
            return HttpError(404, "unknown", str(error))
        case SignalError():
            return HttpError(400, "signal", str(error))
        case UsageError():
            return HttpError(400, "usage", str(error))
        case RefusedError():
            return HttpError(
                429 if error.reason == "rate" else 503,
                error.reason,
                str(error),
                {"Retry-After": str(error.retry_after_s)},
            )
        case _:
            return HttpError(500, "failed", "the engine failed at this; its log says why")
