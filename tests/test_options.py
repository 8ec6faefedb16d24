"""Options beside the arguments, the environment, and what `explain` says of a call."""

import contextlib
import itertools
import os
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastconv as fc
from fastconv import _core, _options
from helpers import run_script

RNG = np.random.default_rng(12)
PACKAGE = Path(fc.__file__).parent


def reals(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


X, W = reals(1, 6, 20, 31), reals(8, 6, 3, 3)
ANYTHING = reals(2, 3, 1, 1), reals(3, 1, 1, 1), None, 1, 0, 1, 3  # every algorithm can do it


def taken(*args, **options):
    return fc.explain("conv2d", *args, **options).algorithm


def isa_in_force():
    return fc.explain("conv2d", X, W).isa


# --- using --------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", fc.isas())
def test_a_forced_isa_runs(isa):
    with fc.using(isa=isa):
        assert isa_in_force() == isa
        assert fc.explain("max_pool2d", X, 2).isa == isa
        assert fc.conv2d(X, W).shape == (1, 8, 18, 29)


def test_isas_differ_in_their_work():
    """Lanes show in what a plan books, and fused multiply-adds in the bits."""
    if "baseline" == fc.isas()[0]:
        pytest.skip("this machine has one ISA")
    with fc.using(isa="baseline"):
        plain = fc.conv2d(X, W)
    with fc.using(isa=fc.isas()[0]):
        fused = fc.conv2d(X, W)
    assert (plain != fused).any()


@pytest.mark.parametrize("algorithm", fc._core.algorithms())
def test_a_forced_algorithm_runs_by_argument_and_by_option(algorithm):
    want = fc.conv2d(*ANYTHING)
    with fc.using(algorithm=algorithm):
        assert taken(*ANYTHING) == algorithm
        assert_array_equal(fc.conv2d(*ANYTHING), want)
    assert taken(*ANYTHING, algorithm=algorithm) == algorithm
    assert_array_equal(fc.conv2d(*ANYTHING, algorithm=algorithm), want)


def test_the_argument_is_stronger_than_the_option():
    first, second = fc._core.algorithms()[:2]
    with fc.using(algorithm=first):
        assert taken(*ANYTHING, algorithm=second) == second


LONG_ROW = np.broadcast_to(X[:, :, :1, :1], (1, 6, 1, 10**6))
# For each algorithm that does not take everything, a problem that it cannot do.
TOO_MUCH = {
    "grouped": (X, W),
    "depthwise": (X, W),
    "pointwise": (X, W),
    "direct": (LONG_ROW, reals(1, 6, 1, 90_000)),
}


@pytest.mark.parametrize("algorithm", TOO_MUCH)
def test_a_forced_algorithm_that_cannot_raises_its_sentence_and_never_falls_back(algorithm):
    args = TOO_MUCH[algorithm]
    verdict = dict(fc.explain("conv2d", *args).choices)[algorithm]
    assert verdict.startswith("cannot: ")
    sentence = re.escape(verdict.removeprefix("cannot: "))
    (_, _, *size), (oc, _, *kernel) = (a.shape for a in args)
    out = np.full((1, oc, *(n - k + 1 for n, k in zip(size, kernel, strict=True))), 7, np.float32)
    with pytest.raises(ValueError, match=f"^conv2d: algorithm '{algorithm}' .*{sentence}$"):
        fc.conv2d(*args, algorithm=algorithm, out=out)
    with fc.using(algorithm=algorithm), pytest.raises(ValueError, match=sentence):
        fc.conv2d(*args, out=out)
    with pytest.raises(ValueError, match=sentence):
        fc.explain("conv2d", *args, algorithm=algorithm)
    assert (out == 7).all()


def test_the_list_of_algorithms_is_that_of_the_issue_and_the_last_takes_everything():
    assert set(fc._core.algorithms()) >= {"direct", "im2col", "pointwise", "depthwise"}
    for args in TOO_MUCH.values():
        last = dict(fc.explain("conv2d", *args).choices)[fc._core.algorithms()[-1]]
        assert not last.startswith("cannot")


def test_blocks_nest_and_end_with_what_was_before_even_after_an_error():
    before = _core.options.get()
    with fc.using(threads=2, algorithm="direct"):
        outer = _core.options.get()
        with fc.using(isa="baseline"), fc.using(threads=3):
            plan = fc.explain("conv2d", X, W)
            assert (plan.threads, plan.algorithm, plan.isa) == (3, "direct", "baseline")
        assert _core.options.get() == outer
        with contextlib.suppress(ZeroDivisionError), fc.using(precision="highest", threads=5):
            raise ZeroDivisionError
        assert _core.options.get() == outer
    assert _core.options.get() == before


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"isa": "sse9"}, ValueError, "sse9"),
        ({"isa": 3}, ValueError, "3"),
        ({"algorithm": "fastest"}, ValueError, "direct"),
        ({"precision": "high"}, ValueError, "highest"),
        ({"threads": 0}, ValueError, "between 1 and 1024"),
        ({"threads": -1}, ValueError, "between 1 and 1024"),
        ({"threads": 2**80}, ValueError, "between 1 and 1024"),
        ({"threads": True}, TypeError, "bool"),
        ({"threads": 2.0}, TypeError, "float"),
        ({"thread": 2}, TypeError, "thread"),
    ],
)
def test_wrong_options_are_refused_and_change_nothing(options, error, says):
    before = _core.options.get()
    with pytest.raises(error, match=says), fc.using(**options):
        pass
    assert _core.options.get() == before


