"""A node's home folder: settings, keys, bootstrap files, and the door for its operator's commands.

What an operator says is checked here, before anything runs.
"""
