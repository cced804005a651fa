"""One simulated device: its clockwork, its buffer and its account of what was published and acknowledged. No I/O."""

from collections import deque
from collections.abc import Iterable
from enum import IntFlag
from math import ceil, inf

from simulator.devices.behaviours.course import Change, Course, Event
from simulator.devices.envelope import EnvelopePacker, Message, MessageKind
from simulator.devices.link import Link
from simulator.devices.profile_signals import ProfileSignals
from simulator.devices.seq_ranges import SeqRanges
from simulator.devices.signals import DeviceSignals
from simulator.scenario.config import SimulatorConfig
from simulator.scenario.placement import Placement, placement_of


class Act(IntFlag):
    """What the fleet is to do after a device has done what was due."""

    NOTHING = 0
    PUBLISH = 1
    """Complete messages wait in the backlog, or readings were lost for `drop_overflow` to tell."""
    GO_OFFLINE = 2
    """Stop the link, abruptly if `abrupt` says so."""
    GO_ONLINE = 4
    """Start the link again."""
    REVOKE = 8
    """The certificate is to be revoked."""
    READING = 16
    """One reading was generated."""


# Combining flags costs as much as a reading, so what is returned most is at hand.
_NOTHING = Act.NOTHING
_PUBLISH = Act.PUBLISH
_READING = Act.READING
_READING_PUBLISH = Act.READING | Act.PUBLISH


