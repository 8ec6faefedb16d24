/* The C API of fastconv: describe a problem, plan it, pack weights, run it.
 *
 *     fc_conv_plan(&problem, &options, &plan)   chooses ISA, algorithm and parts; states packed and workspace bytes
 *     fc_conv_pack(&plan, weights, packed)      once per set of weights, optional
 *     fc_run(&plan.work, &buffers, progress, deadline)
 *
 * Nothing here allocates, prints, reads the environment or keeps state between calls. Sizes and strides are
 * counted in elements, never in bytes, unless a name says `bytes`. Every problem has three spatial axes (depth, height,
 * width); a 1-D or 2-D one fills the leading axes with size 1. Arrays have any strides, negative and zero included,
 * and are aligned to their element. The caller has judged every argument: planning checks only what an algorithm
 * cannot do. */
#ifndef FASTCONV_H
#define FASTCONV_H

#include <stddef.h>
#include <stdint.h>

#ifdef __FAST_MATH__
#error "fastconv promises IEEE arithmetic: do not compile it with -ffast-math or -Ofast"
#endif

typedef enum { FC_F32, FC_F64, FC_TYPES } fc_type;

typedef enum {
    FC_OK,
    FC_MORE,      /* the deadline passed: call fc_run again with the same progress */
    FC_CANNOT,    /* the forced algorithm cannot do this problem: fc_conv_cannot says why */
    FC_NO_ISA,    /* the forced ISA does not run on this machine */
    FC_NO_ALGO    /* no algorithm of that name */
} fc_status;

typedef enum {
    FC_IDENTITY,
    FC_RELU,
    FC_RELU6,
    FC_LEAKY_RELU, /* a: slope below zero */
    FC_ELU,        /* a: alpha */
    FC_SILU,
    FC_GELU,
    FC_GELU_TANH,
    FC_SIGMOID,
    FC_TANH,
    FC_HARDSIGMOID,
    FC_HARDSWISH,
    FC_SOFTPLUS, /* a: beta, b: threshold */
    FC_CLIP,     /* from a to b */
    FC_ERF,
    FC_ACTIVATIONS
} fc_activation;

enum { FC_DEPTH, FC_HEIGHT, FC_WIDTH, FC_SPATIAL };        /* the three spatial axes */
enum { FC_N, FC_C, FC_D, FC_H, FC_W, FC_AXES };            /* the axes of x and y */

enum { FC_MAX_PARTS = 1024 };

/* The most workspace one part may use, whatever the problem. */
#define FC_WORKSPACE_LIMIT ((size_t)4 << 20)

typedef struct fc_kernels fc_kernels; /* one ISA's inner loops for one element type: kernels/kernels.h */
typedef struct fc_algo fc_algo;       /* one algorithm: algos/algos.h */

/* Whether act(acc), act(acc + residual) or act(acc) + residual. */
typedef enum { FC_NO_RESIDUAL, FC_RESIDUAL_FIRST, FC_RESIDUAL_LAST } fc_residual;

/* What becomes of the input first: nothing, or act(x * scale[c] + shift[c]), each step rounded: only for kernels of 1, stride 1,
 * no padding, one group, pixels of a channel side by side in x. */
typedef struct fc_prologue {
    int scaled;
    fc_activation activation;
    double a, b;
} fc_prologue;

/* y[n, oc, o] = act(sum over (c, k) of w[oc, c, k] * x[n, g*icg + c, o*stride - pad + k*dilation] + bias[oc]),
 * or, transposed, the gather form of the adjoint: x at i meets w at k where i*stride - pad + k*dilation = o.
 * Weights are (oc, ic/groups, kd, kh, kw), transposed (ic, oc/groups, kd, kh, kw). */
typedef struct fc_conv_problem {
    fc_type type;
    int transposed;
    ptrdiff_t batch, ic, oc, groups;
    ptrdiff_t size[FC_SPATIAL], kernel[FC_SPATIAL], stride[FC_SPATIAL], dilation[FC_SPATIAL];
    ptrdiff_t pad[FC_SPATIAL]; /* before; what follows is implied by out_size */
    ptrdiff_t out_size[FC_SPATIAL];
    ptrdiff_t x_stride[FC_AXES], y_stride[FC_AXES], w_stride[FC_AXES];
    fc_activation activation;
    double a, b; /* its parameters */
    fc_residual residual; /* lies as y does and does not overlap it */
    fc_prologue prologue;
} fc_conv_problem;

typedef enum { FC_POOL_MAX, FC_POOL_AVERAGE, FC_POOL_SUM } fc_pool_kind;

/* Windows start at o*stride - pad and take kernel taps, dilation apart, clipped to the image; adaptive ones reach
 * from floor(o*size/out_size) to ceil((o+1)*size/out_size). */
