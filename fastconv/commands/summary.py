"""Print the layers of a network: output shapes, parameters, multiply-adds, receptive fields.

NETWORK is one of fastconv.models, or an ONNX file with one input. Parameters of the former are zeros, so
that even large ones take no memory. Without NETWORK their names are printed. --input has the channels
and the size: 3x224x224, 1x28x28.
"""

from __future__ import annotations

import argparse

import fastconv.onnx as ort
from fastconv import models, nn
from fastconv._cli import CommandError
from fastconv.nn.initialisation import unfilled
from fastconv.onnx.network import Network


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
    if options.network.endswith(".onnx"):
        net, usual = _of_a_file(options.network)
    else:
        net, usual = _of_ours(options.network)
    shape = options.input or usual
    shape = (1,) * (len(usual) - len(shape)) + shape if options.network.endswith(".onnx") else shape
    if not all(isinstance(size, int) and size > 0 for size in shape):
        raise CommandError(f"{options.network} takes {[*usual]}: choose sizes with --input")
    try:
        net.summary(shape)
    except ValueError as error:
        raise CommandError(f"{options.network} does not take that input: {error}") from None


def _of_a_file(path: str) -> tuple[nn.Module, tuple[int, ...]]:
    """The network and the shape that it says its input has, at batch 1."""
    try:
        net = Network(ort.load(path))
    except ort.ModelError as error:
        raise CommandError(f"{path}: {error}") from None
    if len(net.model.inputs) != 1:
        raise CommandError(f"{path} has {len(net.model.inputs)} inputs")
    shape = list(net.model.inputs[0].shape or ["?"])
    shape[0] = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else 1
    return net, tuple(shape)


def _of_ours(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    if name not in models.__all__:
        known = ", ".join(models.__all__)
        raise CommandError(f"no network {name}; there are {known}")
    with unfilled():
        net = getattr(models, name)()
    _, weight = next(net.named_parameters())
    return net, (weight.shape[1], *net.image_size)
