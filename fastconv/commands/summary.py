"""Print the layers of a network: output shapes, parameters, multiply-adds, receptive fields.

NETWORK is one of fastconv.models; its parameters are zeros, so that even large ones take no memory.
Without NETWORK their names are printed. --input has the channels and the size: 3x224x224, 1x28x28.
"""

from __future__ import annotations

import argparse

from fastconv import models, nn
from fastconv._cli import CommandError
from fastconv.nn.initialisation import unfilled


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", nargs="?", metavar="NETWORK", help="resnet50, for example")
    parser.add_argument("--input", type=_shape, metavar="CxHxW", help="default: as in the paper")


def _shape(text: str) -> tuple[int, ...]:
    """(3, 224, 224) from 3x224x224, with or without a batch before it."""
    sizes = text.split("x")
    if len(sizes) not in (3, 4) or not all(size.isdecimal() and int(size) for size in sizes):
        raise argparse.ArgumentTypeError(f"an input is written as 3x224x224, not {text}")
    return tuple(int(size) for size in sizes)


def run(options: argparse.Namespace) -> None:
    if options.network is None:
        print(*models.__all__, sep="\n")
        return
    if options.network not in models.__all__:
        known = ", ".join(models.__all__)
        raise CommandError(f"no network {options.network}; there are {known}")
    with unfilled():
        net = getattr(models, options.network)()
    try:
        net.summary(options.input or _usual_shape(net))
    except ValueError as error:
        raise CommandError(f"{options.network} does not take that input: {error}") from None


def _usual_shape(net: nn.Module) -> tuple[int, ...]:
    _, weight = next(net.named_parameters())
    return (weight.shape[1], *net.image_size)
