"""The market: orders, the auction, settlement, redemption, reports.

A clearing depends on the orders alone, never on their order of arrival or on a hash of the chain.
"""
