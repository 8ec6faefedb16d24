"""The one door to C: holds the buffers, leases the workspace, releases the GIL, turns a status into an exception.

Nothing is judged here: problems come from _arguments, which has compared them with the arrays.
"""

from contextvars import ContextVar

from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer,
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
cdef enum: MOST_ROOMS = 64
MOST_PACKED_PHASES = 64

# Calls that `again` knows, about a kilobyte each; when there are so many all are forgotten.
cdef enum: MOST_CALLS = 1024, MOST_WORDS = 128, MOST_AXES = 5
cdef dict calls = {}
cdef dict names = {}  # operations and strings in those calls: their numbers
cdef dict forms = {}  # all that packed weights depend on: its number
cdef object lease = _memory.lease, give_back = _memory.give_back, keep = _memory.keep
cdef object ndarray = _memory.np.ndarray, F32 = _memory.np.dtype("f4"), F64 = _memory.np.dtype("f8")

ACTIVATIONS = ("identity", "relu", "relu6", "leaky_relu", "elu", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh",
               "hardsigmoid", "hardswish", "softplus", "clip", "erf")
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


cdef int _copy(problem, _Array x, ptrdiff_t ic, _Array y, ptrdiff_t oc, ptrdiff_t *size, ptrdiff_t *kernel,
               ptrdiff_t *stride, ptrdiff_t *dilation, ptrdiff_t *pad, ptrdiff_t *out_size,
               ptrdiff_t *x_stride, ptrdiff_t *y_stride) except -1:
    """What problems of convolution and pooling have in common; strides of y, where it is None, are a new result's."""
    cdef bint last = problem.channels_last
    _triple(problem.size, size)
    _triple(problem.kernel, kernel)
    _triple(problem.stride, stride)
    _triple(problem.dilation, dilation)
    _triple(problem.pad, pad)
    _triple(problem.out_size, out_size)
    x.place(problem.dims, last, problem.batch, ic, size)
    memcpy(x_stride, x.stride, sizeof(x.stride))
    if y is None:
        _contiguous(y_stride, oc, out_size, last)
    else:
        y.place(problem.dims, last, problem.batch, oc, out_size)
        memcpy(y_stride, y.stride, sizeof(y.stride))
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


cdef struct _Placed:
    # A step of a program. What lies in a room is kept as its distance from the room's beginning.
    fc_work *work
    fc_buffers at
    int x_room, w_room, scale_room, residual_room, y_room  # -1: in none


cdef const void *_found(const void *at, int room, char **rooms) noexcept nogil:
    return at if room < 0 else rooms[room] + <ptrdiff_t>at


cdef struct _Steps:
    _Placed *step
    char **rooms
    void *workspace


cdef const fc_work *_step_of(const void *of, int at, fc_buffers *b) noexcept nogil:
    cdef _Steps *steps = <_Steps *>of
    cdef _Placed *step = &steps.step[at]
    b[0] = step.at
    b.x = _found(b.x, step.x_room, steps.rooms)
    b.w = _found(b.w, step.w_room, steps.rooms)
    b.scale = _found(b.scale, step.scale_room, steps.rooms)
    b.residual = _found(b.residual, step.residual_room, steps.rooms)
    b.y = <void *>_found(b.y, step.y_room, steps.rooms)
    b.workspace = steps.workspace
    return step.work


cdef size_t _leased(fc_work *work) noexcept:
    return work.workspace_bytes * <size_t>work.parts


cdef int _run_steps(_Placed *steps, int count, char **rooms, size_t leased) except -1:
    """Runs all steps on one workspace, without the GIL but where signals are looked at."""
    cdef ptrdiff_t progress[FC_MAX_PARTS]
    cdef Py_buffer room
    cdef _Steps of
    cdef int at = 0, step, parts = 0
    cdef fc_status status
    workspace = None
    of.step, of.rooms, of.workspace = steps, rooms, NULL
    for step in range(count):
        parts = max(parts, steps[step].work.parts)
    memset(progress, 0, <size_t>parts * sizeof(ptrdiff_t))
    if leased:
        workspace = lease(leased + FC_ALIGN)
        PyObject_GetBuffer(workspace, &room, PyBUF_WRITABLE)
        of.workspace = _aligned(room.buf)
    try:
        while True:
            with nogil:
                status = fc_run_steps(_step_of, &of, count, parts, &at, progress, fc_clock() + INTERVAL)
            if status == FC_OK:
                return 0
            PyErr_CheckSignals()
    finally:
        if leased:
            PyBuffer_Release(&room)
            give_back(workspace)


