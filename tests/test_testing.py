"""`python -m fastconv.testing`: what its runs do with cases that fail, crash and hang, and how they go on."""

import ctypes
import ctypes.util
import itertools
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import fastconv as fc
from fastconv.testing import _twin, fuzz, grid, numbers
from fastconv.testing._cases import parse
from fastconv.testing._numbering import Combinations
from fastconv.testing._run import Tally, Violation, done, load, perform
from helpers import run_script

#: Cases 0 to 99 but for the odd ones; some of them do what a case should not.
TRYING = """
import os, signal, time
from fastconv.testing._run import Run, Violation

def line(index):
    return f"case {index}" if index % 2 == 0 else None

def check(line):
    number = int(line.split()[1])
    if number == 10:
        raise Violation("wrong")
    if number == 20:
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 30:
        time.sleep(60)
    if number == 40:
        raise ValueError("unforeseen")
    return {"calls": 2}

RUN = Run(line, check, cases=50, full=100, promise="", timeout=2)
"""


@pytest.fixture
def trying(tmp_path, monkeypatch):
    """The name of a module whose RUN is the above."""
    (tmp_path / "trying_run.py").write_text(TRYING, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "trying_run"


def test_cases_that_fail_crash_and_hang_are_violations_and_the_run_goes_on(trying, capsys):
    tally = perform(trying, 50, Tally(), processes=2)
    assert (tally.cases, tally.next) == (50, 100) or tally.cases > 50
    assert tally.counts["calls"] == 2 * (tally.cases - 4)
    wrong, killed, hung, unforeseen = tally.violations
    assert wrong == "case 10\n    wrong"
    assert killed == "case 20\n    the process ended by SIGSEGV"
    assert hung == "case 30\n    after 2 s the process did not end"
    assert unforeseen.startswith("case 40\n    ValueError: unforeseen (")
    assert capsys.readouterr().out.count("VIOLATION trying_run: ") == 4


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "fastconv.testing", *map(str, arguments)],
        cwd=Path(fc.__file__).parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_run_is_recorded_and_goes_on(tmp_path):
    state = tmp_path / "state.json"
    for cases in (20, 50):
        done = command("grid", "--cases", cases, "--processes", 1, "--state", state)
        assert done.returncode == 0, done.stdout + done.stderr
        kept = json.loads(state.read_text("utf-8"))["runs"]["grid"]
        assert cases <= kept["cases"] < cases + 30 and kept["violations"] == []
    assert "0 violations" in done.stdout
    card = tmp_path / "docs" / "card.md"
    done = command("scorecard", "--state", state, "--output", card)
    assert done.returncode == 0 and f"| grid | {kept['cases']} |" in card.read_text("utf-8")
    state.write_text(state.read_text("utf-8").replace(fc.__version__, "0.0.1"), "utf-8")
    done = command("grid", "--state", state)
    assert done.returncode == 2 and "is of another build" in done.stderr


def test_a_case_can_be_replayed():
    done = command("grid", "--replay", "conv2d c3-4 i9 k3 p1")
    assert done.returncode == 0 and done.stdout.startswith("holds: ")


def test_it_is_no_part_of_the_import_of_the_package():
    run_script("import sys, fastconv\nassert 'fastconv.testing' not in sys.modules")


@pytest.mark.parametrize(
    "line",
    (
        "conv2d c3-4 i9 k3 p1",
        "conv_transpose1d c8-8 g8 i20 k3 s2",
        "max_pool2d n1 c3 i9x9 k3x3 s2x2 d1x1 p1x1",
    ),
)
def test_the_grid_notices_one_wrong_element(line, monkeypatch):
    name = "pool" if "pool" in line else "conv"
    real = getattr(grid._core, name)

    def wrong(problem, x, *arrays):
        done = real(problem, x, *arrays)
        arrays[0 if name == "pool" else 2].flat[7] += 1
        return done

    assert grid.check(line)["calls"] >= 6
    monkeypatch.setattr(grid._core, name, wrong)
    monkeypatch.setattr(grid._core, "again", lambda *_: None)  # which knows the call by now
    with pytest.raises(Violation, match="1 of .* differ"):
        grid.check(line)


def test_shapes_of_the_grid_are_all_different_and_mostly_there():
    lines = [grid.line(index) for index in range(4000)]
    found = [line for line in lines if line]
    assert len(set(found)) == len(found) > 0.7 * len(lines)
    ops = Counter(line.split()[0] for line in found)
    convolutions = {f"conv{t}{d}d" for t in ("", "_transpose") for d in (1, 2, 3)}
    pools = {
        f"{a}{k}_pool{d}d" for a in ("", "adaptive_") for k in ("max", "avg") for d in (1, 2, 3)
    }
    assert set(ops) == convolutions | pools | {"global_max_pool", "global_avg_pool"}
    assert min(ops.values()) > 5


