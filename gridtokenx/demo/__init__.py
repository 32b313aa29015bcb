"""The demonstration: a day of energy trade played and summed up on a local network."""
