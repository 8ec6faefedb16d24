/* The table of one ISA's inner loops for one element type. They neither allocate nor know of threads; an algorithm in
 * algos/ hands them pieces of a problem. void pointers are arrays of the table's element type; sizes and strides count
 * elements. */
#ifndef FC_KERNELS_H
#define FC_KERNELS_H

#include "../fastconv.h"

enum { FC_VECTORS = 3 };         /* vectors of outputs in a tile */
enum { FC_PIXELS_MAX = 6 };      /* pixels of a tile of output channels, of any ISA */
enum { FC_CHANNEL_VECTORS = 4 }; /* vectors of output channels in such a tile, and in a panel of its weights */
enum { FC_GROUP_ROWS = 2 };      /* of a tile of narrow groups */
enum { FC_LANES_MAX = 16 };      /* of any ISA */
enum { FC_ROWS_MAX = 8 };        /* rows of a tile of any ISA */

/* Pooling's workspace, in elements: a row of the image, a row of outputs, a few sums, then the trees. */
enum {
    FC_POOL_SPAN = 2048, /* of an image row held at once; a power of two, so that trees of pieces join to one */
    FC_POOL_BLOCK = 512, /* outputs of an item */
    FC_POOL_FEW = 64, /* sums of pieces: one a bit of a size */
    FC_POOL_TAP_ROWS = 64, /* rows of a window whose maxima are found with their places by vectors */
    FC_POOL_HIGH = 12, /* rows of a window, from which on a few at a time are reduced, in the order of memory ... */
    FC_POOL_CHUNK = 1024, /* ... over so many columns */
    FC_POOL_FAR = 1 << 20, /* bytes from which on arrays are prefetched */
    FC_POOL_SLACK = 4 * FC_LANES_MAX /* behind an array, where its last vectors may end */
};

/* What a tile does with its sums after the bias, in registers: + the residual, so many bytes from each output; then each is held
 * between low and high, where a NaN stays. */
typedef struct fc_finish {
    int adds, clamps;
    ptrdiff_t residual;
    double low, high;
} fc_finish;

/* A tile: rows output channels by vectors of outputs, each one chain over channels x taps:
 *     y[i][j] = sum over c, t of w[i*w_row + (c*taps + t)*w_k] * b[j][c*b_step + tap[t]]
 * tap is NULL where taps is 1 and its offset 0: then b is a packed panel or an image read in place, and where keep is not
 * NULL (and rows is mr) it is copied there as it is read: keep[k*vectors*lanes + j*lanes]. A tile of whole vectors may repeat: the next one
 * lies beside it in y, and its b is b_next further on. */
typedef struct fc_tile {
    ptrdiff_t channels, taps, b_step;
    const ptrdiff_t *tap;
    const void *b[FC_VECTORS];
    void *keep;
    ptrdiff_t repeats, b_next;
    const void *w;
    ptrdiff_t w_row; /* between rows of weights as the user holds them; unused for packed panels */
    int packed; /* w is a panel: mr rows side by side for every step of the chain */
    void *y[FC_VECTORS];
    ptrdiff_t y_row;
    int lanes[FC_VECTORS]; /* how many outputs each vector holds */
    int vectors, rows;
    int first, last; /* first: the chain starts at +0, else at y; last: bias is added */
    const void *bias; /* one a row, or NULL */
    int finished;     /* with `finish` nothing is left to do */
    fc_finish finish;
    /* fetched into L2 on the way, unless it is NULL: a line a step, ahead_step bytes apart, and of a new channel of
       several taps ahead_channel bytes further; a repeat begins ahead_next bytes later */
    const char *ahead;
    ptrdiff_t ahead_step, ahead_channel, ahead_next;
} fc_tile;

/* A tile of pixels by vectors of output channels, each lane one chain over channels x taps:
 *     y[p][j] = sum over c, t of x[p][c*x_step + tap[t].x] * w[c*w_step + tap[t].w + j]
 * tap is NULL where taps is 1 and its offsets 0. w has whole vectors; y and bias end with the last vector's lanes. */
