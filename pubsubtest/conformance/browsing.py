"""Browsers look through what a topic keeps, and settle any of it: dead letters are a place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from gizmopy.errors import TopicNotFound
from gizmopy.pubsub import Message
from gizmopy.pubsub.driver import Browser, BrowsingDriver
from pubsubtest.conformance.checking import BROWSES, REFUSES_UNKNOWN, CheckFailed, Checks, expect
from pubsubtest.conformance.context import UNKNOWN, CheckContext

check = Checks()


async def _browser(context: CheckContext) -> Browser:
    """Return a connected browser."""
    await context.provision(context.topic)
    driver = cast(BrowsingDriver, context.driver)
    browser = driver.browser(context.topic, context.subscription)
    context.close_later(browser.aclose)
    await browser.connect()
    return browser


async def _open(context: CheckContext, browser: Browser) -> list[Message]:
    """Return the messages that a browser finds."""
    async with context.in_time("the end of a look through the topic"):
        return [message async for batch in browser.browse() for message in batch]


async def _settle(browser: Browser, messages: Sequence[Message]) -> None:
    results = await browser.settle(messages)
    expect(len(results) == len(messages), f"{len(results)} results for {len(messages)} messages")
    expect(not any(results), f"settling failed: {[each for each in results if each]}")


def _bodies(messages: Sequence[Message]) -> list[bytes | None]:
    return sorted((m.body for m in messages), key=lambda body: body or b"")


@check(BROWSES)
async def a_browser_finds_what_a_topic_keeps(context: CheckContext) -> None:
    """All messages are found as they were sent, in the order of their key, again and again."""
    sent = [context.message(b"%d" % n, key="cat", attributes={"n": str(n)}) for n in range(5)]
    await context.send(*sent)
    browser = await _browser(context)
    for _ in range(2):
        found = [(m.body, m.key, m.attributes.get("n")) for m in await _open(context, browser)]
        expected = [(b"%d" % n, "cat", str(n)) for n in range(5)]
        expect(found == expected, f"found {found} instead of {expected}")
    await context.send(context.message(b"new"))
    found_last = _bodies(await _open(context, browser))
    expect(found_last[-1] == b"new", "a message that came later was not found")


@check(BROWSES)
async def a_settled_message_is_found_by_no_browser(context: CheckContext) -> None:
    """Any message can be settled, those before and behind it stay, and other browsers know."""
    await context.send_numbers(6, keys=("cat", "dog"))
    browser = await _browser(context)
    chosen = [m for m in await _open(context, browser) if m.body in (b"1", b"2", b"4")]
    await _settle(browser, chosen)
    for each in (browser, await _browser(context)):
        found = _bodies(await _open(context, each))
        expect(found == [b"0", b"3", b"5"], f"{found} are found instead of 0, 3 and 5")
    await _settle(browser, await _open(context, browser))
    left = _bodies(await _open(context, await _browser(context)))
    expect(not left, f"{left} are found, although all are settled")


@check(BROWSES)
async def a_message_is_settled_while_others_are_looked_at(context: CheckContext) -> None:
    """Each batch may be settled before the next one is asked for."""
    await context.send_numbers(6, keys=("cat", "dog", "owl"))
    browser = await _browser(context)
    found: list[Message] = []
    async with context.in_time("the end of a look through the topic"):
        async for batch in browser.browse():
            found += batch
            await _settle(browser, batch)
    expect(_bodies(found) == [b"%d" % n for n in range(6)], f"found {_bodies(found)}")
    left = await _open(context, await _browser(context))
    expect(not left, f"{_bodies(left)} are found, although all are settled")


@check(BROWSES)
async def a_browser_takes_nothing_from_receivers(context: CheckContext) -> None:
    """Other subscriptions get every message, and nothing else, whatever a browser settles."""
    receiver = await context.receiver(context.second_subscription)
    await context.send_numbers(4, keys=("cat", "dog"))
    browser = await _browser(context)
    await _settle(browser, (await _open(context, browser))[1:3])
    got = await context.collect(receiver, 4, settle=True)
    await context.expect_nothing(receiver)
    expect(_bodies(got) == [b"%d" % n for n in range(4)], f"received {_bodies(got)}")


@check(BROWSES)
async def what_a_subscription_has_acked_is_settled(context: CheckContext) -> None:
    """A browser of a subscription does not find what its receivers have acked."""
    receiver = await context.receiver()
    await context.send_numbers(3, keys=("cat",))
    await context.collect(receiver, 3, settle=True)
    await receiver.aclose()
    await context.send(context.message(b"open", key="cat"))
    found = _bodies(await _open(context, await _browser(context)))
    expect(found == [b"open"], f"{found} are found instead of the one that is not acked")


@check(BROWSES)
async def a_browser_measures_what_is_open(context: CheckContext) -> None:
    """It counts what is not settled, as it changes, and tells the age of the oldest."""
    browser = await _browser(context)
    empty = await browser.measure()
    expect((empty.backlog, empty.oldest) == (0, 0), f"an empty topic has {empty}")
    await context.send_numbers(5, keys=("cat", "dog"))
    full = await browser.measure()
    expect(full.backlog == 5, f"{full.backlog} messages are open instead of 5")
    expect(full.oldest is not None and 0 < full.oldest < 60, f"the oldest is {full.oldest} s old")
    other = await _browser(context)
    await _settle(other, (await _open(context, other))[:2])
    less = await browser.measure()
    expect(less.backlog == 3, f"{less.backlog} messages are open instead of 3")


@check(BROWSES, REFUSES_UNKNOWN)
async def a_browser_of_an_unknown_topic_finds_none(context: CheckContext) -> None:
    """Connecting to a topic that does not exist raises TopicNotFound."""
    browser = cast(BrowsingDriver, context.driver).browser(UNKNOWN, context.subscription)
    context.close_later(browser.aclose)
    try:
        await browser.connect()
    except TopicNotFound:
        return
    raise CheckFailed("connecting to an unknown topic worked")


@check(BROWSES)
async def a_browser_may_be_closed_at_any_time(context: CheckContext) -> None:
    """It is closed before it connects, and twice."""
    await context.provision(context.topic)
    browser = cast(BrowsingDriver, context.driver).browser(context.topic, context.subscription)
    await browser.aclose()
    connected = await _browser(context)
    await connected.aclose()
    await connected.aclose()
