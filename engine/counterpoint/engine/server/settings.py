"""What the server is told: the ``[server]`` section, and what it comes to once files are read.

Imported by the configuration, so it knows neither HTTP nor tokens.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from counterpoint.streams.errors import UsageError

MIN_SECRET_BYTES = 32
"""RFC 7518, section 3.2: a key for HS256 has at least as many bytes as its hash."""

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
PAGE = Path(__file__).with_name("page")
_MAX_KEY_BYTES = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSection:
    """The HTTP server: where it listens, whom it lets in, how much it takes.

    Fields:
        host, port: where it listens; port 0 takes a free one.
        tls_cert, tls_key: PEM files of the certificate chain and its key; both or neither.
        token_secret_file: file with a secret of at least 32 bytes, for tokens signed HS256.
        token_secret_env: or the environment variable that holds it.
        token_key_file: or a PEM file with an Ed25519 public key, for tokens signed EdDSA.
        token_audience, token_issuer: what ``aud`` and ``iss`` must be; empty: not looked at.
        origins: web pages from elsewhere that may use the server (``https://example.org``),
            with commas. Its own page always may.
        hosts: names by which it is reached, with commas; loopback names always are on loopback.
        proxies: addresses whose ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed, with
            commas.
        open: no tokens although it can be reached from elsewhere.
        max_body_kib: the largest request body.
        body_timeout_s: how long a request's head, and then its body, may take to come.
        requests_per_s, request_burst: requests of one address before it is put off.
        max_requests: requests in work at once.
        max_streams: readers of predictions (server-sent events) at once.
        max_connections: connections at once. Of these three, one address gets at most half,
            unless only this machine can reach the server.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    tls_cert: str = ""
    tls_key: str = ""
    token_secret_file: str = ""
    token_secret_env: str = ""
    token_key_file: str = ""
    token_audience: str = ""
    token_issuer: str = ""
    origins: str = ""
    hosts: str = ""
    proxies: str = ""
    open: bool = False
    max_body_kib: int = 64
    body_timeout_s: float = 10.0
    requests_per_s: float = 20.0
    request_burst: int = 60
    max_requests: int = 64
    max_streams: int = 64
    max_connections: int = 256

    def check(self) -> str | None:
        if not self.host.strip():
            return "host must not be empty; 127.0.0.1 is this machine alone, 0.0.0.0 all networks"
        if not 0 <= self.port <= 65_535:
            return f"port is 0 to 65535, not {self.port}"
        if bool(self.tls_cert) != bool(self.tls_key):
            return "tls_cert and tls_key belong together: give both or neither"
        if len([1 for s in (self.token_secret_file, self.token_secret_env) if s]) > 1:
            return "token_secret_file and token_secret_env: give one of the two"
        if self.token_key_file and (self.token_secret_file or self.token_secret_env):
            return "token_key_file (EdDSA) and a secret (HS256): give one of the two"
        for origin in names(self.origins):
            if not is_origin(origin):
                return f"origins are written as https://example.org or with a port, not {origin!r}"
        for proxy in names(self.proxies):
            if not _is_network(proxy):
                return f"proxies are addresses or networks (192.0.2.0/24), not {proxy!r}"
        for name in (
            "max_body_kib",
            "body_timeout_s",
            "requests_per_s",
            "request_burst",
            "max_requests",
            "max_streams",
            "max_connections",
        ):
            if getattr(self, name) <= 0:
                return f"{name} must be positive, not {getattr(self, name)}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenKey:
    """What tokens are verified with. The algorithm goes with the key and never with the token.

    Fields:
        algorithm: ``HS256`` with a secret, ``EdDSA`` with an Ed25519 public key as PEM.
        key: the secret's bytes, or the PEM.
        audience, issuer: what ``aud`` and ``iss`` must be; None: not looked at.
    """

    algorithm: Literal["HS256", "EdDSA"]
    key: bytes = field(repr=False)
    audience: str | None = None
    issuer: str | None = None

    def __post_init__(self) -> None:
        if self.algorithm == "HS256":
            check_secret(self.key)
        elif b"PUBLIC KEY" not in self.key:
            raise UsageError("the token key is no public key in PEM (-----BEGIN PUBLIC KEY-----)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The section with its files read. One that would stand open to a network is refused.

    Fields:
        token_key: what tokens are verified with; None: no tokens are asked for.
        terms: what ``GET /api/terms`` tells the page, as JSON can say it. ``ice_servers`` in it
            is told, where tokens are asked for, only to who has one that may publish.
        page: the folder of the page's files.
        header_timeout_s, body_timeout_s: how long a request's head and body may take.
        stall_timeout_s: how long a client may read nothing of its answer.
        work_timeout_s: how long the engine may take over a request.
        heartbeat_s: between comments in a stream of events.
        grace_s: for requests in work, when the server ends.
        max_addresses: client addresses whose rate is remembered; the least recent gives way.
        The others are as in `ServerSection`.

    Raises:
        UsageError: it can be reached from elsewhere, there are no tokens, and ``open`` is unset.
    """

    host: str = "127.0.0.1"
    port: int = 0
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token_key: TokenKey | None = None
    origins: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    proxies: tuple[str, ...] = ()
    open: bool = False
    max_body_bytes: int = 64 * 1024
    header_timeout_s: float = 10.0
    body_timeout_s: float = 10.0
    stall_timeout_s: float = 30.0
    work_timeout_s: float = 30.0
    heartbeat_s: float = 10.0
    grace_s: float = 3.0
    requests_per_s: float = 20.0
    request_burst: int = 60
    max_requests: int = 64
    max_streams: int = 64
    max_connections: int = 256
    max_addresses: int = 4_096
    terms: Mapping[str, Any] = field(default_factory=dict)
    page: Path = PAGE

    def __post_init__(self) -> None:
        if self.token_key is None and not self.open and not is_loopback(self.host):
            raise UsageError(
                f"server.host={self.host} can be reached from elsewhere, and no tokens are asked "
                "for: set server.token_secret_file (counterpoint token makes tokens), or "
                "server.open=true if everyone may publish and read"
            )

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)

    def share(self, total: int) -> int:
        """How much of ``total`` one address may take."""
        alone = self.on_loopback and not self.proxies
        return total if alone else (total + 1) // 2


def resolve(
    section: ServerSection,
    *,
    terms: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
) -> ServerSettings:
    """The settings of a section; key files are read.

    Raises:
        UsageError: a key cannot be read or is too short, or see `ServerSettings`.
    """
    return ServerSettings(
        host=section.host.strip(),
        port=section.port,
        tls_cert=Path(section.tls_cert) if section.tls_cert else None,
        tls_key=Path(section.tls_key) if section.tls_key else None,
        token_key=_token_key(section, os.environ if environ is None else environ),
        origins=frozenset(origin.lower() for origin in names(section.origins)),
        hosts=frozenset(host.lower() for host in names(section.hosts)),
        proxies=tuple(names(section.proxies)),
        open=section.open,
        max_body_bytes=section.max_body_kib * 1024,
        header_timeout_s=section.body_timeout_s,
        body_timeout_s=section.body_timeout_s,
        requests_per_s=section.requests_per_s,
        request_burst=section.request_burst,
        max_requests=section.max_requests,
        max_streams=section.max_streams,
        max_connections=section.max_connections,
        terms=terms,
    )


def names(text: str) -> list[str]:
    """What stands between the commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server bound to ``host``; a name but localhost: no."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_origin(text: str) -> bool:
    """Whether it is an origin as browsers send it: scheme, host and maybe a port (RFC 6454)."""
    scheme, separator, rest = text.lower().partition("://")
    return bool(separator and rest) and scheme in ("http", "https") and not set(rest) & set("/*@?")


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def check_secret(secret: bytes) -> None:
    """
    Raises:
        UsageError: the secret is too short.
    """
    if len(secret) < MIN_SECRET_BYTES:
        raise UsageError(
            f"the token secret has {len(secret)} bytes; it needs {MIN_SECRET_BYTES} or more "
            "(openssl rand -hex 32)"
        )


def read_secret(section: ServerSection, environ: Mapping[str, str]) -> bytes | None:
    """The secret of HS256 tokens, white space around it cut; None if none is configured.

    Raises:
        UsageError: it cannot be read.
    """
    if section.token_secret_file:
        return read_key_file("server.token_secret_file", section.token_secret_file).strip()
    if section.token_secret_env:
        if not (value := environ.get(section.token_secret_env, "").strip()):
            raise UsageError(
                f"server.token_secret_env: the environment has no {section.token_secret_env}"
            )
        return value.encode()
    return None


def _token_key(section: ServerSection, environ: Mapping[str, str]) -> TokenKey | None:
    audience = section.token_audience or None
    issuer = section.token_issuer or None
    if (secret := read_secret(section, environ)) is not None:
        return TokenKey(algorithm="HS256", key=secret, audience=audience, issuer=issuer)
    if section.token_key_file:
        pem = read_key_file("server.token_key_file", section.token_key_file)
        return TokenKey(algorithm="EdDSA", key=pem, audience=audience, issuer=issuer)
    return None


def read_key_file(what: str, path: str) -> bytes:
    """A small file with a key in it; ``what`` names it in errors.

    Raises:
        UsageError: it cannot be read, or is too large to be a key.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_KEY_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{what}: {path} cannot be read: {error.strerror}") from error
    if len(content) > _MAX_KEY_BYTES:
        raise UsageError(f"{what}: {path} has more than {_MAX_KEY_BYTES} bytes; is it a key?")
    return content