cdef int _run(fc_work *work, fc_buffers *buffers) except -1:
    cdef _Placed step
    step.work, step.at = work, buffers[0]
    step.x_room = step.w_room = step.scale_room = step.residual_room = step.y_room = -1
    return _run_steps(&step, 1, NULL, _leased(work))


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
    cdef readonly object packing  # the number of the form of packed weights; None where they are used as they come

    def figures(self):
        """parts, bytes leased as workspace, flops, bytes moved at least."""
        leased = _leased(self.work)
        return {
            "threads": self.work.parts,
            "workspace_bytes": leased + FC_ALIGN if leased else 0,
            "flops": self.work.flops,
            "bytes": self.work.bytes,
        }


cdef class Step:
    """A plan with the arrays it runs on."""

    cdef readonly Plan plan
    cdef fc_buffers at
    cdef _Array x, w, y, scale, residual  # w: weights that are not packed
    cdef list constants  # arrays and packed weights

    def __cinit__(self, x, y, residual=None):
        memset(&self.at, 0, sizeof(self.at))
        self.constants = []
        self.x, self.y = _Array(x), _Array(y, True)
        self.at.x, self.at.y = self.x.view.buf, self.y.view.buf
        if residual is not None:
            self.residual = _Array(residual)
            self.at.residual = self.residual.view.buf

    cdef const void *constant(self, array, bint writable=False) except? NULL:
        cdef _Array held
        if array is None:
            return NULL
        held = _Array(array, writable)
        self.constants.append(held)
        return held.view.buf

    cdef Plan run(self):
        _run(self.plan.work, &self.at)
        return self.plan


cdef int _copy_prologue(fc_prologue *to, prologue) except -1:
    """None, or the activation that follows x * scale + shift: (name or None, parameters)."""
    name, parameters = prologue or (None, ())
    to.scaled = prologue is not None
    to.activation = <fc_activation><int>_ACTIVATION[name or "identity"]
    to.a, to.b = (tuple(parameters) + (0.0, 0.0))[:2]
    return 0


