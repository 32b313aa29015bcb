"""The HTTP door: one table of methods (`methods`) behind JSON-RPC, REST and their descriptions.

Runs in a thread of its own, sees frozen views and values, and never waits for the node.
"""
