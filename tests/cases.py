"""The convolutions that the tests compute: nasty small ones by hand, and random ones.

A case is a line, and the line is all there is to know: see fastconv/testing/_cases.py. To replay
one: FASTCONV_CASE='conv1d i5 k3' pytest tests/test_conv_exact.py
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

import fastconv as fc
from fastconv.testing._arrays import random_values  # noqa: F401
from fastconv.testing._cases import Case, draw, parse

#: Element types, and instruction sets whose bits are promised to be the same.
DTYPES = (np.float32, np.float64)
FUSED = tuple(isa for isa in fc.isas() if isa != "baseline")


def engines(isas=None, threads=(1,)) -> Iterator[tuple[str, str, int]]:
    """(ISA, algorithm, threads) of everything this machine can run."""
    for isa in fc.isas() if isas is None else isas:
        for algorithm in fc._core.algorithms():
            for n in threads:
                yield isa, algorithm, n


def results(case: Case, x, w, b, isas=None, threads=(1,), **extras) -> Iterator[tuple]:
    """(engine in words, result) of every engine that can do the case."""
    for isa, algorithm, n in engines(isas, threads):
        with fc.using(isa=isa, threads=n):
            try:
                y = case.run(x, w, b, algorithm=algorithm, **extras)
            except ValueError as refusal:
                if "cannot do this:" not in str(refusal):
                    raise
                continue
        yield f"{case}  [{isa} {algorithm} threads={n} {x.dtype}]", y


def integer_conv(case: Case, x, w, b) -> np.ndarray:
    """The convolution in int64. Transposed: of the image with stride - 1 zeros between pixels."""
    stride, before, after = case.stride, case.before, case.after
    if case.transposed:
        stride, before, after = transposed_as_forward(case)
        spread = [(n - 1) * s + 1 for n, s in zip(case.size, case.stride, strict=True)]
        zeros = np.zeros((case.batch, case.ic, *spread), np.int64)
        zeros[(..., *(slice(None, None, s) for s in case.stride))] = x
        x = zeros
        w = w.reshape(case.groups, -1, *w.shape[1:]).swapaxes(1, 2)
        w = np.flip(w, tuple(range(3, w.ndim))).reshape(case.oc, -1, *case.kernel)
    ends = list(zip(before, after, strict=True))
    x = np.pad(x, [(0, 0), (0, 0), *((max(p, 0), max(q, 0)) for p, q in ends)])
    cut = (slice(max(-p, 0), n - max(-q, 0)) for (p, q), n in zip(ends, x.shape[2:], strict=True))
    x = x[(..., *cut)]
    reach = [d * (k - 1) + 1 for k, d in zip(case.kernel, case.dilation, strict=True)]
    seen = sliding_window_view(x, reach, tuple(range(2, x.ndim)))
    steps = [slice(None, None, s) for s in (*stride, *case.dilation)]
    seen = seen[(slice(None), slice(None), *steps)]
    seen = seen.reshape(case.batch, case.groups, -1, *seen.shape[2:])
    w = w.reshape(case.groups, -1, *w.shape[1:])
    out, taps = "uvw"[: case.dims], "xyz"[: case.dims]
    y = np.einsum(f"ngc{out}{taps},goc{taps}->ngo{out}", seen, w).reshape(case.y_shape)
    return y if b is None else y + b.reshape(-1, *[1] * case.dims)


def transposed_as_forward(case: Case):
    reach = [d * (k - 1) for k, d in zip(case.kernel, case.dilation, strict=True)]
    before = [r - p for r, p in zip(reach, case.before, strict=True)]
    after = [r - q for r, q in zip(reach, case.after, strict=True)]
    return (1,) * case.dims, before, after


def generated(n: int, seed: int, most_work: int = 200_000) -> list[Case]:
    rng = random.Random(seed)
    return [draw(rng, most_work) for _ in range(n)]


def chosen(*lists: list[Case]) -> list[Case]:
    """The lists' cases, or only the one to be replayed."""
    line = os.environ.get("FASTCONV_CASE")
    return [parse(line)] if line else list(dict.fromkeys(case for cases in lists for case in cases))


# Nasty cases ----------------------------------------------------------------------------------------


def table(text: str) -> list[Case]:
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return [parse(line) for line in lines if line]