def test_combinations_are_all_there_once():
    numbers = Combinations(a=range(7), b=range(11), c="xyz")
    found = [tuple(numbers[i].values()) for i in range(numbers.number)]
    assert set(found) == set(itertools.product(range(7), range(11), "xyz"))
    assert found != sorted(found)


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_the_emulated_fma_is_the_machine_s(dtype):
    """Against the C library's, on sums that cancel, and far apart."""
    rng = np.random.default_rng(5)
    a, b, c = rng.standard_normal((3, 20_000)).astype(dtype)
    c *= dtype(2) ** rng.integers(-60, 60, c.size).astype(dtype)
    c[::3] = -(a * b)[::3]
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    scalar, kind = (
        (libm.fmaf, ctypes.c_float) if dtype == np.float32 else (libm.fma, ctypes.c_double)
    )
    scalar.argtypes, scalar.restype = [kind] * 3, kind
    expected = [scalar(*three) for three in zip(a.tolist(), b.tolist(), c.tolist(), strict=True)]
    np.testing.assert_array_equal(_twin.fma(a, b, c), np.array(expected, dtype))


REALS = [
    line
    for line in map(fuzz.line, range(100, 400))
    if "history" not in line and (found := line.split()) and found[0][:3] != "max"
]


@pytest.mark.parametrize("thousandths", (0, 1))
def test_the_fuzz_notices_other_bits_and_lost_digits(thousandths, monkeypatch):
    """One number off by its last bit, which only convolutions show, or by a thousandth."""
    lines = [line for line in REALS if thousandths or ("conv" in line and fuzz.FUSED)]
    real = {name: getattr(fc, name) for name in {line.split()[0] for line in lines}}

    def wrong(name):
        def function(*arrays, **options):
            y = real[name](*arrays, **options)
            at = abs(y).argmax()
            less = np.nextafter(y.flat[at], y.dtype.type(0))
            y.flat[at] *= y.dtype.type(1 + thousandths / 1000)
            y.flat[at] = y.flat[at] if thousandths else less
            return y

        return function

    def missed(line):
        try:
            fuzz.check(line)
        except Violation as error:
            return not re.search("bits|bounds" if thousandths else "bits", str(error))
        return True

    for name in real:
        monkeypatch.setattr(fc, name, wrong(name))
    with fc.using(isa=fuzz.FUSED[0] if fuzz.FUSED else None):
        assert sum(map(missed, lines)) <= len(lines) // 10  # results of nothing but zeros, for one


@pytest.mark.parametrize("name", ("grid", "fuzz", "numbers", "sizes"))
def test_a_few_seconds_of_the_runs(name):
    found = done(load(f"fastconv.testing.{name}"), 10_000, 10_300)
    assert not found.violations
    assert found.cases > 150 and found.counts.total() > 500


def test_the_numbers_are_where_they_are_meant_to_be():
    """Results with NaN, infinities, denormals and zeros, from every place."""
    seen = Counter()
    for line in filter(None, map(numbers.line, range(800))):
        words, rest = line.split(" ", 1)
        if "pool" in rest:
            continue
        kind, place = words.split(":")
        case = parse(rest)
        shapes = zip("xwb", (case.x_shape, case.w_shape, (case.oc,)), strict=True)
        arrays = [numbers.values(kind, place, *each, np.float32, case.seed) for each in shapes]
        with np.errstate(all="ignore"):
            y = numbers.expected(case, *arrays)
        tiny = (y != 0) & (abs(y) < np.finfo(y.dtype).tiny)
        for name, found in (("nan", np.isnan(y)), ("inf", np.isinf(y)), ("denormal", tiny)):
            seen[kind, name] += found.any()
        assert not np.signbit(y[y == 0]).any()
    assert min(seen["nan", "nan"], seen["infs", "nan"], seen["inf", "inf"]) > 10
    assert min(seen["huge", "inf"], seen["denormal", "denormal"]) > 10


@pytest.mark.parametrize("value", (-0.0, 1.0, np.inf, np.nan))
def test_the_numbers_notice_a_zero_with_the_wrong_sign_and_what_is_no_zero(value):
    good = np.zeros(3, np.float32)
    numbers.compare(good, good)
    with pytest.raises(Violation, match=r"at \(1,\)"):
        numbers.compare(np.array([0, value, 0], np.float32), good)
    assert value == value or numbers.compare(good * value, good * value) is None
