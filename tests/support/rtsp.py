"""A real RTSP server (GStreamer's) on loopback: VP8 pictures and an Opus tone of 1 kHz."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.requirements import require

PYTHON = "/usr/bin/python3"  # Debian's own, which python3-gi is for
_LOAD = """\
import sys
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
wanted = "vp8enc rtpvp8pay opusenc rtpopuspay videotestsrc audiotestsrc".split()
missing = [name for name in wanted if Gst.ElementFactory.find(name) is None]
if missing:
    sys.exit("no " + ", ".join(missing))
"""
_SERVE = """\
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    "( videotestsrc is-live=true pattern=smpte ! video/x-raw,width=64,height=48,framerate=25/1"
    " ! vp8enc deadline=1 keyframe-max-dist=25 threads=1 ! rtpvp8pay name=pay0 pt=96"
    " audiotestsrc is-live=true freq=1000 ! audio/x-raw,rate=48000,channels=1"
    " ! opusenc ! rtpopuspay name=pay1 pt=97 )"
)
factory.set_shared(True)
server.get_mount_points().add_factory("/live", factory)
if sys.argv[2]:
    user, _, password = sys.argv[2].partition(":")
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, "viewer")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_permission_for_role("viewer", "media.factory.access", True)
    permissions.add_permission_for_role("viewer", "media.factory.construct", True)
    factory.set_permissions(permissions)
if not server.attach(None):
    sys.exit("the port is taken")
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""


@functools.cache
def _problem() -> str:
    """Why there is no server on this machine; empty if there is."""
    try:
        done = subprocess.run(
            [PYTHON, "-c", _LOAD], capture_output=True, text=True, timeout=60, check=False
        )
    except OSError as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def require_rtsp_server() -> None:
    """Skip the calling test where GStreamer's RTSP server is missing."""
    require(
        "GStreamer's RTSP server",
        not _problem(),
        f"{_problem()}: apt install python3-gi gir1.2-gst-rtsp-server-1.0 "
        f"gstreamer1.0-plugins-base gstreamer1.0-plugins-good",
    )


@contextmanager
def rtsp_server(port: int = 0, *, access: str = "") -> Iterator[int]:
    """Serve ``/live``; gives the port.

    Args:
        access: ``user:password`` that it asks for.
    """
    server = subprocess.Popen(
        [PYTHON, "-c", _LOAD + _SERVE, str(port), access], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            raise RuntimeError("GStreamer's RTSP server did not start")
        yield int(line)
    finally:
        server.kill()
        server.communicate()
