"""WHIP, RFC 9725: an SDP offer by POST, candidates by PATCH, the end by DELETE.

A session is its endpoint, ``/whip/SESSION``; a peer in it is a resource,
``/whip/SESSION/CONNECTION``. There is no ICE restart: a peer that lost its way posts a new offer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from starlette.requests import Request

from counterpoint.engine.server.answers import HttpError
from counterpoint.engine.server.port import UnknownError

OFFER_TYPE: Final = "application/sdp"
FRAGMENT_TYPE: Final = "application/trickle-ice-sdpfrag"
MAX_REMEMBERED: Final = 4_096


class EntityTags:
    """The ICE sessions' names by connection, for as many connections as can live at once."""

    def __init__(self, room: int = MAX_REMEMBERED) -> None:
        self._tags: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._room = room

    def remember(self, session: str, connection: str, tag: str) -> None:
        """A new connection; the oldest is forgotten when there is no room."""
        self._tags[session, connection] = tag
        while len(self._tags) > self._room:
            self._tags.popitem(last=False)

    def forget(self, session: str, connection: str) -> None:
        """A connection that has ended; harmless if it is not known."""
        self._tags.pop((session, connection), None)

    def check(self, session: str, connection: str, if_match: str | None) -> None:
        """Whether a PATCH means the ICE session that is (section 4.3.1).

        Raises:
            UnknownError: no such connection.
            HttpError: 428 without If-Match, 412 for another ICE session, 422 for an ICE restart.
        """
        tag = self._tags.get((session, connection))
        if tag is None:
            raise UnknownError(f"session {session} has no such connection")
        if if_match is None:
            raise HttpError(
                428, "if-match", "a PATCH names its ICE session: send If-Match with the ETag"
            )
        given = [part.strip() for part in if_match.split(",")]
        if given == ["*"]:
            raise HttpError(
                422, "ice-restart", "ICE is not restarted here: DELETE, and POST a new offer"
            )
        # A weak tag (W/"...") never matches: RFC 9110, section 13.1.1.
        if f'"{tag}"' not in given:
            raise HttpError(412, "if-match", "the ETag is not that of this ICE session")


async def text_body(request: Request, media_type: str) -> str:
    """The body, of that media type.

    Raises:
        HttpError: 415, another media type; 400, nothing or binary; or what reading it raises.
    """
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != media_type:
        raise HttpError(
            415,
            "media-type",
            f"the body must be {media_type}",
            {"Accept-Patch" if request.method == "PATCH" else "Accept-Post": media_type},
        )
    body = await request.body()
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise HttpError(400, "binary", "the body is not UTF-8") from error
    if not text.strip() or "\0" in text:
        raise HttpError(400, "binary", f"the body is no {media_type}: it is empty or binary")
    return text


def ice_links(servers: Iterable[Mapping[str, Any]]) -> list[str]:
    """``Link`` headers that name STUN and TURN servers (section 4.6).

    Args:
        servers: as in a browser's ``RTCConfiguration.iceServers``.
    """
    links = []
    for server in servers:
        urls = server["urls"]
        for url in [urls] if isinstance(urls, str) else urls:
            link = f'<{url}>; rel="ice-server"'
            if "credential" in server:
                user, secret = _quoted(server.get("username", "")), _quoted(server["credential"])
                link += f"; username={user}; credential={secret}" + '; credential-type="password"'
            links.append(link)
    return links


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
