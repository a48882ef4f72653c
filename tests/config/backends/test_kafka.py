"""The settings of Kafka: from the environment, a URL or both; their errors, and their secrets."""

from __future__ import annotations

import logging
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import pubsubtest
from gizmopy import Service
from gizmopy.cli.main import main
from gizmopy.config import Settings, load, report
from gizmopy.config.backends.kafka import KafkaSettings, without_group
from gizmopy.config.urls import redacted_url
from gizmopy.errors import ConfigError, UsageError

PASSWORD = "hunter@:/%?#[]&=,+ 2"
URL = "kafka://b1"


def settings(**environ: str) -> Settings:
    """Load the settings of an environment."""
    return load(Settings, environ=environ, dotenv=None).settings


def url_of(**environ: str) -> KafkaSettings:
    """Return the settings in the broker URL that an environment results in."""
    return KafkaSettings.from_url(settings(**environ).broker_url)


def error_of(url: str) -> str:
    """Return the error of a URL with its traceback, which shows any chained error."""
    with pytest.raises(UsageError) as caught:
        KafkaSettings.from_url(url)
    return "".join(traceback.format_exception(caught.value))


# Values.

ALL: dict[str, tuple[str, Any]] = {
    "broker_hosts": ("b1, b2:1,[::1]:2", ("b1:9092", "b2:1", "[::1]:2")),
    "topic": ("cats", "cats"),
    "group": ("keepers", "keepers"),
    "client_id": ("cats-1", "cats-1"),
    "auto_offset_reset": ("Latest", "latest"),
    "group_instance_id": ("pod-0", "pod-0"),
    "session_timeout": ("10s", timedelta(seconds=10)),
    "rebalance_timeout": ("2m", timedelta(minutes=2)),
    "commit_interval": ("500ms", timedelta(milliseconds=500)),
    "commit_every": ("10", 10),
    "partition_ahead": ("20", 20),
    "metadata_max_age": ("5m", timedelta(minutes=5)),
    "delivery_timeout": ("30", timedelta(seconds=30)),
    "compression": ("ZSTD", "zstd"),
    "max_message_bytes": ("5000", 5000),
    "security_protocol": ("sasl_ssl", "SASL_SSL"),
    "sasl_mechanism": ("scram-sha-512", "SCRAM-SHA-512"),
    "sasl_username": ("tom", "tom"),
    "sasl_password": (PASSWORD, PASSWORD),
    "sasl_token_provider": ("cats.auth:token", "cats.auth:token"),
    "tls_ca": ("ca.pem", "ca.pem"),
    "tls_cert": ("cert.pem", "cert.pem"),
    "tls_key": ("key.pem", "key.pem"),
    "partitions": ("7", 7),
    "replication_factor": ("3", 3),
    "isolation_level": ("read_committed", "read_committed"),
}
EXPECTED = {name: value for name, (_, value) in ALL.items()}


def values_of(kafka: KafkaSettings) -> dict[str, Any]:
    """Return all values, with the password in plain text."""
    return kafka.model_dump() | {"sasl_password": kafka.sasl_password.get_secret_value()}


def test_each_setting_has_its_environment_name() -> None:
    """Every setting has the variable KAFKA_ and its name."""
    assert ALL.keys() == KafkaSettings.model_fields.keys()
    environ = {f"KAFKA_{name.upper()}": text for name, (text, _) in ALL.items()}
    assert values_of(settings(**environ).kafka) == EXPECTED


@pytest.mark.parametrize("hosts", ["b1,b2:1", '["b1", "b2:1"]'])
def test_hosts_come_from_any_source(hosts: str, tmp_path: Path) -> None:
    """A variable, a flag or a file may have them, separated by commas or as JSON."""
    path = tmp_path / "settings.json"
    path.write_text('{"kafka": {"broker_hosts": ["b1", "b2:1"]}}')
    for argv in (["--kafka.broker-hosts", hosts], ["--config", str(path)]):
        found = load(Settings, argv, environ={}, dotenv=None).settings
        assert found.broker_url == "kafka://b1:9092,b2:1"
    assert settings(KAFKA_BROKER_HOSTS=hosts).broker_url == "kafka://b1:9092,b2:1"


def test_each_setting_may_be_a_parameter_of_the_url() -> None:
    """The parameters have the same names, in lower case."""
    query = "&".join(f"{name}={quote(text, safe='')}" for name, (text, _) in ALL.items())
    assert values_of(KafkaSettings.from_url(f"kafka://?{query}")) == EXPECTED


