"""The `[server]` section: what is refused, and what it comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from counterpoint.engine.server.settings import (
    ServerSection,
    ServerSettings,
    TokenKey,
    is_loopback,
    resolve,
)
from counterpoint.streams.errors import UsageError

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"host": " "}, "host must not be empty"),
        ({"port": -1}, "port is 0 to 65535"),
        ({"port": 65_536}, "port is 0 to 65535"),
        ({"tls_cert": "a.pem"}, "tls_cert and tls_key"),
        ({"tls_key": "a.pem"}, "tls_cert and tls_key"),
        ({"token_secret_file": "a", "token_secret_env": "A"}, "token_secret_file"),
        ({"token_secret_env": "A", "token_key_file": "a"}, "token_key_file"),
        ({"origins": "https://a.example/path"}, "origins"),
        ({"origins": "a.example"}, "origins"),
        ({"origins": "https://a.example, null"}, "'null'"),
        ({"origins": "*"}, "origins"),
        ({"origins": "https://*"}, "origins"),
        ({"proxies": "*"}, "proxies"),
        ({"proxies": "proxy.example"}, "proxies"),
        ({"max_body_kib": 0}, "max_body_kib must be positive"),
        ({"body_timeout_s": -1.0}, "body_timeout_s must be positive"),
        ({"requests_per_s": 0.0}, "requests_per_s must be positive"),
        ({"max_connections": 0}, "max_connections must be positive"),
    ],
)
def test_a_section_that_cannot_be_says_why(changes: dict[str, Any], words: str) -> None:
    problem = ServerSection(**changes).check()
    assert problem is not None
    assert words in problem


def test_defaults_are_this_machine_alone_without_tokens() -> None:
    section = ServerSection()
    assert section.check() is None
    settings = resolve(section, terms={"version": "1"}, environ={})
    assert settings.on_loopback
    assert settings.token_key is None
    assert settings.terms == {"version": "1"}
    assert (settings.page / "index.html").is_file()


def test_a_section_comes_to_settings() -> None:
    section = ServerSection(
        host=" 0.0.0.0 ",
        port=0,
        token_secret_env="STUDIO_SECRET",
        token_audience="studio",
        origins="https://A.example , http://b.example:8080",
        hosts="Studio.example",
        proxies="192.0.2.1, 192.0.2.2",
        max_body_kib=2,
        body_timeout_s=3.0,
        requests_per_s=7.0,
    )
    assert section.check() is None
    settings = resolve(section, terms={}, environ={"STUDIO_SECRET": f" {SECRET}\n"})
    assert settings.token_key == TokenKey(algorithm="HS256", key=SECRET.encode(), audience="studio")
    assert settings.host == "0.0.0.0"
    assert settings.origins == {"https://a.example", "http://b.example:8080"}
    assert settings.hosts == {"studio.example"}
    assert settings.proxies == ("192.0.2.1", "192.0.2.2")
    assert settings.max_body_bytes == 2_048
    assert (settings.header_timeout_s, settings.body_timeout_s) == (3.0, 3.0)
    assert settings.share(5) == 3
    assert ServerSettings().share(5) == 5
    assert ServerSettings(proxies=("127.0.0.1",)).share(5) == 3


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "studio.example"])
def test_nothing_stands_open_to_a_network_unasked(host: str) -> None:
    with pytest.raises(UsageError, match="can be reached from elsewhere"):
        resolve(ServerSection(host=host), terms={}, environ={})
    assert resolve(ServerSection(host=host, open=True), terms={}, environ={}).open
    key = TokenKey(algorithm="HS256", key=SECRET.encode())
    assert not ServerSettings(host=host, token_key=key).on_loopback


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("LOCALHOST", True),
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("localhost.example", False),
    ],
)
def test_what_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_keys_are_read_from_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n", encoding="utf-8")
    settings = resolve(ServerSection(token_secret_file=str(secret)), terms={}, environ={})
    assert settings.token_key == TokenKey(algorithm="HS256", key=SECRET.encode())
    assert SECRET not in repr(settings)

    for content, words in ((b"short\n", "has 5 bytes"), (b"x" * 20_000, "is it a key")):
        secret.write_bytes(content)
        with pytest.raises(UsageError, match=words):
            resolve(ServerSection(token_secret_file=str(secret)), terms={}, environ={})
    with pytest.raises(UsageError, match=r"token_key_file: .*cannot be read"):
        resolve(ServerSection(token_key_file=str(tmp_path / "absent")), terms={}, environ={})
    secret.write_text(SECRET, encoding="utf-8")
    with pytest.raises(UsageError, match="no public key"):
        resolve(ServerSection(token_key_file=str(secret)), terms={}, environ={})
    with pytest.raises(UsageError, match="the environment has no STUDIO_SECRET"):
        resolve(ServerSection(token_secret_env="STUDIO_SECRET"), terms={}, environ={})
