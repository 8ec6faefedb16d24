"""What it costs to load an ONNX file and run it once, beside ONNX Runtime: seconds, and memory that is resident.

    python benchmarks/loading.py                       VGG-19, 575 MB: three rounds, one thread
    python benchmarks/loading.py --file resnet50 --rounds 5 --threads 2

Each turn has a process of its own and reads the same file, which the system has in memory by then. `load` makes
the session, `first` is the first result with it, `run` the best of three more. resident: after these, at the peak;
both with Python, NumPy and the library, in MB, from /proc/self/status.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

COLUMNS = {"load": "s", "first": "s", "run": "s", "resident": "MB", "peak": "MB"}
LIBRARIES = ("fastconv.onnx", "onnxruntime")
PAUSE = (
    2  # seconds, in which the last one's memory goes back to the machine: all begin with cold pages
)


def measured(library: str, path: str, threads: int) -> dict[str, float]:
    """A turn, in this process."""
    runtime = __import__(library, fromlist=["InferenceSession"])
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    times = [time.perf_counter()]
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    times.append(time.perf_counter())
    (entry,) = session.get_inputs()
    shape = [size if isinstance(size, int) else 1 for size in entry.shape]
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    for _ in range(4):
        session.run(None, {entry.name: x})
        times.append(time.perf_counter())
    load, first, *runs = np.diff(times)
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    resident, peak = (int(status[key].split()[0]) >> 10 for key in ("VmRSS", "VmHWM"))
    return dict(load=load, first=first, run=min(runs), resident=resident, peak=peak)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--file", default="vgg19", help="of the set `onnx`, see files.py")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turn", nargs=2, help=argparse.SUPPRESS)  # library, path
    options = parser.parse_args()
    if options.turn:
        print(json.dumps(measured(*options.turn, options.threads)))
        return
    from benchmarks import files

    (file,) = (each for each in files.all_files() if each.label == options.file)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{options.file}.onnx")
        path.write_bytes(file.onnx_model(np.dtype(np.float32)))
        print(f"{path.name}: {path.stat().st_size / 1e6:.0f} MB, {options.threads} thread(s)")
        turns: dict[str, list[dict[str, float]]] = {library: [] for library in LIBRARIES}
        for _ in range(options.rounds):
            for library in LIBRARIES:
                time.sleep(PAUSE)
                command = [sys.executable, __file__, "--turn", library, str(path)]
                command += ["--threads", str(options.threads)]
                turns[library].append(json.loads(subprocess.check_output(command)))
    print(f"{'median of ' + str(options.rounds):<14}", *(f"{each:>12}" for each in COLUMNS))
    for library, rows in turns.items():
        medians = [np.median([row[each] for row in rows]) for each in COLUMNS]
        cells = (
            f"{m:>9.{2 * (unit == 's')}f} {unit:>2}"
            for m, unit in zip(medians, COLUMNS.values(), strict=True)
        )
        print(f"{library:<14}", *cells)


if __name__ == "__main__":
    main()
