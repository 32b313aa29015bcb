"""What a process has of its machine: files, threads, loop, terminal. Knows no chain and no peer."""
