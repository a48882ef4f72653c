"""URLs of brokers: which are valid, and how much of one an error or a log line may show."""

from __future__ import annotations

import pytest

from gizmopy.config.urls import (
    logins_in,
    mask_login,
    redacted_url,
    scheme_and_hosts,
    validated_url,
)


@pytest.mark.parametrize(
    "url",
    ["memory://", "kafka://u:p%40w@b1:9092,b2:9092/t?group=g", "kafka://[::1]:9092", "", "no url"],
)
def test_a_url_whose_hosts_end_clearly_is_valid(url: str) -> None:
    """A valid URL is returned unchanged."""
    assert validated_url(url) == url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("kafka://u:s3[ret@b1", "is not a valid URL"),
        ("kafka://u:s3/ret@b1", "has an @ after its hosts"),
        ("kafka://u:s3?ret@b1", "has an @ after its hosts"),
        ("kafka://u:s3#ret@b1", "has an @ after its hosts"),
        ("kafka://u:s3\udcff@b1", "is not UTF-8 text"),
    ],
)
def test_an_unescaped_password_is_an_error_that_does_not_quote_it(url: str, reason: str) -> None:
    """The error has the reason and the remedy, and no part of the URL."""
    with pytest.raises(ValueError, match=reason) as caught:
        validated_url(url)
    assert "s3" not in f"{caught.value!r}"
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("https://host", "https://host"),
        ("memory://", "memory://"),
        ("kafka://a:1,[::1]:2/x", "kafka://a:1,[::1]:2"),
        ("kafka://u:p@a:1/x", "kafka://a:1"),
        ("kafka://u:p@a:1/x@y", ""),
        ("https://a:b", ""),
        ("https://a b", ""),
        ("https://a\\@b", ""),
        ("https://é", ""),
        ("no url", ""),
    ],
)
def test_scheme_and_hosts_are_shown_only_if_they_are_certain(text: str, start: str) -> None:
    """Of a text that may hold a login with an unescaped character, no part is shown."""
    assert scheme_and_hosts(text) == start


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory://", "memory://"),
        ("memory:", "memory://"),
        ("memory:?lease=1", "memory://"),
        ("me:secret", "***"),
        ("kafka://b1:9092,b2:9092/t?group=g", "kafka://b1:9092,b2:9092"),
        ("sqs://me:secret@host/t", "sqs://host"),
        ("sqs://secret@host/t", "sqs://host"),
        ("k://host?sasl_password=secret", "k://host"),
        ("k://me:secret", "***"),
        ("k://me:1/secret@host", "***"),
        ("k://[secret", "***"),
        ("secret", "***"),
    ],
)
def test_a_redacted_url_has_no_secrets(url: str, shown: str) -> None:
    """Scheme and hosts are shown, and no part of a text that may not be a URL."""
    assert redacted_url(url) == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("kafka://me:secret@b1:1,b2:2/t?group=g", "kafka://b1:1,b2:2/t"),
        ("kafka://b1/a%20b#x", "kafka://b1/a%20b"),
        ("kafka://b1?group=g", "kafka://b1"),
        ("memory:?lease=1", "memory://"),
        ("kafka://[::::]/t", "kafka://[::::]/t"),
        ("kafka://me:1/secret@host/t", "***"),
    ],
)
def test_a_redacted_url_has_its_path_if_asked(url: str, shown: str) -> None:
    """The path is the topic of a channel; a query may hold a password and is never shown."""
    assert redacted_url(url, with_path=True) == shown


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://me:secret@host/x", "https://***@host/x"),
        ("https://me:se/cr@et@host", "https://***@host"),
        ("me:secret@host:1,host:2", "***@host:1,host:2"),
        ("mail me: tom@cats.example", "mail me: tom@cats.example"),
        ("tom@cats.example", "tom@cats.example"),
        ("https://host/x", "https://host/x"),
    ],
)
def test_a_login_in_free_text_is_masked_to_its_last_at(text: str, masked: str) -> None:
    """Everything between the scheme and the last @ may be a part of a password."""
    assert mask_login(text) == masked


def test_the_logins_of_a_url_are_found_for_each_host() -> None:
    """The whole login, its password, and the password of each of several hosts are found."""
    assert {"u:p1@a,v:p2", "p1@a,v:p2", "p1", "p2"} == set(logins_in("x://u:p1@a,v:p2@b"))
    assert [*logins_in("no url")] == []
