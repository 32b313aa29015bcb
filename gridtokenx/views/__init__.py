"""A running node as others may see it: frozen values and figures.

Moves nothing; a reader in any thread takes one attribute and works on what it got.
"""