typedef struct fc_tap {
    ptrdiff_t x, w;
} fc_tap;
typedef struct fc_channel_tile {
    ptrdiff_t channels, taps, x_step;
    const fc_tap *tap;
    const void *x[FC_PIXELS_MAX];
    const void *w;
    ptrdiff_t w_step;
    const char *ahead; /* fetched into L2 on the way, a line a step, or NULL */
    void *y[FC_PIXELS_MAX];
    int pixels, vectors;
    int lanes; /* of the last vector */
    int first, last; /* as in fc_tile */
    const void *bias; /* one a channel, or NULL */
    fc_finish finish; /* adds nothing */
    ptrdiff_t repeats, x_next, y_next; /* so many tiles, each of whose pixels lie so far behind the one's before */
} fc_channel_tile;

/* A row of inputs that a group tile reads: where it begins in x, and in w the taps that meet it of each row of outputs, or
 * less than 0 where it has none. zeros: it is padding. */
typedef struct fc_group_row {
    ptrdiff_t x, w[FC_GROUP_ROWS];
    int zeros;
} fc_group_row;

/* A tile of rows of pixels by vectors of output channels, each lane one chain over channels c and all i in order:
 *     y[v*y_vector + r*y_row + p*y_column + j] = sum over c, i, k of
 *         w[(v*channels + c)*w_channel + row[i].w[r] + k*LANES + j] *
 *         x[v*x_vector + c/LANES*x_block + row[i].x + (p*stride + k*dilation)*x_column + lane[j] + c%LANES]
 * then + bias. Columns p*stride + k*dilation below first or from end on are zeros. */
typedef struct fc_group_tile {
    const void *x, *w, *bias;
    void *y;
    const int *lane; /* [LANES]; + c it is below LANES, or below 1 for all lanes */
    ptrdiff_t vectors, x_vector, y_vector;
    ptrdiff_t channels, w_channel, x_block;
    ptrdiff_t x_channels; /* of a pixel from x on */
    ptrdiff_t x_after;    /* elements that may be read behind the last column's */
    const fc_group_row *row;
    ptrdiff_t reads, taps;
    ptrdiff_t stride, dilation, x_column, y_column, y_row, first, end;
    int rows, pixels;
    int lanes, last_lanes; /* outputs of a vector, of the last one */
    int padded; /* some rows are zeros */
    fc_finish finish; /* adds nothing */
} fc_group_tile;
/* Whether the columns of neighbouring pixels are those of neighbouring taps, of which there is code. */
static inline int fc_group_neighbours(ptrdiff_t taps, ptrdiff_t stride, ptrdiff_t dilation)
{
    return stride <= 2 && dilation == 1 && (taps == 3 || taps == 5 || taps == 7);
}
static inline ptrdiff_t fc_group_blocks(ptrdiff_t channels, ptrdiff_t lanes) { return (channels + lanes - 1) / lanes; }

/* Lanes first <= lane < end of a vector of columns read x[at + lane*step]; all others are padding. */
typedef struct fc_piece {
    ptrdiff_t at;
    int first, end;
} fc_piece;

/* Columns as panels, to[tile][c][vectors * lanes] = act(x[c*x_step + column] * scale[c] + shift[c]): as many tiles of FC_VECTORS
 * as n columns fill, the last of fewer vectors. */
typedef struct fc_scaling {
    const void *x, *scale, *shift;
    ptrdiff_t channels, x_step, n;
    fc_activation activation;
    double a, b;
    void *to;
} fc_scaling;

/* to[r*to_row + j] = x[r*x_row + j*step] for first <= j < end, zero elsewhere below n. */
typedef struct fc_rows {
    const void *x; /* where j = 0 would be, in the array or not */
    ptrdiff_t rows, x_row, step, first, end, n;
    void *to;
    ptrdiff_t to_row;
} fc_rows;

