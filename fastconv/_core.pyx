"""The one door to C: holds the buffers, leases the workspace, releases the GIL, turns a status into an exception.

Nothing is judged here: problems come from _arguments, which has compared them with the arrays.
"""

from contextvars import ContextVar

from cpython.buffer cimport (
    PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport INT32_MAX, INT32_MIN, int32_t, int64_t, uintptr_t
from libc.string cimport memcpy, memset

from . import _memory

# What `using` says: (isa row or -1, algorithm or None, precision, threads or 0). _options writes it.
options = ContextVar("fastconv_options", default=(-1, None, "highest", 0))

# What holds outside of `using`, for every Python thread; written by set_defaults alone.
cdef int default_isa = fc_isa_best()
cdef int default_threads = 0
cdef int thread_limit = 1 << 30

cdef double INTERVAL = 0.05  # seconds between looks at Python's signals
cdef enum: MOST_PACKED_PHASES = 64

# Calls that `again` knows, about a kilobyte each; when there are so many all are forgotten.
cdef enum: MOST_CALLS = 1024, MOST_WORDS = 128, MOST_AXES = 5
cdef dict calls = {}
cdef dict names = {}  # operations and strings in those calls: their numbers
cdef object lease = _memory.lease, give_back = _memory.give_back, keep = _memory.keep
cdef object ndarray = _memory.np.ndarray, F32 = _memory.np.dtype("f4"), F64 = _memory.np.dtype("f8")

ACTIVATIONS = ("identity", "relu", "relu6", "leaky_relu", "elu", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh",
               "hardsigmoid", "hardswish", "softplus")
_ACTIVATION = {name: index for index, name in enumerate(ACTIVATIONS)}
_RESIDUAL = {None: <int>FC_NO_RESIDUAL, "first": <int>FC_RESIDUAL_FIRST, "last": <int>FC_RESIDUAL_LAST}
_KIND = {"max": <int>FC_POOL_MAX, "avg": <int>FC_POOL_AVERAGE, "sum": <int>FC_POOL_SUM}
assert len(ACTIVATIONS) == FC_ACTIVATIONS


cdef class _Array:
    """A held buffer with its strides in elements, laid out as (batch, channel, depth, height, width)."""

    cdef Py_buffer view
    cdef bint held
    cdef ptrdiff_t stride[5]

    def __cinit__(self, array, bint writable=False):
        PyObject_GetBuffer(array, &self.view, PyBUF_STRIDES | (PyBUF_WRITABLE if writable else 0))
        self.held = True

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)

    cdef int place(self, int dims, bint channels_last, ptrdiff_t batch, ptrdiff_t channels, ptrdiff_t *size) except -1:
        """Reads the strides, and compares the shape with the problem's: (batch, channels, *size)."""
        cdef int axis, at = 1 + dims if channels_last else 1
        cdef bint same = self.view.ndim == dims + 2 and self.view.shape[0] == batch and self.view.shape[at] == channels
        memset(self.stride, 0, sizeof(self.stride))
        self.stride[0] = self.view.strides[0] // self.view.itemsize
        self.stride[1] = self.view.strides[at] // self.view.itemsize
        for axis in range(dims):
            at = 1 + axis if channels_last else 2 + axis
            same = same and self.view.shape[at] == size[3 - dims + axis]
            self.stride[5 - dims + axis] = self.view.strides[at] // self.view.itemsize
        if not same:
            raise SystemError("an array is not of its problem's shape")
        return 0

    cdef int lie_as(self, _Array other) except -1:
        cdef int axis
        cdef bint same = self.view.ndim == other.view.ndim and self.view.itemsize == other.view.itemsize
        for axis in range(self.view.ndim if same else 0):
            same = same and self.view.shape[axis] == other.view.shape[axis] and (
                self.view.shape[axis] == 1 or self.view.strides[axis] == other.view.strides[axis])
        if not same:
            raise SystemError("a residual does not lie as the result does")
        return 0


