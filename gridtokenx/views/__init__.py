"""A running node as others may see it: frozen values and figures. Moves nothing."""
