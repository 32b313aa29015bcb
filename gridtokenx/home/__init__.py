"""The home folder: settings, keys, bootstrap files, and the door for an operator's commands."""
