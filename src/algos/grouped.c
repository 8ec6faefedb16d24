/* grouped: channels last, groups narrower than a vector, or not much wider: lanes along the output channels.
 *
 * A bundle is as many groups as a vector holds, of inputs and of outputs, or one group, which may take several vectors. The
 * image is read in place; padding is left out where the weights are finite (border.c has the reason), else rows of it are
 * zeros. Weights are vectors of output channels,
 *     packed[vector][channel * taps + tap][lanes]
 * An item is a band of rows by a block of columns by a block of vectors; blocks of vectors run slowest, so that weights
 * are packed once for all of a part's bands. */
#include <math.h>
#include "algos.h"

enum {
    WEIGHT_BYTES = 128 << 10, /* of a block of vectors, beside the rows of the image in L2 */
    TABLE_BYTES = 512 << 10, /* of the rows of taps */
    BOX_CHANNELS = 8, /* of a group, that repay a copy of what they read */
    BOX_BYTES = 128 << 10,
    L1_PAGE = 4096, /* lines that are so many bytes apart share a set of ... */
    L1_WAYS = 8,
    GROUP_PIXELS_MAX = 8, /* of any ISA */
    ITEMS = 4 /* of a part, about, to share them out evenly */
};

static ptrdiff_t lanes_of(const fc_conv_plan *p) { return p->work.kernels->lanes; }
static ptrdiff_t taps_of(const fc_conv_plan *p)
{
    return p->problem.kernel[0] * p->problem.kernel[1] * p->problem.kernel[2];
}
static ptrdiff_t chain_of(const fc_conv_plan *p) { return p->icg * taps_of(p); }
static ptrdiff_t tap_rows(const fc_conv_plan *p) { return FC_GROUP_ROWS * p->problem.kernel[0] * p->problem.kernel[1]; }
static ptrdiff_t table_bytes(const fc_conv_plan *p)
{
    return fc_round_up(tap_rows(p) * (ptrdiff_t)sizeof(fc_group_row), FC_ALIGN);
}

/* Of a copy of what a tile reads for one vector: elements of a row, bytes of all rows and channels. */
static ptrdiff_t box_row(const fc_conv_plan *p)
{
    const fc_conv_problem *q = &p->problem;
    const ptrdiff_t pixels = p->work.kernels->group_pixels;
    return ((pixels - 1) * q->stride[2] + (q->kernel[2] - 1) * q->dilation[2] + 1) * lanes_of(p);
}
static ptrdiff_t box_bytes(const fc_conv_plan *p)
{
    return fc_group_blocks(p->icg, lanes_of(p)) * tap_rows(p) * box_row(p) * (ptrdiff_t)p->work.kernels->size;
}

/* Whether tiles read such a copy: once for every channel of a group they would read lines that meet in few sets of L1. */
static int boxed(const fc_conv_plan *p)
{
    const ptrdiff_t size = (ptrdiff_t)p->work.kernels->size, column = p->problem.x_stride[FC_W] * size;
    const ptrdiff_t sets = fc_max(L1_PAGE / fc_gcd(fc_max(column, -column), L1_PAGE), 1);
    return p->icg >= BOX_CHANNELS && box_bytes(p) <= BOX_BYTES &&
           tap_rows(p) * box_row(p) / lanes_of(p) > sets * L1_WAYS;
}

static ptrdiff_t vector_bytes(const fc_conv_plan *p)
{
    return chain_of(p) * lanes_of(p) * (ptrdiff_t)p->work.kernels->size;
}

/* Groups of a bundle, vectors of a bundle, of all. */
static ptrdiff_t bundle_of(const fc_conv_plan *p)
{
    return fc_max(fc_min(lanes_of(p) / fc_max(p->icg, p->ocg), p->problem.groups), 1);
}
static ptrdiff_t bundle_vectors(const fc_conv_plan *p) { return fc_ceil_div(bundle_of(p) * p->ocg, lanes_of(p)); }
static ptrdiff_t vectors_of(const fc_conv_plan *p)
{
    return fc_ceil_div(p->problem.groups, bundle_of(p)) * bundle_vectors(p);
}

