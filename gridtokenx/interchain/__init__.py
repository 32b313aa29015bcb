"""Messages between the national chain and the region chains: logs, checkpoints, escrow.

A region can lose only what is on it, whoever has captured it.
"""