cdef void _contiguous(ptrdiff_t *stride, ptrdiff_t channels, ptrdiff_t *size, bint channels_last) noexcept:
    """The strides that a new result of (batch, channels, *size) has."""
    cdef ptrdiff_t pixel = channels if channels_last else 1
    stride[4] = pixel
    stride[3] = stride[4] * size[2]
    stride[2] = stride[3] * size[1]
    stride[1] = 1 if channels_last else stride[2] * size[0]
    stride[0] = stride[2] * size[0] * (1 if channels_last else channels)


cdef fc_type _type_of(_Array array) except *:
    if array.view.itemsize == 4:
        return FC_F32
    return FC_F64


cdef int _triple(object values, ptrdiff_t *to) except -1:
    to[0], to[1], to[2] = values
    return 0


cdef int _most_threads() noexcept:
    return min(fc_max_threads(), thread_limit)


cdef fc_options _options_for(bytes algorithm, bint packed) except *:
    cdef fc_options o
    isa, _, _, threads = options.get()
    o.isa = default_isa if isa < 0 else isa
    o.algorithm = NULL
    if algorithm is not None:
        o.algorithm = algorithm
    o.threads = threads or default_threads
    o.max_threads = _most_threads()
    o.packed = packed
    return o


cdef int _run(fc_work *work, fc_buffers *buffers) except -1:
    cdef ptrdiff_t progress[FC_MAX_PARTS]
    cdef fc_status status = FC_MORE
    cdef size_t leased = work.workspace_bytes * <size_t>work.parts
    cdef Py_buffer room
    workspace = None
    memset(progress, 0, <size_t>work.parts * sizeof(ptrdiff_t))
    if leased:
        workspace = lease(leased + FC_ALIGN)
        PyObject_GetBuffer(workspace, &room, PyBUF_WRITABLE)
        buffers.workspace = _aligned(room.buf)
    try:
        while status == FC_MORE:
            with nogil:
                status = fc_run(work, buffers, progress, fc_clock() + INTERVAL)
            if status == FC_MORE:
                PyErr_CheckSignals()
    finally:
        if leased:
            PyBuffer_Release(&room)
            give_back(workspace)
    return 0


cdef void *_aligned(const void *room) noexcept nogil:
    return <void *>((<uintptr_t>room + FC_ALIGN - 1) & ~(<uintptr_t>FC_ALIGN - 1))


cdef class Block:
    """The bytes of a result, a part of a room: the last array on them gives the room back to be kept.

    They begin in the middle of a page. NumPy's large arrays begin 16 bytes after the start of one; a result that began
    a little further in its own would be written where the next loads seem to be, as far as 12 bits of an address tell:
    relu on 1.6 MB takes 60 us with a result 48 bytes further, 44 half a page further.
    """

    cdef Py_buffer room
    cdef Py_ssize_t nbytes

    def __cinit__(self, room, Py_ssize_t nbytes):
        PyObject_GetBuffer(room, &self.room, PyBUF_WRITABLE)
        self.nbytes = nbytes

    def __getbuffer__(self, Py_buffer *view, int flags):
        cdef uintptr_t half = _memory.PAGE // 2
        cdef uintptr_t start = ((<uintptr_t>self.room.buf + half - 1) & ~(2 * half - 1)) + half
        PyBuffer_FillInfo(view, self, <void *>start, self.nbytes, False, flags)

    def __dealloc__(self):
        if self.room.buf != NULL:
            room = <object>self.room.obj
            PyBuffer_Release(&self.room)
            keep(room)


_memory.Block = Block


cdef class Plan:
    """A planned problem, which may be run on any arrays that lie as those it was planned for."""

    cdef fc_work *work
    cdef object packing  # what packed weights depend on; None where they are used as they come

    cdef int run(self, const void *x, const void *w, const void *bias, const void *residual, void *y,
                 int64_t *indices) except -1:
        cdef fc_buffers b
        b.x, b.w, b.bias, b.residual, b.y, b.indices, b.workspace = x, w, bias, residual, y, indices, NULL
        return _run(self.work, &b)


