"""One typical call of every public op; with --benchmark-full, or when this file is named."""

from benchmarks import functions

SUITE = "functions"


def problems_of(full: bool) -> list[functions.Call]:
    return list(functions.CALLS.values())


def test_function(measure, case):
    measure(SUITE, case)
