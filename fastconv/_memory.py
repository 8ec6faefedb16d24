"""Who owns bytes: outputs, workspaces on lease, packed weights. Tests hook in here, and nowhere else.

Large outputs lie in rooms that come back when the last array on them has died, and serve the next output of their size:
the C library would give them back to the system, where every page costs a fault when it is written again (a network in
the manner of MobileNet: 15.7 ms a pass without, 12.6 with; results above 32 MB: 6.6 and 3.7 ms for a relu).

Workspaces come from a process-wide free list, so that repeated calls touch the same warm pages, and a call made inside
a signal handler or by another thread finds one of its own. `free_memory` empties both lists.
"""

from __future__ import annotations

import mmap
from math import prod
from threading import Lock

import numpy as np

#: Workspaces kept for the next call: at most this many, none larger than this many bytes.
KEEP = 8
KEEP_BYTES = 64 << 20

#: Outputs of so many bytes or more lie in rooms that are kept, this many bytes of them, the oldest let go first. A room
#: costs 1.6 us more than what NumPy gives. Beyond 64 MB the C library keeps nothing either.
WARM_FROM = 1 << 19
WARM_BYTES = 64 << 20

_free: list[np.ndarray] = []
_warm: list[np.ndarray] = []
_lock = Lock()  # of _warm; who finds it taken does without, for a room may come back amid anything

# The class of what lies between a room and the arrays on it: Block(room, nbytes). The door puts it here.
Block = None
PAGE = 4096


# Every array of ours is made by this; tests put a failing or a guarded allocator in its place.
_allocate = np.empty


def empty(shape: tuple, dtype: np.dtype) -> np.ndarray:
    """An output: uninitialised, C-contiguous, the caller's."""
    nbytes = prod(shape) * dtype.itemsize
    if nbytes < WARM_FROM:
        return _allocate(shape, dtype)
    return np.ndarray(shape, dtype, Block(_room(nbytes + PAGE), nbytes))


def _room(nbytes: int) -> np.ndarray:
    """Room for an output, at most an eighth larger: the one of its size that was kept last, or a new one."""
    step = 1 << nbytes.bit_length() - 4
    nbytes = -(-nbytes // step) * step
    if _warm and _lock.acquire(blocking=False):
        try:
            for i in range(len(_warm) - 1, -1, -1):
                if _warm[i].nbytes == nbytes:
                    return _warm.pop(i)
        finally:
            _lock.release()
    return _allocate(nbytes, np.uint8)


def keep(room: np.ndarray) -> None:
    """Called when the last array on an output's room has died, in whatever thread and amid whatever it does."""
    if _lock.acquire(blocking=False):
        try:
            _warm.append(room)
            while sum([r.nbytes for r in _warm]) > WARM_BYTES:
                del _warm[0]
        finally:
            _lock.release()


def packed(nbytes: int) -> np.ndarray:
    """Room for packed weights, as bytes; it lives as long as its layer holds it."""
    return _allocate(nbytes, np.uint8)


def lease(nbytes: int) -> np.ndarray:
    """At least nbytes of workspace, uninitialised; give_back returns it. list.pop is atomic: no lock is held."""
    while True:
        try:
            workspace = _free.pop()
        except IndexError:
            return _allocate(nbytes, np.uint8)
        if workspace.nbytes >= nbytes:
            return workspace  # smaller ones are let go: the list grows towards what the calls need


def give_back(workspace: np.ndarray) -> None:
    if len(_free) < KEEP and workspace.nbytes <= KEEP_BYTES:
        _free.append(workspace)


def free_memory() -> None:
    """Gives the workspaces kept between calls back to the system."""
    _free.clear()
    _warm.clear()


class Mapped(mmap.mmap):
    """A file mapped to be read, by `read_only`: what of it is in memory may be let go at any time."""

    @classmethod
    def read_only(cls, file: int, length: int = 0, offset: int = 0) -> Mapped:
        """Of an open file, from an offset that is a multiple of `mmap.ALLOCATIONGRANULARITY`."""
        return cls(file, length, access=mmap.ACCESS_READ, offset=offset)


def let_go(array: np.ndarray) -> None:
    """Whole pages of a mapped file that an array covers leave memory; they are read again if need be."""
    room: object = array
    while isinstance(room, (np.ndarray, memoryview)):
        room = room.base if isinstance(room, np.ndarray) else room.obj
    if not isinstance(room, Mapped) or not hasattr(room, "madvise") or not array.flags.contiguous:
        return
    first = array.__array_interface__["data"][0]
    start = first - np.frombuffer(room, np.uint8).__array_interface__["data"][0]
    begin, end = -(-start // PAGE) * PAGE, (start + array.nbytes) // PAGE * PAGE
    if begin < end:
        room.madvise(mmap.MADV_DONTNEED, begin, end - begin)
