/* What an algorithm is, and what algorithms share: phases, strips, tiles, weights. */
#ifndef FC_ALGOS_H
#define FC_ALGOS_H

#include "../fastconv.h"
#include "../kernels/kernels.h"

struct fc_phase;
struct fc_algo {
    const char *name;
    const char *precision;                           /* the class of its bits: "highest" */
    const char *(*cannot)(const fc_conv_plan *);     /* the result would be wrong: why, or NULL */
    const char *(*should_not)(const fc_conv_plan *); /* it would be slower: why and by which benchmark, or NULL */
    void (*book)(fc_conv_plan *);                    /* block sizes, work.items, workspace and packed bytes */
    void (*pack)(const fc_conv_plan *, const void *w, void *packed);
    ptrdiff_t (*run)(const fc_work *, const fc_buffers *, void *workspace, ptrdiff_t first, ptrdiff_t last,
                     double deadline);
    /* where the weights of one output channel lie: w, w_channel, w_tap of the chain */
    void (*weights_of)(const fc_conv_plan *, const fc_buffers *, const struct fc_phase *, ptrdiff_t oc, fc_chain *);
};

#define FC_ALGO(name) extern const fc_algo fc_algo_##name;
#include "../conv_algos.def"
#undef FC_ALGO

static inline ptrdiff_t fc_min(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static inline ptrdiff_t fc_max(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }
static inline ptrdiff_t fc_ceil_div(ptrdiff_t a, ptrdiff_t b) { return (a + b - 1) / b; }
static inline ptrdiff_t fc_round_up(ptrdiff_t a, ptrdiff_t b) { return fc_ceil_div(a, b) * b; }
static inline const void *fc_at(const fc_conv_plan *p, const void *array, ptrdiff_t i)
{
    return (const char *)array + i * (ptrdiff_t)p->work.kernels->size;
}
static inline void *fc_to(const fc_conv_plan *p, void *array, ptrdiff_t i)
{
    return (char *)array + i * (ptrdiff_t)p->work.kernels->size;
}
static inline ptrdiff_t fc_gcd(ptrdiff_t a, ptrdiff_t b)
{
    while (b) {
        const ptrdiff_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}
/* The i-th of n nearly equal shares of total. */
static inline ptrdiff_t fc_share(ptrdiff_t total, ptrdiff_t i, ptrdiff_t n)
{
    return total / n * i + fc_min(i, total % n);
}
/* The first vector of the i-th of n blocks of columns: whole tiles, as long as there is one for each block; one vector left
 * over joins the last. */
static inline ptrdiff_t fc_block_tiles(ptrdiff_t vectors) { return fc_max((vectors + 1) / FC_VECTORS, 1); }
static inline ptrdiff_t fc_block_start(ptrdiff_t vectors, ptrdiff_t i, ptrdiff_t n)
{
    const ptrdiff_t tiles = fc_block_tiles(vectors);
    if (tiles < n) return fc_share(vectors, i, n);
    return i == n ? vectors : fc_share(tiles, i, n) * FC_VECTORS;
}
static inline ptrdiff_t fc_block_longest(ptrdiff_t vectors, ptrdiff_t n)
{
    return fc_max(fc_block_start(vectors, 1, n), vectors - fc_block_start(vectors, n - 1, n));
}
/* Multiply-adds of an item at most, where rows can be fewer: some 50 ms in plain C, so that a deadline is met. */
#define FC_ITEM_WORK ((double)(1 << 26))
static inline int fc_late(double deadline) { return deadline > 0 && fc_clock() >= deadline; }

/* One phase: an ordinary convolution of stride in_step over every out_step-th output. */
typedef struct fc_phase {
    ptrdiff_t index;
    fc_axis axis[FC_SPATIAL];
    ptrdiff_t taps, outputs; /* products over the axes */
    ptrdiff_t taps_before;   /* taps of all earlier phases: where its packed weights begin */
    ptrdiff_t run, origin;   /* outputs side by side in y from any multiple of run on; y's element of output 0 */
} fc_phase;
ptrdiff_t fc_phases(const fc_conv_plan *);
/* One axis of a phase, of which the index counts only that axis. */
void fc_phase_axis(const fc_conv_plan *, int axis, ptrdiff_t phase, fc_axis *);
void fc_phase_of(const fc_conv_plan *, ptrdiff_t index, fc_phase *);

/* A phase no shorter along any axis than any of the plan's: to book by. */
void fc_phase_longest(const fc_conv_plan *, fc_phase *);

/* Outputs first <= j < end of tap t read inside the image. */
void fc_valid(const fc_axis *, ptrdiff_t tap, ptrdiff_t *first, ptrdiff_t *end);

/* Phases of one axis that read the same inputs. */
enum { FC_CELL_PHASES = 32 }; /* of an axis at most */
typedef struct fc_family {
    ptrdiff_t first, phases;
    fc_axis axis; /* of its first phase */
} fc_family;
/* A family of each axis: phases that are computed in the same tiles. */
typedef struct fc_cell {
    const fc_family *f[FC_SPATIAL];
    ptrdiff_t phases, taps;
} fc_cell;
typedef struct fc_cells {
    fc_family family[FC_SPATIAL][FC_CELL_PHASES];
    ptrdiff_t families[FC_SPATIAL], cells;
    ptrdiff_t k0[FC_SPATIAL][FC_CELL_PHASES]; /* of each phase */
    ptrdiff_t in0[FC_SPATIAL],
        span[FC_SPATIAL]; /* the first input that output 0 of any phase reads; how many from there */
    ptrdiff_t step[FC_SPATIAL], out_step[FC_SPATIAL]; /* inputs from one output to the next; outputs of y */
    ptrdiff_t sets[FC_SPATIAL]; /* residues of inputs modulo the step */
    ptrdiff_t n[FC_SPATIAL]; /* outputs of the longest phase */
    int flat; /* direct's: vectors run over the ends of rows */
} fc_cells;
const char *fc_cells_cannot(const fc_conv_plan *);
void fc_cells_of(const fc_conv_plan *, fc_cells *); /* all but flat */
fc_cell fc_cell_of(const fc_cells *, ptrdiff_t i);

/* Weights of output channels oc0 ... of a group, for all cells: as number `at` of `groups` such blocks. Elements of one cell's
 * for ocs output channels; of all cells'. Where those of one output lie. */
typedef struct fc_cells_block {
    ptrdiff_t group, oc0, ocs;
} fc_cells_block;
void fc_cells_pack(const fc_conv_plan *, const fc_cells *, const fc_cells_block *, const void *w, ptrdiff_t at,
                   ptrdiff_t groups, void *to);
ptrdiff_t fc_cell_panel(const fc_conv_plan *, const fc_cell *); /* elements from panel to panel */
ptrdiff_t fc_cell_size(const fc_conv_plan *, const fc_cell *, ptrdiff_t ocs);
ptrdiff_t fc_cells_size(const fc_conv_plan *, const fc_cells *, ptrdiff_t ocs);
void fc_cells_weights_of(const fc_conv_plan *, const fc_cells *, const fc_buffers *, const fc_phase *, ptrdiff_t oc,
                         fc_chain *);

/* Weights of one group and phase, rows from row on: a panel packed before, packed now into room, or the user's array. */
typedef struct fc_weights {
    const void *w;
    ptrdiff_t w_row;
    int packed;
} fc_weights;
int fc_weights_in_place(const fc_conv_plan *);
/* Costs of a multiply-add of a vector, in such multiply-adds: of `direct`, of `channels`, and of a tile of the latter alone. */
double fc_direct_cost(const fc_conv_plan *);
double fc_channels_cost(const fc_conv_plan *);
double fc_channels_tile_cost(const fc_conv_plan *);
/* And of 1x1 kernels, lanes along the pixels of one image (`pointwise`) or of the batch (`im2col`). */
double fc_image_cost(const fc_conv_plan *);
double fc_batch_cost(const fc_conv_plan *);
/* `channels` packs output channels [first, end) of a single group, which lie at w, in pieces of this many. */
ptrdiff_t fc_channels_pack_unit(const fc_conv_plan *);
void fc_channels_pack_piece(const fc_conv_plan *, const void *w, void *packed, ptrdiff_t first, ptrdiff_t end);

size_t fc_weights_packed_bytes(const fc_conv_plan *);
void fc_weights_pack(const fc_conv_plan *, const void *w, void *packed);
fc_weights fc_weights_of(const fc_conv_plan *, const fc_buffers *, const fc_phase *, ptrdiff_t group, ptrdiff_t row,
                         ptrdiff_t channel0, ptrdiff_t channels, ptrdiff_t tap0, ptrdiff_t taps, void *room);

/* Weights of `rows` output channels from oc on, of some channels of the chain, with output channels side by side:
 * to[(c*taps + t)*width + row]; those up to width that are not there are zero. */
void fc_weights_turn(const fc_conv_plan *, const void *w, ptrdiff_t oc, ptrdiff_t rows, ptrdiff_t channel,
                     ptrdiff_t channels, void *to, ptrdiff_t width);

void fc_weights_of_output(const fc_conv_plan *, const fc_buffers *, const fc_phase *, ptrdiff_t oc, fc_chain *);

/* A transposed convolution's packing: the algorithm's, and a note whether all weights are finite, in FC_ALIGN bytes of their
 * own after them. And its run: the algorithm's, unless a weight is not finite. */
void fc_transposed_pack(const fc_conv_plan *, const void *w, void *packed);
ptrdiff_t fc_transposed_run(const fc_work *, const fc_buffers *, void *workspace, ptrdiff_t first, ptrdiff_t last,
                            double deadline);

/* The epilogue after the bias, activation and residual: of n outputs in y, `step` apart; of a tile that lies in y; and of n
 * that wait side by side at `sums` for their places, y[offset[i]]. */
void fc_epilogue(const fc_conv_plan *, const fc_buffers *, void *y, ptrdiff_t n, ptrdiff_t step);
void fc_epilogue_tile(const fc_conv_plan *, const fc_buffers *, const fc_tile *);
/* Lets a tile of sums that lie in y do the epilogue itself, in registers, if it can: there is nothing left then for the above. */
void fc_epilogue_within(const fc_conv_plan *, const fc_buffers *, fc_tile *);
/* Whether the epilogue is no more than what tiles do without a residual, which is filled in then. */
int fc_epilogue_clamps(const fc_conv_plan *, fc_finish *);
/* Fetches the residual of a tile that is about to be computed. */
void fc_epilogue_soon(const fc_conv_plan *, const fc_buffers *, const fc_tile *);
void fc_epilogue_scattered(const fc_conv_plan *, const fc_buffers *, void *sums, ptrdiff_t n, const void *y,
                           const ptrdiff_t *offset);

/* Fills t->y for outputs column[j]... of the phase (flat over batch, depth, height, width), runs the tile, and after the last
 * step the epilogue; outputs that do not lie side by side in y go through a scratch tile. */
void fc_tile_run(const fc_conv_plan *, const fc_phase *, const fc_buffers *, fc_tile *,
                 const ptrdiff_t column[FC_VECTORS], void *y);
/* A block of outputs that lie side by side: some rows of a group by columns from `column` on, flat over batch, depth, height,
 * width; over channels x taps of the chain. */
typedef struct fc_block {
    ptrdiff_t group, row, row_end, column, columns;
    ptrdiff_t channel, channels, tap, taps;
    void *panel;    /* its columns packed: [tile][k][vectors * lanes] */
    const void
        *x;  /* or the image at column and channel, which lies as a panel of steps x_stride[C] apart; packed, where
                       there is a panel, by the tiles of the first rows */
    void *room;     /* for packing weights */
    const void *next; /* x of the block that follows, to be fetched meanwhile, or NULL */
} fc_block;
void fc_block_run(const fc_conv_plan *, const fc_phase *, const fc_buffers *, const fc_block *);
/* Splits columns and rows of output channels, repeats times, into column_blocks x row_blocks x repeats items, about
 * `most` vectors each, so that the busiest part does least; pack_cost: preparing one vector, in multiply-adds of a vector. */
void fc_grid_book(fc_conv_plan *, ptrdiff_t columns, ptrdiff_t most, ptrdiff_t repeats, double pack_cost);
/* y at output channel row of a group, first output of the first image */
void *fc_y_row(const fc_conv_plan *, const fc_buffers *, ptrdiff_t group, ptrdiff_t row);
const void *fc_bias_row(const fc_conv_plan *, const fc_buffers *, ptrdiff_t group, ptrdiff_t row);
/* offset in y of one output of a phase, flat over batch, depth, height, width */
ptrdiff_t fc_y_offset(const fc_conv_plan *, const fc_phase *, ptrdiff_t column);

/* A tile of pixels: the order's from `first` on, which meet no more than the taps from tap to end inside the image. */
typedef struct fc_pixel_tile {
    int first, pixels;
    int tap[FC_SPATIAL], end[FC_SPATIAL];
} fc_pixel_tile;
enum { FC_REGION_PIXELS = 256 }; /* of such a region at most */
/* Cuts a region, n outputs from `output` on along batch, depth, height, width, into tiles; order: of its pixels, each counted
 * as it lies in the region. Returns the number of tiles. */
int fc_border_tiles(const fc_conv_plan *, const ptrdiff_t output[1 + FC_SPATIAL], const ptrdiff_t n[1 + FC_SPATIAL],
                    int *order, fc_pixel_tile *tiles);
/* The share of a convolution's products that are not with padding. */
double fc_border_share(const fc_conv_plan *);

/* A zero-padded copy of the part of an image that a block of outputs reads: rows of outputs jh0 .. jh0+rows, columns
 * jw0 .. jw0+columns of depth jd. Memory: [channel][tap depth][strip row][set][pitch]. A set holds the columns of one
 * residue modulo the stride, so that every tap is unit stride; where taps lie further apart than outputs a set (or a
 * strip row) belongs to one tap instead, and nothing between them is copied. */
typedef struct fc_strip {
    ptrdiff_t jd, jh0, rows, jw0, columns;
    ptrdiff_t row_j, row_t, strip_rows; /* output row r, tap th: strip row r*row_j + th*row_t */
    ptrdiff_t sets, pitch;
    int set_per_tap, row_per_tap;
    ptrdiff_t plane, channel; /* elements */
    ptrdiff_t copies; /* how many copies of rows fill it; all else is padding */
} fc_strip;
void fc_strip_plan(const fc_conv_plan *, const fc_phase *, fc_strip *);
ptrdiff_t fc_strip_tap(const fc_phase *, const fc_strip *, ptrdiff_t td, ptrdiff_t th, ptrdiff_t tw);

/* The i-th copy: rows with x and to still relative to the channel's image and strip. Returns 0 where all its
 * rows are padding. */
typedef struct fc_strip_copy {
    fc_rows rows;
    ptrdiff_t x, to; /* elements */
} fc_strip_copy;
int fc_strip_copy_of(const fc_conv_plan *, const fc_phase *, const fc_strip *, ptrdiff_t i, fc_strip_copy *);
void fc_strip_fill(const fc_conv_plan *, const fc_phase *, const fc_strip *, const void *x, ptrdiff_t channels,
                   void *to);

#endif
