"""A network as data, made ready to run: passes over a list of ops, wherever it comes from.

    ops      `Op`: kind, inputs, settings and weights of one step; the list is in an order that runs
    fold     batch normalisation becomes part of the weights before it
    fuse     activations and sums become part of the step before them
    place    where each result lies: stacks are written in place, reshapes and slices are views
    arena    one block of memory for all results, by when each is needed
    run      the steps on that memory, for many threads, and for the shapes that come

A reader of networks (`fastconv.nn.prepare` is one) makes ops; `Network` does the rest.
"""

from fastconv._graph.op import Op, Ops
from fastconv._graph.run import Memory, Network
from fastconv._graph.summary import Summary

__all__ = ["Memory", "Network", "Op", "Ops", "Summary"]
