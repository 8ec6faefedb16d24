"""Runs MobileNet-v2 as in the small container, and says what it costs there.

    python container/check.py WHEEL

In a fresh environment that holds the wheel and NumPy: no compiler on PATH, no libgomp but the wheel's own,
nothing that may be written, 512 MB of addresses, one CPU. Needs the packages fastconv and onnx beside it, to
make the model file. The wheel is one that auditwheel has repaired: see Containerfile.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.export import onnx_model  # noqa: E402
from fastconv import models  # noqa: E402

SHAPE = (1, 3, 224, 224)
ADDRESSES = 512 << 20
POWERLESS = [
    "/usr/bin/setpriv",
    "--bounding-set=-all",
    "--inh-caps=-all",
]  # to root nothing is read-only

# What runs inside. {run} leaves the result in y.
INSIDE = """
import json, sys, time
import numpy as np
numpy_is_there = time.perf_counter()
import fastconv
imported = time.perf_counter()
x = np.load({input!r})
{run}
maps = [line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line]
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({{
    "import over numpy, ms": round(1000 * (imported - numpy_is_there), 1),
    "first result after the import, s": round(time.perf_counter() - imported, 2),
    "peak memory, MB": round(int(status["VmHWM"].split()[0]) / 1000),
    "threads": fastconv.get_num_threads(),
    "libgomp": sorted(set(maps)),
    "y": y.ravel().tolist(),
}}))
"""
WAYS = {
    "onnx": """
import fastconv.onnx as ort
(y,) = ort.InferenceSession({model!r}).run(None, {{"x": x}})
""",
    "models": """
from fastconv import models
net = models.mobilenet_v2(weights={weights!r}).eval().prepare(x.shape)
y = net(x)
""",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("wheel", type=Path)
    wheel = parser.parse_args().wheel.resolve()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        python = environment(work / "environment", wheel)
        files, expected = inputs(work)
        readable(work)
        before = listing(work)
        size = sum(path.stat().st_size for path in work.rglob("site-packages/fastconv*/**/*"))
        print(f"installed: {size / 1e6:.1f} MB beside NumPy")
        for way, text in WAYS.items():
            report(way, inside(python, text.format(**files), files["input"]), expected)
        assert listing(work) == before, "something was written"


def environment(folder: Path, wheel: Path) -> Path:
    """A fresh one with the wheel, and what pip was needed for removed; its python."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", wheel], check=True)
    subprocess.run([*pip, "uninstall", "--yes", "pip", "setuptools"], check=True)
    return python


def inputs(work: Path) -> tuple[dict[str, str], np.ndarray]:
    """Files for both ways, and the result they must have."""
    files = {"input": "x.npy", "model": "mobilenet_v2.onnx", "weights": "mobilenet_v2.npz"}
    files = {what: str(work / name) for what, name in files.items()}
    net = models.mobilenet_v2().eval()
    x = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    np.save(files["input"], x)
    np.savez(files["weights"], **net.state_dict())
    Path(files["model"]).write_bytes(onnx_model(net, SHAPE, x.dtype))
    return files, net(x)


def readable(folder: Path) -> None:
    """For everybody, and writable for nobody."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222 | 0o444 | (0o111 if path.is_dir() else 0))


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")
    }


def inside(python: Path, run: str, x: str) -> dict:
    """What INSIDE prints, run under the container's limits."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    command = [python, "-B", "-c", INSIDE.format(input=x, run=run)]
    done = subprocess.run(
        [*POWERLESS, *command] if os.getuid() == 0 else command,
        env={"PATH": "/nonexistent"},
        cwd="/",
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"ended with {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


def report(way: str, found: dict, expected: np.ndarray) -> None:
    y = np.array(found.pop("y"), np.float32).reshape(expected.shape)
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-4)
    libraries = found.pop("libgomp")
    assert all("site-packages/fastconv" in path for path in libraries), libraries
    assert found["threads"] == 1
    print(f"{way}:", ", ".join(f"{what} {value}" for what, value in found.items()))


if __name__ == "__main__":
    main()