@pytest.mark.parametrize("n", [0, -1, 1025, 2**31, 1.0, "2", None, True])
def test_set_num_threads_refuses_what_is_no_number_of_threads(n):
    before = fc.get_num_threads()
    with pytest.raises((TypeError, ValueError), match="^set_num_threads: threads must"):
        fc.set_num_threads(n)
    assert fc.get_num_threads() == before


def test_highest_is_the_precision_of_every_plan():
    with fc.using(precision="highest"):
        assert fc.explain("conv2d", X, W).precision == "highest"


# --- the environment ----------------------------------------------------------------------------

CONFIGURATION = """
import fastconv as fc
import numpy as np

fc.show_config()
x, w = np.ones((1, 64, 64, 64), np.float32), np.ones((64, 64, 3, 3), np.float32)
plan = fc.explain("conv2d", x, w)
print("plan", plan.isa, plan.threads, fc.get_num_threads(), fc.isas() == tuple({isas!r}))
assert (fc.conv2d(x, w) == 576).all()
"""


def configuration(prologue="", **environment):
    """(what was printed, the plan's ISA, its threads, get_num_threads())."""
    script = prologue + CONFIGURATION.format(isas=fc.isas())
    printed = run_script(script, **{"FASTCONV_ISA": None, "OMP_NUM_THREADS": None, **environment})
    isa, threads, most, all_listed = re.search(r"^plan (.*)$", printed, re.M)[1].split()
    assert all_listed == "True"
    return printed, isa, int(threads), int(most)


@pytest.mark.parametrize("isa", fc.isas())
def test_the_environment_caps_the_isa(isa):
    printed, found, *_ = configuration(FASTCONV_ISA=f" {isa.upper()} ")
    assert found == isa
    assert re.search(rf"^isa +{isa} ", printed, re.M)
    assert "Warning" not in printed


@pytest.mark.parametrize("value", ["sse9", "avx512,avx2", "2"])
def test_an_unknown_isa_in_the_environment_is_a_warning_and_ignored(value):
    printed, found, *_ = configuration(FASTCONV_ISA=value)
    assert re.search(f"RuntimeWarning: FASTCONV_ISA={value!r} is not one of .*baseline", printed)
    assert found == fc.isas()[0]


@pytest.mark.parametrize("value", [None, ""])
def test_no_cap_is_the_best_isa_and_no_warning(value):
    printed, found, *_ = configuration(FASTCONV_ISA=value)
    assert found == fc.isas()[0] and "Warning" not in printed


@pytest.mark.skipif(not _core.openmp(), reason="this build is sequential")
def test_threads_are_limited_by_openmp_and_by_affinity():
    cpus = len(os.sched_getaffinity(0))
    quota = max(1, min(cpus, _options._cpus()))
    assert configuration()[2:] == (quota, quota)
    assert configuration(OMP_NUM_THREADS="1")[2:] == (1, 1)
    assert configuration(OMP_NUM_THREADS="64")[2:] == (quota, quota)
    one = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    assert configuration(one)[2:] == (1, 1)


@pytest.mark.skipif(not _core.openmp(), reason="this build is sequential")
@pytest.mark.parametrize("bind", ["true", "close", "spread"])
def test_threads_that_openmp_binds_are_counted_before(bind):
    assert configuration(OMP_PROC_BIND=bind)[2:] == configuration()[2:]


