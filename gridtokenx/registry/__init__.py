"""Who and what is known to a region: organisations, territories, participants, meters and devices.

Keeps no names and no money; who may register or suspend whom is decided here.
"""
