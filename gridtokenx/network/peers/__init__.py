"""What is known of peers: names, addresses, reputation, allowances. Does no I/O."""
