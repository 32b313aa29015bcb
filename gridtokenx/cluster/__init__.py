"""Local clusters: a network of plain processes on this machine, and the demonstration day."""
