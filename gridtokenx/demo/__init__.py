"""The demonstration: a day of energy trade played on a local network and summed up; long runs.

All its figures come from the nodes; it computes none that they could.
"""
