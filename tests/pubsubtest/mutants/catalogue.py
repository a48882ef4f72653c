"""Drivers and engines with one fault each, and the checks that must fail because of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

from gizmopy.errors import Reject, Retry, UndecodableMessage
from gizmopy.pubsub import Message
from gizmopy.pubsub.brokers.memory import MemoryDriver
from gizmopy.pubsub.event_binding import PLAIN
from pubsubtest.conformance import Harness
from pubsubtest.conformance.context import UNKNOWN
from tests.pubsub.log_broker import LogBroker, LogBrowser
from tests.pubsub.push_broker import PushBroker
from tests.pubsubtest.mutants.base import (
    LEASE,
    MutantDriver,
    MutantReceiver,
    MutantSender,
    changed,
    receiving,
    sending,
)
from tests.pubsubtest.mutants.browsers import (
    BrowsingBroker,
    CloseNeedsConnect,
    FindsOnce,
    IgnoresAcks,
    InventsAges,
    LosesItsPlace,
    MakesTopics,
    MeasuresOnce,
    SettlesAllBefore,
    SettlesNothing,
    ShowsItsMarks,
)
from tests.pubsubtest.mutants.drivers import (
    ClosesAll,
    ClosesOnce,
    KeyedByReceiver,
    NoOrder,
    OneSubscription,
    OneTopic,
    OtherNames,
    ResendsBackwards,
    SeparateSubscriptions,
)
from tests.pubsubtest.mutants.engine import (
    AllOrNothing,
    CancellingReceiver,
    ClosesNothing,
    ForwardsBodies,
    Hasty,
    Plant,
    Unlimited,
    all_handled,
    counts_those_that_wait,
    forgets_requests,
    handler_that,
    ignores_pauses,
    keeps_changes,
    publisher,
    shared_contexts,
    sound,
    subscriber,
    unconfirmed,
    watches_no_loop,
)
from tests.pubsubtest.mutants.receivers import (
    AcceptsAnything,
    AcceptsLateAck,
    AckBlocksOnReceive,
    AckDoesNothing,
    AckExtends,
    AcksHalf,
    AcksNothingOfPartitions,
    AcksOnReceipt,
    AcksTooMuch,
    AckWaitsForTheBroker,
    CallsItselfStalled,
    CallsLateAckTransient,
    CloseAcksMessages,
    CloseHangs,
    CloseKeepsMessages,
    CloseLeavesReceive,
    CommitsOneTooMany,
    DropsMessagesWithoutKey,
    ExtendDoesNothing,
    HandsOutOneAtATime,
    IgnoresDelay,
    IgnoresLimit,
    InventsTheAge,
    LeavesATask,
    LiesAboutBacklog,
    MeasuresItself,
    NackAcks,
    NackDoesNothing,
    NackRevivesAckedMessages,
    NacksTheBatchOfOne,
    OneCallAtATime,
    OutageEndsReceive,
    PausesNothing,
    PushesWait,
    ReceiveHangs,
    ReceivePolls,
    ReceiverNeedsConnect,
    ReceivesAfterClose,
    RevokesUnasked,
    RoutesNeedConnect,
    SecondAckRaises,
    StatusNeedsConnect,
    SwapsResults,
)
from tests.pubsubtest.mutants.senders import (
    CancelBreaksSender,
    CloseOfSenderFails,
    ConfirmsTooSoon,
    CutsAttributes,
    LimitsOfAnother,
    LosesOne,
    LosesSometimes,
    OutageEndsSend,
    RefusesLarge,
    RefusesLargeBatches,
    RefusesManyAttributes,
    SenderNeedsConnect,
    SendsAfterClose,
    SendsBackwards,
    SendsOutOfTurn,
    SendsTwice,
)


def _as_text(message: Message) -> Message:
    body = message.body
    return changed(message, body=body and body.decode(errors="replace").encode())


def _with_delivery(messages: list[Message]) -> list[Message]:
    for message in messages:
        message.delivery = 1
    return messages


def _with_second_delivery(messages: list[Message]) -> list[Message]:
    for message in messages:
        message.delivery = 2
    return messages


def _with_limits() -> MemoryDriver:
    """Return a broker that limits the attributes of a message."""
    return MemoryDriver(lease=LEASE, message_attributes=10, attribute_bytes=100)


def _with_id(messages: list[Message]) -> list[Message]:
    for message in messages:
        message.id = ""
    return messages


class Mutant(NamedTuple):
    """A fault, and the checks that must fail because of it."""

    fault: str
    caught_by: tuple[str, ...]
    make: Callable[[], Harness]
    plant: Plant = sound
    """Plants the fault in the engine instead of a driver."""


def in_memory(make: Callable[[], Any] = MutantDriver) -> Callable[[], Harness]:
    """Return a function that makes the harness of a broker with leases."""
    return lambda: Harness(open=make)


def on_log(
    sender: type[MutantSender] = MutantSender, receiver: type[MutantReceiver] = MutantReceiver
) -> Callable[[], Harness]:
    """Return a function that makes the harness of a broker with positions and outages."""

    def make() -> Harness:
        broker = LogBroker(rebalance_seconds=1.0)

        @asynccontextmanager
        async def outage() -> AsyncIterator[None]:
            with broker.outage():
                yield

        driver = MutantDriver(sender, receiver, broker=broker)
        return Harness(open=lambda: driver, creates_topics=False, outage=outage, quiet=0.2)

    return make


def _sender(fault: str, sender: type[MutantSender], *caught_by: str) -> Mutant:
    return Mutant(fault, caught_by, in_memory(lambda: MutantDriver(sender=sender)))


def _receiver(fault: str, receiver: type[MutantReceiver], *caught_by: str) -> Mutant:
    return Mutant(fault, caught_by, in_memory(lambda: MutantDriver(receiver=receiver)))


def _driver(fault: str, make: Callable[[], Any], *caught_by: str) -> Mutant:
    return Mutant(fault, caught_by, in_memory(make))


def _log(
    fault: str,
    *caught_by: str,
    sender: type[MutantSender] = MutantSender,
    receiver: type[MutantReceiver] = MutantReceiver,
) -> Mutant:
    return Mutant(fault, caught_by, on_log(sender, receiver))


def _browser(fault: str, browser: type[LogBrowser], *caught_by: str) -> Mutant:
    def make() -> Harness:
        broker = BrowsingBroker(browser)
        broker.missing.add(UNKNOWN)
        return Harness(open=lambda: broker, creates_topics=False, quiet=0.2)

    return Mutant(fault, caught_by, make)


def _engine(fault: str, plant: Plant, *caught_by: str) -> Mutant:
    return Mutant(fault, caught_by, in_memory(), plant)


MUTANTS = (
    _sender("bodies are decoded as text", sending(_as_text), "any_bytes_travel"),
    _sender(
        "an empty body becomes a tombstone",
        sending(lambda m: changed(m, body=m.body or None)),
        "an_empty_body_is_no_tombstone",
    ),
    _sender(
        "a tombstone becomes an empty body",
        sending(lambda m: changed(m, body=m.body or b"")),
        "a_tombstone_arrives_as_one",
    ),
    _sender(
        "JSON is decoded and encoded again",
        sending(lambda m: changed(m, body=m.body and b"".join(m.body.split()))),
        "json_is_not_mangled",
    ),
    _sender(
        "attributes are dropped",
        sending(lambda m: changed(m, attributes={})),
        "a_message_arrives_as_it_was",
        "the_content_type_travels",
        "the_trace_context_travels",
        "cloudevents_travel",
        "a_failing_message_becomes_a_dead_letter",
    ),
    _sender(
        "attributes are stripped of spaces",
        sending(lambda m: changed(m, attributes={k: v.strip() for k, v in m.attributes.items()})),
        "odd_attributes_travel",
    ),
    _sender(
        "keys are dropped", sending(lambda m: changed(m, key=None)), "keys_are_text_of_any_kind"
    ),
    _sender(
        "no key becomes an empty one",
        sending(lambda m: changed(m, key=m.key or "")),
        "no_key_is_no_key",
    ),
    _sender("part of a batch is lost but confirmed", LosesOne, "a_full_batch_arrives"),
    _sender("messages are sent twice", SendsTwice, "what_is_acked_never_returns"),
    _sender("a closed sender sends", SendsAfterClose, "a_closed_sender_refuses_to_send"),
    _sender(
        "a second close of a sender raises", CloseOfSenderFails, "a_sender_may_be_closed_twice"
    ),
    _receiver("ids are lost", receiving(_with_id), "each_message_has_an_id_of_its_own"),
    _receiver("the delivery count stays 1", receiving(_with_delivery), "deliveries_are_counted"),
    _receiver("receive ignores its limit", IgnoresLimit, "receive_returns_at_most_its_limit"),
    _receiver("receive hangs", ReceiveHangs, "an_empty_receive_ends_after_its_wait"),
    _receiver("receive polls", ReceivePolls, "a_pending_receive_gets_what_comes"),
    _receiver(
        "a close does not end the pending receive",
        CloseLeavesReceive,
        "closing_ends_a_pending_receive",
    ),
    _receiver(
        "an ack does nothing",
        AckDoesNothing,
        "what_is_acked_never_returns",
        "a_handled_message_is_acked_once",
    ),
    _receiver("half of a batch is acked", AcksHalf, "what_is_acked_never_returns"),
    _receiver("an ack acks all received messages", AcksTooMuch, "an_ack_is_for_its_messages_alone"),
    _receiver("a late ack is accepted", AcceptsLateAck, "a_late_ack_is_refused"),
    _receiver("a late ack gets a transient error", CallsLateAckTransient, "a_late_ack_is_refused"),
    _receiver(
        "results are out of order", SwapsResults, "results_are_in_the_order_of_their_messages"
    ),
    _receiver(
        "an ack waits for the pending receive",
        AckBlocksOnReceive,
        "other_calls_do_not_wait_for_a_receive",
    ),
    _receiver("a nack does nothing", NackDoesNothing, "a_nack_is_for_its_messages_alone"),
    _receiver("a nack acks", NackAcks, "a_nacked_message_comes_again"),
    _receiver("a nack ignores its delay", IgnoresDelay, "the_delay_of_a_nack_is_waited_for"),
    _receiver(
        "one message of a batch is nacked", NacksTheBatchOfOne, "a_nack_is_for_its_messages_alone"
    ),
    _receiver(
        "an extension succeeds without effect",
        ExtendDoesNothing,
        "an_extended_lease_lasts",
        "a_lost_lease_cannot_be_extended",
        "a_handler_slower_than_the_lease_is_not_disturbed",
    ),
    _receiver(
        "a close keeps messages until their lease ends",
        CloseKeepsMessages,
        "what_is_held_at_the_close_is_given_back_at_once",
    ),
    _receiver(
        "a close loses messages",
        CloseAcksMessages,
        "what_is_held_at_the_close_is_given_back_at_once",
    ),
    _receiver("a close hangs", CloseHangs, "a_receiver_may_be_closed_twice"),
    _receiver(
        "a closed receiver receives", ReceivesAfterClose, "a_closed_receiver_refuses_to_receive"
    ),
    _receiver("a task is left running", LeavesATask, "a_message_arrives_as_it_was"),
    _receiver("the backlog is invented", LiesAboutBacklog, "the_status_is_cheap"),
    _receiver("a working receiver reports a stall", CallsItselfStalled, "the_status_is_cheap"),
    _receiver(
        "the age of the backlog is invented", InventsTheAge, "the_age_of_the_backlog_is_true"
    ),
    _receiver(
        "one receiver is measured instead of the subscription",
        MeasuresItself,
        "what_is_measured_is_true",
    ),
    _driver("subscriptions share their messages", OneSubscription, "each_subscription_gets_all"),
    _driver(
        "a topic has several subscriptions, although fan_out is False",
        lambda: MutantDriver(fan_out=False),
        "a_topic_without_fan_out_is_one_queue",
    ),
    _driver(
        "receivers do not share",
        SeparateSubscriptions,
        "receivers_of_one_subscription_share_it",
        "a_subscription_outlives_its_receivers",
    ),
    _driver("topics mix", OneTopic, "topics_do_not_mix"),
    _driver(
        "order is broken",
        NoOrder,
        "a_key_arrives_in_order",
        "a_key_published_at_once_keeps_the_order_of_the_calls",
    ),
    _driver(
        "the limit is stated too high",
        lambda: MutantDriver(sender=RefusesLarge, message_bytes=200_000),
        "a_message_as_large_as_the_limit_arrives",
    ),
    _sender(
        "delays are ignored",
        sending(lambda m: changed(m)),
        "a_delayed_message_comes_when_it_is_due",
    ),
    _sender(
        "the limits of a topic are above those of its driver",
        LimitsOfAnother,
        "a_topic_has_no_higher_limits_than_its_driver",
    ),
    _driver(
        "the limit on attributes is stated too high",
        lambda: MutantDriver(sender=RefusesManyAttributes, broker=_with_limits()),
        "as_many_attributes_as_the_limit_arrive",
    ),
    _driver(
        "long attributes are cut",
        lambda: MutantDriver(sender=CutsAttributes, broker=_with_limits()),
        "an_attribute_as_long_as_the_limit_arrives",
    ),
    _sender(
        "the time of publishing is invented",
        sending(lambda m: changed(m, published_at=datetime(2000, 1, 1, tzinfo=UTC))),
        "the_time_of_publishing_is_told",
    ),
    _sender("a send overtakes the one before it", SendsOutOfTurn, "a_batch_is_sent_in_its_order"),
    _sender(
        "a batch is sent in reverse order", SendsBackwards, "a_batch_may_hold_several_of_a_key"
    ),
    _sender(
        "a cancelled send locks the sender",
        CancelBreaksSender,
        "a_send_works_after_one_that_was_cancelled",
    ),
    _sender(
        "messages are confirmed before they are sent, and a close drops them",
        ConfirmsTooSoon,
        "closing_a_publisher_sends_what_waits",
    ),
    _sender(
        "one of ten sends is lost but confirmed",
        LosesSometimes,
        "what_is_published_at_once_arrives",
    ),
    _sender(
        "a sender that never connected cannot be closed",
        SenderNeedsConnect,
        "a_sender_may_be_closed_before_it_connects",
    ),
    _receiver(
        "a receiver that never connected cannot be closed",
        ReceiverNeedsConnect,
        "a_receiver_may_be_closed_before_it_connects",
    ),
    _receiver(
        "a receiver that never connected has no status",
        StatusNeedsConnect,
        "the_status_is_told_at_any_time",
    ),
    _receiver(
        "an ordered receiver drops messages without a key",
        DropsMessagesWithoutKey,
        "an_ordered_receiver_gets_all",
    ),
    _receiver(
        "an ack hides the message for a while",
        AckExtends,
        "what_is_acked_does_not_return_after_its_lease",
    ),
    _receiver("a second ack raises", SecondAckRaises, "acking_twice_harms_nothing"),
    _receiver(
        "messages are acked on receipt",
        AcksOnReceipt,
        "an_unsettled_message_comes_again_after_its_lease",
        "a_death_repeats_what_was_not_acked_and_no_more",
    ),
    _receiver(
        "a nack delivers acked messages again",
        NackRevivesAckedMessages,
        "a_nack_after_an_ack_brings_nothing_back",
    ),
    _receiver(
        "concurrent calls fail",
        OneCallAtATime,
        "other_calls_do_not_wait_for_a_receive",
    ),
    _receiver(
        "one message is delivered at a time",
        HandsOutOneAtATime,
        "keys_do_not_wait_for_each_other",
    ),
    _driver(
        "messages that are given back are lost",
        lambda: MutantDriver(receiver=NackAcks, process_local=False),
        "a_drain_gives_back_what_is_not_started",
        "a_cancelled_handling_is_never_acked",
        "nothing_is_lost_by_restarts_under_load",
    ),
    _driver(
        "leases are shorter than stated",
        lambda: MutantDriver(broker=MemoryDriver(lease=LEASE / 3), lease=LEASE),
        "an_unsettled_message_comes_again_after_its_lease",
    ),
    _driver(
        "leases never end",
        lambda: MutantDriver(broker=MemoryDriver(lease=None), lease=LEASE),
        "an_unsettled_message_comes_again_after_its_lease",
    ),
    _driver(
        "leases have no cap, although one is stated",
        lambda: MutantDriver(lease_cap=2 * LEASE),
        "the_cap_on_leases_is_true",
    ),
    _driver(
        "the cap on leases is shorter than stated",
        lambda: MutantDriver(
            receiver=AcceptsAnything,
            broker=MemoryDriver(lease=LEASE, lease_cap=LEASE),
            lease_cap=2 * LEASE,
        ),
        "the_cap_on_leases_is_true",
    ),
    _driver(
        "messages that are given back are sent again in reverse order",
        ResendsBackwards,
        "order_survives_a_nack",
        "order_survives_a_close",
    ),
    _driver(
        "a key is delivered to two receivers at once",
        KeyedByReceiver,
        "a_key_is_with_one_receiver_at_a_time",
    ),
    _driver(
        "closing one receiver or sender closes all",
        ClosesAll,
        "a_receiver_that_leaves_does_not_disturb_the_other",
        "ends_are_independent",
        "stopping_one_subscriber_leaves_the_other",
    ),
    _driver("a second close of a driver raises", ClosesOnce, "a_driver_may_be_closed_twice"),
    _driver(
        "the limit on a batch is stated too high",
        lambda: MutantDriver(sender=RefusesLargeBatches, batch_bytes=120_000),
        "a_send_holds_no_more_bytes_than_the_broker_takes",
    ),
    _log(
        "unknown topics are created, although the harness denies it",
        "an_unknown_topic_is_not_found",
        "an_unknown_source_is_not_found",
    ),
    _log(
        "positions are not kept",
        "an_ack_stands_for_all_before_it",
        receiver=AcksNothingOfPartitions,
    ),
    _log(
        "positions run ahead",
        "what_follows_the_position_comes_again_in_order",
        receiver=CommitsOneTooMany,
    ),
    _log(
        "partitions are revoked without a call of revoke",
        "partitions_are_asked_back_before_another_gets_them",
        receiver=RevokesUnasked,
    ),
    _log(
        "the delivery count begins at 2",
        "a_delivery_that_is_not_counted_is_the_first",
        receiver=receiving(_with_second_delivery),
    ),
    _browser("a message is found once", FindsOnce, "a_browser_finds_what_a_topic_keeps"),
    _browser(
        "what is settled is found again", SettlesNothing, "a_settled_message_is_found_by_no_browser"
    ),
    _browser(
        "a settle settles all before it",
        SettlesAllBefore,
        "a_settled_message_is_found_by_no_browser",
    ),
    _browser(
        "a settle moves the place of a look",
        LosesItsPlace,
        "a_message_is_settled_while_others_are_looked_at",
    ),
    _browser("receivers get marks", ShowsItsMarks, "a_browser_takes_nothing_from_receivers"),
    _browser(
        "a browser finds what is acked", IgnoresAcks, "what_a_subscription_has_acked_is_settled"
    ),
    _browser("a browser measures once", MeasuresOnce, "a_browser_measures_what_is_open"),
    _browser("a browser invents ages", InventsAges, "a_browser_measures_what_is_open"),
    _browser("a browser makes its topic", MakesTopics, "a_browser_of_an_unknown_topic_finds_none"),
    _browser(
        "a browser that never connected cannot be closed",
        CloseNeedsConnect,
        "a_browser_may_be_closed_at_any_time",
    ),
    _driver(
        "routes are known only after the connect",
        lambda: PushBroker(RoutesNeedConnect),
        "routes_are_known_before_the_connect",
    ),
    _driver(
        "a push waits although nothing is received",
        lambda: PushBroker(PushesWait),
        "a_push_that_cannot_be_received_is_answered_503",
    ),
    _log(
        "a pause does nothing",
        "a_paused_partition_is_not_received",
        "a_paused_receiver_returns_nothing",
        receiver=PausesNothing,
    ),
    _log(
        "an outage is reported as a permanent error",
        "an_outage_loses_nothing",
        "a_receiver_says_that_a_broker_is_away_for_now",
        receiver=OutageEndsReceive,
    ),
    _log(
        "a send in an outage fails permanently",
        "a_sender_says_that_a_broker_is_away_for_now",
        sender=OutageEndsSend,
    ),
    _log(
        "an ack waits for the end of an outage",
        "a_drain_ends_while_the_broker_is_away",
        receiver=AckWaitsForTheBroker,
    ),
)

ENGINE_MUTANTS = (
    _engine(
        "a rejected message is retried",
        handler_that(lambda error: ValueError() if isinstance(error, Reject) else error),
        "a_rejected_message_becomes_a_dead_letter_at_once",
    ),
    _engine(
        "a group of errors is an error like any other",
        handler_that(lambda e: ValueError() if isinstance(e, BaseExceptionGroup) else e),
        "a_group_of_errors_counts_as_the_gravest",
    ),
    _engine(
        "an undecodable message is retried",
        handler_that(lambda e: ValueError() if isinstance(e, UndecodableMessage) else e),
        "an_undecodable_message_holds_up_nobody",
    ),
    _engine(
        "the delay of Retry(after) is ignored",
        handler_that(lambda error: Retry(after=0) if isinstance(error, Retry) else error),
        "retry_after_is_waited_for",
    ),
    _engine(
        "a cancelled handling counts as handled",
        handler_that(lambda e: None if isinstance(e, asyncio.CancelledError) else e),
        "a_cancelled_handling_is_never_acked",
    ),
    _engine(
        "a dead letter is not confirmed before the ack",
        subscriber(dead_letter=unconfirmed),
        "a_message_is_kept_until_its_dead_letter_is_confirmed",
    ),
    _engine(
        "order is not kept",
        subscriber(options={"order": "none"}),
        "a_key_is_handled_in_order_whatever_fails",
        "a_partition_is_handled_in_order_whatever_fails",
    ),
    _engine(
        "more messages are received than the limit",
        subscriber(options={"max_in_flight": 100, "max_in_flight_bytes": 1_000_000}),
        "no_more_is_in_flight_than_asked_for",
    ),
    _engine(
        "the bytes in flight are not counted",
        subscriber(options={"max_in_flight_bytes": 1_000_000}),
        "no_more_is_in_flight_than_asked_for",
    ),
    _engine(
        "a batch is settled as one",
        subscriber(options={"batch_handler": all_handled}),
        "a_batch_handler_settles_each",
    ),
    _engine(
        "a receive is cancelled and repeated",
        subscriber(receiver=CancellingReceiver),
        "a_receive_is_never_cancelled",
    ),
    _engine(
        "messages are forwarded without key and attributes",
        publisher(ForwardsBodies),
        "a_forwarded_message_is_as_it_came",
    ),
    _engine(
        "messages do not have the id of the request",
        forgets_requests,
        "the_id_of_a_request_reaches_the_handler",
    ),
    Mutant(
        "events keep the names of the broker",
        ("a_cloudevent_arrives_in_both_modes",),
        lambda: Harness(open=lambda: OtherNames(lease=LEASE)),
        subscriber(capabilities={"events": PLAIN}),
    ),
    Mutant(
        "the cap on leases is ignored",
        ("what_is_held_beyond_the_cap_is_not_acked",),
        in_memory(
            lambda: MutantDriver(
                receiver=AcceptsAnything,
                broker=MemoryDriver(lease=LEASE, lease_cap=LEASE),
                lease_cap=LEASE,
            )
        ),
        subscriber(capabilities={"lease_cap": None}),
    ),
    _engine(
        "a blocked event loop is not noticed",
        watches_no_loop,
        "a_handler_that_blocks_the_event_loop_is_reported",
    ),
    _engine(
        "handlers share their context",
        shared_contexts,
        "handlers_do_not_see_each_others_context",
    ),
    _engine(
        "the next attempt sees what the handler has changed",
        keeps_changes,
        "each_handling_sees_the_message_as_it_came",
    ),
    _engine(
        "messages that wait count as messages in flight",
        counts_those_that_wait,
        "messages_that_wait_to_be_retried_hold_up_nobody",
        "dead_letters_that_hang_hold_up_nobody",
    ),
    Mutant(
        "a full waiting room stops all partitions",
        ("a_full_waiting_room_stops_only_its_partition",),
        on_log(),
        subscriber(capabilities={"can_pause": False}),
    ),
    _engine(
        "a paused subscription goes on",
        ignores_pauses,
        "a_paused_subscription_handles_nothing",
    ),
    _engine(
        "one bad value fails the others", publisher(AllOrNothing), "each_value_has_its_own_result"
    ),
    _engine(
        "a closed publisher publishes",
        publisher(ClosesNothing),
        "a_closed_publisher_refuses_to_publish",
    ),
    _engine("a delay does not reach the driver", publisher(Hasty), "a_delay_is_applied_or_refused"),
    Mutant(
        "the limits of a topic are ignored",
        (
            "as_many_attributes_as_the_limit_arrive",
            "an_attribute_as_long_as_the_limit_arrives",
            "a_dead_letter_has_no_more_attributes_than_the_broker_takes",
        ),
        in_memory(lambda: MutantDriver(broker=_with_limits())),
        publisher(Unlimited),
    ),
    Mutant(
        "the broker's limits are ignored",
        (
            "a_larger_message_is_refused_before_the_wire",
            "a_send_holds_no_more_than_the_broker_takes",
            "a_send_holds_no_more_bytes_than_the_broker_takes",
        ),
        in_memory(lambda: MutantDriver(batch_bytes=100_000)),
        publisher(Unlimited),
    ),
)