cdef class ConvPlan(Plan):
    """A planned convolution: what will run, and its figures."""

    cdef fc_conv_plan plan

    def __cinit__(self, problem, _Array x not None, _Array w not None, _Array y, bint packed=False):
        cdef fc_conv_problem p
        cdef fc_options o
        cdef fc_status status
        p.type = _type_of(x)
        p.transposed = problem.transposed
        p.batch, p.ic, p.oc, p.groups = problem.batch, problem.ic, problem.oc, problem.groups
        _copy(problem, x, p.ic, y, p.oc, p.size, p.kernel, p.stride, p.dilation, p.pad, p.out_size,
              p.x_stride, p.y_stride)
        w.place(problem.dims, False, p.ic if p.transposed else p.oc,
                (p.oc if p.transposed else p.ic) // p.groups, p.kernel)
        p.w_stride = w.stride
        p.activation = <fc_activation><int>_ACTIVATION[problem.activation or "identity"]
        p.a, p.b = (tuple(problem.parameters) + (0.0, 0.0))[:2]
        p.residual = <fc_residual><int>_RESIDUAL[problem.residual]
        _copy_prologue(&p.prologue, problem.prologue)
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
            form = in_force()[0], x.view.itemsize, problem.groups, fc_conv_form(&self.plan), phases
            self.packing = forms.setdefault(form, len(forms))

    cdef const void *weights(self, const void *w, dict prepared) except NULL:
        """The packed form of w that the plan wants, kept in prepared, which belongs to w alone."""
        room = prepared.get(self.packing)
        if room is None:
            room = _Array(_memory.packed(self.plan.packed_bytes + FC_ALIGN), True)
            with nogil:
                memset(_aligned((<_Array>room).view.buf), 0, self.plan.packed_bytes)  # `pack` shows what lies between
                fc_conv_pack(&self.plan, w, _aligned((<_Array>room).view.buf))
            prepared[self.packing] = room
        return _aligned((<_Array>room).view.buf)

    def pack(self, w, dict prepared):
        """Sees to it that prepared has the form of w that the plan wants; returns its bytes."""
        cdef _Array held_w = _Array(w), room
        self.weights(held_w.view.buf, prepared)
        room = prepared[self.packing]
        start = <uintptr_t>_aligned(room.view.buf) - <uintptr_t>room.view.buf
        return (<object>room.view.obj)[start : start + self.plan.packed_bytes]

    def pack_unit(self):
        """Of how many output channels `pack_pieces` wants pieces, but for the last; 0: only `pack` will do."""
        return fc_conv_pack_unit(&self.plan)

    def pack_pieces(self, pieces, dict prepared):
        """As `pack`, of weights that come as arrays of some output channels each, in their order."""
        cdef _Array room = _Array(_memory.packed(self.plan.packed_bytes + FC_ALIGN), True), piece
        cdef void *packed = _aligned(room.view.buf)
        cdef ptrdiff_t first = 0, end
        with nogil:
            memset(packed, 0, self.plan.packed_bytes)
        for array in pieces:
            piece, end = _Array(array), first + len(array)
            with nogil:
                fc_conv_pack_piece(&self.plan, piece.view.buf, packed, first, end)
            first = end
        prepared[self.packing] = room

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
        """Those of every plan, the algorithm, and bytes of packed weights."""
        return {
            "algorithm": fc_algo_name(fc_conv_algo(&self.plan)).decode(),
            **Plan.figures(self),
            "packed_bytes": self.plan.packed_bytes,
        }


def conv_step(problem, x, w, bias, out, dict prepared=None, residual=None, scale=None, shift=None):
    """The convolution of x and w into out. A residual lies as out does. scale and shift: one a channel of x, where the
    problem has a prologue.

    prepared, which belongs to one array of weights, keeps their packed forms. A transposed convolution of many phases
    packs as it goes: where a phase's panel begins is found by counting the taps of all before it, which for n phases
    would take n * n / 2 steps.
    """
    cdef Step step = Step(x, out, residual)
    cdef _Array held_w = _Array(w)
    cdef ConvPlan plan
    depth, height, width = problem.stride
    many = problem.transposed and depth * height * width > MOST_PACKED_PHASES
    step.plan = plan = ConvPlan(problem, step.x, held_w, step.y, prepared is not None and not many)
    if plan.packing is None:
        step.w, step.at.w = held_w, held_w.view.buf
    else:
        step.at.w = plan.weights(held_w.view.buf, prepared)
        step.constants.append(prepared[plan.packing])
    step.at.bias = step.constant(bias)
    if scale is not None:
        step.scale, step.at.shift = _Array(scale), step.constant(shift)
        step.at.scale = step.scale.view.buf
    if residual is not None:
        step.residual.lie_as(step.y)
    return step


def conv(problem, x, w, bias, out, dict prepared=None, residual=None):
    """Runs `conv_step`; returns the plan."""
    return (<Step>conv_step(problem, x, w, bias, out, prepared, residual)).run()


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
        _copy(problem, x, p.channels, y, p.channels, p.size, p.kernel, p.stride, p.dilation, p.pad, p.out_size,
              p.x_stride, p.y_stride)
        _triple(problem.pad_after, p.pad_after)
        p.indices = indices
        _contiguous(p.i_stride, p.channels, p.out_size, problem.channels_last)
        if fc_pool_plan_make(&p, &o, &self.plan) != FC_OK:
            raise ValueError(f"{problem.op}: this machine cannot run that ISA")
        self.work = &self.plan.work


def pool_step(problem, x, out, indices=None):
    """The pooling of x into out, and its indices where they are asked for."""
    cdef Step step = Step(x, out)
    step.at.indices = <int64_t *>step.constant(indices, True)
    step.plan = PoolPlan(problem, step.x, step.y, indices is not None)
    return step


def pool(problem, x, out, indices):
    """Runs `pool_step`; returns the plan."""
    return (<Step>pool_step(problem, x, out, indices)).run()


def unpool(x, places, out):
    """Values of each row of x to their places in that row of out; whether all places are in it. All are contiguous."""
    cdef _Array values = _Array(x), at = _Array(places), y = _Array(out, True)
    cdef ptrdiff_t n = values.view.shape[1], size = y.view.shape[1], bytes = values.view.itemsize, row, done
    cdef const char *source
    cdef char *to
    for row in range(values.view.shape[0]):
        source = <const char *>values.view.buf + row * n * bytes
        to = <char *>y.view.buf + row * size * bytes
        with nogil:
            done = fc_unpool(<size_t>bytes, n, source, <const int64_t *>at.view.buf + row * n, size, to)
        PyErr_CheckSignals()
        if done < n:
            return False
    return True


def pool_plan(problem, x, bint indices):
    """The plan `pool` would run into a new array."""
    return PoolPlan(problem, _Array(x), None, indices)


cdef class MapPlan(Plan):
    """What is planned element by element, of rows of contiguous elements; channels: slopes there are, for prelu."""

    cdef fc_map_plan plan

    def __cinit__(self, name, parameters, added, Step step not None, ptrdiff_t channels=1):
        cdef fc_map_problem p
        cdef fc_options o = _options_for(None, False)
        p.type = _type_of(step.x)
        p.activation = <fc_activation><int>_ACTIVATION[name or "identity"]
        p.a, p.b = (tuple(parameters) + (0.0, 0.0))[:2]
        p.residual = <fc_residual><int>_RESIDUAL[added]
        p.channels = channels
        _rows(&p, step, 2 if channels > 1 else 0)
        if fc_map_plan_make(&p, &o, &self.plan) != FC_OK:
            raise ValueError(f"{name}: this machine cannot run that ISA")
        self.work = &self.plan.work


cdef int _rows(fc_map_problem *p, Step step, int outer) except -1:
    """As many last axes as lie in one piece in all arrays are a row, but not the first `outer`; the others are rows."""
    cdef _Array array
    cdef ptrdiff_t stride
    cdef int axis, ndim = step.x.view.ndim, split = ndim
    cdef list arrays = [held for held in (step.x, step.residual, step.y) if held is not None]
    cdef list strides = []
    p.row = p.rows = 1
    for array in arrays:
        for axis in range(ndim):
            if array.view.ndim != ndim or array.view.shape[axis] != step.x.view.shape[axis]:
                raise SystemError("the arrays are not of one shape")
    while split > outer and _follow(arrays, split - 1, p.row):
        split -= 1
        p.row *= step.x.view.shape[split]
    for array in arrays:
        stride = array.view.strides[split - 1] // array.view.itemsize if split > 0 else p.row
        p.rows = 1
        for axis in range(split - 1, -1, -1):
            if not _follow([array], axis, stride * p.rows):
                raise ValueError("the rows of an array are not evenly spaced")
            p.rows *= array.view.shape[axis]
        strides.append(stride)
    p.x_row, p.y_row = strides[0], strides[-1]
    p.residual_row = strides[1] if len(strides) == 3 else 0
    return 0


cdef bint _follow(list arrays, int axis, ptrdiff_t stride) except? True:
    """Whether neighbours along an axis are so many elements apart in all arrays."""
    cdef _Array array
    for array in arrays:
        if array.view.shape[axis] != 1 and array.view.strides[axis] != stride * array.view.itemsize:
            return False
    return True


def map_step(name, parameters, x, out, residual=None, after=False):
    """out = act(x), act(x + residual) or, after, act(x) + residual; arrays of one shape.

    They lie in pieces of their last axes, evenly spaced, or it is a ValueError. "identity" copies. out may be x, or a
    residual that is added before.
    """
    cdef Step step = Step(x, out, residual)
    step.plan = MapPlan(name, parameters, None if residual is None else "last" if after else "first", step)
    return step


def activate(name, parameters, x, out):
    """Runs `map_step`; returns the plan."""
    return (<Step>map_step(name, parameters, x, out)).run()


def prelu(slopes, x, out):
    """out = leaky_relu(x) with a slope for each channel (axis 1) or one for all; returns the plan."""
    cdef Step step = Step(x, out)
    step.at.w = step.constant(slopes)
    step.plan = MapPlan("leaky_relu", (), None, step, slopes.size)
    return step.run()


cdef class NormPlan(Plan):
    """A planned softmax of rows, local response normalisation: (channels before, after, scale, bias), or layer
    normalisation with eps.
    """

    cdef fc_norm_plan plan

    def __cinit__(
        self, Step step not None, ptrdiff_t batch, ptrdiff_t channels, ptrdiff_t row, response=None, eps=None
    ):
        cdef fc_norm_problem p
        cdef fc_options o = _options_for(None, False)
        memset(&p, 0, sizeof(p))
        p.type = _type_of(step.x)
        p.kind = FC_SOFTMAX
        p.batch, p.channels, p.row = batch, channels, row
        if eps is not None:
            p.kind, p.bias = FC_LAYER_NORM, eps
        if response is not None:
            p.kind = FC_LOCAL_RESPONSE
            p.before, p.after, p.scale, p.bias = response
        if batch * channels * row * step.x.view.itemsize != step.x.view.len or step.x.view.len != step.y.view.len:
            raise SystemError("an array is not of its problem's shape")
        if fc_norm_plan_make(&p, &o, &self.plan) != FC_OK:
            raise ValueError("this machine cannot run that ISA")
        self.work = &self.plan.work


def softmax_step(x, out):
    """out = softmax of the last axis of x; contiguous arrays of one shape."""
    cdef Step step = Step(x, out)
    row = x.shape[-1]
    step.plan = NormPlan(step, 1, x.size // row, row)
    return step


def layer_norm_step(eps, scale, shift, x, out):
    """out = (x - mean) / sqrt(variance + eps) * scale + shift over the last axes of x, which scale and shift have;
    contiguous arrays of x's type, of which out may be x.
    """
    cdef Step step = Step(x, out)
    row = scale.size
    if not x.shape[x.ndim - scale.ndim:] == scale.shape == shift.shape:
        raise SystemError("an array is not of its problem's shape")
    step.at.scale, step.at.shift = step.constant(scale), step.constant(shift)
    step.plan = NormPlan(step, 1, x.size // row, row, eps=eps)
    return step


def local_response_step(before, after, scale, bias, x, out):
    """out = x / (bias + scale * s)^(3/4), s the sum of the squares of so many channels, axis 1, before and after each;
    contiguous arrays of one shape that do not overlap.
    """
    cdef Step step = Step(x, out)
    batch, channels = x.shape[:2]
    step.plan = NormPlan(step, batch, channels, x.size // (batch * channels), (before, after, scale, bias))
    return step


def run(step):
    """Runs a step by itself; returns the plan."""
    return (<Step>step).run()


cdef class Program:
    """Steps that run one after another with no Python between them, on arrays that lie elsewhere each time.

    rooms: contiguous arrays. What of the steps' inputs, unpacked weights, scales, residuals and results lies in one of
    them is looked for, in every run, at the same place of the room that was given instead; all else stays where it is.
    Any number of threads may run a program at once, on rooms of their own for what it writes.
    """

    cdef bytearray room  # of the steps
    cdef _Placed *steps
    cdef int count
    cdef size_t leased
    cdef list kept, sizes, written
    cdef readonly Py_ssize_t workspace_bytes

    def __cinit__(self, list steps, tuple rooms):
        cdef list held = [_Array(array) for array in rooms]
        cdef _Array room
        if len(held) > MOST_ROOMS:
            raise ValueError(f"a program has at most {MOST_ROOMS} rooms, got {len(held)}")
        self.room = bytearray((len(steps) + 1) * sizeof(_Placed))
        self.steps = <_Placed *><char *>self.room
        self.sizes, self.written, self.kept = [], [False] * len(held), []
        for room in held:
            self.sizes.append(room.view.len)
        for step in steps:
            self.place(step, held)
        self.workspace_bytes = self.leased + FC_ALIGN if self.leased else 0

    cdef int place(self, Step step, list rooms) except -1:
        cdef _Placed *to = &self.steps[self.count]
        to.work, to.at = step.plan.work, step.at
        to.x_room = self.find(step.x, rooms, &to.at.x)
        to.w_room = self.find(step.w, rooms, &to.at.w)
        to.scale_room = self.find(step.scale, rooms, &to.at.scale)
        to.residual_room = self.find(step.residual, rooms, &to.at.residual)
        to.y_room = self.find(step.y, rooms, <const void **>&to.at.y)
        if to.y_room >= 0:
            self.written[to.y_room] = True
        self.kept += [step.plan, step.constants]
        self.leased = max(self.leased, _leased(to.work))
        self.count += 1
        return 0

    cdef int find(self, _Array array, list rooms, const void **at) except -2:
        """The room an array lies in; its place becomes the distance from the room's beginning."""
        cdef _Array room
        cdef ptrdiff_t distance
        cdef int i
        if array is None:
            return -1
        for i in range(len(rooms)):
            room = rooms[i]
            distance = <char *>at[0] - <char *>room.view.buf
            if 0 <= distance < room.view.len:
                at[0] = <const void *>distance
                return i
        self.kept.append(array)
        return -1

    def run(self, tuple rooms):
        """Runs all steps, on rooms as those the program was made with, of as many bytes at least."""
        cdef Py_buffer view[MOST_ROOMS]
        cdef char *start[MOST_ROOMS]
        cdef int i, count = len(self.sizes)
        if len(rooms) != count:
            raise SystemError(f"a program of {count} rooms was given {len(rooms)}")
        memset(view, 0, <size_t>count * sizeof(Py_buffer))
        try:
            for i in range(count):
                PyObject_GetBuffer(rooms[i], &view[i], PyBUF_WRITABLE if self.written[i] else PyBUF_SIMPLE)
                start[i] = <char *>view[i].buf
                if view[i].len < <Py_ssize_t>self.sizes[i]:
                    raise SystemError("a program's room is too small")
            _run_steps(self.steps, self.count, start, self.leased)
        finally:
            for i in range(count):
                PyBuffer_Release(&view[i])


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
    cdef fc_buffers at
    memset(view, 0, sizeof(view))
    try:
        found = calls.get(_key(op, x, w, bias, given, prepared is not None, residual, view))
        if found is None:
            return None
        plan, shape, dtype, axes = <tuple>found
        out = _memory.empty(shape, dtype)
        PyObject_GetBuffer(out, &view[4], PyBUF_WRITABLE)
        at.x, at.w, at.bias, at.residual, at.y = view[0].buf, view[1].buf, view[2].buf, view[3].buf, view[4].buf
        at.indices, at.workspace, at.scale, at.shift = NULL, NULL, NULL, NULL
        if plan.packing is not None:
            at.w = (<ConvPlan>plan).weights(at.w, prepared)
        _run(plan.work, &at)
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


def processors():
    """How many CPUs OpenMP may use, whether it has bound threads to them or not; 1 without it."""
    return fc_processors()


def before_fork():
    """Waits for OpenMP's team and lets it go, for it would not survive a fork."""
    with nogil:
        fc_before_fork()


def after_fork():
    """The parent may make a team again."""
    fc_after_fork(False)


def after_fork_in_child():
    """The child, which has one thread, may make a team of its own."""
    fc_after_fork(True)


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