/* Weights of mr rows as a panel: to[(c*taps + t)*mr + i]; rows that are not there are zero. */
typedef struct fc_weight_block {
    const void *w; /* at row 0, channel 0, tap 0 */
    ptrdiff_t row, channel, tap[FC_SPATIAL]; /* strides; those of the taps may be negative */
    ptrdiff_t rows, channels, taps[FC_SPATIAL];
} fc_weight_block;

/* y[line*y_line + (j*phases + f)*y_step] = from[phase[f] + line*phase_line[f] + j], the first n outputs of every line; reads
 * up to a vector past the last. */
typedef struct fc_weave {
    const void *from;
    const ptrdiff_t *phase, *phase_line;
    int phases;
    ptrdiff_t lines, n;
    void *y;
    ptrdiff_t y_line, y_step;
} fc_weave;

enum { FC_UPSAMPLE_PHASES = 32 }; /* of the width, at most */

/* One phase of the width: the column of its first tap beside output 0, its taps, where its first weight lies. */
typedef struct fc_upsample_phase {
    ptrdiff_t first, taps, w;
} fc_upsample_phase;

/* Lines of one output channel, the phases of the width in turns: for every phase f and column j, as far as there are n outputs,
 *     y[i*y_line + (j*phases + f)*y_step] = sum over c, r, t of w[c*w_channel + w_row[r] + phase[f].w + t*w_tap] *
 *         x[i*x_line + c*x_channel + x_row[r] + phase[f].first + t*x_tap + j],
 * then + bias. Reads whole vectors of x. */
typedef struct fc_upsample {
    const void *x, *w, *bias;
    void *y;
    ptrdiff_t channels, x_channel, w_channel;
    const ptrdiff_t *x_row, *w_row;
    ptrdiff_t rows, x_tap, w_tap;
    ptrdiff_t lines, x_line, y_line, n, y_step;
    const fc_upsample_phase *phase;
    int phases;
} fc_upsample;

/* Taps along a row that in-place reading has masks for. */
enum { FC_DEPTHWISE_MASKED = 16 };

/* The kernels that there is code for alone. */
static inline int fc_depthwise_unrolled(ptrdiff_t kh, ptrdiff_t kw)
{
    return kh == kw && (kh == 3 || kh == 5 || kh == 7);
}

/* For every channel: y[r*y_row + j] = sum over td, th, tw of w[(td*kh + th)*kw + tw] * x[td*x_plane + (r*stride + th)*x_row + j*step + tap[tw]],
 * then + bias, over the planes, rows and columns of x that are inside the image; all others count as zeros. */
typedef struct fc_depthwise {
    const void *x, *w, *bias;
    void *y;
    ptrdiff_t channels, x_channel, w_channel, bias_channel, y_channel; /* of a padded x: one channel */
    ptrdiff_t kh, kw;
    const ptrdiff_t *tap; /* columns of the kw taps: at step 2 0, 1, 2, ... */
    ptrdiff_t x_plane, x_row, y_row, rows, n;
    ptrdiff_t stride,
        step; /* rows, columns from one output to the next; step is 1, or both are 2 and the kernel is unrolled */
    ptrdiff_t depth_first, depth_end; /* tap planes inside the image */
    ptrdiff_t row_first, row_end; /* rows of x inside */
    ptrdiff_t first, end; /* columns of x inside */
    int padded; /* every column that vectors reach may be read; else there are at most FC_DEPTHWISE_MASKED taps a row */
} fc_depthwise;

/* One output as a scalar chain over only those taps that read inside the image: y = sum of w * x, then + (bias + 0).
 * Strides of w may be negative. */
typedef struct fc_chain {
    const void *x, *w, *bias;
    void *y;
    ptrdiff_t channels, x_channel, w_channel;
    ptrdiff_t taps[FC_SPATIAL], x_tap[FC_SPATIAL], w_tap[FC_SPATIAL];
} fc_chain;