@pytest.mark.parametrize("value", ["abc", "0", "-3", "99999999999999999999"])
def test_nonsense_for_openmp_is_survived(value):
    *_, threads, most = configuration(OMP_NUM_THREADS=value)
    assert 1 <= threads <= most <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "groups", "cpus"),
    [
        ({}, "", np.inf),
        ({"cpu.max": "max 100000"}, "0::/", np.inf),
        ({"cpu.max": "150000 100000"}, "0::/", 1.5),
        ({"cpu.max": "150000 100000"}, "nonsense", 1.5),
        ({"cpu.max": "nonsense"}, "0::/", np.inf),
        ({"cpu.max": "1 0"}, "0::/", np.inf),
        ({"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b", 2),
        ({"a/cpu.max": "200000 100000", "a/b/cpu.max": "100000 100000"}, "0::/a/b", 1),
        ({"a/cpu.max": "200000 100000", "c/cpu.max": "100000 100000"}, "0::/a/b", 2),
        ({"a/cpu.max": "200000 100000"}, "0::/../../a", np.inf),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu:/", np.inf),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, "", 0.5),
        (
            {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"},
            "5:memory:/c\n4:cpu,cpuacct:/a\n0::/c",
            0.5,
        ),
    ],
)
def test_the_quota_of_a_container_is_read(tmp_path, files, groups, cpus):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text + "\n", "ascii")
    own = tmp_path / "own"
    own.write_text(groups + "\n", "ascii")
    assert _options._quota(str(tmp_path), str(own)) == cpus
    if not groups:
        assert _options._quota(str(tmp_path), str(tmp_path / "missing")) == cpus


def test_a_quota_is_rounded_up_and_at_least_one(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for quota, cpus in [(0.5, 1), (1.5, 2), (3, 3), (99, 8), (np.inf, 8)]:
        monkeypatch.setattr(_options, "_quota", lambda quota=quota: quota)
        assert _options._cpus() == cpus


def test_show_config_says_what_is_in_force(capsys):
    with fc.using(isa="baseline", threads=3):
        fc.show_config()
    printed = capsys.readouterr().out
    assert printed.startswith(f"fastconv {fc.__version__}\n")
    assert re.search(r"^isa +baseline ", printed, re.M)
    assert re.search(r"^threads +3$", printed, re.M)
    assert re.search(r"^openmp +(yes|no)\b", printed, re.M)
    assert all(isa in printed for isa in fc.isas())


# --- explain ------------------------------------------------------------------------------------


def test_the_text_has_every_algorithm_and_the_resolved_problem():
    plan = fc.explain(fc.conv2d, X[..., 1:], W, stride=(1, 2), padding="same", dilation=(2, 1))
    text = str(plan)
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(fc._core.algorithms())]] == [
        *fc._core.algorithms()
    ]
    assert [name for name, _ in plan.choices] == [*fc._core.algorithms()]
    for part in (
        *("conv2d", "float32", "batch 1", "6 -> 8 channels", "groups 1", "channels first"),
        *("(20, 30) -> (20, 15)", "kernel (3, 3)", "stride (1, 2)", "dilation (2, 1)"),
        *("pads ((2, 2), (0, 1))", plan.algorithm, plan.isa, f"{plan.threads} thread"),
        *(f"{plan.workspace_bytes:,} bytes", "highest", "MFLOP", "MB"),
    ):
        assert part in text, text


def test_figures_are_those_of_the_definition():
    plan = fc.explain("conv2d", X, W)
    assert plan.flops == 2 * 8 * 6 * 3 * 3 * 18 * 29
    assert plan.bytes == 4 * (X.size + W.size + 8 * 18 * 29)
    assert plan.workspace_bytes == fc.workspace_bytes("conv2d", X, W)
    plan = fc.explain("max_pool2d", X, 2)
    assert plan.bytes == 4 * (X.size + 6 * 10 * 15)


