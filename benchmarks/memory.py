"""What prepared networks hold: python -m benchmarks.memory [network ...] prints the table of benchmarks/README.md.

Everything is counted at the door of the allocators, the model's own arrays gone: weights and biases of
the model before and after packing, the arena its results lie in, and all bytes that are still held.
"""

import gc
import sys
import tracemalloc
from typing import NamedTuple

import fastconv
from benchmarks import networks


class Held(NamedTuple):
    """Bytes. original: parameters and statistics as built; resident: all that is held when the model is gone."""

    original: int
    weights: int
    buffers: int
    live: int
    resident: int


def held(network: networks.Network, dtype: str = "f32") -> Held:
    """Of a network prepared for its input, after one call, with nothing of the model left."""
    fastconv.free_memory()
    gc.collect()
    tracemalloc.start()
    try:
        start = tracemalloc.get_traced_memory()[0]
        model = network.model(dtype)
        arrays = [*model.parameters(), *model.buffers()]
        original = sum(array.nbytes for array in arrays)
        del arrays
        prepared = model.prepare(network.input_shape)
        prepared(network.image(dtype))
        del model
        fastconv.free_memory()
        gc.collect()
        resident = tracemalloc.get_traced_memory()[0] - start
    finally:
        tracemalloc.stop()
    m = prepared.memory
    return Held(original, m.weights, m.buffers, m.largest_live_set, resident)


def main(names: list[str]) -> None:
    """Prints a table of all networks, or of those named."""
    print("| network | weights as built, MB | packed | buffers | largest live set | resident |")
    print("|---|---|---|---|---|---|")
    for network in networks.all_networks():
        if not names or network.label in names:
            cells = " | ".join(f"{n / 1e6:.1f}" for n in held(network))
            print(f"| {network.label} | {cells} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