enum { FC_LOCAL_RESPONSE_PIXELS = 512 };

/* y = x / (bias + scale * s)^(3/4) for so many pixels of each channel, which are `plane` apart; s is the sum of the squares
 * from channel c - before to c + after, as far as there are any. */
typedef struct fc_local_response {
    const void *x;
    void *y;
    ptrdiff_t channels, plane, pixels, before, after;
    double scale, bias;
} fc_local_response;

struct fc_kernels {
    fc_type type;
    size_t size; /* bytes of an element */
    int lanes, mr;
    int tail; /* lanes that the last vector of a tile is paid in: a half where the ISA has one */
    int pixels; /* of a channel_tile at most */
    int group_pixels; /* of a group_tile */
    void (*gemm_tile)(const fc_tile *);
    void (*channel_tile)(const fc_channel_tile *);
    /* the same for w[j*w_step + c], rows as users hold them, without taps: x runs along the chain; a whole one */
    void (*channel_rows)(const fc_channel_tile *);
    /* to[j*to_row + i] = from[i*from_row + j] for i below rows, j below columns */
    void (*transpose)(const void *from, ptrdiff_t rows, ptrdiff_t from_row, ptrdiff_t columns, void *to,
                      ptrdiff_t to_row);
    void (*pack_columns)(const void *x, ptrdiff_t channels, ptrdiff_t x_step, const fc_piece *, int pieces,
                         ptrdiff_t step, void *to, ptrdiff_t to_step);
    void (*pack_weights)(const fc_weight_block *, void *to);
    void (*scale_columns)(const fc_scaling *);
    /* mr elements at a time, to_step apart: to[i / mr * to_step + i % mr] = from[i] for i below n; the last is repeated */
    void (*deal)(const void *from, ptrdiff_t n, void *to, ptrdiff_t to_step);
    void (*pad_rows)(const fc_rows *);
    /* two sets at once: to[r*to_row + j] = x[r*x_row + 2*j], to[apart + r*to_row + j] = x[r*x_row + 2*j + 1]; of the columns of
       x from first to end, zero elsewhere below n */
    void (*part_rows)(const fc_rows *, ptrdiff_t apart);
    /* rows of channels that lie side by side: to[c*apart + r*to_row + j] = x[r*x_row + j*step + c] */
    void (*turn_rows)(const fc_rows *, ptrdiff_t channels, ptrdiff_t apart);
    void (*weave)(const fc_weave *);
    void (*upsample)(const fc_upsample *);
    void (*depthwise)(const fc_depthwise *);
    void (*group_tile)(const fc_group_tile *);
    /* what the tile reads for its first vector, box[c / LANES][row][column][c % LANES], zeros where it is outside */
    void (*group_copy)(const fc_group_tile *, void *box);
    /* between an array and the places offset[j] of another */
    void (*scatter)(const void *from, ptrdiff_t n, void *to, const ptrdiff_t *offset);
    void (*gather)(const void *from, const ptrdiff_t *offset, ptrdiff_t n, void *to);
    int (*all_finite)(const void *x, ptrdiff_t n, ptrdiff_t step);
    void (*chain)(const fc_chain *);
    void (*activate)(fc_activation, ptrdiff_t n, const void *x, void *y, double a, double b);
    void (*add)(ptrdiff_t n, const void *a, const void *b, void *y); /* y[i] = a[i] + b[i]; y may be a or b */
    void (*softmax)(ptrdiff_t n, const void *x, void *y); /* of a row; y may be x */
    void (*layer_norm)(ptrdiff_t n, double eps, const void *x, const void *scale, const void *shift,
                       void *y); /* alike */
    void (*local_response)(const fc_local_response *);
    ptrdiff_t (*pool)(const fc_pool_plan *, const fc_buffers *, void *workspace, ptrdiff_t first, ptrdiff_t last,
                      double deadline);
    double (*fma_burn)(ptrdiff_t rounds);
};

#endif
