"""Tokens: what is taken, what is not, and what each allows."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.types import Message

from counterpoint.engine.server.app import make_app
from counterpoint.engine.server.auth import (
    DEFAULT_RIGHTS,
    RIGHTS,
    TokenError,
    Tokens,
    mint,
)
from counterpoint.engine.server.settings import ServerSettings, TokenKey
from counterpoint.streams.errors import UsageError
from counterpoint.streams.runtime import SystemRuntime
from tests.support.http_server import SDP, refusal, served
from tests.support.live_sessions import OFFER, FakeLiveSessions
from tests.support.predictions import make_prediction
from tests.support.virtual import EPOCH_NS, VirtualRuntime

SECRET = b"0123456789abcdef0123456789abcdef"
OTHER = b"fedcba9876543210fedcba9876543210"
KEY = TokenKey(algorithm="HS256", key=SECRET)
NOW_S = EPOCH_NS // 1_000_000_000


def signed(claims: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256") -> str:
    return jwt.encode(claims, key, algorithm=algorithm)


def ed25519() -> tuple[bytes, bytes]:
    """A private and its public key, as PEM."""
    private = Ed25519PrivateKey.generate()
    return (
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    )


def part(document: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


def test_a_minted_token_is_read() -> None:
    runtime = VirtualRuntime()
    token = mint(
        SECRET,
        now_ns=runtime.wall_ns(),
        valid_s=60,
        sessions=["show-*", "talk"],
        rights=["read", "erase"],
    )
    grant = Tokens(KEY, runtime).read(token)
    assert grant.rights == {"read", "erase"}
    assert grant.may("read", "show-1")
    assert grant.may("read", "talk")
    assert not grant.may("read", "talks")
    assert not grant.may("publish", "talk")
    plain = Tokens(KEY, runtime).read(mint(SECRET, now_ns=runtime.wall_ns(), valid_s=60))
    assert plain.rights == DEFAULT_RIGHTS
    assert plain.may("chat", "anything")


def test_time_is_the_runtimes_with_ten_seconds_of_leeway() -> None:
    async def run() -> None:
        runtime = VirtualRuntime()
        start_ns = runtime.now_ns()
        tokens = Tokens(KEY, runtime)
        short = signed({"exp": NOW_S + 60})
        early = signed({"exp": NOW_S + 600, "nbf": NOW_S + 30})
        from_tomorrow = signed({"exp": NOW_S + 600, "iat": NOW_S + 30})
        tokens.read(short)
        for token in (early, from_tomorrow):
            with pytest.raises(TokenError, match="not come yet"):
                tokens.read(token)
        await runtime.advance_to(start_ns + 20 * 1_000_000_000)
        tokens.read(early)
        tokens.read(from_tomorrow)
        await runtime.advance_to(start_ns + 70 * 1_000_000_000 - 1)
        tokens.read(short)
        await runtime.advance_to(start_ns + 70 * 1_000_000_000)
        with pytest.raises(TokenError, match="expired"):
            tokens.read(short)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("", "malformed"),
        ("a.b.c", "malformed"),
        ("x" * 5_000, "longer"),
        (signed({"exp": NOW_S + 60}, OTHER), "signature"),
        (signed({"exp": NOW_S + 60}, SECRET * 2, "HS512"), "another algorithm"),
        (signed({"rights": ["read"]}), "no exp"),
        (signed({"exp": NOW_S - 60}), "expired"),
        (part({"alg": "none"}) + "." + part({"exp": NOW_S + 60}) + ".", "another algorithm"),
        (part({"alg": "None"}) + "." + part({"exp": NOW_S + 60}) + ".", "another algorithm"),
        (signed({"exp": NOW_S + 60, "rights": ["admin"]}), "a right that there is not"),
        (signed({"exp": NOW_S + 60, "rights": "read"}), "no short list"),
        (signed({"exp": NOW_S + 60, "sessions": "show"}), "no short list"),
        (signed({"exp": NOW_S + 60, "sessions": [1]}), "more than words"),
        (signed({"exp": NOW_S + 60, "sessions": ["a"] * 65}), "no short list"),
        (signed({"exp": NOW_S + 60, "nbf": True}), "no time"),
        (signed({"exp": NOW_S + 60, "iat": "soon"}), "no time"),
    ],
)
def test_what_is_no_token_of_ours_is_not_taken(token: str, why: str) -> None:
    with pytest.raises(TokenError, match=why):
        Tokens(KEY, VirtualRuntime()).read(token)


@pytest.mark.parametrize("exp", ["1e999", "NaN", '"later"', "null", "true", "[]"])
def test_an_expiry_that_is_no_time_is_not_taken(exp: str) -> None:
    payload = b'{"exp":' + exp.encode() + b"}"
    token = jwt.api_jws.encode(payload, SECRET, algorithm="HS256")
    with pytest.raises(TokenError):
        Tokens(KEY, VirtualRuntime()).read(token)


def test_a_public_key_is_no_secret() -> None:
    """The confusion of algorithms: HS256 with the bytes of the public key as the secret."""
    private, public = ed25519()
    runtime = VirtualRuntime()
    tokens = Tokens(TokenKey(algorithm="EdDSA", key=public), runtime)
    good = mint(private, now_ns=runtime.wall_ns(), valid_s=60, algorithm="EdDSA")
    assert tokens.read(good).may("publish", "show")

    # By hand, since libraries refuse to sign like this.
    head = part({"alg": "HS256", "typ": "JWT"}) + "." + part({"exp": NOW_S + 60})
    algorithm = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    signature = base64.urlsafe_b64encode(algorithm.sign(head.encode(), public)).rstrip(b"=")
    with pytest.raises(TokenError, match="another algorithm"):
        tokens.read(f"{head}.{signature.decode()}")
    with pytest.raises(TokenError, match="another algorithm"):
        tokens.read(signed({"exp": NOW_S + 60}))
    other, _ = ed25519()
    with pytest.raises(TokenError, match="signature"):
        tokens.read(mint(other, now_ns=runtime.wall_ns(), valid_s=60, algorithm="EdDSA"))
    with pytest.raises(TokenError, match="another algorithm"):
        Tokens(KEY, runtime).read(good)


def test_audience_and_issuer_are_looked_at_where_they_are_set() -> None:
    runtime = VirtualRuntime()
    now_ns = runtime.wall_ns()
    plain = mint(SECRET, now_ns=now_ns, valid_s=60)
    full = mint(SECRET, now_ns=now_ns, valid_s=60, audience="here", issuer="us", subject="ann")
    strict = Tokens(TokenKey(algorithm="HS256", key=SECRET, audience="here", issuer="us"), runtime)
    strict.read(full)
    with pytest.raises(TokenError, match="it has no"):
        strict.read(plain)
    with pytest.raises(TokenError, match="another audience"):
        strict.read(mint(SECRET, now_ns=now_ns, valid_s=60, audience="there", issuer="us"))
    with pytest.raises(TokenError, match="another issuer"):
        strict.read(mint(SECRET, now_ns=now_ns, valid_s=60, audience="here", issuer="them"))
    Tokens(KEY, runtime).read(full)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": b"short"}, "has 5 bytes; it needs 32"),
        ({"rights": ["admin"]}, "unknown right 'admin'"),
        ({"valid_s": 0}, "positive"),
        ({"key": b"no key at all, though long enough", "algorithm": "EdDSA"}, "cannot sign"),
        ({"key": ed25519()[1], "algorithm": "EdDSA"}, "cannot sign"),
        ({"key": ed25519()[0]}, "cannot sign"),
        ({"sessions": ["a" * 60] * 80}, "too long"),
    ],
)
def test_mint_says_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {"key": SECRET, "now_ns": EPOCH_NS, "valid_s": 60} | changes
    with pytest.raises(UsageError, match=message):
        mint(options.pop("key"), **options)


def test_a_key_of_the_wrong_kind_is_refused() -> None:
    private, _ = ed25519()
    rsa_public = (
        rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(UsageError, match="needs 32 or more"):
        TokenKey(algorithm="HS256", key=b"short")
    with pytest.raises(UsageError, match="no public key"):
        TokenKey(algorithm="EdDSA", key=private)
    with pytest.raises(UsageError, match="Ed25519"):
        Tokens(TokenKey(algorithm="EdDSA", key=rsa_public), VirtualRuntime())
    assert SECRET.decode() not in repr(KEY)


def bearer(*, secret: bytes = SECRET, valid_s: int = 60, **claims: Any) -> dict[str, str]:
    with SystemRuntime() as runtime:
        token = mint(secret, now_ns=runtime.wall_ns(), valid_s=valid_s, **claims)
    return {"Authorization": f"Bearer {token}"}


def test_each_route_asks_for_its_right() -> None:
    async def run() -> None:
        async with served(token_key=KEY) as server:
            line = {"author": "ann", "text": "hi"}
            fragment = {"Content-Type": "application/trickle-ice-sdpfrag", "If-Match": '"ice1"'}

            async def ask(right: str, rights: list[str], session: str) -> list[httpx2.Response]:
                headers = bearer(rights=rights, sessions=["show"])
                client = server.client
                match right:
                    case "publish":
                        where = f"/whip/{session}"
                        return [
                            await client.post(where, content=OFFER, headers=SDP | headers),
                            await client.patch(
                                f"{where}/c1", content="a=x", headers=fragment | headers
                            ),
                            await client.delete(f"{where}/c1", headers=headers),
                        ]
                    case "chat":
                        where = f"/sessions/{session}/chat"
                        return [await client.post(where, json=line, headers=headers)]
                    case "read":
                        server.sessions.end(session)
                        return [
                            await client.get(f"/sessions/{session}", headers=headers),
                            await client.get("/sessions", headers=headers),
                        ]
                    case _:
                        return [await client.delete(f"/sessions/{session}", headers=headers)]

            for right in ("publish", "chat", "read", "erase"):
                for answer in await ask(right, [right], "show"):
                    assert answer.is_success, (right, answer.text)
                for answer in await ask(right, sorted(RIGHTS - {right}), "show"):
                    assert refusal(answer) == (403, "right")
                    assert f'scope="{right}"' in answer.headers["www-authenticate"]
                elsewhere = (await ask(right, [right], "other"))[0]
                assert refusal(elsewhere) == (403, "right")

    asyncio.run(run())


def test_without_a_good_token_nothing_is_to_be_had_but_the_page() -> None:
    async def run() -> None:
        terms = {"purpose": "a test", "ice_servers": [{"urls": "turn:t", "credential": "c"}]}
        async with served(token_key=KEY, terms=terms) as server:
            client = server.client
            for method, path in (
                ("POST", "/whip/show"),
                ("PATCH", "/whip/show/c1"),
                ("DELETE", "/whip/show/c1"),
                ("POST", "/sessions/show/chat"),
                ("GET", "/sessions"),
                ("GET", "/sessions/show"),
                ("DELETE", "/sessions/show"),
                ("GET", "/sessions/show/predictions"),
                ("GET", "/metrics"),
            ):
                answer = await client.request(method, path)
                assert refusal(answer) == (401, "token"), (method, path)
                assert answer.headers["www-authenticate"] == "Bearer"
                for bad in (bearer(secret=OTHER), {"Authorization": "Bearer x"}):
                    answer = await client.request(method, path, headers=bad)
                    assert refusal(answer) == (401, "token")
                    assert "invalid_token" in answer.headers["www-authenticate"]
                basic = await client.request(method, path, auth=("user", "secret"))
                assert refusal(basic) == (401, "token")
                # Elsewhere a token in the address would end in histories and logs.
                query = bearer()["Authorization"].removeprefix("Bearer ")
                if not path.endswith("predictions"):
                    answer = await client.request(method, f"{path}?token={query}")
                    assert refusal(answer) == (401, "token")
            for path in ("/healthz", "/readyz"):
                assert (await client.get(path)).status_code == 200
            told = (await client.get("/api/terms")).json()
            assert told == {"purpose": "a test", "ice_servers": [], "token_required": True}
            told = (await client.get("/api/terms", headers=bearer())).json()
            assert told["ice_servers"] == terms["ice_servers"]
            assert server.sessions.joined == []

    asyncio.run(run())


def test_metrics_are_for_who_may_read_all_sessions() -> None:
    async def run() -> None:
        async with served(token_key=KEY) as server:
            for sessions, status in ((["*"], 200), ([], 200), (["show"], 403), (["?*"], 403)):
                answer = await server.client.get("/metrics", headers=bearer(sessions=sessions))
                assert answer.status_code == status

    asyncio.run(run())


def test_lists_show_the_tokens_own_sessions_only() -> None:
    async def run() -> None:
        async with served(token_key=KEY) as server:
            server.sessions.sessions = {"a-1": set(), "a-2": set(), "b": set()}
            answer = await server.client.get("/sessions", headers=bearer(sessions=["a-*"]))
            assert answer.json() == {"sessions": ["a-1", "a-2"]}

    asyncio.run(run())


def test_events_beat_and_end_with_their_token() -> None:
    """The application itself, under a virtual clock."""
    runtime = VirtualRuntime()
    sessions = FakeLiveSessions()
    sessions.sessions["show"] = set()
    settings = ServerSettings(token_key=KEY, heartbeat_s=10.0)
    token = mint(SECRET, now_ns=runtime.wall_ns(), valid_s=25)
    sent: list[tuple[float, str]] = []
    start_ns = runtime.now_ns()

    async def send(message: Message) -> None:
        body = message.get("body", b"").decode()
        sent.append(((runtime.now_ns() - start_ns) / 1e9, body))

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError("a client that stays says nothing")

    async def run() -> None:
        await make_app(sessions, settings, runtime)(
            {
                "type": "http",
                "method": "GET",
                "scheme": "http",
                "path": "/sessions/show/predictions",
                "raw_path": b"/sessions/show/predictions",
                "query_string": b"token=" + token.encode(),
                "headers": [(b"host", b"localhost")],
                "client": ("127.0.0.1", 1),
            },
            receive,
            send,
        )

    runtime.run(run())
    assert sent == [
        (0.0, ""),
        (0.0, "retry: 2000\n\n"),
        (10.0, ": still here\n\n"),
        (20.0, ": still here\n\n"),
        (30.0, ": still here\n\n"),
        (35.0, 'event: end\ndata: {"reason":"token"}\n\n'),
    ]
    assert sessions.readers == 0


def test_events_take_a_token_in_the_address_and_log_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)

    async def run() -> None:
        async with served(token_key=KEY) as server:
            server.sessions.sessions["show"] = set()
            token = bearer(sessions=["show"])["Authorization"].removeprefix("Bearer ")
            caplog.clear()
            path = f"/sessions/show/predictions?token={token}"
            async with server.client.stream("GET", path) as answer:
                assert answer.status_code == 200
                await server.sessions.until_readers(1)
                server.sessions.say(make_prediction(session="show"))
                server.sessions.end("show")
                assert "event: prediction" in "".join([text async for text in answer.aiter_text()])
            server.sessions.sessions["other"] = set()
            elsewhere = await server.client.get(f"/sessions/other/predictions?token={token}")
            assert refusal(elsewhere) == (403, "right")

    asyncio.run(run())
    ours = [r.getMessage() for r in caplog.records if not r.name.startswith(("http", "hpack"))]
    assert any("/sessions/show/predictions" in line for line in ours)
    assert not any("token=" in line for line in ours)
