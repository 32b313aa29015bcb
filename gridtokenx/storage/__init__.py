"""What is on the disk: blocks and state of each chain, the index over them, safety records.

A decided block is one synced batch, so a process killed at any instant ends at a block's border.
"""
