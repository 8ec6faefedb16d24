"""The C library without Python, on this machine and, under qemu, on others: bits compared as text.

harness.c makes the same inputs everywhere, so one answer of a scalar chain is the measure for all:
AVX-512, AVX2, NEON; packed weights and unpacked; calls cut short by a deadline and resumed; callers
whose floating-point mode flushes or rounds otherwise.
"""

import os
import subprocess

import numpy as np
import pytest

import cases
import fastconv as fc
import harness
from cases import DTYPES, FUSED, Case
from test_conv_bounds import assert_within_the_bound

SMALL = cases.chosen(
    [case for case in cases.NASTY if case.work < 10_000],
    cases.generated(30, seed=3, most_work=10_000),
)
LONG = [case for case in cases.chosen(cases.BLOCKED) if case.work < 400_000]
ALGORITHMS = fc._core.algorithms()
ACTIVATIONS = 15  # fc_activation: 0 is none

#: Bits of MXCSR and FPCR: flush results and inputs, round down, round up, round to zero.
CONTROL = {
    "x86_64": (0x8040, 0x2000, 0x4000, 0x6000),
    "aarch64": (1 << 24, 2 << 22, 1 << 22, 3 << 22),
}


def compare(machine: str, jobs: list[tuple[str, str]]):
    """jobs: (line to run on the machine, line whose native answer is the measure)."""
    lines, measures = zip(*jobs, strict=True)
    unique = list(dict.fromkeys(measures))
    expected = dict(zip(unique, harness.run("native", unique), strict=True))
    met: dict[str, int] = {}
    for line, measure, answer in zip(lines, measures, harness.run(machine, lines), strict=True):
        algorithm = line.split()[2]
        if answer != "cannot":
            met[algorithm] = met.get(algorithm, 0) + 1
            assert harness.bits(answer) == harness.bits(expected[measure]), (machine, line)
    asked = {line.split()[2] for line in lines}
    assert met.keys() == asked or len(SMALL) == 1, (met, asked)


def against_the_chain(selected: list[Case], isas, threads, residual=0, **options):
    return [
        (
            harness.conv_line(case, dtype, isa, algorithm, n, residual=residual, **options),
            measure,
        )
        for case in selected
        for dtype in DTYPES
        for measure in [harness.chain_line(case, dtype, residual=residual)]
        for isa in isas
        for algorithm in ALGORITHMS
        for n in threads
    ]


@pytest.mark.skipif(not FUSED, reason="this machine has no fused multiply-add")
@pytest.mark.parametrize("packed", (False, True), ids=("weights as they are", "weights packed"))
def test_here_every_engine_gives_the_bits_of_the_chain(packed):
    threads = (1, 2, 3, 4, 5, 6, 7, 8)
    jobs = against_the_chain(SMALL, FUSED, threads, packed=packed)
    compare("native", jobs + against_the_chain(LONG, FUSED, (1, 3), packed=packed))


@pytest.mark.skipif(not FUSED, reason="this machine has no fused multiply-add")
def test_a_call_cut_short_and_resumed_gives_the_same_bits():
    jobs = against_the_chain(SMALL[::2] + LONG, FUSED, (1, 3), hurried=True)
    compare("native", jobs + against_the_chain(SMALL[1::2], FUSED, (2,), hurried=True, packed=True))


@pytest.mark.skipif(not FUSED, reason="this machine has no fused multiply-add")
@pytest.mark.parametrize("residual", (1, 2), ids=("first", "last"))
def test_a_residual_is_added_to_the_bits_of_the_chain(residual):
    jobs = against_the_chain(SMALL, FUSED, (1, 3), residual)
    compare("native", jobs + against_the_chain(LONG, FUSED, (2,), residual, hurried=True))


@pytest.mark.parametrize("which", range(4), ids=("flush", "down", "up", "to zero"))
def test_the_callers_floating_point_mode_changes_no_bit_and_is_put_back(which):
    control = CONTROL[harness.NATIVE][which]
    selected = [case for case in SMALL if case.work < 3000][::3]
    for exponents in ({}, {"low": -75, "high": -65}):  # with denormal products too
        jobs = [
            (
                harness.conv_line(
                    case, np.float32, isa, algorithm, n, control=control, **exponents
                ),
                harness.conv_line(case, np.float32, isa, "im2col", **exponents),
            )
            for case in selected
            for isa in fc.isas()
            for algorithm in ALGORITHMS
            for n in (1, 3)
        ]
        compare("native", jobs)


def others(machine: str, isa: str):
    """Lines for another machine, and the lines of this one that must have the same answers."""
    here = FUSED[-1] if FUSED else "baseline"
    convolutions = [
        (harness.conv_line(case, dtype, isa, algorithm, n, packed=packed), measure)
        for case in SMALL[::2] + LONG[::3]
        for dtype in DTYPES
        for measure in [harness.chain_line(case, dtype)]
        for algorithm in ALGORITHMS
        for n, packed in ((1, False), (3, True))
    ]
    activations = [
        (
            harness.conv_line(case, dtype, isa, "im2col", **epilogue, high=4),
            harness.conv_line(case, dtype, here, "im2col", **epilogue, high=4),
        )
        for case in SMALL[-3:]
        for dtype in DTYPES
        for activation in range(ACTIVATIONS)
        for epilogue in [{"activation": activation, "residual": activation % 3}]
    ]
    pools = [(pool_line(isa, *row), pool_line(here, *row)) for row in POOLS]
    return convolutions + activations + pools


