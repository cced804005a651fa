"""Anomalies found while loading: out of range, spike, jump. `docs/detection.md` says how."""
