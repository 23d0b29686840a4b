"""The address in a URL: read as redis-py reads it, refused where redis-py would guess."""

import ssl

import pytest
from redis.asyncio.connection import parse_url

from engine.redis_url import ClusterAddress, RedisAddress, SentinelAddress, parse_redis_url


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
        *["redis+cluster://", "redis+cluster://h,", "redis+cluster://h:port", "redis+cluster://h/0"],
        *["redis+cluster://h?db=1", "redis+cluster://h:1,h:99999", "unix+cluster://h", "redis+ring://h"],
        *["redis+sentinel://h", "redis+sentinel://,h/rush", "redis+sentinel://h/rush/one"],
        *["redis+sentinel://h/rush?sentinel=x", "redis+sentinel://h/rush?ssl_ca_certs=x"],
    ],
)
def test_what_cannot_be_meant_is_refused_and_no_secret_repeated(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_redis_url(url.replace("://h", "://user:hush@h"))
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("password", ["hush\u2100", "hu[sh", "hush]"])
@pytest.mark.parametrize(
    "form", ["redis+cluster://:{}@h,g", "redis+sentinel://:{}@h,g/rush", "redis://:{}@h"]
)
def test_a_password_that_no_url_can_have_is_refused_and_not_repeated(form: str, password: str) -> None:
    with pytest.raises(ValueError, match="the Redis URL is malformed") as caught:
        parse_redis_url(form.format(password))
    assert "hu" not in str(caught.value)


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


def test_a_cluster_is_some_of_its_nodes_with_one_login() -> None:
    address = parse_redis_url("redis+cluster://user:p%40ss@one:7000,two,[::1]:7002")
    assert isinstance(address, ClusterAddress)
    assert [(node.host, node.port) for node in address.nodes] == [("one", 7000), ("two", 6379), ("::1", 7002)]
    assert {(node.username, node.password, node.database) for node in address.nodes} == {("user", "p@ss", 0)}
    assert address.at("three", 1) == RedisAddress("three", 1, username="user", password="p@ss")
    assert "p@ss" not in f"{address} {address!r}"


def test_sentinels_have_a_login_of_their_own() -> None:
    url = "redis+sentinel://user:hush@one,two:1/rush/2?sentinel_username=watch&sentinel_password=se%26cret"
    address = parse_redis_url(url)
    assert isinstance(address, SentinelAddress)
    assert [(at.host, at.port) for at in address.sentinels] == [("one", 26379), ("two", 1)]
    assert {(at.username, at.password) for at in address.sentinels} == {("watch", "se&cret")}
    assert (address.service, address.master.database) == ("rush", 2)
    assert address.at("three", 3) == RedisAddress("three", 3, username="user", password="hush", database=2)
    assert not {"hush", "se&cret"} & set(f"{address} {address!r}".split("'"))


def test_sentinels_without_a_login_are_asked_without_one() -> None:
    address = parse_redis_url("redis+sentinel://:hush@one/rush?db=3")
    assert isinstance(address, SentinelAddress)
    assert (address.sentinels[0].password, address.master.password) == (None, "hush")
    assert (address.sentinels[0].database, address.master.database) == (0, 3)


@pytest.mark.parametrize("kind", ["cluster://h:1,g:2", "sentinel://h:1,g:2/rush"])
def test_several_hosts_are_reached_by_tls_where_the_url_says_so(kind: str) -> None:
    address = parse_redis_url(f"rediss+{kind}?ssl_check_hostname=false")
    tls = address.at("x", 1).tls
    assert tls is not None
    assert not tls.check_hostname
    assert parse_redis_url(f"redis+{kind}").at("x", 1).tls is None