/* The output channels of a vector. */
static ptrdiff_t first_of(const fc_conv_plan *p, ptrdiff_t vector)
{
    const ptrdiff_t each
    = bundle_vectors(p);
    return vector / each
    *bundle_of(p) * p->ocg + vector % each
    *lanes_of(p);
}
static ptrdiff_t end_of(const fc_conv_plan *p, ptrdiff_t vector)
{
    const ptrdiff_t bundle = (vector / bundle_vectors(p) + 1) * bundle_of(p) * p->ocg;
    return fc_min(fc_min(first_of(p, vector) + lanes_of(p), bundle), p->problem.oc);
}

static const char *cannot(const fc_conv_plan *p)
{
    if (p->problem.transposed) return "the convolution is transposed";
    if (p->problem.ic > 1 && p->problem.x_stride[FC_C] != 1) return "input channels do not lie side by side";
    if (p->problem.oc > 1 && p->problem.y_stride[FC_C] != 1) return "output channels do not lie side by side";
    if (table_bytes(p) > TABLE_BYTES) return "the kernel has too many rows of taps";
    if (vector_bytes(p) > (ptrdiff_t)FC_WORKSPACE_LIMIT / 2)
        return "the weights of one vector do not fit the workspace";
    return NULL;
}

/* Costs of a multiply-add of a vector, in such multiply-adds, as in channels.c: with stride 2 a load of inputs feeds fewer taps. */
static double tile_cost(const fc_conv_plan *p)
{
    static const double costs[2][2][2] = { { { 1.15, 1.15 }, { 1.5, 1.2 } }, { { 1.4, 1.4 }, { 1.8, 1.6 } } };
    const fc_conv_problem *q = &p->problem;
    const fc_kernels *k = p->work.kernels;
    const ptrdiff_t stride = q->stride[FC_WIDTH], width = q->out_size[FC_WIDTH], taps = q->kernel[FC_WIDTH];
    const int few = k->group_pixels < GROUP_PIXELS_MAX; /* registers: tiles are smaller and load more */
    double cost = 2.2;
    if (fc_group_neighbours(taps, stride, q->dilation[FC_WIDTH])) cost = costs[few][stride - 1][taps > 3];
    const double lanes = (double)(vectors_of(p) * k->lanes) / (double)q->oc;
    return cost * lanes * (double)fc_round_up(width, k->group_pixels) / (double)width;
}

static const char *should_not(const fc_conv_plan *p)
{
    const double SHORT = 8; /* what a tile costs beside its chain, in steps of it */
    const double beside = 1 + SHORT / (double)chain_of(p);
    if (p->problem.groups == 1 && tile_cost(p) * beside >= fmin(fc_channels_cost(p), fc_direct_cost(p)))
        return "lanes along all channels, or along pixels, are filled better (compare.py --set nhwc)";
    if (p->problem.groups > 1 && p->icg > 1 && tile_cost(p) >= fc_channels_tile_cost(p) * beside)
        return "groups fill vectors better as channels take them (compare.py --set nhwc, grouped_8)";
    return NULL;
}

/* Halves a block until its work is an item's. */
static void shape_block(fc_conv_plan *p)
{
    const double work = (double)(p->k_block * lanes_of(p) * chain_of(p));
    p->row_block = p->problem.out_size[FC_HEIGHT];
    p->column_block = p->problem.out_size[FC_WIDTH];
    while (p->row_block > 1 && (double)(p->row_block * p->column_block) * work > FC_ITEM_WORK)
        p->row_block = fc_ceil_div(p->row_block, 2);
    while (p->column_block > p->work.kernels->group_pixels && (double)p->column_block * work > FC_ITEM_WORK)
        p->column_block = fc_round_up(fc_ceil_div(p->column_block, 2), p->work.kernels->group_pixels);
}

/* Blocks of vectors and bands of rows, until the busiest part does least. */
static void share_out(fc_conv_plan *p, ptrdiff_t others)
{
    const ptrdiff_t rows = p->problem.out_size[FC_HEIGHT], vectors = vectors_of(p), parts = p->work.parts;
    const ptrdiff_t least = fc_ceil_div(vectors, p->k_block), least_bands = fc_ceil_div(rows, p->row_block);
    ptrdiff_t best = -1;
    for (ptrdiff_t blocks = least; blocks <= fc_min(least + parts, vectors); blocks++)
        for (ptrdiff_t bands = least_bands; bands <= fc_min(least_bands + ITEMS * parts, rows); bands++) {
            const ptrdiff_t wide = fc_ceil_div(vectors, blocks), high = fc_ceil_div(rows, bands);
            const ptrdiff_t items = fc_ceil_div(vectors, wide) * fc_ceil_div(rows, high) * others;
            const ptrdiff_t load = fc_ceil_div(items, parts) * wide * high;
            if (best >= 0 && load >= best) continue;
            best = load;
            p->k_block = wide;
            p->row_block = high;
        }
}

