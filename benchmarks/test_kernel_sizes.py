"""Every kernel size on one image: where does each algorithm win?"""

from benchmarks import problems

SUITE = "kernel sizes"


def problems_of(full: bool) -> list[problems.Problem]:
    return problems.kernel_sizes()


def test_kernel_size(measure, case):
    measure(SUITE, case)
