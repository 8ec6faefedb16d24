"""Long runs of tests, each of millions of cases if asked for: `python -m fastconv.testing --help`.

A run is a module of this package that defines RUN, a `_run.Run`: how many cases, which case an index
has, and how a case is checked. A case is a line of words, which is all there is to know of it, so
that any case of any run can be replayed. NumPy is all that is needed.
"""
