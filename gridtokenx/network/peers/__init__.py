"""What is known of peers: ids, addresses, reputation, places, budgets.

Does no I/O and knows no clock.
"""
