"""Looks for a model file that crashes, hangs, takes too much memory or raises what is not documented.

    python tests/fuzz_onnx.py                  for five minutes, from onnx_seeds.py and tests/onnx_corpus
    python tests/fuzz_onnx.py --seconds 3600 --keep FOLDER
    python tests/fuzz_onnx.py FILE...          these files alone, which is how a finding is looked at

Guided by coverage: needs `pip install atheris`. Ends with status 1 if it found anything, which lies in
the folder `findings` then, an exception once for each place it comes from; once mended it belongs into
tests/onnx_corpus, all of which test_onnx.py checks.
"""

import argparse
import contextlib
import hashlib
import math
import os
import random
import resource
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

with contextlib.suppress(ImportError):
    import atheris
if "atheris" in globals() and __name__ == "__main__":
    with atheris.instrument_imports(
        include=["fastconv.onnx", "fastconv._numpy_ops", "fastconv.nn.graph"]
    ):
        import fastconv.onnx as ort
        from fastconv.onnx import wire
else:
    import fastconv.onnx as ort
    from fastconv.onnx import wire

from fastconv.onnx.schema import SCHEMA  # noqa: E402
from onnx_files import field, varint  # noqa: E402
from onnx_seeds import seeds  # noqa: E402

CORPUS = Path(__file__).parent / "onnx_corpus"
FINDINGS = Path("findings")
LIMITS = dict(memory_limit=16 << 20, work_limit=10**8)
MOST_FED = 1 << 16
ADDRESS_SPACE = 4 << 30
# In seconds: of a whole run, of one file.
LONGEST, LONGEST_FILE = 300, 10
EDGES = [
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    9,
    16,
    17,
    31,
    32,
    64,
    127,
    128,
    255,
    1 << 15,
    1 << 20,
    1 << 31,
    1 << 32,
]
EDGES += [(1 << 31) - 1, (1 << 63) - 1, 1 << 63, -1, -2, -3, -(1 << 31), -(1 << 63)]


def check(data: bytes) -> None:
    """The file is a ModelError, or a model that gives arrays of its types, prepared or not, or says why not."""
    with contextlib.suppress(ort.ModelError, MemoryError), warnings.catch_warnings():
        warnings.simplefilter("error")
        # NumPy's own, which no errstate silences
        warnings.filterwarnings("ignore", "Mean of empty slice")
        session = ort.InferenceSession(data, **LIMITS)
        feed = {each.name: made(each) for each in session.get_inputs()}
        if any(array is None for array in feed.values()):
            return
        outputs = session.run(None, feed)
        assert all(isinstance(y, np.ndarray) for y in outputs)
        again = session.run(None, feed)
        session._prepares = False
        plain = session.run(None, feed)
        for y, same, other in zip(outputs, again, plain, strict=True):
            assert (y.shape, y.dtype) == (same.shape, same.dtype) == (other.shape, other.dtype)


def made(entry: ort.NodeArg) -> np.ndarray | None:
    """An array for an input, None if the smallest is large. Open sizes are 2."""
    shape = [size if isinstance(size, int) and size >= 0 else 2 for size in entry.shape or ()]
    if len(shape) > 32 or math.prod(max(size, 1) for size in shape) > MOST_FED:
        return None
    kind = entry.type[len("tensor(") : -1]
    kind = {"float": "float32", "double": "float64", "string": "object"}.get(kind, kind)
    return (np.arange(np.prod(shape, dtype=int)) % 7).astype(kind).reshape(shape)


def mutated(data: bytes, most: int, seed: int) -> bytes:
    """Three times in four a field somewhere in the file is changed, taken out, copied or exchanged with
    another, and all lengths stay right; else some bytes are.
    """
    rng = random.Random(seed)
    if rng.random() < 0.25:
        return atheris.Mutate(data, most)
    try:
        tree = parsed("Model", memoryview(data))
    except wire.ModelError:
        return atheris.Mutate(data, most)
    for _ in range(1 + int(rng.expovariate(1))):
        change(tree, rng)
    new = written(tree)
    return new if len(new) <= most else data


