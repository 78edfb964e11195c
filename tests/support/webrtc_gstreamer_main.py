"""GStreamer's webrtcbin sends by WHIP until it is told to stop: run with the system's Python.

python3 tests/support/webrtc_gstreamer_main.py URL
"""

from __future__ import annotations

import sys
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
  ! vp8enc deadline=1 cpu-used=8 keyframe-max-dist=3000 ! rtpvp8pay picture-id-mode=15-bit
  ! application/x-rtp,media=video,encoding-name=VP8,payload=96 ! peer.
audiotestsrc is-live=true wave=sine freq=440 samplesperbuffer=960
  ! audio/x-raw,rate=48000,channels=1 ! opusenc ! rtpopuspay
  ! application/x-rtp,media=audio,encoding-name=OPUS,payload=97 ! peer.
"""


class Whip:
    """An offer once all candidates are known; the answer, as it comes."""

    def __init__(self, url: str, peer: Any) -> None:
        self._url = url
        self._peer = peer
        self._posted = False
        peer.connect("on-negotiation-needed", self._offer)
        peer.connect("notify::ice-gathering-state", self._gathered)

    def _offer(self, peer: Any) -> None:
        promise = Gst.Promise.new_with_change_func(self._offered, None)
        peer.emit("create-offer", None, promise)

    def _offered(self, promise: Any, _: object) -> None:
        reply = promise.get_reply()  # what is in it lives no longer
        self._peer.emit("set-local-description", reply.get_value("offer"), None)

    def _gathered(self, peer: Any, _: object) -> None:
        complete = GstWebRTC.WebRTCICEGatheringState.COMPLETE
        if peer.get_property("ice-gathering-state") == complete and not self._posted:
            self._posted = True
            GLib.idle_add(self._post)

    def _post(self) -> bool:
        offer = self._peer.get_property("local-description").sdp.as_text()
        request = urllib.request.Request(
            self._url, offer.encode(), {"Content-Type": "application/sdp"}, method="POST"
        )
        with urllib.request.urlopen(request) as reply:
            answer = reply.read()
        _, message = GstSdp.SDPMessage.new()
        GstSdp.sdp_message_parse_buffer(answer, message)
        description = GstWebRTC.WebRTCSessionDescription.new(
            GstWebRTC.WebRTCSDPType.ANSWER, message
        )
        self._peer.emit("set-remote-description", description, None)
        return False


def main(url: str) -> None:
    Gst.init(None)
    pipeline = Gst.parse_launch(PIPELINE)
    whip = Whip(url, pipeline.get_by_name("peer"))
    pipeline.set_state(Gst.State.PLAYING)
    GLib.MainLoop().run()
    del whip


if __name__ == "__main__":
    main(sys.argv[1])
