"""The gossipsub router without I/O: events in, effects out.

Knows no socket, clock or chain; the time is handed in.
"""
