"""What a pytest run collects: tests/ by default, benchmarks/ with --benchmark; and on which build.

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


def pytest_configure(config: pytest.Config) -> None:
    """Runs before pytest-benchmark reads its options: it configures itself last."""
    _refuse_an_old_build()
    words = _words(config)
    selected = any(config.getoption(option) for option in SELECTING)
    if (selected or "--benchmark-only" in words) and config.args_source != _ArgsSource.ARGS:
        config.args = [str(BENCHMARKS)]
    paths = [config.invocation_params.dir / arg.split("::")[0] for arg in config.args]
    named = any(path.resolve().is_relative_to(BENCHMARKS) for path in paths)
    config.stash[collects_benchmarks] = selected or named
    if not config.stash[collects_benchmarks]:
        return
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError("benchmarks need pytest-benchmark: pip install 'fastconv[bench]'")
    # Its remarks, on a result that failed before it was timed for one, are no errors.
    remarks = "default::pytest_benchmark.logger.PytestBenchmarkWarning"
    config.addinivalue_line("filterwarnings", remarks)
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


def _words(config: pytest.Config) -> set[str]:
    """The options given, without their values, wherever pytest takes them from."""
    given = [
        *config.invocation_params.args,
        *config.getini("addopts"),
        *shlex.split(os.environ.get("PYTEST_ADDOPTS", "")),
    ]
    return {str(word).split("=")[0] for word in given}
