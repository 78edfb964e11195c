"""GStreamer's webrtcbin as a WHIP client; run with the system's Python, whose bindings it needs:

    python3 whip_gstreamer_main.py URL [trickle]

It sends a moving picture (VP8) and a tone (Opus) until its standard input ends, and takes its leave
by DELETE. With ``trickle`` it offers at once, without a candidate, and sends each in a PATCH. Each
line of its output is an object with an ``event``: ``answered`` and ``patched`` with the ``status``,
``connected``, ``failed``, ``left``.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import gi  # type: ignore[import-not-found] # the system's, not the environment's

gi.require_version("Gst", "1.0")
gi.require_version("GstWebRTC", "1.0")
gi.require_version("GstSdp", "1.0")
from gi.repository import (  # type: ignore[import-not-found] # noqa: E402 - the versions come first
    GLib,
    Gst,
    GstSdp,
    GstWebRTC,
)

PIPELINE = """
webrtcbin name=peer bundle-policy=max-bundle
videotestsrc is-live=true pattern=ball
  ! video/x-raw,width=320,height=240,framerate=30/1
  ! vp8enc deadline=1 cpu-used=8 keyframe-max-dist=60 ! rtpvp8pay picture-id-mode=15-bit
  ! application/x-rtp,media=video,encoding-name=VP8,payload=96 ! peer.
audiotestsrc is-live=true wave=sine freq=440 samplesperbuffer=960
  ! audio/x-raw,rate=48000,channels=1 ! opusenc ! rtpopuspay
  ! application/x-rtp,media=audio,encoding-name=OPUS,payload=97 ! peer.
"""


def say(event: str, **more: Any) -> None:
    sys.stdout.write(json.dumps({"event": event} | more) + "\n")
    sys.stdout.flush()


class Whip:
    """All of it happens on GLib's loop, but for what promises call back."""

    def __init__(self, url: str, peer: Any, loop: Any, *, trickle: bool) -> None:
        self._url = url
        self._resource = ""
        self._etag = ""
        self._peer = peer
        self._loop = loop
        self._trickle = trickle
        self._offer = ""
        self._candidates: list[tuple[int, str]] = []
        self._gathered = False
        self._ended = False
        peer.connect("on-negotiation-needed", self._negotiate)
        peer.connect("on-ice-candidate", self._on_candidate)
        peer.connect("notify::ice-gathering-state", self._on_gathering)
        peer.connect("notify::connection-state", self._on_state)

    # -- the offer -----------------------------------------------------------------------------

    def _negotiate(self, peer: Any) -> None:
        peer.emit("create-offer", None, Gst.Promise.new_with_change_func(self._offered, None))

    def _offered(self, promise: Any, _: object) -> None:
        reply = promise.get_reply()  # the offer lives no longer than this
        offer = reply.get_value("offer")
        self._offer = offer.sdp.as_text()
        self._peer.emit("set-local-description", offer, None)
        if self._trickle:
            GLib.idle_add(self._post)

    def _on_gathering(self, peer: Any, _: object) -> None:
        complete = GstWebRTC.WebRTCICEGatheringState.COMPLETE
        if self._gathered or peer.get_property("ice-gathering-state") != complete:
            return
        self._gathered = True
        if self._trickle:
            GLib.idle_add(self._patch)
        else:
            self._offer = peer.get_property("local-description").sdp.as_text()
            GLib.idle_add(self._post)

    def _on_candidate(self, _: object, line: int, candidate: str) -> None:
        self._candidates.append((line, candidate))
        if self._trickle:
            GLib.idle_add(self._patch)

    def _on_state(self, peer: Any, _: object) -> None:
        say(peer.get_property("connection-state").value_nick)

    # -- WHIP ----------------------------------------------------------------------------------

    def _post(self) -> bool:
        answer = self._ask("POST", self._url, self._offer, "application/sdp")
        if answer is None:
            self._loop.quit()
            return False
        say("answered", status=answer.status)
        self._resource = urllib.parse.urljoin(self._url, answer.headers["Location"])
        self._etag = answer.headers["ETag"]
        _, message = GstSdp.SDPMessage.new()
        GstSdp.sdp_message_parse_buffer(answer.read(), message)
        kind = GstWebRTC.WebRTCSDPType.ANSWER
        description = GstWebRTC.WebRTCSessionDescription.new(kind, message)
        self._peer.emit("set-remote-description", description, None)
        return self._patch() if self._trickle else False

    def _patch(self) -> bool:
        """All candidates that wait; the first media section is that of the whole bundle."""
        waiting, self._candidates = self._candidates, []
        finished = self._gathered and not self._ended
        if not self._resource:
            self._candidates = waiting
        elif waiting or finished:
            names = ("a=ice-ufrag:", "a=ice-pwd:")
            head = [line for line in self._offer.split("\r\n") if line.startswith(names)]
            lines = [*head[:2], "m=video 9 UDP/TLS/RTP/SAVPF 96", "a=mid:video0"]
            lines += [f"a={candidate}" for line, candidate in waiting if line == 0]
            if finished:
                self._ended = True
                lines.append("a=end-of-candidates")
            body = "\r\n".join(lines) + "\r\n"
            answer = self._ask("PATCH", self._resource, body, "application/trickle-ice-sdpfrag")
            if answer is not None:
                say("patched", status=answer.status)
        return False

    def leave(self) -> None:
        """By DELETE, as a client should."""
        answer = self._ask("DELETE", self._resource) if self._resource else None
        say("left", status=0 if answer is None else answer.status)

    def _ask(self, method: str, url: str, body: str | None = None, kind: str = "") -> Any:
        headers = {"Content-Type": kind, "If-Match": self._etag} if body is not None else {}
        data = None if body is None else body.encode()
        request = urllib.request.Request(url, data, headers, method=method)
        try:
            return urllib.request.urlopen(request, timeout=10)
        except urllib.error.HTTPError as error:
            say("failed", status=error.code, text=error.read().decode())
            return None


def main(url: str, *options: str) -> None:
    Gst.init(None)
    loop = GLib.MainLoop()
    pipeline = Gst.parse_launch(PIPELINE)
    peer = pipeline.get_by_name("peer")
    whip = Whip(url, peer, loop, trickle="trickle" in options)
    GLib.io_add_watch(0, GLib.IO_HUP | GLib.IO_IN, lambda *_: loop.quit())
    pipeline.set_state(Gst.State.PLAYING)
    loop.run()
    whip.leave()
    pipeline.set_state(Gst.State.NULL)


if __name__ == "__main__":
    main(*sys.argv[1:])
