"""What the grid can carry and what meters say: statuses of nodes, headroom, halts, registers.

Turns readings into energy that was made or used, and sells nothing.
"""
