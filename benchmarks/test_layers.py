"""Convolutions of real networks, as shapes/ lists them."""

from benchmarks import problems

SUITE = "layers"


def problems_of(full: bool) -> list[problems.Problem]:
    return problems.layers(full=full, accept=lambda problem: problem.is_conv)


def test_layer(measure, case):
    measure(SUITE, case)
