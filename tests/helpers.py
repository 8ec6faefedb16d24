"""What tests of several files use: comparing bits, and scripts in processes of their own."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.testing import assert_array_equal

import fastconv

TIME_LIMIT = 60  # seconds; only what hangs takes as long


def assert_same_bits(actual, expected, where=""):
    """Equal in value, sign of zero and type; of a NaN only that it is one."""
    assert actual.shape == expected.shape and actual.dtype == expected.dtype, where
    nan = np.isnan(expected)
    assert_array_equal(np.isnan(actual), nan, where)
    assert_array_equal(np.where(nan, 0, actual), np.where(nan, 0, expected), where)
    assert_array_equal(np.signbit(actual[~nan]), np.signbit(expected[~nan]), where)


def run_script(script: str, *flags: str, **environment: str | None) -> str:
    """What a script prints, errors included; it must end well and in time.

    It imports the package under test. flags: of the interpreter. environment: variables to set, or
    to take away where None.
    """
    home = str(Path(fastconv.__file__).parents[1])
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "script.py")
        path.write_text(script, "utf-8")
        done = subprocess.run(
            [sys.executable, *flags, path],
            env={name: value for name, value in settings.items() if value is not None},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIME_LIMIT,
            check=False,
        )
    assert done.returncode == 0, f"ended with {done.returncode}\n{done.stdout}"
    return done.stdout
