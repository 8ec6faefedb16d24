"""What the import costs and brings along, and that it does not mind how Python was started."""

import re
import sys
from pathlib import Path

import pytest

import fastconv
from fastconv import _core
from helpers import run_script

MOST_MILLISECONDS, MOST_BYTES = 15, 5 << 20
RUNS = 9

TIMED = """
import time, sys
import numpy
before, start = set(sys.modules), time.process_time()
import fastconv
took = time.process_time() - start
print(took * 1000, *sorted(set(sys.modules) - before))
"""


@pytest.fixture(scope="module")
def imports(tmp_path_factory):
    """[milliseconds, the modules it brought] of several imports, compiled by the first of them."""
    compiled = str(tmp_path_factory.mktemp("bytecode"))
    environment = {"PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": None}
    run_script(TIMED, **environment)
    return [run_script(TIMED, **environment).split() for _ in range(RUNS)]


def test_the_import_costs_little_over_that_of_numpy(imports):
    """The best of several: what else the machine does only adds."""
    assert min(float(words[0]) for words in imports) <= MOST_MILLISECONDS


def test_the_import_brings_the_package_and_small_parts_of_the_standard_library(imports):
    brought = set(imports[0][1:])
    ours = {name for name in brought if name.split(".")[0] == "fastconv"}
    assert {"fastconv", "fastconv._core", "fastconv.functional"} <= ours
    later = {"fastconv.nn", "fastconv.models", "fastconv.checkpoints", "fastconv.reference"}
    assert not ours & later, "loaded when they are named"
    others = {name.split(".")[0] for name in brought - ours}
    cython = {name for name in others if re.match("_?cython_", name)}  # what compiled modules share
    assert others - cython <= sys.stdlib_module_names
    heavy = "inspect ctypes subprocess multiprocessing asyncio unittest importlib.metadata"
    assert not brought & set(heavy.split())
    assert not any(name.startswith("numpy") for name in brought), "numpy alone is enough"


def test_the_package_is_small():
    """Everything that is installed, bytecode counted as large as its source."""
    home = Path(fastconv.__file__).parent
    size = sum(2 * path.stat().st_size for path in home.rglob("*.py"))
    size += Path(_core.__file__).stat().st_size
    assert size < MOST_BYTES


USED = """
import importlib, sys
import numpy as np
import fastconv as fc

x = np.arange(16.0).reshape(1, 1, 4, 4)
for _ in range(2):
    assert (fc.conv2d(x, np.ones((1, 1, 2, 2)), activation="relu")[0, 0, 0] == [10, 14, 18]).all()
    assert (fc.max_pool2d(x, 2) == [[5, 7], [13, 15]]).all()
    assert fc.nn.MaxPool2d(2)(x).shape == (1, 1, 2, 2)
    try:
        fc.conv2d(x, np.ones((1, 2, 2, 2)))
    except ValueError:
        pass
    else:
        raise SystemExit("no error")
    importlib.reload(fc)
"""


@pytest.mark.parametrize(
    ("flags", "environment"),
    [
        (["-O"], {}),
        (["-OO"], {}),
        (["-X", "dev"], {}),
        (["-W", "error"], {}),
        (["-B", "-E"], {}),
        ([], {"PYTHONMALLOC": "debug"}),
        ([], {"HOME": None, "PATH": None, "TMPDIR": None, "LANG": "C"}),
    ],
    ids=str,
)
def test_it_works_however_python_is_started(flags, environment):
    home = Path(fastconv.__file__).parents[1]
    site = [str(home), *sys.path]  # -E hides PYTHONPATH
    run_script(f"import sys\nsys.path[:0] = {site!r}\n{USED}", *flags, **environment)
