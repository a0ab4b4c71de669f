"""Which numbers an integer stands for: schemes, observers, statistics, ranges. NumPy only."""