NASTY = table("""
conv1d i1 k1                                    # the smallest of all
conv2d i1 k1
conv3d i1 k1
conv1d i1 k1 c1-1 n5 nobias
conv2d c3-5 i1 k3 p1                            # one pixel
conv2d c3-5 i1 k3 p2                            # one pixel, every output near an edge
conv2d c5-3 i2x3 k9x11 p8x10                    # kernel and padding far larger than the image
conv2d c2-2 i3 k5 p4 q0                         # zeros on one side only
conv2d c2-2 i3 k5 p0 q4
conv1d c4-4 i3 k125 p63
conv1d c4-4 i2 k63 p62 last
conv2d c17-4 i1 k31 p15 last
conv2d c3-4 i4x5 k7 p3 s2
conv2d c3-4 i3x33 k7x1 p3x0
conv2d c3-4 i33x3 k1x7 p0x3
conv2d c1-1 i40x41 k3                           # a filter over a photograph
conv2d c1-8 i19x70 k5 p2
conv2d c3-8 i23x50 k7 s2 p3
conv2d c4-6 i11x13 k11 s4 p5
conv2d c13-17 i13x11 k3 p1                      # prime sizes
conv2d c31-29 i7 k3 p1
conv2d c37-41 i5x7 k2x3 p1 n3
conv2d c7-9 i1x49 k1x3 p0x1                     # one vector more than a tile of 16 lanes
conv2d c7-9 i1x47 k1x3 p0x1
conv2d c7-8 i1x24 k1x1
conv2d c7-8 i1x25 k1x1
conv2d c8-1 i9x9 k3
conv2d c8-2 i9x9 k3
conv2d c8-3 i9x9 k3
conv2d c8-7 i9x9 k3
conv2d c8-15 i9x9 k3 p1
conv2d c8-16 i9x9 k3 p1
conv2d c8-17 i9x9 k3 p1 nobias
conv2d c16-33 i7 k3 p1 n5
conv2d c64-5 i3 k3 p1 n2
conv2d c9-7 i8 k1                               # pointwise
conv2d c9-7 i7 k1 n5 nobias
conv2d c9-7 i1 k1 n5
conv2d c40-70 i1 k1 n3                          # more output channels than a panel
conv2d c33-131 i1 k1 n7
conv1d c21-66 i4 k3 p1 n3                       # images of a batch in one region
conv2d c64-5 i3x2 k2 p1 last                    # pixels a power of two apart
conv2d c8-40 g2 i5x6 k3 s2 p1 last n2
conv2d c16-3 i4x5 k3 p1                         # a chain that leaves out its padding
conv2d c15-4 i5x3 k3x4 p2 s2 nobias
conv2d c33-2 i3 k2 p2                           # windows all of padding
conv2d c130-3 i2x3 k1 p1
conv2d c15-3 i4 k3 d3 p3 last
conv2d c16-2 i20 k3 p1
conv1d c17-3 i9 k9 p8 n2
conv3d c7-2 i2x3x3 k3 p1 n2
conv2d c65-33 i7x7 k1
conv2d c3-130 i5x7 k1
conv2d c19-77 i13x17 k1                         # whole tiles run as one; the first rows pack
conv2d c5-70 i16x16 k1 n2 nobias
conv2d c6-260 g2 i9x13 k1
conv2d c10-6 g2 i7x9 k1
conv2d c9-7 i8x9 k1 s2
conv2d c9-7 i8x9 k1 s3x2 last
conv2d c9-7 i4x5 k1 p1
conv2d c6-3 g3 i2x1 k1 s2x1 p0 q2x0              # as many outputs as pixels, yet strided
conv2d c9-7 i9x8 k1 last n2
conv3d c5-6 i3x4x5 k1
conv1d c33-31 i35 k1
conv2d c2-3 i17x19 k3 d2 p2                     # dilation
conv2d c2-3 i17x19 k3x5 d5x3
conv2d c3-2 i21x23 k3 d4x7 s2x3 p4x7
conv2d c2-2 i9x60 k2 d8x50
conv1d c2-2 i9 k3 d4 p4
conv1d c2-2 i3 k3 d40 p40
conv2d c4-4 i12x14 k2 s5 n2                     # strides beyond the kernel
conv2d c4-4 i23x31 k3x2 s7x11
conv2d c4-4 i9 k3 s9
conv1d c3-3 i130 k3 s16 p1
conv2d c2-3 i16x67 k2 s2
conv2d c2-3 i16x67 k3 s2 p1
conv2d c2-3 i6x128 k3 s2 p1
conv2d c2-3 i5x70 k9 s2 p4x45                      # whole vectors of padding in both sets of columns
conv2d c2-3 i16x67 k3 s1x2 p1 last
conv2d c2-3 i16x67 k3 s1x3 p1x0 q0x1
conv2d c4-4 g4 i9x10 k3 p1                      # depthwise
conv2d c5-5 g5 i14x33 k3 s2 p1 n2
conv2d c3-3 g3 i13x70 k5 p2
conv2d c3-3 g3 i13x20 k7 p3 nobias
conv2d c2-2 g2 i21x83 k7 s2 p3
conv2d c3-3 g3 i5x6 k9x3 p4x1
conv2d c3-3 g3 i15x17 k3 d2 p2
conv2d c3-3 g3 i15x17 k3 d3 s2 p3
conv2d c2-2 g2 i19x9 k3 d6x2 s4x1 p5x2
conv2d c2-2 g2 i21x83 k3 p1
conv2d c2-2 g2 i21x131 k3 s2 p1
conv2d c2-2 g2 i11x75 k5 s2 p1x3 q2x0
conv2d c2-2 g2 i70x41 k3 p1                     # more rows than are taken at once
conv2d c2-2 g2 i67x137 k5 s2 p2
conv2d c2-2 g2 i18x40 k9 p4
conv2d c2-2 g2 i9x37 k11 s2 p5
conv2d c2-2 g2 i6x64 k3x16 p1x9
conv2d c2-2 g2 i12x35 k13x17 p6x8
conv2d c35-35 g35 n2 i7 k3 p1                   # many small planes
conv2d c35-35 g35 n2 i7 k7 p3
conv1d c3-3 g3 i333 k31 p15
conv1d c3-6 g3 i170 k5 s2 p2
conv1d c2-2 g2 i401 k9 p4                       # kernels of one row, eight vectors of it at once
conv2d c3-3 g3 i6x140 k1x5 p1x2 s2x1
conv2d c35-35 g35 n2 i7 k1                      # a number a channel, rows joined
conv2d c3-6 g3 i5x19 k1 p1x0
conv3d c3-3 g3 i6x5x33 k3x1x1 p1x0x0
conv3d c2-2 g2 i4x3x150 k2x1x3 p1x1x2
conv3d c3-3 g3 i4x5x35 k3 p1
conv3d c2-2 g2 i2x5x35 k3 p3                    # planes of padding alone
conv3d c3-3 g3 i5x9x40 k3 s2 p1
conv3d c3-3 g3 i5x7x9 k3x5x2 s2 d1x2x1 p1x4x0
conv2d c4-12 g4 i7x9 k3 p1                      # with multiplier
conv2d c4-8 g4 i7x9 k3 p1 last
conv2d c2-140 g2 i5x6 k3 p1
conv2d c33-33 g33 i1 k3 p1
conv2d c17-17 g17 i7 k7 p3 last n2
conv2d c70-70 g70 i11x19 k3 p1 last             # lanes over groups
conv2d c35-35 g35 i14x10 k5 s2 p2 last n2
conv2d c33-33 g33 i9x21 k7x3 p3x1 last
conv2d c24-24 g24 i10x12 k3 d2x3 s3x2 p2 last nobias
conv1d c18-18 g18 i70 k5 p2 last
conv3d c17-17 g17 i4x5x9 k3x2x3 p1 s1x2x1 d2x1x1 last
conv1d c6-6 g6 i50 k3 p1
conv3d c3-6 g3 i4x5x18 k3 p1
conv3d c4-4 g4 i3x5x7 k2x3x5 p1x1x2 s1x2x1
conv2d c6-6 g6 i4 k1
conv2d c8-12 g4 i7x9 k3 p1                      # few channels a group
conv2d c15-15 g5 i6x19 k3 s2 p1 last            # bundles of groups, channels last
conv2d n2 c24-60 g12 i9x10 k5x3 s1x2 p2 last    # the last bundle has fewer
conv2d c34-50 g2 i5x9 k3 d2 p2 last             # a group of several vectors, more inputs than lanes
conv2d c256-256 g16 i5x11 k3 p1 last            # tiles copy inputs that lie a power of two apart
conv3d c12-12 g3 i4x5x9 k3 p1 last
conv2d c32-32 g8 i9x11 k3 p1 n2
conv2d c15-10 g5 i8 k3 s2 p1 last
conv2d c64-64 g32 i5 k3 p1
conv2d c40-40 g10 i9x11 k3 p1 last
conv2d c32-32 g16 i9x19 k5 p2 s2 last n2
conv2d c48-48 g6 i5x9 k1 last
conv2d c24-48 g8 i7x10 k3 p1 last
conv3d c24-16 g4 i3x4x9 k2x3x3 p1 d2x1x1 last
conv2d c6-4 g2 i5x40 k5 p2
conv3d c3-4 i4x5x6 k3 p1
conv3d c2-5 i3x9x17 k2x3x5 s1x2x3 d1x2x1 p1x2x0
conv3d c2-3 i7x3x50 k3 s2 p1 n2 last
conv3d c3-2 i1x1x9 k1x1x3 p0x0x1
conv3d c2-2 i2x2x2 k5x4x3 p4x3x2
conv1d c3-5 i100 k5 p2 s2
conv1d c16-16 i97 k4 p3 q1 d3
conv1d c2-3 i7 k7 n5
conv1d c1-1 i300 k33 p16
conv2d c5-4 i6x7 k3 p1 n9 last
conv2d c12-10 i3 k3 p1 n7
conv2d c3-9 i5x205 k3 p1                         # rows of several whole tiles and a rest
conv2d c2-6 i3x300 k1x5 s1x2 p0x2
conv2d c35-21 i6x40 k3 p1 last                   # blocks of pixels by channels transposed, whole and in part
conv2d c18-36 i9x41 k3 s2 p1 last n2
conv2d c3-50 i11x70 k3 s2 p1 last                # several tiles alike in a row
conv_transpose1d i1 k1
conv_transpose2d c5-20 i4x21 k4 s2 p1 last      # phases of a row in turns, channels side by side
conv_transpose1d c3-5 i7 k3
conv_transpose1d c3-5 i17 k4 s2 p1
conv_transpose1d c3-4 i9 k3 s3
conv_transpose1d c3-4 i9 k5 s3 p2 q0            # output_padding
conv_transpose1d c3-4 i30 k2 s3                 # gaps that no input reaches
conv_transpose1d c2-2 i9 k3 s2 d3 p3
conv_transpose1d c2-2 i9 k5 s4 d2 p1
conv_transpose1d c2-2 i9 k5 s6 d4 p1
conv_transpose1d c2-2 i5 k3 s5 d7 p6
conv_transpose1d c2-2 i1 k9 s7
conv_transpose2d c3-5 i4x5 k3 s2 p1 q0
conv_transpose2d c3-5 i4x5 k4 s2 p1 n2
conv_transpose2d c4-3 i1 k7
conv_transpose2d c4-3 i1 k7 s3 p2 last
conv_transpose2d c5-9 i7x8 k2 s2
conv_transpose2d c5-9 i7x8 k3
conv_transpose2d c5-9 i7x8 k3 p2
conv_transpose2d c9-7 i5x19 k1
conv_transpose2d c9-7 i5x19 k1 last
conv_transpose2d c2-3 i6x5 k5x2 s1x2 d2x3 p2x1
conv_transpose2d c4-4 g4 i7x9 k3 s2 p1 q0
conv_transpose2d c4-4 g4 i7x9 k3 p1
conv_transpose2d c4-8 g4 i7x20 k4 s2 p1 nobias
conv_transpose2d c6-9 g3 i5x6 k3 s2 p1
conv_transpose2d c6-9 g3 i5x6 k3 s2 p1 last n3
conv_transpose2d c1-1 i8x40 k5 s3 p1
conv_transpose2d c3-3 g3 i5x70 k4 s2 p1           # pairs of phases share loads, vectors 1 to 4 and a rest
conv_transpose2d c2-2 g2 i3x9 k16 s8 p4
conv_transpose2d c2-2 g2 i3x9 k16 s8 p4 last
conv_transpose2d c5-1 i6x33 k9 s2 p4 q3
conv_transpose2d c2-4 g2 i5x9 k5x7 s3x5 d1x2 p2x1
conv_transpose3d c2-2 g2 i3x4x19 k4 s2 p1
conv_transpose2d c17-13 i3 k3 s2x1 n2
conv_transpose2d c2-2 i3x4 k3 s2x5 d1x3
conv_transpose3d c2-3 i2x3x4 k3 s2 p1
conv_transpose3d c2-3 i2x3x9 k2x3x4 s1x2x3 p0x1x2 q0x0x0
conv_transpose3d c2-4 g2 i3x2x3 k2x1x3 d2x1x1
""")

