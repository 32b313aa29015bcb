"""`trade clear`: a clearing done again, from a file of orders or from the blocks of a slot."""
