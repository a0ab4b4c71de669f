"""Making the network smaller in PyTorch: which channels matter, which can go, how many, and how accuracy comes back."""
