"""A node: the trio shell that drives the deterministic core with what peers and clients bring."""