/* Beside weights: two tables, of the image and of a box, and the box. */
static ptrdiff_t room_bytes(const fc_conv_plan *p)
{
    return table_bytes(p) + (boxed(p) ? table_bytes(p) + fc_round_up(box_bytes(p), FC_ALIGN) : 0);
}

static void book(fc_conv_plan *p)
{
    const ptrdiff_t *out = p->problem.out_size;
    p->k_block = fc_max(fc_min(WEIGHT_BYTES / vector_bytes(p), vectors_of(p)), 1);
    shape_block(p);
    p->column_blocks = fc_ceil_div(out[FC_WIDTH], p->column_block);
    const ptrdiff_t others = p->problem.batch * out[FC_DEPTH] * p->column_blocks;
    share_out(p, others);
    p->row_blocks = fc_ceil_div(out[FC_HEIGHT], p->row_block);
    p->work.items = fc_ceil_div(vectors_of(p), p->k_block) * others * p->row_blocks;
    p->packed_bytes = (size_t)(vectors_of(p) * vector_bytes(p));
    p->work.workspace_bytes = (size_t)(room_bytes(p) + (p->packed ? 0 : p->k_block * vector_bytes(p)));
}

/* The weights of some vectors, from the user's array. */
static void pack_vectors(const fc_conv_plan *p, const void *w, ptrdiff_t vector, ptrdiff_t end, void *to)
{
    for (; vector < end; vector++, to = fc_to(p, to, chain_of(p) * lanes_of(p))) {
        const ptrdiff_t oc = first_of(p, vector);
        fc_weights_turn(p, w, oc, end_of(p, vector) - oc, 0, p->icg, to, lanes_of(p));
    }
}

static void pack(const fc_conv_plan *p, const void *w, void *packed) { pack_vectors(p, w, 0, vectors_of(p), packed); }

/* The outputs of an item. */
typedef struct block {
    ptrdiff_t vector, end, image, depth, row, rows, column, columns;
} block;

static block block_of(const fc_conv_plan *p, ptrdiff_t item)
{
    const ptrdiff_t *out = p->problem.out_size, wide = item % p->column_blocks, rest = item / p->column_blocks;
    const ptrdiff_t band = rest % p->row_blocks, plane = rest / p->row_blocks;
    block o = { .column = wide * p->column_block,
                .row = band * p->row_block,
                .depth = plane % out[FC_DEPTH],
                .image = plane / out[FC_DEPTH] % p->problem.batch,
                .vector = plane / out[FC_DEPTH] / p->problem.batch * p->k_block };
    o.columns = fc_min(p->column_block, out[FC_WIDTH] - o.column);
    o.rows = fc_min(p->row_block, out[FC_HEIGHT] - o.row);
    o.end = fc_min(o.vector + p->k_block, vectors_of(p));
    return o;
}

/* What a block's tiles have in common. */
typedef struct job {
    const fc_buffers *b;
    const block *o;
    const void *w;
    int finite; /* the weights: rows of padding are left out */
    fc_group_row *row; /* room for them */
    void *box; /* room for a box's table and the box, or NULL */
    int lane[FC_LANES_MAX];
} job;

/* A row of inputs; the taps that it meets of each row of outputs, or less than 0. */
static ptrdiff_t list_row(const fc_conv_plan *p, const job *j, ptrdiff_t d, ptrdiff_t h, ptrdiff_t first,
                          ptrdiff_t second, fc_group_row *to)
{
    const fc_conv_problem *q = &p->problem;
    const ptrdiff_t row = q->kernel[2] * lanes_of(p);
    const int zeros = d < 0 || d >= q->size[0] || h < 0 || h >= q->size[1];
    if (zeros && j->finite) return 0;
    *to = (fc_group_row){ d * q->x_stride[FC_D] + h * q->x_stride[FC_H],
                          { first < 0 ? -1 : first * row, second < 0 ? -1 : second * row },
                          zeros };
    return 1;
}

/* The rows of one plane of taps that `count` rows of outputs read, from inputs d and h on: the first row's, those of both, the
 * second row's. */
