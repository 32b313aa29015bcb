"""Votes: proposals, ballots, tallies, and what a parameter may be set to.

A vote that passes yields actions; carrying them out is the business of `chain`.
"""
