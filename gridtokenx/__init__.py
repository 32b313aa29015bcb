"""GridTokenX: a peer-to-peer energy trading node."""

__version__ = "0.1.0"
