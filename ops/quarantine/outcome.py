"""What became of each thing that was redriven or discarded, and how many of each."""

from collections import Counter
from typing import Literal, NamedTuple

from ops.quarantine.items import Kind

Became = Literal[
    "row",
    "duplicate",
    "stays",
    "loaded",
    "in Firehose",
    "in the object queue",
    "discarded",
    "deleted",
    "resolved already",
    "failed",
]
"""`resolved already`: by somebody else, or before. `failed`: nothing changed, and the next attempt may succeed."""


class Outcome(NamedTuple):
    """One kind of end; a line that holds several readings has one for each."""

    kind: Kind
    reason: str
    """Why it had been refused."""
    became: Became
    because: str = ""
    """Why it stays, or what failed."""


Tally = Counter[Outcome]
