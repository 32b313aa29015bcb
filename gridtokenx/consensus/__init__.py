"""Weighted Byzantine agreement on opaque 32-byte block hashes; pure, sans-IO.

Entry points: `engine.Engine` (`handle(event, now_ms) -> list[Effect]`), `events` (its boundary),
`messages` (what travels), `certificates` (what proves). Source: protocols/consensus.md 2.
"""