def test_settings_reach_the_driver_by_the_url() -> None:
    """The broker URL has all settings of the environment, so the driver needs only that."""
    environ = {f"KAFKA_{name.upper()}": text for name, (text, _) in ALL.items()}
    assert values_of(url_of(**environ)) == EXPECTED


def test_the_url_takes_precedence() -> None:
    """Each part and parameter of the URL overrides its setting, also with a default value."""
    kafka = url_of(
        GIZMO_PUBSUB_URL="kafka://jerry:b@b2/mice?group=mice&auto_offset_reset=earliest",
        KAFKA_BROKER_HOSTS="b1",
        KAFKA_TOPIC="cats",
        KAFKA_GROUP="cats",
        KAFKA_AUTO_OFFSET_RESET="latest",
        KAFKA_COMMIT_EVERY="5",
        KAFKA_SECURITY_PROTOCOL="SASL_SSL",
        KAFKA_SASL_USERNAME="tom",
        KAFKA_SASL_PASSWORD="a",
    )
    assert values_of(kafka) == values_of(KafkaSettings()) | {
        "broker_hosts": ("b2:9092",),
        "topic": "mice",
        "group": "mice",
        "commit_every": 5,
        "security_protocol": "SASL_SSL",
        "sasl_username": "jerry",
        "sasl_password": "b",
    }


def test_an_empty_parameter_counts_as_unset() -> None:
    """As an empty variable does."""
    assert url_of(GIZMO_PUBSUB_URL=f"{URL}?group=", KAFKA_GROUP="cats").group == "cats"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "memory://"),
        ({"KAFKA_BROKER_HOSTS": "b1,b2:1"}, "kafka://b1:9092,b2:1"),
        ({"KAFKA_BROKER_HOSTS": "b1", "GIZMO_PUBSUB_URL": "memory://"}, "memory://"),
        ({"KAFKA_BROKER_HOSTS": "b1", "GIZMO_PUBSUB_URL": "kafka://b2"}, "kafka://b2"),
        ({"KAFKA_BROKER_HOSTS": "b1", "KAFKA_TOPIC": "cats"}, "kafka://b1:9092/cats"),
        ({"KAFKA_TOPIC": "cats", "KAFKA_GROUP": "cats"}, "memory://"),
    ],
)
def test_hosts_alone_make_kafka_the_broker(environ: dict[str, str], expected: str) -> None:
    """As in Gizmo. GIZMO_PUBSUB_URL overrides them, and without hosts the broker is unchanged."""
    assert settings(**environ).broker_url == expected


def test_urls_of_channels_get_all_settings_but_the_topic() -> None:
    """KAFKA_TOPIC is for the broker URL only: a dead-letter channel must have another topic."""
    found = settings(
        KAFKA_BROKER_HOSTS="b1",
        KAFKA_TOPIC="cats",
        KAFKA_GROUP="g",
        GIZMO_TOPIC_DEAD="kafka://",
        GIZMO_TOPIC_FAR="sns://far",
        GIZMO_SUBSCRIPTION_BIRDS="kafka:///birds?group=h",
    )
    assert found.topic_urls == {"DEAD": "kafka://b1:9092?group=g", "FAR": "sns://far"}
    assert found.subscription_urls == {"BIRDS": "kafka://b1:9092/birds?group=h"}


def test_variables_of_a_kubernetes_service_are_ignored() -> None:
    """Kubernetes sets KAFKA_PORT and more for a service named kafka; none of it is a setting."""
    environ = {
        "KAFKA_PORT": "tcp://10.0.0.1:9092",
        "KAFKA_SERVICE_HOST": "10.0.0.1",
        "KAFKA_SERVICE_PORT": "9092",
        "KAFKA_PORT_9092_TCP": "tcp://10.0.0.1:9092",
        "KAFKA_PORT_9092_TCP_ADDR": "10.0.0.1",
        "KAFKA_SERVICE_PORT_CLIENTS": "9092",
    }
    assert settings(**environ) == Settings()


