"""What the methods of the API answer: frozen dataclasses that handlers fill in and clients read.

A module here is named as the module of its methods. Knows no handler, no node and no HTTP.
"""
