"""Data sets: where they lie, what they are made of, how their published formats are read.

Everything here but `fetch` needs numpy and torch alone (the digits also scikit-learn), and none of
it downloads anything: `fetch` does, when a person asks for it.
"""