@pytest.mark.parametrize("hosts", ["[::1]", "[::1]:9093", "[::1]:1,[fe80::2]:2", "b1,[::1]:2"])
def test_hosts_may_be_ipv6_addresses(hosts: str) -> None:
    """In brackets, with and without a port, in the URL and in the settings."""
    first = KafkaSettings.model_validate({"broker_hosts": hosts})
    assert KafkaSettings.from_url(first.with_defaults("kafka://")) == first


LOGIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
"""Texts that settings accept: no lone surrogate, no NUL (which RFC 4616 forbids in SASL PLAIN)."""


@given(
    password=LOGIN,
    user=LOGIN,
    topic=st.text("abc._-/ %?#@é", max_size=5).filter(lambda text: text == text.strip("/")),
)
def test_a_password_may_have_any_character(password: str, user: str, topic: str) -> None:
    """It stays the same in the URL, and adding defaults twice changes nothing."""
    kafka = KafkaSettings.model_validate(
        {
            "broker_hosts": "b1",
            "sasl_username": user,
            "sasl_password": password,
            "security_protocol": "SASL_SSL",
        }
    )
    url = kafka.with_defaults("kafka://", topic)
    assert values_of(KafkaSettings.from_url(url)) == values_of(kafka) | {"topic": topic}
    assert kafka.with_defaults(url) == url


def test_defaults_are_added_once() -> None:
    """A URL with all settings stays unchanged, and so do URLs of other brokers."""
    kafka = settings(**{f"KAFKA_{name.upper()}": text for name, (text, _) in ALL.items()}).kafka
    url = kafka.with_defaults("kafka://tom:a%40b@b9/x%20y?group=z")
    assert kafka.with_defaults(url) == url
    assert KafkaSettings().with_defaults(url) == url
    for other in ("memory://?cap=3", "sqs://a/b?c=d", ""):
        assert kafka.with_defaults(other) == other


# Errors.


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("kafka://", "kafka://: has no broker; write kafka://host:port, or set KAFKA_BROKER"),
        (
            f"{URL}?grup=x",
            "kafka://b1: grup is not a parameter of kafka://; use one of: auto",
        ),
        (f"{URL}/t?commit_every=0", "kafka://b1/t: commit_every=0 should be greater than 0"),
        (f"{URL}?commit_every=x", "commit_every=x should be a valid integer"),
        (
            f"{URL}?commit_interval=0",
            "commit_interval=0 must be above 0; write a duration",
        ),
        (f"{URL}?commit_interval=1y", "'1y' is not a duration; write it like '1m30s'"),
        (f"{URL}?auto_offset_reset=first", "should be 'earliest', 'latest' or 'none'"),
        (f"{URL}?compression=rar", "compression=rar should be 'none', 'gzip'"),
        (f"{URL}?sasl_mechanism=GSSAPI", "should be 'PLAIN', 'SCRAM-SHA-256'"),
        (f"{URL}?session_timeout=0&partitions=0", "session_timeout=0 must be above 0; write"),
        (f"{URL}?session_timeout=0&partitions=0", "; partitions=0 should be greater than 0"),
        ("kafka://b1:x", "host 1 is not host:port; write it like broker-1:9092,[::1]:9092"),
        ("kafka://b1:", "host 1 is not host:port"),
        ("kafka://b1:0", "host 1 is not host:port"),
        ("kafka://b1:65536", "host 1 is not host:port"),
        ("kafka://b1,::1", "host 2 is not host:port"),
        ("kafka://b 1", "host 1 is not host:port"),
        ("kafka://?broker_hosts=tcp%3A%2F%2Fb1", "host 1 is not host:port"),
        ("kafka://tom:pw@b1", "security_protocol=PLAINTEXT does not use SASL; set sasl_ssl, or"),
        (f"{URL}?sasl_password=pw", "SASL credentials are set, but security_protocol=PLAINTEXT"),
        (
            f"{URL}?sasl_token_provider=a:b&security_protocol=ssl",
            "SSL does not use SASL; set",
        ),
        (f"{URL}?security_protocol=sasl_ssl", "PLAIN needs a user and a password; set KAFKA_SASL_"),
        ("kafka://tom@b1?security_protocol=sasl_ssl", "PLAIN needs a user and a password"),
        ("kafka://:pw@b1?security_protocol=sasl_ssl", "PLAIN needs a user and a password"),
        (
            "kafka://tom:pw@b1?security_protocol=sasl_ssl&sasl_mechanism=oauthbearer",
            "OAUTHBEARER needs a token function; set sasl_token_provider=module:function",
        ),
        (
            f"{URL}?security_protocol=ssl&tls_cert=c",
            "one of tls_cert and tls_key is set; set both",
        ),
        (f"{URL}?security_protocol=ssl&tls_key=k", "only one of tls_cert and tls_key is set"),
        (f"{URL}?tls_ca=ca.pem", "security_protocol=PLAINTEXT does not use TLS; set ssl"),
        (f"{URL}?tls_cert=c&tls_key=k", "security_protocol=PLAINTEXT does not use TLS; set ssl"),
        (
            f"{URL}?rebalance_timeout=7s",
            "rebalance_timeout is less than a third of session",
        ),
        ("kafka://[::1", "the URL of the broker is not a valid URL; in a user name or a password"),
        ("kafka://tom:p/w@b1", "has an @ after its hosts; in a user name or a password write %40"),
    ],
)
def test_an_invalid_url_is_refused(url: str, expected: str) -> None:
    """The error has the URL up to its parameters, the problem and a remedy."""
    assert expected in error_of(url)


