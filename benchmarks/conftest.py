"""Turns the options into cases, shows progress, and ends with the report."""

import shutil
from pathlib import Path

import pytest

from benchmarks import measure as measuring
from benchmarks import report, workers

results = pytest.StashKey[list[measuring.Result]]()
HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The functions take long: only with --benchmark-full, or where they are asked for."""
    if collection_path.name != "test_functions.py" or config.getoption("--benchmark-full"):
        return None
    return not any("test_functions.py" in arg for arg in config.args)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    full = metafunc.config.getoption("--benchmark-full")
    peers = metafunc.config.getoption("--benchmark-peers")
    threads = measuring.all_threads()
    cases = [
        measuring.Case(problem, dtype, count, contender)
        for dtype in (["f32", "f64"] if full else ["f32"])
        for count in sorted({1, threads} if full else {threads})
        for problem in metafunc.module.problems_of(full)
        for contender in measuring.contenders(problem, peers)
    ]
    metafunc.parametrize("case", [pytest.param(str(case), marks=_marks(case)) for case in cases])


def _marks(case: measuring.Case) -> list[pytest.MarkDecorator]:
    clock = {"timer": measuring.replay.clock} if case.in_worker else {}
    return [pytest.mark.benchmark(group=f"{case.problem}-{case.dtype}-t{case.threads}", **clock)]


@pytest.fixture
def measure(request: pytest.FixtureRequest, benchmark):
    """measure(suite, case): the test of every benchmark."""
    options = request.config.option
    budget = float(options.benchmark_max_time), int(options.benchmark_min_rounds)

    def run(suite: str, text: str) -> None:
        result = measuring.run(measuring.Case.parse(text), suite, benchmark, *budget)
        request.config.stash.setdefault(results, []).append(result)
        if result.why:
            pytest.skip(result.why)

    return run


class Progress:
    """A line that moves on a terminal, a line a problem elsewhere, in place of pytest's dots."""

    def __init__(self, terminal: pytest.TerminalReporter, total: int) -> None:
        self.terminal, self.total, self.done = terminal, total, 0
        terminal.showfspath = False

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        case = measuring.Case.parse(nodeid.partition("[")[2].removesuffix("]"))
        percent = 100 * self.done // self.total
        self.done += 1
        line = f"[{percent:3d} %] {case.problem}, {case.dtype}, {case.threads} threads"
        if self.terminal.isatty():
            whole = f"{line}: {case.contender}"
            self.terminal.rewrite(whole[: shutil.get_terminal_size().columns - 1], erase=True)
        elif case.contender == "auto":
            self.terminal.write_line(line)

    def pytest_report_teststatus(self, report: pytest.TestReport):
        if report.outcome in ("passed", "skipped"):
            counts = report.when == "call" or report.skipped
            return report.outcome if counts else "", "", ""
        return None


def pytest_collection_finish(session: pytest.Session) -> None:
    config = session.config
    terminal = config.pluginmanager.getplugin("terminalreporter")
    ours = all(item.path.parent == HERE for item in session.items)
    shown = config.get_verbosity() == 0 and not config.option.collectonly
    if terminal is not None and shown and session.items and ours:
        config.pluginmanager.register(Progress(terminal, len(session.items)))


def pytest_sessionfinish(session: pytest.Session) -> None:
    workers.close_all()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    measured = config.stash.get(results, [])
    if not any(result.seconds for result in measured):
        return
    terminalreporter.section("what was measured")
    terminalreporter.write_line(report.text(measured))
    if path := config.getoption("--benchmark-plot"):
        report.plot(measured, path)
        terminalreporter.write_line(f"drawn in {path}")
