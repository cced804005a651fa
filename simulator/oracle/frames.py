"""What goes through the pipe from the recorder to the process that writes: frames of a header and some bytes.

The first frame and the last are JSON texts of the recorder's; a pipe that ends without the last one is that of a run that
was killed. Each frame between them is one message.
"""

from collections.abc import Iterator
from struct import Struct
from typing import BinaryIO

HEADER = Struct("<IIIBdd")
"""Bytes that follow, device, attempts, kind, and in epoch seconds when it was first sent (0: never) and acknowledged."""
TEXT = 0xFFFF_FFFF
"""In the place of a device: the bytes are the recorder's own JSON."""
NEVER = float("nan")
MALFORMED = 2
"""The kind of a message that holds no readings: as in simulator.devices.envelope, which the process that writes need not load."""
_BLOCK_BYTES = 1024 * 1024

Header = tuple[int, int, int, int, float, float]


def text_frame(body: bytes) -> bytes:
    """A frame with the recorder's own JSON."""
    return HEADER.pack(len(body), TEXT, 0, 0, 0.0, NEVER) + body


def read_frames(pipe: BinaryIO) -> Iterator[tuple[Header, bytes]]:
    """Headers and bytes until the pipe ends; a frame that it breaks off in is none."""
    unpack, size = HEADER.unpack_from, HEADER.size
    left = b""
    while block := pipe.read(_BLOCK_BYTES):
        data = left + block
        at, end = 0, len(data)
        while at + size <= end:
            header: Header = unpack(data, at)
            after = at + size + header[0]
            if after > end:
                break
            yield header, data[at + size : after]
            at = after
        left = data[at:]
