"""The tiny models that make_goldens.py makes goldens of, by kind."""
