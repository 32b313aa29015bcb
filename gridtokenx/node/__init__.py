"""The running node: trio services that drive the core with what peers, clients and time bring.

Composition: every piece of state has one writer, and every service lives in one nursery.
"""
