"""Attacks on a local cluster under load, and what each costs the cluster and the attacker."""
