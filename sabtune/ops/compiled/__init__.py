"""The CPU's backend: one compiled pass over the sequence and one back."""
