"""Benchmarks: ours and a reference in one run on one machine, with the ratio printed."""
