"""Comparisons: confirmation on fresh seeds, ablations, longer sequences, and their statistics."""
