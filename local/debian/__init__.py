"""Programs from Debian's packages for the local stack and the benchmarks, without root and on any Debian release."""
