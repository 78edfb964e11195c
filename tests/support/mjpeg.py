"""A camera in the network, and what cv2.VideoCapture takes for one: JPEGs over HTTP, one by one.

Serves ``multipart/x-mixed-replace`` on loopback from a thread. Picture n is flat; its grey says n
(`grey_of`). Closing the server is the cable that is pulled; another one on its port plugs it in.
"""

from __future__ import annotations

import socket
import ssl
import threading
from typing import Self

import cv2
import numpy as np


def grey_of(index: int) -> int:
    """Grey, 0..255, of the flat picture of that number; it comes again after 40."""
    return 20 + 5 * (index % 40)


def index_of(grey: float) -> int:
    """Number, modulo 40, of the picture with that grey after coding."""
    return round((grey - 20) / 5) % 40


def luma_index(luma: float) -> int:
    """The same from limited-range luma, as BT.601 makes it of that grey."""
    return index_of((luma - 16) * 255 / 219)


class MjpegServer:
    """One picture each 1 / ``fps`` s to whoever is connected; numbers go on across connections.

    Args:
        size: (width, height).
        port: 0 for any that is free.
        pictures: after how many on one connection nothing comes any more, the connection left
            open (a camera that hangs); None for no end.
        redirect: where to send whoever asks, instead of pictures.
        status: what to answer; with another than 200, no pictures.
        tls: what to serve over TLS with.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int] = (64, 48),
        fps: float = 50.0,
        port: int = 0,
        pictures: int | None = None,
        redirect: str | None = None,
        status: str = "200 OK",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._size, self._fps, self._pictures = size, fps, pictures
        self._redirect, self._status = redirect, status
        self._tls = tls
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._sent = 0
        self.requests: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", port), reuse_port=False)
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, name="mjpeg")]
        self._threads[0].start()

    @property
    def url(self) -> str:
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}/stream"

    def close(self) -> None:
        """Cut all connections, and refuse new ones from now on."""
        self._stop.set()
        with self._lock:
            # A blocked accept returns by this, and by nothing else.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), name="mjpeg")
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                if self._tls is None:
                    self._talk(connection)
                    return
                with self._tls.wrap_socket(connection, server_side=True) as secured:
                    self._talk(secured)
        except OSError:
            return  # whoever looked has gone

    def _talk(self, connection: socket.socket) -> None:
        connection.settimeout(5)
        request = b""
        while b"\r\n\r\n" not in request:
            received = connection.recv(4096)
            if not received:
                return
            request += received
        self.requests.append(request.decode("latin-1"))
        if self._redirect is not None:
            head = f"HTTP/1.1 302 Found\r\nLocation: {self._redirect}\r\nContent-Length: 0\r\n\r\n"
            connection.sendall(head.encode())
            return
        head = f"HTTP/1.1 {self._status}\r\nConnection: close\r\n"
        if not self._status.startswith("200"):
            connection.sendall(f"{head}Content-Length: 0\r\n\r\n".encode())
            return
        kind = "multipart/x-mixed-replace; boundary=frame"
        connection.sendall(f"{head}Content-Type: {kind}\r\n\r\n".encode())
        sent = 0
        while not self._stop.wait(1 / self._fps):
            if self._pictures is not None and sent >= self._pictures:
                continue
            jpeg = self._next()
            part = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            connection.sendall(part.encode() + jpeg + b"\r\n")
            sent += 1

    def _next(self) -> bytes:
        with self._lock:
            index, self._sent = self._sent, self._sent + 1
        width, height = self._size
        picture = np.full((height, width, 3), grey_of(index), np.uint8)
        return cv2.imencode(".jpg", picture)[1].tobytes()
