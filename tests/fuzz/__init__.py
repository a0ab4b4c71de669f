"""Inputs of all kinds, mutated: each ends in one line and an exit code of our own."""