def test_a_token_needs_no_user() -> None:
    """OAUTHBEARER takes the user from the token."""
    query = "security_protocol=sasl_ssl&sasl_mechanism=oauthbearer&sasl_token_provider=a:b"
    assert KafkaSettings.from_url(f"{URL}?{query}").sasl_username == ""


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("KAFKA_BROKER_HOSTS", "b1:x", "host 1 is not host:port; write it like broker-1:9092"),
        ("KAFKA_BROKER_HOSTS", "tom:pw@b1", "a list of hosts cannot hold a login; set KAFKA_SASL"),
        ("KAFKA_COMMIT_INTERVAL", "0s", "must be above 0; write a duration like 30s"),
        ("KAFKA_COMPRESSION", "rar", "should be 'none'"),
        ("GIZMO_PUBSUB_URL", "kafka://t:p/w@b1", "has an @ after its hosts; in a user name or a"),
        ("GIZMO_TOPIC_CATS", "kafka://t:p[w@b1", "is not a valid URL; in a user name or a pass"),
        ("GIZMO_SUBSCRIPTION_CATS", "kafka://t:p?w@b1", "has an @ after its hosts"),
    ],
)
def test_invalid_settings_are_in_the_report(name: str, value: str, expected: str) -> None:
    """Each is there with its variable and a remedy, as any other setting."""
    with pytest.raises(ConfigError) as caught:
        settings(**{name: value, "HTTP_PORT": "x"})
    text = str(caught.value)
    assert "2 settings are invalid" in text
    assert name in text
    assert expected in text


# Secrets.

SECRET = "hunter2"
WITH_SECRET = [
    f"kafka://tom:{SECRET}@b1",
    f"kafka://tom:{SECRET}@b1:x/t",
    f"kafka://tom:{SECRET}@b1?grup=x",
    f"kafka://:{SECRET}@",
    f"kafka://b1?sasl_password={SECRET}",
    f"kafka://b1?sasl_password={SECRET}&commit_every=x",
    f"kafka://tom:p/{SECRET}@b1",
    f"kafka://tom:{SECRET}/w@b1",
    f"kafka://tom:p?{SECRET}@b1",
    f"kafka://tom:{SECRET}?w@b1",
    f"kafka://tom:p#{SECRET}@b1",
    f"kafka://tom:{SECRET}#w@b1",
    f"kafka://tom:{SECRET}[@b1",
    f"kafka://tom:{SECRET}\N{ACCOUNT OF}@b1",
    f"kafka://tom:{SECRET}@b1,tom:{SECRET}@b2:x",
]


ESCAPED = [f"kafka://?broker_hosts=tom:{SECRET}%40b", f"kafka://?broker_hosts=tom:p,{SECRET}%40b"]


@pytest.mark.parametrize("url", [*WITH_SECRET, *ESCAPED])
def test_no_error_shows_a_password(url: str) -> None:
    """Neither the error nor its cause does, however the password is written."""
    assert SECRET not in error_of(url)


@pytest.mark.parametrize("url", WITH_SECRET)
def test_no_report_shows_the_password_of_a_url(url: str) -> None:
    """Neither the errors of an invalid URL nor the values of a valid one do."""
    assert SECRET not in report_of({"GIZMO_PUBSUB_URL": url})


