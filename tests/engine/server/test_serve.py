"""Starting, TLS, and ending without losing what is in work."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from counterpoint.engine.server.app import make_app
from counterpoint.engine.server.serve import serve, serving
from counterpoint.engine.server.settings import ServerSettings
from counterpoint.streams.errors import UnavailableError, UsageError
from counterpoint.streams.runtime import SystemRuntime
from tests.support.http_server import SDP, request_head, served
from tests.support.live_sessions import OFFER, FakeLiveSessions


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "counterpoint test")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_file, key_file


async def start_and_stop(settings: ServerSettings) -> str:
    with SystemRuntime() as runtime:
        app = make_app(FakeLiveSessions(), settings, runtime)
        async with serving(app, settings, runtime) as url:
            return url


def test_tls_is_served_from_1_2_on(tmp_path: Path) -> None:
    async def run() -> None:
        cert, key = certificate(tmp_path)
        context = ssl.create_default_context(cafile=cert)
        async with served(tls_cert=cert, tls_key=key, verify=context) as server:
            assert server.url.startswith("https://127.0.0.1:")
            assert (await server.client.get("/healthz")).text == "ok\n"
            own = await server.client.post(
                "/whip/show", content=OFFER, headers=SDP | {"Origin": server.url}
            )
            assert own.status_code == 201

            context.maximum_version = ssl.TLSVersion.TLSv1_2
            _, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
            assert writer.get_extra_info("ssl_object").version() == "TLSv1.2"
            writer.close()
            # Plain HTTP gets nothing.
            try:
                plain = await server.raw(request_head("GET", "/healthz"))
            except ConnectionError:
                plain = b""
            assert b"HTTP/" not in plain

    asyncio.run(run())


def test_a_certificate_that_is_none_is_named(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    (tmp_path / "other").mkdir()
    _, other_key = certificate(tmp_path / "other")
    for wrong in (tmp_path / "absent.pem", other_key, cert):
        with pytest.raises(UsageError, match=r"server\.tls_cert .* cannot be used"):
            asyncio.run(start_and_stop(ServerSettings(tls_cert=cert, tls_key=wrong)))
    assert asyncio.run(start_and_stop(ServerSettings(tls_cert=cert, tls_key=key)))


def test_a_port_that_is_taken_is_named() -> None:
    async def run() -> None:
        async with served() as server:
            with pytest.raises(UnavailableError, match=f"port {server.port}.*server.port"):
                await start_and_stop(ServerSettings(port=server.port))
            assert (await server.client.get("/healthz")).status_code == 200

    asyncio.run(run())


def test_an_address_that_is_not_ours_is_named() -> None:
    with pytest.raises(UnavailableError, match=r"cannot listen on 192\.0\.2\.1"):
        asyncio.run(start_and_stop(ServerSettings(host="192.0.2.1", open=True)))


def test_signals_are_left_to_whoever_runs_it() -> None:
    async def run() -> None:
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        async with served():
            during = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        assert during == handlers

    asyncio.run(run())


def test_serve_runs_until_it_is_cancelled_and_finishes_what_is_in_work() -> None:
    async def run() -> None:
        settings = ServerSettings()
        sessions = FakeLiveSessions()
        sessions.gate = asyncio.Event()
        bound: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        with SystemRuntime() as runtime:
            app = make_app(sessions, settings, runtime)
            task = asyncio.ensure_future(serve(app, settings, runtime, on_bound=bound.set_result))
            async with asyncio.timeout(30), httpx2.AsyncClient(base_url=await bound) as client:
                idle = await client.get("/healthz")
                assert idle.status_code == 200
                request = asyncio.ensure_future(
                    client.post("/whip/show", content=OFFER, headers=SDP)
                )
                await sessions.joining.wait()
                task.cancel()
                await app.state.closing.wait()
                sessions.gate.set()
                assert (await request).status_code == 201
                with pytest.raises(asyncio.CancelledError):
                    await task
                with pytest.raises(httpx2.ConnectError):
                    await client.get("/healthz")

    asyncio.run(run())


def test_what_does_not_end_in_the_time_it_has_is_cut_off() -> None:
    async def run() -> None:
        settings = ServerSettings(grace_s=0.1)
        sessions = FakeLiveSessions()
        sessions.gate = asyncio.Event()
        with SystemRuntime() as runtime:
            app = make_app(sessions, settings, runtime)
            async with asyncio.timeout(30):
                async with serving(app, settings, runtime) as url:
                    client = httpx2.AsyncClient(base_url=url)
                    request = asyncio.ensure_future(
                        client.post("/whip/show", content=OFFER, headers=SDP)
                    )
                    await sessions.joining.wait()
                answer = (await asyncio.gather(request, return_exceptions=True))[0]
                await client.aclose()
        assert isinstance(answer, httpx2.Response)
        assert answer.status_code == 500
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


def test_an_error_of_the_body_comes_out_as_it_is() -> None:
    async def run() -> None:
        async with served():
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(run())
