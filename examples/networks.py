"""The networks of fastconv.models side by side: parameters, work, and what their layers see.

    python examples/networks.py                            # a table of all
    python examples/networks.py resnet50                   # the layers of one
    python examples/networks.py resnet50 --weights FILE    # and its answer to a photograph

FILE is a checkpoint with the parameter names of torchvision (of timm where that has no such
network): .safetensors, .npz, .pt or .pth. The photograph needs scikit-image.
"""

import argparse
import contextlib
import io
import time
from pathlib import Path

import numpy as np

import fastconv
from fastconv import models
from fastconv.nn.initialisation import unfilled

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours


def network_of_zeros(name: str) -> fastconv.nn.Module:
    """A network whose parameters take no memory: enough to count and measure."""
    with unfilled():
        return getattr(models, name)()


def input_shape(net: fastconv.nn.Module) -> tuple[int, ...]:
    _, weight = next(net.named_parameters())
    return (1, weight.shape[1], *net.image_size)


def print_table(names: list[str]) -> None:
    row = "{:<18}{:>12}{:>14}{:>18}{:>18}"
    print(row.format("network", "input", "parameters", "multiply-adds", "receptive field"))
    for name in names:
        net = network_of_zeros(name)
        shape = input_shape(net)
        with contextlib.redirect_stdout(io.StringIO()):
            summary = net.summary(shape)
        size = fastconv.receptive_field(net, shape).local.size
        sizes = "×".join(map(str, np.ravel(size).tolist()))
        counts = (f"{count:,}" for count in (summary.parameters, summary.multiply_adds))
        print(row.format(name, "×".join(map(str, shape[1:])), *counts, sizes))
    print("receptive field: the largest of a layer that does not see the whole input")


def photograph(shape: tuple[int, ...]) -> np.ndarray:
    """scikit-image's astronaut as a network wants it: (1, 3, H, W), colours standardised."""
    import skimage.data

    photo = skimage.data.astronaut().transpose(2, 0, 1)[None].astype(np.float32) / 255
    photo = fastconv.interpolate(photo, size=shape[2:], mode="bilinear")
    mean, deviation = (np.float32(v).reshape(1, 3, 1, 1) for v in (MEAN, DEVIATION))
    return (photo - mean) / deviation


def print_answer(name: str, weights: Path) -> None:
    net = getattr(models, name)(weights=weights)
    photo = photograph(input_shape(net))
    start = time.perf_counter()
    scores = fastconv.softmax(net(photo), dim=1)[0]
    took = time.perf_counter() - start
    print(f"{1000 * took:.0f} ms; the five likeliest classes of {len(scores)}:")
    for place in np.argsort(scores)[:-6:-1]:
        print(f"{place:>6} {100 * scores[place]:5.1f} %")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="of fastconv.models")
    parser.add_argument("--weights", type=Path, help="a checkpoint for the one network named")
    options = parser.parse_args(arguments)
    unknown = set(options.networks) - set(models.__all__)
    if unknown:
        parser.error(
            f"no network {', '.join(sorted(unknown))}; there are {', '.join(models.__all__)}"
        )
    if len(options.networks) == 1:
        net = network_of_zeros(options.networks[0])
        net.summary(input_shape(net))
    else:
        print_table(options.networks or models.__all__)
    if options.weights:
        if len(options.networks) != 1:
            parser.error("--weights goes with one network")
        print_answer(options.networks[0], options.weights)


if __name__ == "__main__":
    main()
