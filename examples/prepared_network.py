"""A network of fastconv.models made ready to run: what becomes of its steps, and how much faster it is.

    python examples/prepared_network.py                          # MobileNet-v2 on 224x224
    python examples/prepared_network.py resnet18 --size 64

Random weights: the time does not depend on them.
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import fastconv
from fastconv import models


def milliseconds(network: Callable, x: np.ndarray, times: int = 5) -> float:
    """The shortest of some calls, after a first one."""
    network(x)
    took = []
    for _ in range(times):
        start = time.perf_counter()
        network(x)
        took.append(time.perf_counter() - start)
    return 1000 * min(took)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("network", nargs="?", default="mobilenet_v2", choices=models.__all__)
    parser.add_argument("--size", type=int, default=224, help="of the image, default 224")
    options = parser.parse_args(arguments)

    fastconv.nn.manual_seed(0)
    net = getattr(models, options.network)()
    channels = next(net.parameters()).shape[1]
    x = np.random.default_rng(0).random((1, channels, options.size, options.size), np.float32)
    expected, before = net(x), milliseconds(net, x)

    prepared = net.prepare(x.shape)
    del net  # the weights it had are in `prepared`, packed
    prepared.summary()
    result = prepared(x)
    difference = np.abs(result - expected).max() / np.abs(expected).max()
    print(f"\nas built {before:.1f} ms, prepared {milliseconds(prepared, x):.1f} ms")
    print(f"largest difference, from folding: {difference:.1e} of the largest result")

    with ThreadPoolExecutor(4) as pool:  # one prepared network serves any number of threads
        results = list(pool.map(prepared, [x] * 8))
    assert all(np.array_equal(result, other) for other in results)
    print(prepared(np.repeat(x, 2, axis=0)).shape, "for two images: another shape plans anew")


if __name__ == "__main__":
    main()
