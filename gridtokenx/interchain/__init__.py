"""Messages between the national chain and the region chains: logs, checkpoints, escrow."""
