"""Pooling layers of real networks, as shapes/ lists them."""

from benchmarks import problems

SUITE = "pools"


def problems_of(full: bool) -> list[problems.Problem]:
    return problems.layers(full=full, accept=lambda problem: not problem.is_conv)


def test_pool(measure, case):
    measure(SUITE, case)
