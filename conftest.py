"""What a pytest run collects (tests/ by default, benchmarks/ with --benchmark), on which build, and
in how many processes.

pytest-benchmark has options that start with `--benchmark-` but none called `--benchmark`, and
pytest takes no abbreviations; so the word and its companions are defined here.
"""

import importlib.util
import os
import shlex
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
SELECTING = ("--benchmark", "--benchmark-full", "--benchmark-peers", "--benchmark-plot")
# Instead of 1 second and 5 rounds, which two hundred measurements in two minutes cannot afford.
QUICKLY = {"benchmark_max_time": "0.2", "benchmark_min_rounds": 3}
# Each test file keeps one CPU busy; some ask for eight threads.
MOST_PROCESSES = 8
collects_benchmarks = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastconv benchmarks")
    group.addoption(
        "--benchmark",
        action="store_true",
        help="run benchmarks/ instead of tests/: kernel sizes, group counts, sixteen layers",
    )
    group.addoption(
        "--benchmark-full",
        action="store_true",
        help="as --benchmark, with every layer and op, float64 too, on one thread and on all",
    )
    group.addoption(
        "--benchmark-peers",
        action="store_true",
        help="as --benchmark, with PyTorch, ONNX Runtime, OpenCV and SciPy where installed",
    )
    group.addoption(
        "--benchmark-plot",
        metavar="FILE",
        help="as --benchmark, and draw the report (SVG, PNG or PDF; needs matplotlib)",
    )


def _refuse_an_old_build() -> None:
    """An editable install is not rebuilt when its sources change: say so, never test what was."""
    root = Path(__file__).parent
    try:
        built = Path(importlib.util.find_spec("fastconv._core").origin)
    except (AttributeError, ImportError):
        raise pytest.UsageError("fastconv is not built: pip install -e .") from None
    if not built.is_relative_to(root):
        return
    code = (path for path in root.glob("src/**/*.*") if path.suffix != ".md")
    sources = [root / "setup.py", *root.glob("fastconv/_core.p*"), *code]
    newest = max(sources, key=lambda path: path.stat().st_mtime)
    if newest.stat().st_mtime > built.stat().st_mtime:
        name = newest.relative_to(root)
        raise pytest.UsageError(f"{name} is newer than the built fastconv: pip install -e .")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads what was asked of it
def pytest_cmdline_main(config: pytest.Config) -> None:
    """All of tests/ is shared out to a process a CPU, a file at a time, where pytest-xdist is.

    Not so what is named on the command line, benchmarks (their argument is set here or named), and
    what wants the terminal. `-n 0` runs all in one process, as ever.
    """
    option = config.option
    if (
        config.args_source == _ArgsSource.TESTPATHS
        and not hasattr(config, "workerinput")
        and getattr(option, "numprocesses", 0) is None
        and not (_benchmarks_asked_for(config) or option.usepdb or option.collectonly)
        and option.capture != "no"
    ):
        option.numprocesses = min(len(os.sched_getaffinity(0)), MOST_PROCESSES)
        option.dist = "loadfile"
        option.loadscopereorder = False  # else the file that builds for AArch64 comes last


def pytest_configure(config: pytest.Config) -> None:
    """Runs before pytest-benchmark reads its options: it configures itself last."""
    _refuse_an_old_build()
    asked = _benchmarks_asked_for(config)
    if asked and config.args_source != _ArgsSource.ARGS:
        config.args = [str(BENCHMARKS)]
    paths = [config.invocation_params.dir / arg.split("::")[0] for arg in config.args]
    named = any(path.resolve().is_relative_to(BENCHMARKS) for path in paths)
    config.stash[collects_benchmarks] = asked or named
    if not config.stash[collects_benchmarks]:
        return
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError("benchmarks need pytest-benchmark: pip install 'fastconv[bench]'")
    # Its remarks, on a result that failed before it was timed for one, are no errors.
    remarks = "default::pytest_benchmark.logger.PytestBenchmarkWarning"
    config.addinivalue_line("filterwarnings", remarks)
    words = _words(config)
    for name, value in QUICKLY.items():
        if f"--{name.replace('_', '-')}" not in words:
            setattr(config.option, name, value)
    # Our report says the same with less; asking for anything of pytest-benchmark brings its own.
    ours = {*SELECTING, "--benchmark-json", "--benchmark-only"}
    if not any(word.startswith("--benchmark-") for word in words - ours):
        config.option.benchmark_quiet = True


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if collection_path == BENCHMARKS and not config.stash[collects_benchmarks]:
        return True
    return None


_ArgsSource = pytest.Config.ArgsSource


def _benchmarks_asked_for(config: pytest.Config) -> bool:
    selected = any(config.getoption(option) for option in SELECTING)
    return selected or "--benchmark-only" in _words(config)


def _words(config: pytest.Config) -> set[str]:
    """The options given, without their values, wherever pytest takes them from."""
    given = [
        *config.invocation_params.args,
        *config.getini("addopts"),
        *shlex.split(os.environ.get("PYTEST_ADDOPTS", "")),
    ]
    return {str(word).split("=")[0] for word in given}