static ptrdiff_t list_plane(const fc_conv_plan *p, const job *j, ptrdiff_t td, ptrdiff_t d, ptrdiff_t h,
                            ptrdiff_t count, fc_group_row *to)
{
    const fc_conv_problem *q = &p->problem;
    const ptrdiff_t stride = q->stride[1], dilation = q->dilation[1], kh = q->kernel[1], tap = td * kh;
    const ptrdiff_t apart = count > 1 && stride % dilation == 0 ? fc_min(stride / dilation, kh) : kh;
    ptrdiff_t n = 0;
    for (ptrdiff_t k = 0; k < kh; k++)
        n += list_row(p, j, d, h + k * dilation, tap + k, k < apart ? -1 : tap + k - apart, to + n);
    for (ptrdiff_t k = kh - apart; k < kh && count > 1; k++)
        n += list_row(p, j, d, h + k * dilation + stride, -1, tap + k, to + n);
    return n;
}

/* The rows of inputs that rows r, ... of the block's outputs read. */
static void list_rows(const fc_conv_plan *p, const job *j, ptrdiff_t r, fc_group_tile *t)
{
    const fc_conv_problem *q = &p->problem;
    const ptrdiff_t d = j->o->depth * q->stride[0] - q->pad[0], h = (j->o->row + r) * q->stride[1] - q->pad[1];
    t->rows = (int)fc_min(FC_GROUP_ROWS, j->o->rows - r);
    t->reads = 0;
    for (ptrdiff_t td = 0; td < q->kernel[0]; td++)
        t->reads += list_plane(p, j, td, d + td * q->dilation[0], h, t->rows, j->row + t->reads);
    t->padded = 0;
    for (ptrdiff_t i = 0; i < t->reads; i++) t->padded |= j->row[i].zeros;
}

/* A tile vector by vector, each from a copy of its inputs. */
static void run_boxed(const fc_conv_plan *p, const fc_group_tile *t, void *room)
{
    const fc_kernels *k = p->work.kernels;
    fc_group_row *row = room;
    void *box = (char *)room + table_bytes(p);
    for (ptrdiff_t i = 0; i < t->reads; i++) {
        row[i] = t->row[i];
        row[i].x = i * box_row(p);
        row[i].zeros = 0;
    }
    for (ptrdiff_t v = 0; v < t->vectors; v++) {
        fc_group_tile one = *t;
        one.vectors = 1;
        one.x = fc_at(p, t->x, v * t->x_vector);
        one.x_channels -= v * t->x_vector;
        one.w = fc_at(p, t->w, v * t->channels * t->w_channel);
        one.y = fc_to(p, t->y, v * t->y_vector);
        if (t->bias) one.bias = fc_at(p, t->bias, v * t->y_vector);
        if (v + 1 < t->vectors) one.last_lanes = t->lanes;
        if (v == 0 || t->x_vector > 0) k->group_copy(&one, box);
        one.x = box;
        one.row = row;
        one.x_column = k->lanes;
        one.x_block = t->reads * box_row(p);
        one.x_channels = fc_group_blocks(t->channels, k->lanes) * k->lanes;
        one.first = 0;
        one.end = box_row(p);
        one.padded = 0;
        one.x_after = 0;
        k->group_tile(&one);
    }
}

/* All pixels of a block, of which the tile says vectors of channels and weights; x: their image, y: the block's first output. */
static void run_pixels(const fc_conv_plan *p, const job *j, fc_group_tile *t, const void *x, void *y,
                       ptrdiff_t channels)
{
    const fc_conv_problem *q = &p->problem;
    const ptrdiff_t pixels = p->work.kernels->group_pixels, last = box_row(p) / lanes_of(p) - 1;
    const ptrdiff_t next = q->x_stride[FC_W] == q->ic ? q->ic : 0;
    const int finished = fc_epilogue_clamps(p, &t->finish);
    for (ptrdiff_t r = 0; r < j->o->rows; r += t->rows) {
        list_rows(p, j, r, t);
        for (ptrdiff_t column = 0; column < j->o->columns; column += pixels) {
            const ptrdiff_t at = (j->o->column + column) * t->stride - q->pad[FC_WIDTH];
            t->pixels = (int)fc_min(pixels, j->o->columns - column);
            t->x = fc_at(p, x, at * t->x_column);
            t->first = -at;
            t->end = q->size[FC_WIDTH] - at;
            t->x_after = fc_max(t->end - 1 - last, 0) * next;
            t->y = fc_to(p, y, r * t->y_row + column * t->y_column);
            if (j->box) run_boxed(p, t, j->box);
            else p->work.kernels->group_tile(t);
            for (ptrdiff_t i = 0; i < t->rows * t->pixels && !finished; i++)
                fc_epilogue(p, j->b, fc_to(p, t->y, i / t->pixels * t->y_row + i % t->pixels * t->y_column), channels,
                            1);
        }
    }
}