def test_verdicts_say_who_runs_and_why_the_others_do_not():
    for args in [ANYTHING, (X, W), (X, reals(3, 6, 1, 1)), (X[:, :1], reals(64, 1, 5, 5))]:
        plan = fc.explain("conv2d", *args)
        found = dict(plan.choices)
        assert found.pop(plan.algorithm) == "runs: the first that can and should"
        order = list(fc._core.algorithms())
        for name, verdict in found.items():
            kind, _, reason = verdict.partition(": ")
            if order.index(name) < order.index(plan.algorithm):
                assert kind in ("cannot", "should not") and len(reason.split()) > 3
            else:
                assert kind in ("cannot", "should not", "could, but comes later")
        other = next(name for name, verdict in found.items() if not verdict.startswith("cannot"))
        forced = dict(fc.explain("conv2d", *args, algorithm=other).choices)
        assert forced[other] == "runs: it was asked for"


def test_algorithms_differ_in_what_they_book():
    """Reads from the plans that there is different code behind the names."""
    x, w = reals(1, 64, 56, 56), reals(64, 64, 3, 3)
    direct, im2col = (fc.explain("conv2d", x, w, algorithm=a) for a in ("direct", "im2col"))
    assert direct.workspace_bytes != im2col.workspace_bytes
    channels = 1, 64, 14, 14
    pointwise = fc.explain("conv2d", reals(*channels), reals(9, 64, 1, 1), algorithm="pointwise")
    assert pointwise.workspace_bytes == 0, "the image is read in place"
    panel = fc.explain("conv2d", reals(*channels), reals(9, 64, 1, 1), algorithm="im2col")
    assert panel.workspace_bytes >= 4 * 64 * 14 * 14, "a panel of the whole image"


def test_auto_takes_the_algorithm_made_for_the_problem():
    assert taken(X, reals(12, 1, 3, 3), groups=6) == "depthwise"
    assert taken(X, reals(16, 6, 1, 1)) == "pointwise"
    assert taken(reals(1, 16, 200, 200), reals(16, 16, 3, 3)) in ("direct", "im2col")


def test_explaining_computes_and_allocates_nothing():
    x = np.broadcast_to(np.float32(1), (1, 64, 10**5, 10**5))
    plan = fc.explain("conv2d", x, W[:, :1].repeat(64, 1))
    assert plan.flops == 2 * 8 * 64 * 9 * (10**5 - 2) ** 2


def test_every_convolution_and_pooling_is_explained_by_name_and_by_function():
    arguments = {"conv": (1, "same"), "max": (2,), "avg": (2,)}
    for dims in (1, 2, 3):
        x, w = reals(1, 4, *[6] * dims), reals(4, 4, *[3] * dims)
        calls = {f"conv{dims}d": (x, w), f"conv_transpose{dims}d": (x, w)}
        for kind, name in itertools.product(["max", "avg"], ["{}_pool", "adaptive_{}_pool"]):
            calls[f"{name.format(kind)}{dims}d"] = (x, *arguments[kind])
        for op, args in calls.items():
            by_name, by_function = fc.explain(op, *args), fc.explain(getattr(fc, op), *args)
            assert str(by_name) == str(by_function)
            assert by_name.op == op
    assert fc.explain(fc.linear, reals(3, 5), reals(2, 5)).op == "linear"
    assert fc.explain("global_avg_pool", X).op == "global_avg_pool"


@pytest.mark.parametrize(
    ("op", "args", "error"),
    [
        ("conv2d", (X.astype(int), W), TypeError),
        ("conv2d", (X, W[:, :5]), ValueError),
        ("conv2d", (X[:0], W), ValueError),
        ("relu", (X,), ValueError),
        ("nonsense", (X,), ValueError),
        (len, (X,), ValueError),
        (3, (X,), ValueError),
        ("max_pool2d", (X,), TypeError),
    ],
)
def test_what_cannot_be_explained_raises_what_the_call_would(op, args, error):
    with pytest.raises(error):
        fc.explain(op, *args)


def test_auto_is_an_algorithm_by_name_and_overrules_a_forced_one():
    x, w = np.ones((1, 2, 9, 9), np.float32), np.ones((3, 2, 3, 3), np.float32)
    assert fc.algorithms() == (*fc._core.algorithms(), "auto")
    chosen = fc.explain(fc.conv2d, x, w).algorithm
    other = next(name for name in ("direct", "im2col") if name != chosen)
    with fc.using(algorithm=other):
        assert fc.explain(fc.conv2d, x, w).algorithm == other
        assert fc.explain(fc.conv2d, x, w, algorithm="auto").algorithm == chosen
        with fc.using(algorithm="auto"):
            assert fc.explain(fc.conv2d, x, w).algorithm == chosen
        assert_array_equal(fc.conv2d(x, w, algorithm="auto"), fc.conv2d(x, w))
