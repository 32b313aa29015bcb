"""Commands, and what some of them are made of."""
