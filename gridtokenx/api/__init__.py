"""The node's API: one handler table (`methods`) behind JSON-RPC, REST and their descriptions."""
