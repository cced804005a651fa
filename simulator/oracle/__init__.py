"""The ground truth of a run: every reading that was generated and what became of its message, in a Parquet file."""

from simulator.oracle.merging import merge
from simulator.oracle.reading import Facts, Oracle, read
from simulator.oracle.recorder import Outcome, Recorder, Run, Settled, open_oracle, part_of

__all__ = ["Facts", "Oracle", "Outcome", "Recorder", "Run", "Settled", "merge", "open_oracle", "part_of", "read"]
