"""Memory that is refused: the k-th time that NumPy, or Python itself, allocates within a call.

All arrays of the package are NumPy's, so NumPy's allocator (its C API's data handlers, NEP 49) sees
results, workspaces, packed weights, arenas, and every copy and temporary between.
"""

from __future__ import annotations

import ctypes
import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import fastconv as fc
from fastconv.testing._run import Violation

try:
    from numpy._core import _multiarray_umath
except ImportError:  # NumPy 1.26
    from numpy.core import _multiarray_umath
try:
    import _testcapi  # CPython's own, which not every distribution ships
except ImportError:
    _testcapi = None

_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_size_t
#: What NumPy's allocator takes and gives; the first is its context.
_TYPES = {
    "malloc": (_POINTER, _POINTER, _SIZE),
    "calloc": (_POINTER, _POINTER, _SIZE, _SIZE),
    "realloc": (_POINTER, _POINTER, _POINTER, _SIZE),
}

_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype, _capsule_pointer.argtypes = _POINTER, (ctypes.py_object, ctypes.c_char_p)
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object


class _Handler(ctypes.Structure):
    """PyDataMem_Handler of NumPy's ndarraytypes.h, version 1."""

    _fields_ = [
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("ctx", _POINTER),
        *((name, ctypes.CFUNCTYPE(*types)) for name, types in _TYPES.items()),
        ("free", _POINTER),
    ]


def _entry(number: int) -> int:
    """An entry of the table that is NumPy's C API."""
    table = _capsule_pointer(_multiarray_umath._ARRAY_API, None)
    return _POINTER.from_address(table + number * ctypes.sizeof(_POINTER)).value


_set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(_entry(304))
_default = _Handler.from_address(
    _capsule_pointer(ctypes.py_object.from_address(_entry(306)).value, b"mem_handler")
)
# Called with the GIL held, which they let go themselves.
_malloc, _calloc, _realloc = (
    ctypes.PYFUNCTYPE(*types)(ctypes.cast(getattr(_default, name), _POINTER).value)
    for name, types in _TYPES.items()
)


class Counter:
    """NumPy's allocator while it is in force: counts, and refuses the k-th time.

    Freeing is left to NumPy's own, for that may happen while an exception is on its way, which no
    Python function survives.
    """

    def __init__(self):
        self.refused = self.asked = self.nbytes = 0
        self.handler = _Handler(
            b"fastconv.testing", 1, None,
            self._of("malloc", lambda n: self._granted(n) and _malloc(None, n)),
            self._of("calloc", lambda n, m: self._granted(n * m) and _calloc(None, n, m)),
            self._of("realloc", lambda p, n: self._granted(n) and _realloc(None, p, n)),
            _default.free,
        )  # fmt: skip
        self.capsule = _new_capsule(ctypes.byref(self.handler), b"mem_handler", None)

    @staticmethod
    def _of(name: str, function: Callable[..., int | None]):
        """A function as NumPy calls it."""
        return ctypes.CFUNCTYPE(*_TYPES[name])(lambda _, *given: function(*given))

    def start(self, refused: int = 0) -> None:
        self.refused, self.asked, self.nbytes = refused, 0, 0

    def _granted(self, nbytes: int) -> bool | None:
        self.asked += 1
        self.nbytes += nbytes
        return self.asked != self.refused or None


#: One for the process: arrays made while it was in force may die much later.
COUNTER = Counter()


@contextmanager
def counted() -> Iterator[Counter]:
    """NumPy allocates from COUNTER in this thread; what the package keeps between calls is let go."""
    fc.free_memory()
    before = _set_handler(COUNTER.capsule)
    try:
        COUNTER.start()
        yield COUNTER
    finally:
        COUNTER.refused = 0
        _set_handler(before)
        fc.free_memory()


def refuse_arrays(action: Callable[[], Any], same: Callable[[Any, Any], bool]) -> int:
    """Refuses each allocation of arrays within an action once; returns how many there were.

    That is a MemoryError, or the action does without; it leaves nothing behind; the next time is right.
    """
    want, k = action(), 0
    before = _alive()
    with counted() as counter:
        while True:
            k += 1
            fc.free_memory()
            counter.start(refused=k)
            try:
                found = action()
            except MemoryError:
                found = None
            reached = counter.asked >= k
            counter.start()
            if found is not None and not same(found, want):
                raise Violation(f"the result is wrong after refusal {k}")
            if not reached:
                break
            found = None
            if not same(action(), want):
                raise Violation(f"the call after refusal {k} is wrong")
    found = None
    if _alive() > before:
        raise Violation(f"{_alive() - before} bytes of arrays are lost in {k - 1} refusals")
    return k - 1


def _alive() -> int:
    """Bytes of NumPy's arrays that were made since tracemalloc was started."""
    fc.free_memory()
    gc.collect()
    if not tracemalloc.is_tracing():
        tracemalloc.start()
    # NumPy notes what it was refused as well, as if it lay at address 0.
    ctypes.pythonapi.PyTraceMalloc_Untrack(np.lib.tracemalloc_domain, ctypes.c_size_t(0))
    arrays = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([arrays]).traces)


def refuse_python(action: Callable[[], Any], same: Callable[[Any, Any], bool]) -> int:
    """The same with Python's own allocations, the later the fewer of them; 0 without CPython's test module.

    In NumPy and in CPython itself one of those may end in a SystemError, or as RuntimeError where it was
    a lock that was refused; these are none of ours.
    """
    if _testcapi is None:
        return 0
    want, refusals, k, quiet = action(), 0, 0, 0
    while quiet < 30:  # then the action has ended before
        found = None
        _testcapi.set_nomemory(k, k + 1)
        try:
            found = action()
        except (MemoryError, SystemError, RuntimeError):
            refusals += 1
            quiet = 0
        finally:
            _testcapi.remove_mem_hooks()
        if found is not None and not same(found, want):
            raise Violation(f"the result is wrong after refusal {k} of Python's")
        if not same(action(), want):
            raise Violation(f"the call after refusal {k} of Python's is wrong")
        quiet += found is not None
        k += 1 + k // 50
    return refusals
