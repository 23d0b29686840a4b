"""The address in a URL: read as redis-py reads it, refused where redis-py would guess."""

import ssl

import pytest
from redis.asyncio.connection import parse_url

from engine.redis_url import parse_redis_url


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:6379/0",
        "redis://",
        "redis://localhost",
        "redis://h:7000/15",
        "redis://h?db=3",
        "redis://h/2?db=3",
        "redis://:secret@h/1",
        "redis://user@h",
        "redis://user:p%40ss%2Fw%3Ard@h:1/1",
        "redis://us%20er:@h",
        "redis://[::1]:6380/1",
        "rediss://h:6380/1",
        "unix:///run/redis.sock",
        "unix:///run/re%20dis.sock?db=4",
        "unix://user:secret@/run/redis.sock",
        "unix://:netloc@/run/redis.sock?password=query",
    ],
)
def test_a_url_means_what_it_means_to_redis_py(url: str) -> None:
    theirs, ours = parse_url(url), parse_redis_url(url)
    assert ours.path == theirs.get("path")
    assert ours.database == theirs.get("db", 0)
    assert ours.username == theirs.get("username")
    assert ours.password == theirs.get("password")
    assert (ours.tls is not None) == url.startswith("rediss")
    if ours.path is None:
        assert (ours.host, ours.port) == (theirs.get("host", "localhost"), theirs.get("port", 6379))


@pytest.mark.parametrize(
    "url",
    [
        *["", "h:6379", "http://h", "REDIS//h", "valkey+x://h", "redis://h:port", "redis://h:99999"],
        *["redis://h/one", "redis://h/1/2", "redis://h/-1", "redis://h?db=x", "redis://h?ssl_ca_certs=x"],
        *["redis://h?retries=9", "rediss://h?ssl_cert_reqs=maybe", "rediss://h?ssl_check_hostname=2"],
        *["unix://", "unix:///s?ssl_certfile=x", "redis://[::1"],
    ],
)
def test_what_cannot_be_meant_is_refused_and_no_secret_repeated(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_redis_url(url.replace("://h", "://user:hush@h"))
    assert "hush" not in str(caught.value)


def test_tls_verifies_certificate_and_name_unless_told_otherwise() -> None:
    def context(query: str) -> ssl.SSLContext:
        tls = parse_redis_url(f"rediss://h{query}").tls
        assert tls is not None
        return tls

    assert context("").verify_mode == ssl.CERT_REQUIRED
    assert context("").check_hostname
    assert not context("?ssl_check_hostname=false").check_hostname
    assert context("?ssl_check_hostname=false").verify_mode == ssl.CERT_REQUIRED
    assert context("?ssl_cert_reqs=none").verify_mode == ssl.CERT_NONE


def test_a_missing_certificate_file_is_said_at_once() -> None:
    with pytest.raises(OSError):
        parse_redis_url("rediss://h?ssl_ca_certs=/does/not/exist.pem")


def test_an_address_in_a_log_shows_no_password() -> None:
    address = parse_redis_url("redis://user:hush@h:7000/2")
    assert "hush" not in f"{address} {address!r}"
    assert str(address) == "h:7000/2"