cdef class ConvPlan(Plan):
    """A planned convolution: what will run, and its figures."""

    cdef fc_conv_plan plan

    def __cinit__(self, problem, _Array x not None, _Array w not None, _Array y, bint packed=False):
        cdef fc_conv_problem p
        cdef fc_options o
        cdef fc_status status
        cdef int dims = problem.dims
        p.type = _type_of(x)
        p.transposed = problem.transposed
        p.batch, p.ic, p.oc, p.groups = problem.batch, problem.ic, problem.oc, problem.groups
        _triple(problem.size, p.size)
        _triple(problem.kernel, p.kernel)
        _triple(problem.stride, p.stride)
        _triple(problem.dilation, p.dilation)
        _triple(problem.pad, p.pad)
        _triple(problem.out_size, p.out_size)
        x.place(dims, problem.channels_last, p.batch, p.ic, p.size)
        if y is None:
            _contiguous(p.y_stride, p.oc, p.out_size, problem.channels_last)
        else:
            y.place(dims, problem.channels_last, p.batch, p.oc, p.out_size)
            p.y_stride = y.stride
        w.place(dims, False, p.ic if p.transposed else p.oc, (p.oc if p.transposed else p.ic) // p.groups, p.kernel)
        p.x_stride, p.w_stride = x.stride, w.stride
        p.activation = <fc_activation><int>_ACTIVATION[problem.activation or "identity"]
        p.a, p.b = (tuple(problem.parameters) + (0.0, 0.0))[:2]
        p.residual = <fc_residual><int>_RESIDUAL[problem.residual]
        name = problem.algorithm or options.get()[1]
        algorithm = None if name is None or name == "auto" else name.encode()
        o = _options_for(algorithm, packed)
        status = fc_conv_plan_make(&p, &o, &self.plan)
        if status == FC_CANNOT:
            reason = fc_conv_cannot(&self.plan, algorithms().index(name)).decode()
            raise ValueError(f"{problem.op}: algorithm {name!r} cannot do this: {reason}")
        if status != FC_OK:
            raise ValueError(f"{problem.op}: no such algorithm or ISA on this machine: {name!r}")

        self.work = &self.plan.work
        if packed:
            phases = None
            if problem.transposed:
                phases = tuple(map(min, problem.stride, problem.out_size))
                phases += problem.stride, problem.dilation, problem.pad
            self.packing = in_force()[0], x.view.itemsize, problem.groups, fc_conv_form(&self.plan), phases

    cdef const void *weights(self, const void *w, dict prepared) except NULL:
        """The packed form of w that the plan wants, kept in prepared, which belongs to w alone."""
        room = prepared.get(self.packing)
        if room is None:
            room = _Array(_memory.packed(self.plan.packed_bytes + FC_ALIGN), True)
            with nogil:
                fc_conv_pack(&self.plan, w, _aligned((<_Array>room).view.buf))
            prepared[self.packing] = room
        return _aligned((<_Array>room).view.buf)

    def choices(self):
        """(algorithm, why it cannot or None, why it should not or None), preferred first."""
        cdef const char *cannot
        cdef const char *should_not
        rows = []
        for algo in range(fc_algo_count()):
            cannot = fc_conv_cannot(&self.plan, algo)
            should_not = NULL
            if cannot == NULL:
                should_not = fc_conv_should_not(&self.plan, algo)
            rows.append((fc_algo_name(algo).decode(), None if cannot == NULL else cannot.decode(),
                         None if should_not == NULL else should_not.decode()))
        return rows

    def figures(self):
        """algorithm, parts, bytes leased as workspace, bytes of packed weights, flops, bytes moved at least."""
        return {
            "algorithm": fc_algo_name(fc_conv_algo(&self.plan)).decode(),
            **_figures(&self.plan.work),
            "packed_bytes": self.plan.packed_bytes,
        }


cdef dict _figures(fc_work *work):
    leased = work.workspace_bytes * <size_t>work.parts
    return {
        "threads": work.parts,
        "workspace_bytes": leased + FC_ALIGN if leased else 0,
        "flops": work.flops,
        "bytes": work.bytes,
    }


def conv(problem, x, w, bias, out, dict prepared=None, residual=None):
    """Fills out with the convolution of x and w; returns the plan. A residual lies as out does.

    prepared, which belongs to one array of weights, keeps their packed forms. A transposed convolution of many phases
    packs as it goes: where a phase's panel begins is found by counting the taps of all before it, which for n phases
    would take n * n / 2 steps.
    """
    cdef _Array held_x = _Array(x), held_w = _Array(w), held_y = _Array(out, True), held_bias, held_residual
    cdef const void *at_bias = NULL
    cdef const void *at_residual = NULL
    depth, height, width = problem.stride
    many = problem.transposed and depth * height * width > MOST_PACKED_PHASES
    cdef ConvPlan plan = ConvPlan(problem, held_x, held_w, held_y, prepared is not None and not many)
    cdef const void *weights = held_w.view.buf
    if plan.packing is not None:
        weights = plan.weights(weights, prepared)
    if bias is not None:
        held_bias = _Array(bias)
        at_bias = held_bias.view.buf
    if residual is not None:
        held_residual = _Array(residual)
        held_residual.lie_as(held_y)
        at_residual = held_residual.view.buf
    plan.run(held_x.view.buf, weights, at_bias, at_residual, held_y.view.buf, NULL)
    return plan


def conv_plan(problem, x, w):
    """The plan `conv` would run into a new array."""
    return ConvPlan(problem, _Array(x), _Array(w), None)


cdef class PoolPlan(Plan):
    """A planned pooling."""

    cdef fc_pool_plan plan

    def __cinit__(self, problem, _Array x not None, _Array y, bint indices):
        cdef fc_pool_problem p
        cdef fc_options o = _options_for(None, False)
        p.type = _type_of(x)
        p.kind = <fc_pool_kind><int>_KIND[problem.kind]
        p.adaptive, p.count_include_pad = problem.adaptive, problem.count_include_pad
        p.divisor, p.batch, p.channels = problem.divisor, problem.batch, problem.channels
        _triple(problem.size, p.size)
        _triple(problem.kernel, p.kernel)
        _triple(problem.stride, p.stride)
        _triple(problem.dilation, p.dilation)
        _triple(problem.pad, p.pad)
        _triple(problem.pad_after, p.pad_after)
        _triple(problem.out_size, p.out_size)
        x.place(problem.dims, problem.channels_last, p.batch, p.channels, p.size)
        p.x_stride = x.stride
        if y is None:
            _contiguous(p.y_stride, p.channels, p.out_size, problem.channels_last)
        else:
            y.place(problem.dims, problem.channels_last, p.batch, p.channels, p.out_size)
            p.y_stride = y.stride
        p.indices = indices
        if fc_pool_plan_make(&p, &o, &self.plan) != FC_OK:
            raise ValueError(f"{problem.op}: this machine cannot run that ISA")
        self.work = &self.plan.work

    def figures(self):
        """parts, bytes leased as workspace, flops, bytes moved at least."""
        return _figures(self.work)


def pool(problem, x, out, indices):
    """Fills out, and indices where they are asked for, with the pooling of x; returns the plan."""
    cdef _Array held_x = _Array(x), held_y = _Array(out, True), held_indices
    cdef int64_t *at_indices = NULL
    if indices is not None:
        held_indices = _Array(indices, True)
        at_indices = <int64_t *>held_indices.view.buf
    cdef PoolPlan plan = PoolPlan(problem, held_x, held_y, indices is not None)
    plan.run(held_x.view.buf, NULL, NULL, NULL, held_y.view.buf, at_indices)
    return plan


def pool_plan(problem, x, bint indices):
    """The plan `pool` would run into a new array."""
    return PoolPlan(problem, _Array(x), None, indices)


cdef class MapPlan(Plan):
    """A planned activation of rows of contiguous elements; channels: slopes there are, for prelu."""

    cdef fc_map_plan plan

    def __cinit__(self, name, parameters, _Array x not None, ptrdiff_t rows, ptrdiff_t row, ptrdiff_t channels):
        cdef fc_map_problem p
        cdef fc_options o = _options_for(None, False)
        p.type = _type_of(x)
        p.activation = <fc_activation><int>_ACTIVATION[name]
        p.a, p.b = (tuple(parameters) + (0.0, 0.0))[:2]
        p.rows, p.row, p.channels = rows, row, channels
        if fc_map_plan_make(&p, &o, &self.plan) != FC_OK:
            raise ValueError(f"{name}: this machine cannot run that ISA")
        self.work = &self.plan.work


def activate(name, parameters, x, out):
    """out = act(x), C-contiguous arrays of one shape; returns the plan."""
    cdef _Array held_x = _Array(x), held_y = _Array(out, True)
    cdef MapPlan plan = MapPlan(name, parameters, held_x, 1, x.size, 1)
    plan.run(held_x.view.buf, NULL, NULL, NULL, held_y.view.buf, NULL)
    return plan


def prelu(slopes, x, out):
    """As `activate`, with a slope for each channel (axis 1) or one for all; returns the plan."""
    cdef _Array held_x = _Array(x), held_y = _Array(out, True), held_slopes = _Array(slopes)
    rows = x.shape[0] * x.shape[1] if slopes.size > 1 else 1
    cdef MapPlan plan = MapPlan("leaky_relu", (), held_x, rows, x.size // rows, slopes.size)
    plan.run(held_x.view.buf, held_slopes.view.buf, NULL, NULL, held_y.view.buf, NULL)
    return plan


cdef struct _Words:
    int count
    int32_t word[MOST_WORDS]


cdef bint _note(_Words *to, ptrdiff_t value) noexcept:
    if to.count == MOST_WORDS or not INT32_MIN <= value <= INT32_MAX:
        return False
    to.word[to.count] = <int32_t>value
    to.count += 1
    return True


cdef bint _note_array(_Words *to, array, Py_buffer *view) except? True:
    """Type, shape and strides of an array that the engine may take as it is; it is held in view."""
    cdef int axis
    if type(array) is not ndarray:
        return False
    dtype = array.dtype
    if dtype is not F32 and dtype is not F64 and dtype not in (F32, F64):
        return False
    PyObject_GetBuffer(array, view, PyBUF_STRIDES)
    if view.ndim > MOST_AXES or <uintptr_t>view.buf % <uintptr_t>view.itemsize:
        return False
    _note(to, view.itemsize)
    _note(to, view.ndim)
    for axis in range(view.ndim):
        if not (_note(to, view.shape[axis]) and _note(to, view.strides[axis])):
            return False
    return True


cdef bint _note_name(_Words *to, name, bint learn) except? True:
    number = names.get(name)
    if number is None and learn:
        number = names[name] = len(names)
    return number is not None and _note(to, number)


cdef bint _note_option(_Words *to, value, bint learn) except? True:
    """Type and value: 1, 1.0 and True are equal, as are 0.0 and -0.0."""
    cdef double number
    cdef int32_t halves[2]
    if value is None:
        return _note(to, c"n")
    if type(value) is int:
        try:
            return _note(to, c"i") and _note(to, value)
        except OverflowError:
            return False
    if type(value) is bool:
        return _note(to, c"t" if value else c"f")
    if type(value) is str:
        return _note(to, c"s") and _note_name(to, value, learn)
    if type(value) is float:
        number = value
        memcpy(halves, &number, sizeof(number))
        return _note(to, c"d") and _note(to, halves[0]) and _note(to, halves[1])
    if type(value) is not tuple or not _note(to, c"("):
        return False
    for entry in <tuple>value:
        if not _note_option(to, entry, learn):
            return False
    return _note(to, c")")


cdef bytes _key(op, x, w, bias, tuple given, bint prepared, residual, Py_buffer *view, bint learn=False):
    """All that judge and plan depend on, or None for a call that is judged each time."""
    cdef _Words words
    words.count = 0
    if not (_note_array(&words, x, &view[0]) and (w is None or _note_array(&words, w, &view[1]))):
        return None
    if bias is not None and not _note_array(&words, bias, &view[2]):
        return None
    if residual is not None and not (_note(&words, c"r") and _note_array(&words, residual, &view[3])):
        return None
    if not (_note_name(&words, op, learn) and _note_option(&words, given, learn)):
        return None
    if not (_note_option(&words, options.get(), learn) and _note(&words, prepared)):
        return None
    if not (_note(&words, default_isa) and _note(&words, default_threads) and _note(&words, _most_threads())):
        return None
    return (<char *>words.word)[:<size_t>words.count * sizeof(int32_t)]


def again(op, x, w, bias, tuple given, dict prepared=None, residual=None):
    """The result of a call that is like one `remember` was told of, or None.

    Alike are calls of one operation, arguments equal in value and type, arrays of the same types, shapes and strides,
    under the same settings: all that the judge's answer and the plan depend on, so that no result depends on earlier
    calls.
    """
    cdef Py_buffer view[5]
    cdef Plan plan
    cdef const void *weights
    memset(view, 0, sizeof(view))
    try:
        found = calls.get(_key(op, x, w, bias, given, prepared is not None, residual, view))
        if found is None:
            return None
        plan, shape, dtype, axes = <tuple>found
        out = _memory.empty(shape, dtype)
        PyObject_GetBuffer(out, &view[4], PyBUF_WRITABLE)
        weights = view[1].buf
        if plan.packing is not None:
            weights = (<ConvPlan>plan).weights(weights, prepared)
        plan.run(view[0].buf, weights, view[2].buf, view[3].buf, view[4].buf, NULL)
        return out if axes is None else out.transpose(axes)
    finally:
        for i in range(5):
            PyBuffer_Release(&view[i])


def remember(Plan plan, result, tuple taken, op, x, w, bias, tuple given, dict prepared=None, residual=None):
    """Lets `again` do what the judge and the door did: plan ran on the arrays taken, into a new result."""
    cdef Py_buffer view[4]
    memset(view, 0, sizeof(view))
    try:
        key = _key(op, x, w, bias, given, prepared is not None, residual, view, True)
        if key is None:
            return
        for i in range(len(taken)):
            if taken[i] is not None and (<_Array>_Array(taken[i])).view.buf != view[i].buf:
                return  # a copy was needed
    finally:
        for i in range(4):
            PyBuffer_Release(&view[i])
    # A new result is dense: the memory of a view is that of its axes from the widest stride on.
    order = sorted(range(result.ndim), key=lambda axis: -result.strides[axis])
    shape = tuple([result.shape[axis] for axis in order])
    axes = tuple(sorted(range(result.ndim), key=order.__getitem__))
    if len(calls) >= MOST_CALLS:
        calls.clear()
    calls[key] = plan, shape, result.dtype, None if order == list(axes) == list(range(result.ndim)) else axes


def set_defaults(*, isa=None, threads=None, limit=None):
    """The ISA row, exact number of threads (0: by what the work is worth) and most threads of calls outside `using`."""
    global default_isa, default_threads, thread_limit
    if isa is not None:
        default_isa = isa
    if threads is not None:
        default_threads = threads
    if limit is not None:
        thread_limit = limit


def in_force():
    """(ISA row, exact threads or 0, most threads unasked) of a call made now."""
    isa, _, _, threads = options.get()
    return default_isa if isa < 0 else isa, threads or default_threads, _most_threads()


def isas():
    """Names of the ISA table's rows that this machine runs, best first."""
    return tuple(fc_isa_name(i).decode() for i in range(fc_isa_count()) if fc_isa_runs(i))


def isa_rows():
    """Names of all rows of this build's ISA table, best first."""
    return tuple(fc_isa_name(i).decode() for i in range(fc_isa_count()))


def algorithms():
    """Names of the convolution algorithms, preferred first."""
    return tuple(fc_algo_name(i).decode() for i in range(fc_algo_count()))


def openmp():
    """Whether this build has OpenMP."""
    return bool(fc_openmp())


def before_fork():
    """Waits for OpenMP's team and lets it go, for it would not survive a fork."""
    with nogil:
        fc_before_fork()


def after_fork():
    """Parent and child may make a team of their own again."""
    fc_after_fork()


def fma_peak(dtype_char, threads=1, seconds=0.05):
    """Measured flops a second of fused multiply-adds from registers, on the ISA in force, in GF/s."""
    cdef int isa = in_force()[0]
    cdef fc_type type = FC_F32 if dtype_char == "f" else FC_F64
    cdef int parts = threads
    cdef ptrdiff_t rounds = 1 << 16
    cdef double start, elapsed = 0, flops = 0
    while elapsed < seconds:
        rounds *= 2
        start = fc_clock()
        with nogil:
            flops = fc_fma_burn(isa, type, parts, rounds)
        elapsed = fc_clock() - start
    return flops / elapsed / 1e9
