"""The one door to C: holds the buffers, leases the workspace, releases the GIL, turns a status into an exception.

Nothing is judged here: problems come from _arguments, which has compared them with the arrays.
"""

from contextvars import ContextVar

from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uintptr_t
from libc.string cimport memset

from . import _memory

# What `using` says: (isa row or -1, algorithm or None, precision, threads or 0). _options writes it.
options = ContextVar("fastconv_options", default=(-1, None, "highest", 0))

# What holds outside of `using`, for every Python thread; written by set_defaults alone.
cdef int default_isa = fc_isa_best()
cdef int default_threads = 0
cdef int thread_limit = 1 << 30

cdef double INTERVAL = 0.05  # seconds between looks at Python's signals
cdef enum: MOST_PACKED_PHASES = 64

ACTIVATIONS = ("identity", "relu", "relu6", "leaky_relu", "elu", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh",
               "hardsigmoid", "hardswish", "softplus")
_ACTIVATION = {name: index for index, name in enumerate(ACTIVATIONS)}
_KIND = {"max": <int>FC_POOL_MAX, "avg": <int>FC_POOL_AVERAGE, "sum": <int>FC_POOL_SUM}
assert len(ACTIVATIONS) == FC_ACTIVATIONS
cdef int DEPTHWISE = [fc_algo_name(i) for i in range(fc_algo_count())].index(b"depthwise")


cdef class _Array:
    """A held buffer with its strides in elements, laid out as (batch, channel, depth, height, width)."""

    cdef Py_buffer view
    cdef bint held
    cdef ptrdiff_t stride[5]

    def __cinit__(self, array, bint writable=False):
        PyObject_GetBuffer(array, &self.view, PyBUF_STRIDES | PyBUF_FORMAT | (PyBUF_WRITABLE if writable else 0))
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


cdef fc_options _options_for(bytes algorithm, bint packed) except *:
    cdef fc_options o
    isa, _, _, threads = options.get()
    o.isa = default_isa if isa < 0 else isa
    o.algorithm = NULL
    if algorithm is not None:
        o.algorithm = algorithm
    o.threads = threads or default_threads
    o.max_threads = min(fc_max_threads(), thread_limit)
    o.packed = packed
    return o


cdef int _run(fc_work *work, fc_buffers *buffers) except -1:
    cdef ptrdiff_t progress[FC_MAX_PARTS]
    cdef fc_status status = FC_MORE
    cdef size_t leased = work.workspace_bytes * <size_t>work.parts
    workspace = None
    memset(progress, 0, <size_t>work.parts * sizeof(ptrdiff_t))
    if leased:
        workspace = _memory.lease(leased + FC_ALIGN)
        buffers.workspace = <void *>_aligned(workspace)
    try:
        while status == FC_MORE:
            with nogil:
                status = fc_run(work, buffers, progress, fc_clock() + INTERVAL)
            if status == FC_MORE:
                PyErr_CheckSignals()
    finally:
        if leased:
            _memory.give_back(workspace)
    return 0


cdef uintptr_t _aligned(object array) except 0:
    cdef unsigned char[::1] view = array
    return (<uintptr_t>&view[0] + FC_ALIGN - 1) & ~(<uintptr_t>FC_ALIGN - 1)


cdef class ConvPlan:
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
        name = problem.algorithm or options.get()[1]
        algorithm = None if name is None or name == "auto" else name.encode()
        o = _options_for(algorithm, packed)
        status = fc_conv_plan_make(&p, &o, &self.plan)
        if status == FC_CANNOT:
            reason = fc_conv_cannot(&self.plan, algorithms().index(name)).decode()
            raise ValueError(f"{problem.op}: algorithm {name!r} cannot do this: {reason}")
        if status != FC_OK:
            raise ValueError(f"{problem.op}: no such algorithm or ISA on this machine: {name!r}")

    cdef int run(self, _Array x, const void *w, _Array bias, _Array y) except -1:
        """w: the weights the plan was made for, or their packed form where it was made for that."""
        cdef fc_buffers b
        memset(&b, 0, sizeof(b))
        b.x, b.w, b.y = x.view.buf, w, y.view.buf
        b.bias = NULL if bias is None else bias.view.buf
        return _run(&self.plan.work, &b)

    cdef packing(self, _Array x):
        """What packed weights depend on: ISA, element size, and the algorithm's own form."""
        return in_force()[0], x.view.itemsize, fc_conv_algo(&self.plan) == DEPTHWISE

    cdef pack(self, _Array w):
        room = _memory.packed(self.plan.packed_bytes + FC_ALIGN)
        cdef uintptr_t at = _aligned(room)
        with nogil:
            fc_conv_pack(&self.plan, w.view.buf, <void *>at)
        return room

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