class Device:
    """One device of the fleet. What it does depends on its seed and due times only, never on a clock."""

    __slots__ = (
        "_base_seq", "_buffer_readings", "_course", "_encode", "_handed_out", "_holds", "_interval_seconds",
        "_kept_back", "_lost_readings", "_number", "_packer", "_phase_seconds", "_reading_due", "_repeats",
        "_until_seconds", "abrupt", "acknowledged", "answered", "backlog", "backlog_readings", "connected", "dropped",
        "due", "finished", "first_seq", "generated", "in_flight", "link", "lost_on_purpose", "published", "refusal",
        "resend", "retrying", "revoked", "thing_name", "was_connected",
    )  # fmt: skip

    def __init__(  # noqa: PLR0915 -- its state, with what each part of it means
        self, config: SimulatorConfig, index: int, thing_name: str, *, fleet_size: int, first_seq: int
    ) -> None:
        place = placement_of(config, index, thing_name)
        self._buffer_readings = config.buffer_readings
        self._interval_seconds = place.interval_seconds
        # Spread evenly, so that the fleet as a whole is a steady stream.
        self._phase_seconds = place.interval_seconds * index / fleet_size
        self._packer = EnvelopePacker(config, index, batch=place.batch)
        signals = _signals(config, place, thing_name)
        self._encode = signals.encode
        self._course = (
            Course(place.behaviours, seed=config.seed, device=index, thing_name=thing_name, signals=signals)
            if place.behaviours
            else None
        )
        self._until_seconds = inf if config.duration_seconds is None else config.duration_seconds
        self.thing_name = thing_name
        self.link: Link | None = None
        self.connected = False
        self.was_connected = False
        self.answered = False
        """Whether its first attempt to connect has come to an end, good or bad."""
        self.refusal: str | None = None
        """Why that attempt failed."""
        self.revoked = False
        """Whether its certificate is revoked: then nobody waits for it, and what it cannot send is nobody's fault."""
        self.abrupt = True
        """Whether the connection is to be lost without a DISCONNECT, when it is told to go offline."""
        self.finished = False
        self.first_seq = first_seq
        self.generated = 0
        """Readings taken so far."""
        self._number = 0
        """Of the next reading on the device's grid of times; beyond `generated` where it slept."""
        self._base_seq = first_seq
        """What makes a sequence number of that; a reboot sets it anew."""
        self._holds = 0
        """Behaviours that keep it offline now."""
        self._kept_back = 0
        """Messages at the end of the backlog that were completed since then."""
        self._repeats: deque[tuple[int, Message]] = deque()
        """Messages to be sent again on purpose, and after how many handed out."""
        self._handed_out = 0
        self._lost_readings = 0
        self.lost_on_purpose = 0
        """Readings lost in reboots that were to lose them."""
        self.dropped: list[Message] = []
        """Messages given up since the fleet last emptied this list; they were never published."""
        self.backlog: deque[Message] = deque()
        """Complete messages, never published, oldest first."""
        self.backlog_readings = 0
        self.resend: deque[Message] = deque()
        """Messages whose last attempt failed and whose time to be sent again has come."""
        self.in_flight = 0
        self.retrying = 0
        """Messages that wait for their time to be sent again."""
        self.published = SeqRanges()
        self.acknowledged = SeqRanges()
        self._reading_due = self._phase_seconds
        self.due = 0.0
        """When its next event of any kind is due, in seconds since the start; infinite: none any more."""
        self._set_due()

    @property
    def settled(self) -> bool:
        """Whether everything that is to be sent has been acknowledged."""
        return not (
            self.backlog
            or self.resend
            or self.in_flight
            or self.retrying
            or self._repeats
            or (self._course is not None and self._course.holds_messages)
        )

    def take(self, started_at_ms: int) -> Act:
        """Do the one thing that is due."""
        if self._course is not None:
            if self._course.next_at <= self._reading_due:
                act = self._befall(self._course, self._course.pop(), started_at_ms)
            else:
                act = self._measure_on_course(self._course, started_at_ms)
            self._set_due()
            return act
        due = self._reading_due
        number = self._number
        self._number = self.generated = number + 1
        next_due = self._phase_seconds + (number + 1) * self._interval_seconds
        self._reading_due = next_due
        self.due = next_due if next_due < self._until_seconds else inf
        seq = self._base_seq + number
        encoded = self._encode(started_at_ms + round(due * 1000), seq)
        complete = self._packer.add(encoded, seq=seq, due=due, next_due=next_due)
        if not complete:
            return _READING
        for message in complete:
            self.backlog.append(message)
            self.backlog_readings += message.readings
        return _READING_PUBLISH

    def _set_due(self) -> None:
        due = self._reading_due if self._course is None else min(self._reading_due, self._course.next_at)
        self.due = due if due < self._until_seconds else inf

    # What befalls a device with behaviours.

    def _measure_on_course(self, course: Course, started_at_ms: int) -> Act:
        due = self._reading_due
        seq = self._base_seq + self._number
        self._number += 1
        self.generated += 1
        self._reading_due = next_due = self._phase_seconds + self._number * self._interval_seconds
        ts = started_at_ms + round(due * 1000)
        backlog = len(self.backlog)
        for message in self._packer.add(course.encode(due, ts, seq), seq=seq, due=due, next_due=next_due):
            self._keep(course.leave(message, due, ts))
        return _READING if len(self.backlog) == backlog else _READING_PUBLISH

    def _befall(self, course: Course, event: Event, started_at_ms: int) -> Act:
        match event.change:
            case Change.DOWN:
                return self._go_down(event)
            case Change.UP:
                return self._come_up()
            case Change.REBOOT:
                return self._reboot(course, event, started_at_ms)
            case Change.REVOKE:
                act = _NOTHING if self.revoked else Act.REVOKE
                self.revoked = True
                return act

    def _go_down(self, event: Event) -> Act:
        self._holds += 1
        if self._holds > 1:
            return _NOTHING
        self.abrupt = event.abrupt
        self._kept_back = 0
        return Act.GO_OFFLINE

    def _come_up(self) -> Act:
        self._holds -= 1
        return Act.GO_ONLINE if self._holds == 0 else _NOTHING

    def _reboot(self, course: Course, event: Event, started_at_ms: int) -> Act:
        open_envelope = self._packer.flush()
        if event.keep_backlog:
            for message in open_envelope:
                self._keep(course.leave(message, event.at, started_at_ms + round(event.at * 1000)))
            self._keep(course.release())
            act = _PUBLISH if self.backlog else _NOTHING
        else:
            self._lose([*self._take_back(), *course.release(), *open_envelope])
            act = _PUBLISH
        act |= self._go_down(event)
        # It sleeps through the readings up to then, and counts from 0 with the first one after it.
        self._number = max(self._number, ceil((event.up_at - self._phase_seconds) / self._interval_seconds))
        self._base_seq = -self._number
        self._reading_due = self._phase_seconds + self._number * self._interval_seconds
        return act

    def _take_back(self) -> list[Message]:
        # Not the whole backlog: how much of that is sent already depends on the machine, and a run is to be repeatable.
        count = min(self._kept_back, len(self.backlog)) if self._holds else 0
        self._kept_back = 0
        taken = [self.backlog.pop() for _ in range(count)][::-1]
        self.backlog_readings -= _readings_of(taken)
        return taken

    def _lose(self, messages: list[Message]) -> None:
        lost = _readings_of(messages)
        self._lost_readings += lost
        self.lost_on_purpose += lost
        self.dropped += messages

    # What becomes of its messages.

    def flush(self) -> bool:
        """Close the open envelope; returns whether there was one."""
        complete = self._packer.flush()
        if self._course is not None:
            complete = [*self._course.release(), *complete]
        self._keep(complete)
        return bool(complete)

    def finish(self) -> Act:
        """No more readings: close the open envelope, and let go of whatever a behaviour holds back.

        GO_ONLINE where one holds it offline, unless its certificate is revoked.
        """
        self.finished = True
        self.due = self._reading_due = inf
        self.flush()
        act = _PUBLISH if self.backlog or self._repeats else _NOTHING
        if self._holds and not self.revoked:
            act |= Act.GO_ONLINE
        self._holds = 0
        return act

    def _keep(self, complete: Iterable[Message]) -> None:
        for message in complete:
            self.backlog.append(message)
            self._kept_back += self._holds > 0
            if message.kind is MessageKind.TELEMETRY:
                self.backlog_readings += message.readings

    def drop_overflow(self) -> int:
        """Give up the oldest messages beyond what the buffer holds; returns the number of readings lost since last."""
        lost, self._lost_readings = self._lost_readings, 0
        while self.backlog_readings > self._buffer_readings:
            oldest = self.backlog.popleft()
            self.dropped.append(oldest)
            if oldest.kind is MessageKind.TELEMETRY:
                self.backlog_readings -= oldest.readings
                lost += oldest.readings
        return lost

    @property
    def has_more(self) -> bool:
        """Whether `next_message` may have another one."""
        return bool(self.backlog or self.resend or self._repeats)

    def next_message(self) -> Message | None:
        """The message to publish next: what has to be sent again goes first."""
        if self._holds:
            return None
        if self.resend:
            return self.resend.popleft()
        if self._repeats and (self._repeats[0][0] <= self._handed_out or (self.finished and not self.backlog)):
            return self._repeats.popleft()[1]
        if not self.backlog:
            return None
        message = self.backlog.popleft()
        self._handed_out += 1
        if message.kind is MessageKind.TELEMETRY:
            self.backlog_readings -= message.readings
            self.published.add(message.first_seq, message.last_seq)
            if message.repeat_after >= 0:
                self._repeat(message)
        return message

    def _repeat(self, message: Message) -> None:
        duplicate = Message(
            message.device,
            message.payload,
            message.first_seq,
            message.last_seq,
            readings=message.readings,
            kind=MessageKind.DUPLICATE,
        )
        self._repeats.append((self._handed_out + message.repeat_after, duplicate))


def _signals(config: SimulatorConfig, place: Placement, thing_name: str) -> DeviceSignals | ProfileSignals:
    interval = place.interval_seconds
    if place.profile is None:
        return DeviceSignals(config, thing_name, interval_seconds=interval)
    return ProfileSignals(place.profile, seed=config.seed, thing_name=thing_name, interval_seconds=interval)


def _readings_of(messages: Iterable[Message]) -> int:
    return sum(message.readings for message in messages if message.kind is MessageKind.TELEMETRY)