/* Vectors of bundles of one vector each, or of one bundle. */
static void run_vectors(const fc_conv_plan *p, const job *j, ptrdiff_t vector, ptrdiff_t end)
{
    const fc_conv_problem *q = &p->problem;
    const ptrdiff_t *xs = q->x_stride, *ys = q->y_stride, lanes = lanes_of(p);
    const ptrdiff_t oc = first_of(p, vector), ic = oc / p->ocg * p->icg, each
    = bundle_vectors(p);
    fc_group_tile t = { .w = fc_at(p, j->w, (vector - j->o->vector) * chain_of(p) * lanes),
                        .bias = j->b->bias ? fc_at(p, j->b->bias, oc) : NULL,
                        .lane = j->lane,
                        .vectors = end - vector,
                        .x_vector = each > 1 ? 0 : bundle_of(p) * p->icg,
                        .y_vector = each > 1 ? lanes : bundle_of(p) * p->ocg,
                        .channels = p->icg,
                        .w_channel = taps_of(p) * lanes,
                        .x_block = lanes,
                        .x_channels = q->ic - ic,
                        .row = j->row,
                        .taps = q->kernel[FC_WIDTH],
                        .stride = q->stride[FC_WIDTH],
                        .dilation = q->dilation[FC_WIDTH],
                        .x_column = xs[FC_W],
                        .y_column = ys[FC_W],
                        .y_row = ys[FC_H],
                        .last_lanes = (int)(end_of(p, end - 1) - first_of(p, end - 1)) };
    t.lanes = (int)t.y_vector;
    const ptrdiff_t y = oc + j->o->image * ys[FC_N] + j->o->depth * ys[FC_D] + j->o->row * ys[FC_H] +
                        j->o->column * ys[FC_W];
    run_pixels(p, j, &t, fc_at(p, j->b->x, j->o->image * xs[FC_N] + ic), fc_to(p, j->b->y, y), end_of(p, end - 1) - oc);
}

static void run_block(const fc_conv_plan *p, const fc_buffers *b, const block *o, const void *w, void *workspace)
{
    const ptrdiff_t each
    = bundle_vectors(p);
    job j = { .b = b, .o = o, .w = w, .row = workspace, .box = boxed(p) ? (char *)workspace + table_bytes(p) : NULL };
    j.finite = p->work.kernels->all_finite(w, (o->end - o->vector) * chain_of(p) * lanes_of(p), 1);
    for (ptrdiff_t lane = 0; lane < fc_min(bundle_of(p) * p->ocg, lanes_of(p)); lane++)
        j.lane[lane] = (int)(lane / p->ocg * p->icg);
    for (ptrdiff_t next, vector = o->vector; vector < o->end; vector = next) {
        next = each
        > 1 ? fc_min((vector / each + 1) * each, o->end) : o->end;
        run_vectors(p, &j, vector, next);
    }
}

static ptrdiff_t run(const fc_work *work, const fc_buffers *b, void *workspace, ptrdiff_t item, ptrdiff_t end,
                     double deadline)
{
    const fc_conv_plan *p = (const fc_conv_plan *)work;
    char *room = (char *)workspace + room_bytes(p);
    ptrdiff_t packed = -1;
    while (item < end) {
        const block o = block_of(p, item++);
        const void *w = p->packed ? fc_at(p, b->w, o.vector * lanes_of(p) * chain_of(p)) : room;
        if (!p->packed && o.vector != packed) pack_vectors(p, b->w, o.vector, o.end, room);
        packed = o.vector;
        run_block(p, b, &o, w, workspace);
        if (fc_late(deadline)) break;
    }
    return item;
}

/* weights_of is for transposed convolutions alone */
const fc_algo fc_algo_grouped = { "grouped", "highest", cannot, should_not, book, pack, run, NULL };
