"""Stake: validators and their pools, delegations, penalties, and the weights of elections.

gtx moves between accounts of the system only: the supply never changes here.
"""