def parsed(kind: str, data: memoryview) -> list:
    """[number, wire type, value] of every field; the value of a message is such a list."""
    tree = []
    for number, how, value in wire._fields(data):
        of = SCHEMA[kind].get(number, ("", "bytes"))[1].rstrip("*")
        if how == wire._BYTES:
            value = parsed(of, value) if of in SCHEMA else bytes(value)
        tree.append([number, how, value if isinstance(value, (int, list)) else bytes(value)])
    return tree


def written(tree: list) -> bytes:
    parts = []
    for number, how, value in tree:
        value = written(value) if isinstance(value, list) else value
        if how in (wire._VARINT, wire._BYTES):
            parts.append(field(number, value))
        else:
            parts.append(varint(number << 3 | how) + value)
    return b"".join(parts)


def change(tree: list, rng: random.Random) -> None:
    """Changes one field: at each step down the way is chosen by chance."""
    if not tree:
        return
    at = rng.randrange(len(tree))
    each = tree[at]
    if isinstance(each[2], list) and rng.random() < 0.9:
        change(each[2], rng)
        return
    what = rng.random()
    if what < 0.1:
        del tree[at]
    elif what < 0.2:
        tree.insert(rng.randrange(len(tree) + 1), each)
    elif what < 0.4:
        other = rng.choice(tree)
        each[1:], other[1:] = (
            (other[1:], each[1:]) if each[0] == other[0] else (each[1:], other[1:])
        )
    elif isinstance(each[2], int):
        each[2] = rng.choice([*EDGES, each[2] + 1, each[2] - 1, each[2] * 2])
    elif isinstance(each[2], bytes):
        each[2] = changed(each[2], rng)


def changed(data: bytes, rng: random.Random) -> bytes:
    """Text or numbers: the name of another operator, a number of some width at the edges, or other bytes."""
    what = rng.random()
    if what < 0.3:
        return rng.choice(ort.operators()).encode()
    width = rng.choice([1, 4, 8])
    if what < 0.7 and len(data) >= width:
        at = rng.randrange(len(data) // width) * width
        number = (rng.choice(EDGES) & (1 << 8 * width) - 1).to_bytes(width, "little")
        return data[:at] + number + data[at + width :]
    return atheris.Mutate(data, len(data) + 8) if data else b"x"


def fuzz(options: argparse.Namespace) -> None:
    """Does not come back: atheris ends the process."""
    places = set()

    def one(data: bytes) -> None:
        try:
            check(data)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            place = (type(error), *((frame.filename, frame.lineno) for frame in frames[-3:]))
            if place not in places:
                places.add(place)
                traceback.print_exc()
                name = hashlib.sha1(data).hexdigest()[:12]
                (FINDINGS / f"{type(error).__name__}-{name}").write_bytes(data)

    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, resource.RLIM_INFINITY))
    arguments = [
        sys.argv[0], f"-max_total_time={options.seconds}", f"-timeout={LONGEST_FILE}", "-rss_limit_mb=1024",
        f"-seed={options.seed}", "-max_len=8192", "-print_final_stats=1", f"-artifact_prefix={FINDINGS}/",
        str(options.keep), options.seeds, str(CORPUS),
    ]  # fmt: skip
    atheris.Setup(arguments, one, custom_mutator=mutated)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=LONGEST)
    parser.add_argument("--seed", type=int, default=0, help="0: another each time")
    parser.add_argument("--keep", type=Path, help="where files that reach new code are left")
    parser.add_argument("files", nargs="*", type=Path)
    options = parser.parse_args()
    for file in options.files:
        check(file.read_bytes())
    if options.files:
        return
    FINDINGS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        options.seeds = folder
        for name, data in seeds().items():
            Path(folder, name).write_bytes(data)
        if options.keep is None:
            options.keep = Path(folder, "keep")
        options.keep.mkdir(exist_ok=True)
        if (child := os.fork()) == 0:
            fuzz(options)
        _, status = os.waitpid(child, 0)
    found = sorted(str(file) for file in FINDINGS.iterdir())
    print(f"{len(found)} findings", *found, sep="\n")
    sys.exit(1 if found or status else 0)


if __name__ == "__main__":
    main()
