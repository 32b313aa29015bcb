"""What a process has of its machine: private files, threads, the loop's lag, ends, the screen.

Knows no chain and no peer.
"""