# Chains so long, or strips so wide, that algorithms work them off in blocks: a megabyte holds
# 5461 steps of an AVX-512 panel, 21845 of a baseline one.
BLOCKED = table("""
conv1d c30011-3 i3 k1
conv1d c12000-9 i3 k3
conv1d c12000-9 i3 k3 p1 last
conv1d c9001-5 i50 k1 s2 last
conv2d c1500-3 i8 k7
conv2d c700-10 i9x10 k7 nobias
conv1d c5-4 i12003 k12000
conv1d c2-3 i40003 k40000
conv1d c1-2 i70010 k70000
conv1d c3-2 i30 k24000 p11990
conv2d c2-3 i1x26003 k2x26000 p1x0
conv1d c3-4 i15003 k4 d5000
conv2d c3-2 i5x10002 k3x2 d1x5000 p1x5000
conv2d c6-4 i10x30 k4x3 d5000x2 p10000x2 q5001x2
conv1d c2-2 g2 i40003 k40000
conv1d c4-8 g2 i20004 k20000
conv1d c4-4 i90000 k3 s40000 p1
conv2d c2-2 g2 i3x30000 k2x3 s1x10000
conv_transpose1d c23000-3 i3 k3 p2
conv_transpose1d c3-2 i9 k30000 p14999
conv_transpose1d c2-3 i24001 k24000 p23998
conv_transpose1d c2-2 i5 k7 s30000 p59998
conv_transpose2d c9000-9 i3 k3 s2 p2
conv_transpose1d c3-2 i7 k3 d9000 p8998
""")
