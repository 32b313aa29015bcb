"""Networks of plain processes on this machine, to test with: start, watch, break, assert.

Talks to its nodes as anybody could, over their API, signals and the admin socket.
"""
