"""The page's files: read anew for each request, so that a change needs no restart."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from counterpoint.engine.server.answers import HttpError
from counterpoint.streams.runtime import Runtime

MAX_FILE_BYTES: Final = 2_000_000
MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/vnd.microsoft.icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)+")


class Page:
    """Serves one folder, without its subfolders."""

    def __init__(self, folder: Path, runtime: Runtime) -> None:
        self._folder = folder
        self._lane = runtime.lane("page")

    async def file(self, request: Request, name: str) -> Response:
        """A file, or 304 where the client has it as it is.

        Raises:
            HttpError: 404.
        """
        path = self._folder / name
        if not _NAME.fullmatch(name) or path.suffix not in MEDIA_TYPES:
            raise HttpError(404, "unknown", "the page has no such file")
        try:
            content = await self._lane.submit(lambda: _read(path))
        except OSError as error:
            raise HttpError(404, "unknown", "the page has no such file") from error
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=MEDIA_TYPES[path.suffix], headers=headers)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_FILE_BYTES)
