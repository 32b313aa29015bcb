"""What everything else is made of: quantities, errors, canonical encoding, keys, trees, tables.

Knows nothing of energy, money or blocks. A value of these types cannot be wrong.
"""
