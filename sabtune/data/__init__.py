"""Data sets: where they are stored, how they are split, and readers of their formats.

Only `fetch` downloads anything, when you run `sabtune data fetch`. The other modules need only
NumPy and PyTorch, scikit-learn for the digits, and Pillow for PNG files.
"""
