"""What tests share: nodes, worlds, clusters, oracles and fuzzers."""
