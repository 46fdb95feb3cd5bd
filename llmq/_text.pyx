# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=True
"""The tokenizers of csrc/text/ as Python sees them."""
