"""What a node keeps on disk and reads back: chain stores, their index, safety records."""
