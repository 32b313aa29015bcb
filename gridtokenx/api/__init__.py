"""The HTTP door: one table of methods (`methods`) behind JSON-RPC, REST and their descriptions.

Runs in a thread of its own, sees frozen views and values, and asks the node by futures only.
"""
