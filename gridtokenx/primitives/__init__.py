"""Shared kernel: errors, quantities, canonical encoding, hashes, trees, state, validators."""