def conv(problem, x, w, bias, out):
    """Fills out with the convolution of x and w."""
    cdef _Array held_x = _Array(x), held_w = _Array(w), held_y = _Array(out, True)
    cdef ConvPlan plan = ConvPlan(problem, held_x, held_w, held_y)
    plan.run(held_x, held_w.view.buf, None if bias is None else _Array(bias), held_y)


def conv_prepared(problem, x, w, bias, out, dict prepared):
    """As `conv`, with weights packed once and kept in prepared, which belongs to one array of weights.

    A transposed convolution of many phases packs as it goes: where a phase's panel begins is found by counting the
    taps of all before it, which for n phases would take n * n / 2 steps.
    """
    depth, height, width = problem.stride
    if problem.transposed and depth * height * width > MOST_PACKED_PHASES:
        return conv(problem, x, w, bias, out)
    cdef _Array held_x = _Array(x), held_w = _Array(w), held_y = _Array(out, True)
    cdef ConvPlan plan = ConvPlan(problem, held_x, held_w, held_y, True)
    key = plan.packing(held_x)
    room = prepared.get(key)
    if room is None:
        room = plan.pack(held_w)
        prepared[key] = room
    plan.run(held_x, <void *>_aligned(room), None if bias is None else _Array(bias), held_y)


def conv_plan(problem, x, w):
    """The plan `conv` would run into a new array."""
    return ConvPlan(problem, _Array(x), _Array(w), None)


def pool(problem, x, out, indices):
    """Fills out, and indices where they are asked for, with the pooling of x."""
    cdef _Array held_x = _Array(x), held_y = _Array(out, True), held_indices
    cdef fc_buffers b
    cdef fc_pool_plan plan
    memset(&b, 0, sizeof(b))
    _pool_plan(problem, held_x, held_y, indices is not None, &plan)
    b.x, b.y = held_x.view.buf, held_y.view.buf
    if indices is not None:
        held_indices = _Array(indices, True)
        b.indices = <int64_t *>held_indices.view.buf
    _run(&plan.work, &b)


def pool_figures(problem, x, bint indices):
    """The figures of the plan `pool` would run into a new array."""
    cdef fc_pool_plan plan
    _pool_plan(problem, _Array(x), None, indices, &plan)
    return _figures(&plan.work)


cdef int _pool_plan(problem, _Array x, _Array y, bint indices, fc_pool_plan *plan) except -1:
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
    if fc_pool_plan_make(&p, &o, plan) != FC_OK:
        raise ValueError(f"{problem.op}: this machine cannot run that ISA")
    return 0


def activate(name, parameters, x, out):
    """out = act(x), C-contiguous arrays of one shape. prelu: parameters is the slopes, one a channel (axis 1)."""
    cdef _Array held_x = _Array(x), held_y = _Array(out, True), slopes
    cdef fc_map_problem p
    cdef fc_map_plan plan
    cdef fc_options o = _options_for(None, False)
    cdef fc_buffers b
    memset(&b, 0, sizeof(b))
    memset(&p, 0, sizeof(p))
    b.x, b.y = held_x.view.buf, held_y.view.buf
    p.type = _type_of(held_x)
    p.rows, p.row, p.channels = 1, x.size, 1
    if name == "prelu":
        slopes = _Array(parameters)
        b.w = slopes.view.buf
        p.channels = parameters.size
        if p.channels > 1:
            p.rows = x.shape[0] * x.shape[1]
            p.row = x.size // p.rows
        name = "leaky_relu"
    else:
        p.a, p.b = (tuple(parameters) + (0.0, 0.0))[:2]
    p.activation = <fc_activation><int>_ACTIVATION[name]
    if fc_map_plan_make(&p, &o, &plan) != FC_OK:
        raise ValueError(f"{name}: this machine cannot run that ISA")
    _run(&plan.work, &b)


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
    return default_isa if isa < 0 else isa, threads or default_threads, min(fc_max_threads(), thread_limit)


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