typedef struct fc_pool_problem {
    fc_type type;
    fc_pool_kind kind;
    int adaptive, count_include_pad;
    ptrdiff_t divisor; /* of an average; 0: the number of taps counted */
    ptrdiff_t batch, channels;
    ptrdiff_t size[FC_SPATIAL], kernel[FC_SPATIAL], stride[FC_SPATIAL], dilation[FC_SPATIAL];
    ptrdiff_t pad[FC_SPATIAL], pad_after[FC_SPATIAL], out_size[FC_SPATIAL];
    ptrdiff_t x_stride[FC_AXES], y_stride[FC_AXES];
    int indices; /* also write the flat position in the image of each maximum, as int64 */
    ptrdiff_t i_stride[FC_AXES]; /* where; 1 along the width, or along the channels where those of x and y are 1, too */
} fc_pool_problem;

/* y = act(x), act(x + residual) or act(x) + residual over rows of contiguous elements; w, where given, is leaky_relu's
 * slope, one a channel. y may be x, or a residual that is added first. */
typedef struct fc_map_problem {
    fc_type type;
    fc_activation activation;
    double a, b;
    fc_residual residual;
    ptrdiff_t rows, row, channels; /* row r belongs to channel r % channels */
    ptrdiff_t x_row, residual_row, y_row; /* from row to row */
} fc_map_problem;

typedef enum { FC_SOFTMAX, FC_LOCAL_RESPONSE, FC_LAYER_NORM } fc_norm_kind;

/* x and y are (batch, channels, row) without gaps. Softmax of each row; or y = x / (bias + scale * s)^(3/4), s the sum of the
 * squares in the channels from `before` before to `after` after, where y is not x; or each row less its mean, over the root of its
 * variance + bias, times buffers.scale + buffers.shift, numbers for the elements of any row. */
typedef struct fc_norm_problem {
    fc_type type;
    fc_norm_kind kind;
    ptrdiff_t batch, channels, row;
    ptrdiff_t before, after;
    double scale, bias;
} fc_norm_problem;

typedef struct fc_options {
    int isa; /* a row of the ISA table, or -1: the best one this machine runs */
    const char *algorithm; /* NULL: chosen */
    int threads; /* exact number of parts, or 0: what the work is worth, at most max_threads */
    int max_threads;
    int packed; /* weights will come from fc_conv_pack */
} fc_options;

typedef struct fc_buffers {
    const void *x, *w, *bias; /* bias may be NULL; w is the packed form where options.packed was set */
    const void *residual, *scale, *shift; /* where the problem has them */
    void *y;
    int64_t *indices;
    void *workspace; /* parts * workspace_bytes, aligned to FC_ALIGN */
} fc_buffers;

enum { FC_ALIGN = 64 };

/* What all plans have in common: a list of items, split evenly and in order over the parts. */
typedef struct fc_work fc_work;
struct fc_work {
    const fc_kernels *kernels;
    ptrdiff_t items;
    int parts;
    size_t workspace_bytes; /* of one part */
    double flops, bytes; /* multiply-adds count two; bytes: every array once */
    /* does items from first to last, returns the next one not done: before last only once the deadline has passed */
    ptrdiff_t (*run)(const fc_work *, const fc_buffers *, void *workspace, ptrdiff_t first, ptrdiff_t last,
                     double deadline);
};

/* One spatial axis of one phase: output j lies at out0 + j*out_step; its tap t reads the input at
 * in0 + j*in_step + t*tap_step and the kernel at k0 + t*k_step. A convolution has one phase, a transposed one
 * stride phases an axis, each an ordinary convolution over the outputs that are congruent modulo the stride. */
typedef struct fc_axis {
    ptrdiff_t n, taps, size;
    ptrdiff_t in0, in_step, tap_step;
    ptrdiff_t k0, k_step;
    ptrdiff_t out0, out_step;
} fc_axis;

typedef struct fc_conv_plan {
    fc_work work; /* first: fc_run sees only this */
    fc_conv_problem problem;
    const fc_algo *algo;
    size_t packed_bytes;
    int packed;
    /* the block sizes the algorithm booked; each algorithm's file says what they mean to it */
    ptrdiff_t icg, ocg, phases[FC_SPATIAL];
    ptrdiff_t column_block, row_block, k_block, column_blocks, row_blocks;
    ptrdiff_t region[FC_AXES - 1]; /* outputs of an item along batch, depth, height, width */
} fc_conv_plan;

/* How pooling goes along the width: each output by itself; or rows of windows that lie in a sheet, by doubling, tap by tap, or
 * turned so that lanes are rows and then tap by tap; or narrow windows, sliding along rows that are never stored, lanes
 * being columns or channels; or maxima with their places, tap by tap. */
typedef enum {
    FC_POOL_ROWS,
    FC_POOL_LEVELS,
    FC_POOL_TAPS,
    FC_POOL_TURNED,
    FC_POOL_SLIDES,
    FC_POOL_PIXELS,
    FC_POOL_INDEXED
} fc_pool_way;

