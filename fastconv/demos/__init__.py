"""Trained networks on real pictures: `python -m fastconv demo digits`, one module a demo.

Modules whose names begin with an underscore are what demos share, and the networks themselves.
"""
