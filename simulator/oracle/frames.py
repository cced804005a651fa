"""What goes through the pipe from the recorder to the process that writes: blocks of messages, and texts before and after.

A block is PREFIX, one HEADER for each of its messages, then their payloads, each with a line feed behind it, in the same
order: many messages can so be read at once. A text is PREFIX for no messages, and JSON of the recorder's. The first thing in
the pipe is a text, and the last is another; a pipe that ends without it is that of a run that was killed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from struct import Struct
from typing import BinaryIO

PREFIX = Struct("<II")
"""Number of messages, and of the bytes behind the headers."""
HEADER = Struct("<IIIBdd")
"""Bytes of the payload, device, attempts, kind, and in epoch seconds when it was first sent (0: never) and acknowledged."""
NEVER = float("nan")
MALFORMED = 2
"""The kind of a message that holds no readings: as in simulator.devices.envelope, which the process that writes need not load."""
_BEHIND = b"\n"

Header = tuple[int, int, int, int, float, float]


@dataclass(frozen=True)
class Text:
    """The recorder's own words."""

    body: bytes


@dataclass(frozen=True)
class Block:
    """Messages."""

    headers: Sequence[Header]
    lines: bytes
    """The payloads, each with a line feed behind it."""

    def payloads(self) -> list[bytes]:
        """One by one: a payload that is broken may have line feeds in it."""
        return [
            self.lines[end - header[0] : end] for header, end in zip(self.headers, _ends(self.headers), strict=True)
        ]


def text_frame(body: bytes) -> bytes:
    """A frame with the recorder's own JSON."""
    return PREFIX.pack(0, len(body)) + body


def block_frame(headers: Sequence[bytes], payloads: Sequence[bytes]) -> bytes:
    """A frame of messages: their packed headers, and their payloads in the same order. There must be one."""
    lines = _BEHIND.join(payloads)
    return b"".join((PREFIX.pack(len(headers), len(lines) + len(_BEHIND)), *headers, lines, _BEHIND))


def read_frames(pipe: BinaryIO) -> Iterator[Text | Block]:
    """Texts and blocks until the pipe ends; of one that it breaks off in, the messages that are whole."""
    while len(prefix := pipe.read(PREFIX.size)) == PREFIX.size:
        messages, size = PREFIX.unpack(prefix)
        if messages == 0:
            body = pipe.read(size)
            if len(body) == size:
                yield Text(body)
            continue
        packed = pipe.read(messages * HEADER.size)
        lines = pipe.read(size)
        headers: list[Header] = list(HEADER.iter_unpack(packed[: len(packed) // HEADER.size * HEADER.size]))
        if len(lines) < size:
            headers = [header for header, end in zip(headers, _ends(headers), strict=True) if end <= len(lines)]
        if headers:
            yield Block(headers, lines)


def _ends(headers: Sequence[Header]) -> list[int]:
    """Where each payload ends among the lines."""
    return list(accumulate((header[0] for header in headers), lambda end, size: end + len(_BEHIND) + size))