def report_of(environ: dict[str, str]) -> str:
    """Return the report of the settings, or the error of loading them."""
    try:
        loaded = load(Settings, environ=environ, dotenv=None)
    except ConfigError as error:
        return "".join(traceback.format_exception(error))
    return f"{report.as_text(report.rows(loaded))} {loaded.settings!r}"


@pytest.mark.parametrize("hosts", [f"tom:{SECRET}@b1", f"tom:p,{SECRET}@b1", f"b1,tom:{SECRET}@b"])
def test_no_report_shows_a_password_among_the_hosts(hosts: str) -> None:
    """Other tools accept a login there; here it is refused and not shown."""
    text = report_of({"KAFKA_BROKER_HOSTS": hosts})
    assert "a list of hosts cannot hold a login" in text
    assert SECRET not in text


def test_the_values_show_no_password() -> None:
    """Neither their repr, nor pydantic's error, nor a redacted URL does."""
    kafka = KafkaSettings.model_validate({"sasl_password": SECRET})
    assert SECRET not in f"{kafka!r} {kafka}"
    assert SECRET not in repr(Settings(kafka=kafka))
    with pytest.raises(ValidationError) as caught:
        KafkaSettings.model_validate({"sasl_password": [SECRET]})
    assert SECRET not in str(caught.value)
    assert (
        redacted_url(f"kafka://tom:{SECRET}@b1:1,b2:2/t?group=g", with_path=True)
        == "kafka://b1:1,b2:2/t"
    )


class Cats(Service):
    """A service without endpoints."""


def test_gizmopy_config_masks_the_password(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table has three stars in its place."""
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", SECRET)
    assert main(["config"]) == 0
    text = capsys.readouterr().out
    assert SECRET not in text
    (line,) = [line for line in text.splitlines() if line.startswith("kafka.sasl_password ")]
    assert "***" in line


async def test_a_daemon_shows_no_password(caplog: pytest.LogCaptureFixture) -> None:
    """Neither /debug/config nor the log of its start does."""
    kafka = KafkaSettings.model_validate({"sasl_username": "tom", "sasl_password": SECRET})
    with caplog.at_level(logging.DEBUG):
        settings = Settings(kafka=kafka, debug_token="s3cret")
        async with pubsubtest.serve(Cats, settings=settings) as cats:
            bearer = {"Authorization": "Bearer s3cret"}
            response = await cats.http.get("/debug/config", headers=bearer)
            found = await response.json()
    assert found["kafka"]["sasl_password"].startswith("*** (")
    assert found["kafka"]["sasl_username"] == "*** (3 characters)"
    assert SECRET not in caplog.text


async def test_serve_refuses_the_hosts_in_the_settings() -> None:
    """serve() is on memory://, unless its argument names a broker."""
    kafka = KafkaSettings.model_validate({"broker_hosts": "nowhere"})
    with pytest.raises(UsageError, match="the settings name the broker kafka://nowhere:9092"):
        async with pubsubtest.serve(Cats, settings=Settings(kafka=kafka)):
            pass


def test_a_url_without_group_keeps_the_rest() -> None:
    """Group and instance are removed; URLs of other brokers are unchanged."""
    url = "kafka://u:p%40w@b1:9092/cats?group=g&group_instance_id=me&session_timeout=6s"
    assert without_group(url) == "kafka://u:p%40w@b1:9092/cats?session_timeout=6s"
    assert without_group("memory://?group=g") == "memory://?group=g"


@pytest.mark.parametrize(
    "url",
    [
        "kafka://tom:hunter%ff2@b1/cats?security_protocol=sasl_ssl",
        "kafka://tom%ff:hunter2@b1/cats?security_protocol=sasl_ssl",
        "kafka://b1/cats%ff",
        "kafka://b1/cats?sasl_password=hunter%ff2",
    ],
)
def test_percent_encoded_bytes_that_are_not_utf_8_are_refused(url: str) -> None:
    """They would be replaced, and the broker would refuse the login. No part of it is shown."""
    error = error_of(url)
    assert "percent-encoded bytes that are not UTF-8" in error
    assert "hunter" not in error


def test_percent_encoded_utf_8_is_decoded() -> None:
    """A password may have any character."""
    read = KafkaSettings.from_url("kafka://t%C3%B6m:%E2%82%AC%25@b1?security_protocol=sasl_ssl")
    assert (read.sasl_username, read.sasl_password.get_secret_value()) == ("töm", "€%")
