"""Truncated back-propagation: the blocks between which gradients don't flow, and their names."""

from __future__ import annotations


def blocks(k_trunc: int, done: int, steps: int) -> list[int]:
    """Return the lengths of the blocks into which k_trunc cuts the next `steps` steps.

    Blocks count from the start of the sequence, so that calls in the middle of a block don't move
    the cuts.

    k_trunc: The length of a block; 0 for no truncation. done: The number of steps before them.
    """
    if not k_trunc:
        return [steps]
    lengths = [min(-done % k_trunc, steps)] if done % k_trunc else []
    while sum(lengths) < steps:
        lengths.append(min(k_trunc, steps - sum(lengths)))
    return lengths


def label(k_trunc: int) -> str:
    """Return the truncation in the label of a configuration, as in "full BPTT" or "k_trunc=5"."""
    return f"k_trunc={k_trunc}" if k_trunc else "full BPTT"


def legend(k_trunc: int) -> str:
    """Return the truncation in figures and tables, as in "truncated BPTT (k_trunc=5)"."""
    return f"truncated BPTT (k_trunc={k_trunc})" if k_trunc else "full BPTT"