#: dtype, kind (maximum, average, sum), adaptive, count_include_pad, indices, then the sizes:
#: batch, channels, image, kernel, stride, dilation, pad before, result.
POOLS = [
    (dtype, *row)
    for dtype in (0, 1)
    for row in (
        (0, 0, 0, 1, 2, 3, 1, 13, 40, 1, 3, 3, 1, 2, 2, 1, 1, 1, 0, 1, 1, 1, 7, 20),
        (0, 0, 0, 0, 2, 3, 1, 13, 40, 1, 3, 3, 1, 1, 1, 1, 2, 2, 0, 1, 1, 1, 11, 38),
        (0, 0, 0, 0, 1, 2, 4, 9, 11, 2, 2, 5, 2, 2, 3, 1, 1, 1, 0, 0, 0, 2, 4, 3),
        (1, 0, 1, 0, 2, 3, 1, 13, 40, 1, 3, 3, 1, 2, 2, 1, 1, 1, 0, 1, 1, 1, 7, 20),
        (1, 0, 0, 0, 2, 3, 1, 13, 40, 1, 5, 4, 1, 1, 1, 1, 1, 1, 0, 2, 2, 1, 13, 41),
        (1, 1, 0, 0, 1, 5, 1, 7, 9, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 3, 4),
        (2, 0, 0, 0, 1, 3, 3, 8, 30, 2, 3, 7, 1, 2, 1, 1, 1, 1, 0, 0, 0, 2, 3, 24),
    )
]


def pool_line(isa: str, dtype: int, *numbers: int) -> str:
    return " ".join(map(str, (dtype, isa, "-", 2, 0, 0, 0, -8, 0, 11, "pool", *numbers)))


def test_neon_gives_the_same_bits():
    compare("aarch64", others("aarch64", "neon"))


def test_neon_does_not_flush_because_the_caller_does():
    case = cases.parse("conv2d c3-5 i9x11 k3 p1 nobias")
    exponents = {"low": -75, "high": -65}
    compare(
        "aarch64",
        [
            (
                harness.conv_line(case, np.float32, "neon", "im2col", 2, control=c, **exponents),
                harness.chain_line(case, np.float32, **exponents),
            )
            for c in CONTROL["aarch64"]
        ],
    )


def test_avx2_gives_the_same_bits_on_a_processor_without_avx512():
    lines = [harness.conv_line(SMALL[0], np.float32, isa, "auto") for isa in ("avx512", "avx2")]
    refused, done = harness.run("haswell", lines)
    assert refused == "no such ISA"
    harness.bits(done)
    compare("haswell", others("haswell", "avx2"))


@pytest.mark.parametrize("machine", ("nehalem", "aarch64"))
def test_the_baseline_runs_on_any_machine_and_is_within_the_bound(machine):
    jobs = [
        (case, dtype, algorithm, packed)
        for case in SMALL[::3] + LONG[::3]
        for dtype in DTYPES
        for algorithm in ALGORITHMS
        for packed in (False, True)
    ]
    lines = [
        harness.conv_line(case, dtype, "baseline", algorithm, 2, packed=packed)
        for case, dtype, algorithm, packed in jobs
    ]
    answers = harness.run(machine, lines)
    for (case, dtype, *_), line, answer in zip(jobs, lines, answers, strict=True):
        if answer != "cannot":
            y = harness.values(answer, dtype).reshape(case.y_shape)
            assert_within_the_bound(case, *case.reals(dtype), y, f"{machine}: {line}")
    assert answers.count("cannot") < 0.8 * len(answers)


@pytest.mark.skipif(harness.NATIVE != "x86_64", reason="old x86 processors are emulated on x86")
def test_an_old_processor_has_no_other_isa_than_the_baseline():
    case = SMALL[0]
    lines = [harness.conv_line(case, np.float32, isa, "auto") for isa in ("avx512", "avx2")]
    assert harness.run("nehalem", lines) == ["no such ISA"] * 2


IMPORTED = """
import numpy as np, fastconv as fc
from fastconv import reference
assert fc.isas() == ("baseline",), fc.isas()
rng = np.random.default_rng(1)
def integers(*shape):
    return rng.integers(-8, 9, shape).astype(np.float32)
x, w, b = integers(2, 4, 9, 21), integers(6, 4, 3, 3), integers(6)
for algorithm in ("direct", "im2col"):
    for threads in (1, 3):
        with fc.using(algorithm=algorithm, threads=threads):
            assert (fc.conv2d(x, w, b, 2, 1) == reference.conv2d(x, w, b, 2, 1)).all()
x64, w64 = x.astype(np.float64), integers(4, 6, 4, 4).astype(np.float64)
y = fc.conv_transpose2d(x64, w64, None, 2, 1)
assert (y == reference.conv_transpose2d(x64, w64, None, 2, 1)).all()
d = integers(8, 1, 3, 3)
assert (fc.conv2d(x, d, padding=1, groups=4) == reference.conv2d(x, d, padding=1, groups=4)).all()
assert (fc.conv2d(x, w[:, :, :1, :1]) == reference.conv2d(x, w[:, :, :1, :1])).all()
assert (fc.max_pool2d(x, 3, 2, 1) == reference.max_pool2d(x, 3, 2, 1)).all()
assert (fc.avg_pool2d(x, 2) == reference.avg_pool2d(x, 2)).all()
assert abs(fc.gelu(x) - reference.gelu(x)).max() < 1e-5
print("right")
"""


def test_fastconv_itself_is_right_on_a_processor_without_avx():
    environment = {k: v for k, v in os.environ.items() if k != "FASTCONV_ISA"}
    done = subprocess.run(
        [*harness.python("nehalem"), "-c", IMPORTED],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.stdout == "right\n", done.stderr
