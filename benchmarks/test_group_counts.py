"""Every group count on one image, from a full convolution to a depthwise one."""

from benchmarks import problems

SUITE = "group counts"


def problems_of(full: bool) -> list[problems.Problem]:
    return problems.group_counts()


def test_group_count(measure, case):
    measure(SUITE, case)
