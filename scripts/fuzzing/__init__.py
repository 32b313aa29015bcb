"""Hostile inputs: `scripts/fuzz-http`, `scripts/fuzz-wire` and `scripts/fuzz-state`."""
