"""`python -m fastconv.testing`: what its runs do with cases that fail, crash and hang, and how they go on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import fastconv
from fastconv.testing._run import Tally, perform
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
        cwd=Path(fastconv.__file__).parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_run_is_recorded_and_goes_on(tmp_path):
    state = tmp_path / "state.json"
    for cases in (20, 50):
        done = command("grid", "--cases", cases, "--processes", 1, "--state", state)
        assert done.returncode == 0, done.stdout + done.stderr
        kept = json.loads(state.read_text("utf-8"))["runs"]["grid"]
        assert cases <= kept["cases"] < cases + 30 and kept["violations"] == []
    assert "0 violations" in done.stdout
    state.write_text(state.read_text("utf-8").replace(fastconv.__version__, "0.0.1"), "utf-8")
    done = command("grid", "--state", state)
    assert done.returncode == 2 and "is of another build" in done.stderr


def test_a_case_can_be_replayed():
    done = command("grid", "--replay", "conv2d c3-4 i9 k3 p1")
    assert done.returncode == 0 and done.stdout.startswith("holds: ")


def test_it_is_no_part_of_the_import_of_the_package():
    run_script("import sys, fastconv\nassert 'fastconv.testing' not in sys.modules")
