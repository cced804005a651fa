"""The embedded stack: emulator, TimescaleDB, Firehose, on this machine."""