typedef struct fc_pool_plan {
    fc_work work;
    fc_pool_problem
        problem; /* adaptive windows that are all alike made ordinary ones; of a vector of planes that are turned */
    fc_pool_way way;
    ptrdiff_t planes; /* of an image, turned so that lanes are planes; 0: as they are */
    ptrdiff_t x_image, x_plane, y_image, y_plane; /* their strides */
    ptrdiff_t rows, band; /* rows of outputs, of all and of an item */
    ptrdiff_t blocks, block; /* columns of outputs: blocks of a row, outputs of a block */
    ptrdiff_t unit, channel_blocks; /* channels side by side in memory that make one column; 1: each by itself */
    int single; /* planes become one output each, side by side */
    /* elements: before a row of the sheet, so that the image in it begins with a whole vector; of a row, of the sheet, of its rows reduced along the width at once, of a block of columns reduced
     * by doubling down the height, of the counts of taps, of a row of padding, of turned planes and their outputs; entries of
     * the table of rows */
    ptrdiff_t lead, pitch, sheet, sheet_rows, along, along_rows, tall, counts, padding, turned, turned_out, table;
} fc_pool_plan;

typedef struct fc_map_plan {
    fc_work work;
    fc_map_problem problem;
} fc_map_plan;

typedef struct fc_norm_plan {
    fc_work work;
    fc_norm_problem problem;
} fc_norm_plan;

/* The ISA table, best first. */
int fc_isa_count(void);
const char *fc_isa_name(int isa);
int fc_isa_runs(int isa); /* whether this machine and its operating system can run it */
int fc_isa_best(void);

/* The algorithm table, preferred first. */
int fc_algo_count(void);
const char *fc_algo_name(int algo);
const char *fc_algo_precision(int algo);

fc_status fc_conv_plan_make(const fc_conv_problem *problem, const fc_options *options, fc_conv_plan *plan);
/* Why the algorithm cannot do, or should not be chosen for, the plan's problem: a sentence, or NULL. */
const char *fc_conv_cannot(const fc_conv_plan *plan, int algo);
const char *fc_conv_should_not(const fc_conv_plan *plan, int algo);
int fc_conv_algo(const fc_conv_plan *plan); /* the row that runs */
/* The form of packed weights: plans that agree in it, in ISA, type and groups, and if transposed in stride, dilation,
 * padding and phases, take the same ones. */
int fc_conv_form(const fc_conv_plan *plan);
void fc_conv_pack(const fc_conv_plan *plan, const void *weights, void *packed);
/* The same, piece by piece in ascending order, for weights that need not be in memory at once: output channels
 * [first, end), which lie at `weights`; all pieces but the last are multiples of fc_conv_pack_unit, 0 where there are none. */
ptrdiff_t fc_conv_pack_unit(const fc_conv_plan *plan);
void fc_conv_pack_piece(const fc_conv_plan *plan, const void *weights, void *packed, ptrdiff_t first, ptrdiff_t end);

fc_status fc_pool_plan_make(const fc_pool_problem *problem, const fc_options *options, fc_pool_plan *plan);
fc_status fc_map_plan_make(const fc_map_problem *problem, const fc_options *options, fc_map_plan *plan);
fc_status fc_norm_plan_make(const fc_norm_problem *problem, const fc_options *options, fc_norm_plan *plan);

/* y[place[i]] = x[i] for i below n, in order, elements of 1, 2, 4, 8 or 16 bytes; stops at a place outside of y's `size`.
 * Returns how many were put. */
ptrdiff_t fc_unpool(size_t bytes, ptrdiff_t n, const void *x, const int64_t *place, ptrdiff_t size, void *y);

/* Runs the work; progress holds work->parts numbers, zero at first. deadline: seconds of fc_clock, 0 for none. */
fc_status fc_run(const fc_work *work, const fc_buffers *buffers, ptrdiff_t *progress, double deadline);
/* The same for `count` steps, one after another, from *at on, by one team of threads; parts: of the step that has most, and
 * so many numbers are in progress. fc_step gives the work of the step `at` and fills in its buffers; every thread asks. */
typedef const fc_work *fc_step(const void *steps, int at, fc_buffers *buffers);
fc_status fc_run_steps(fc_step *step, const void *steps, int count, int parts, int *at, ptrdiff_t *progress,
                       double deadline);
double fc_clock(void);

/* Threads: what OpenMP would give, whether it is there, and what must happen around fork. */
int fc_openmp(void);
int fc_max_threads(void);
int fc_processors(void); /* that OpenMP may use, counted before it bound threads to them */
void fc_before_fork(void);
void fc_after_fork(int child); /* in the parent, and in the child */

/* Multiply-adds at full speed from registers: runs the ISA's FMA chain, returns the flops done (to be timed). */
double fc_fma_burn(int isa, fc_type type, int threads, ptrdiff_t rounds);

#endif
