"""Accounts and what they hold: energy, baht, gtx, carbon credits, and the supply of each.

No amount falls below zero, and all accounts together always hold the supply.
"""
