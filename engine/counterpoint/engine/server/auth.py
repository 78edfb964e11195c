"""Bearer tokens (RFC 6750): JSON Web Tokens (RFC 7519) signed HS256 or EdDSA.

The algorithm is that of the key we hold, never the one a token names (RFC 8725, section 3.1).
Instants are compared here, with the runtime's clock, and not by the library with its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_pem_public_key,
)
from starlette.requests import Request

from counterpoint.engine.server.answers import HttpError
from counterpoint.engine.server.settings import TokenKey, check_secret
from counterpoint.streams.errors import UsageError
from counterpoint.streams.runtime import Runtime

RIGHTS: Final = frozenset({"publish", "chat", "read", "erase"})
DEFAULT_RIGHTS: Final = frozenset({"publish", "chat", "read"})
LEEWAY_NS: Final = 10 * 1_000_000_000
MAX_TOKEN_CHARACTERS: Final = 4_096
MAX_PATTERNS: Final = 64
_NS_PER_S: Final = 1_000_000_000


class TokenError(Exception):
    """A token that is not taken; the message says why, without what it holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a request may do.

    Fields:
        rights: a subset of `RIGHTS`.
        sessions: names or patterns (``*``, ``?``, ``[...]``) of the sessions it is for.
        until_wall_ns: when it ends, in nanoseconds since the Unix epoch; None: never.
    """

    rights: frozenset[str]
    sessions: tuple[str, ...] = ("*",)
    until_wall_ns: int | None = None

    def may(self, right: str, session: str | None = None) -> bool:
        """Whether it has the right, for that session where one is given."""
        return right in self.rights and (session is None or self.covers(session))

    def covers(self, session: str) -> bool:
        """Whether it is for that session."""
        return any(fnmatchcase(session, pattern) for pattern in self.sessions)

    @property
    def everywhere(self) -> bool:
        """Whether it is for all sessions there can be."""
        return "*" in self.sessions


class Tokens:
    """Reads tokens signed with one key.

    Raises:
        UsageError: a public key that is none of Ed25519's.
    """

    def __init__(self, key: TokenKey, runtime: Runtime) -> None:
        self._key = key
        self._verifier = key.key if key.algorithm == "HS256" else _public_key(key.key)
        self._runtime = runtime

    def read(self, token: str) -> Grant:
        """
        Raises:
            TokenError: not signed by our key, outside its time, for another audience, or with
                claims that say nothing we know.
        """
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise TokenError("longer than a token can be")
        try:
            claims = jwt.decode(
                token,
                self._verifier,
                algorithms=[self._key.algorithm],
                audience=self._key.audience,
                issuer=self._key.issuer,
                options={
                    "require": ["exp"],
                    "verify_exp": False,  # below, with the runtime's clock
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_aud": self._key.audience is not None,
                    "verify_iss": self._key.issuer is not None,
                    "verify_sub": False,
                    "verify_jti": False,
                },
            )
        except jwt.InvalidTokenError as error:
            raise TokenError(_why(error)) from error
        until_wall_ns = _instant_ns(claims, "exp") + LEEWAY_NS
        self._check_time(claims, until_wall_ns)
        return Grant(
            rights=_rights(claims), sessions=_sessions(claims), until_wall_ns=until_wall_ns
        )

    def _check_time(self, claims: Mapping[str, Any], until_wall_ns: int) -> None:
        now_ns = self._runtime.wall_ns()
        if now_ns >= until_wall_ns:
            raise TokenError("it has expired")
        for claim in ("nbf", "iat"):
            if claim in claims and now_ns < _instant_ns(claims, claim) - LEEWAY_NS:
                raise TokenError("its time has not come yet")


class Access:
    """Decides what a request may do.

    Args:
        tokens: reads its token; None: everyone may do everything.
    """

    def __init__(self, tokens: Tokens | None) -> None:
        self._tokens = tokens

    @property
    def guarded(self) -> bool:
        """Whether tokens are asked for."""
        return self._tokens is not None

    def grant(self, request: Request, *, in_query: bool = False) -> Grant:
        """What the request's token allows.

        Args:
            in_query: take ``?token=`` too: a browser's EventSource can set no header.

        Raises:
            HttpError: 401, there is no token, or it is not taken.
        """
        if self._tokens is None:
            return Grant(rights=RIGHTS)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            token = request.query_params.get("token", "") if in_query else ""
        if not token:
            raise HttpError(
                401, "token", "a bearer token is needed here", {"WWW-Authenticate": "Bearer"}
            )
        try:
            return self._tokens.read(token.strip())
        except TokenError as error:
            raise HttpError(
                401,
                "token",
                f"the token is not taken: {error}",
                {"WWW-Authenticate": 'Bearer error="invalid_token"'},
            ) from error

    def require(
        self, request: Request, right: str, session: str | None = None, *, in_query: bool = False
    ) -> Grant:
        """`grant`, and it must have the right.

        Raises:
            HttpError: 401, or 403 if the token is good, but not for this.
        """
        grant = self.grant(request, in_query=in_query)
        if not grant.may(right, session):
            raise _lacking(right, "here" if session else "")
        return grant

    def require_everywhere(self, request: Request, right: str) -> Grant:
        """`require`, for what is not of one session alone.

        Raises:
            HttpError: 401; or 403 if the token is for some sessions only.
        """
        grant = self.require(request, right)
        if not grant.everywhere:
            raise _lacking(right, "of all sessions")
        return grant


def mint(
    key: bytes,
    *,
    now_ns: int,
    valid_s: int,
    algorithm: Literal["HS256", "EdDSA"] = "HS256",
    sessions: Iterable[str] = (),
    rights: Iterable[str] = (),
    subject: str | None = None,
    audience: str | None = None,
    issuer: str | None = None,
) -> str:
    """A token.

    Args:
        key: the secret, or an Ed25519 private key as PEM.
        now_ns: nanoseconds since the Unix epoch; it is valid from then on.
        valid_s: for so many seconds.
        sessions: names or patterns; empty: all sessions.
        rights: empty: `DEFAULT_RIGHTS`.

    Raises:
        UsageError: the key cannot sign, an unknown right, or a time that is none.
    """
    if algorithm == "HS256":
        check_secret(key)
    if valid_s <= 0:
        raise UsageError(f"a token is valid for a positive number of seconds, not {valid_s}")
    wanted = sorted(set(rights)) or sorted(DEFAULT_RIGHTS)
    if unknown := [right for right in wanted if right not in RIGHTS]:
        raise UsageError(f"unknown right {unknown[0]!r}; known: {', '.join(sorted(RIGHTS))}")
    now_s = now_ns // _NS_PER_S
    claims: dict[str, Any] = {"iat": now_s, "exp": now_s + valid_s, "rights": wanted}
    if patterns := list(sessions):
        claims["sessions"] = patterns
    named = {"sub": subject, "aud": audience, "iss": issuer}
    claims |= {name: value for name, value in named.items() if value is not None}
    signer = key if algorithm == "HS256" else _private_key(key)
    try:
        token = jwt.encode(claims, signer, algorithm=algorithm)
    except jwt.InvalidKeyError as error:  # a PEM file taken for a secret
        raise UsageError(f"the key cannot sign tokens with {algorithm}: {error}") from error
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise UsageError("a token with so many sessions would be too long; use a pattern")
    return token


def _lacking(right: str, where: str) -> HttpError:
    return HttpError(
        403,
        "right",
        f"the token does not allow to {right} {where}",
        {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{right}"'},
    )


def _public_key(pem: bytes) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError("the token key is no public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError("the token key is no Ed25519 key (openssl genpkey -algorithm ed25519)")
    return key


def _private_key(pem: bytes) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError("the key cannot sign: it is no private key in PEM") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError("the key cannot sign tokens with EdDSA: it is no Ed25519 key")
    return key


def _why(error: jwt.InvalidTokenError) -> str:
    match error:
        case jwt.InvalidAlgorithmError():
            return "it is signed with another algorithm"
        case jwt.InvalidSignatureError():
            return "its signature is not ours"
        case jwt.MissingRequiredClaimError():
            return f"it has no {error.claim}"
        case jwt.InvalidAudienceError():
            return "it is for another audience"
        case jwt.InvalidIssuerError():
            return "it is from another issuer"
        case _:
            return "it is malformed"


def _instant_ns(claims: Mapping[str, Any], claim: str) -> int:
    value = claims[claim]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise TokenError(f"its {claim} is no time")
    return int(value * _NS_PER_S)


def _rights(claims: Mapping[str, Any]) -> frozenset[str]:
    if "rights" not in claims:
        return DEFAULT_RIGHTS
    rights = _words(claims, "rights")
    if not RIGHTS.issuperset(rights):
        raise TokenError("it names a right that there is not")
    return frozenset(rights)


def _sessions(claims: Mapping[str, Any]) -> tuple[str, ...]:
    return _words(claims, "sessions") if "sessions" in claims else ("*",)


def _words(claims: Mapping[str, Any], claim: str) -> tuple[str, ...]:
    words = claims[claim]
    if not isinstance(words, list) or len(words) > MAX_PATTERNS:
        raise TokenError(f"its {claim} is no short list")
    if not all(isinstance(word, str) for word in words):
        raise TokenError(f"its {claim} holds more than words")
    return tuple(words)
