/* grouped: channels last, groups narrower than a vector: lanes along the output channels of many groups.
 *
 * Depthwise, lanes of inputs lie side by side as those of outputs do, and the image is read in place. Else, and where
 * weights are not finite, from a zero-padded strip in which every input channel of a group stands once for each of its
 * outputs: the same chains then, over more rows of taps. Weights are vectors of output channels,
 *     packed[vector][channel * taps + tap][lanes]
 * An item is a band of rows by a block of columns by a block of vectors; blocks of vectors run slowest, so that weights
 * are packed once for all of a part's bands. */
#include <string.h>
#include "algos.h"

enum {
    WEIGHT_BYTES = 128 << 10, /* of a block of vectors, beside the rows of the image in L2 */
    STRIP_BYTES = 256 << 10,
    TABLE_BYTES = 512 << 10, /* of the rows of taps */
    ITEMS = 4 /* of a part, about, to share them out evenly */
};

static ptrdiff_t lanes_of(const fc_conv_plan *p) { return p->work.kernels->lanes; }
static ptrdiff_t taps_of(const fc_conv_plan *p)
{
    return p->problem.kernel[0] * p->problem.kernel[1] * p->problem.kernel[2];
}
static ptrdiff_t chain_of(const fc_conv_plan *p) { return p->icg * taps_of(p); }
static ptrdiff_t vectors_of(const fc_conv_plan *p) { return fc_ceil_div(p->problem.oc, lanes_of(p)); }
static ptrdiff_t table_of(const fc_conv_plan *p)
{
    return FC_GROUP_ROWS * p->icg * p->problem.kernel[0] * p->problem.kernel[1];
}
static ptrdiff_t table_bytes(const fc_conv_plan *p)
{
    return fc_round_up(table_of(p) * (ptrdiff_t)sizeof(fc_group_row), FC_ALIGN);
}
static ptrdiff_t vector_bytes(const fc_conv_plan *p)
{
    return chain_of(p) * lanes_of(p) * (ptrdiff_t)p->work.kernels->size;
}

static int in_place(const fc_conv_plan *p) { return p->icg == 1 && p->ocg == 1 && p->problem.x_stride[FC_C] == 1; }

/* Elements that outputs read along an axis. */
static ptrdiff_t reach_of(const fc_conv_plan *p, int axis, ptrdiff_t outputs)
{
    const fc_conv_problem *q = &p->problem;
    return (outputs - 1) * q->stride[axis] + (q->kernel[axis] - 1) * q->dilation[axis] + 1;
}

/* A strip: [channel of the group][tap depth][row][column][lanes] */
typedef struct strip {
    ptrdiff_t rows, columns, plane, channel, all; /* elements from plane to plane, channel to channel, of all */
} strip;

static strip strip_of(const fc_conv_plan *p, ptrdiff_t rows, ptrdiff_t columns)
{
    strip s = { .rows = reach_of(p, FC_HEIGHT, rows), .columns = reach_of(p, FC_WIDTH, columns) };
    s.plane = s.rows * s.columns * lanes_of(p);
    s.channel = s.plane * p->problem.kernel[0];
    s.all = s.channel * p->icg;
    return s;
}

static ptrdiff_t strip_bytes(const fc_conv_plan *p, ptrdiff_t rows, ptrdiff_t columns)
{
    return strip_of(p, rows, columns).all * (ptrdiff_t)p->work.kernels->size;
}

static const char *cannot(const fc_conv_plan *p)
{
    const ptrdiff_t most = (ptrdiff_t)FC_WORKSPACE_LIMIT / 4;
    if (p->problem.transposed) return "the convolution is transposed";
    if (p->problem.oc > 1 && p->problem.y_stride[FC_C] != 1) return "output channels do not lie side by side";
    if (table_bytes(p) > TABLE_BYTES) return "the chain has too many rows of taps";
    if (vector_bytes(p) > most) return "the weights of one vector do not fit the workspace";
    if (strip_bytes(p, 1, p->work.kernels->group_pixels) > most)
        return "a strip of one tile of outputs does not fit the workspace";
    return NULL;
}

static const char *should_not(const fc_conv_plan *p)
{
    if (p->problem.groups == 1 || p->ocg >= lanes_of(p)) return "a group fills vectors: channels broadcasts its inputs";
    if (p->icg > 1) return "the strip costs more than its lanes save (compare.py --set nhwc, grouped_8)";
    return NULL;
}

/* Of the plan's blocks, and a vector behind, which spreading may write. */
static ptrdiff_t strip_room(const fc_conv_plan *p)
{
    const ptrdiff_t vector = lanes_of(p) * (ptrdiff_t)p->work.kernels->size;
    return fc_round_up(strip_bytes(p, p->row_block, p->column_block) + vector, FC_ALIGN);
}

/* Halves a block until what it takes fits. */
static void shape_block(fc_conv_plan *p)
{
    const ptrdiff_t *out = p->problem.out_size;
    const double work = (double)(p->k_block * lanes_of(p) * chain_of(p));
    p->row_block = out[FC_HEIGHT];
    p->column_block = out[FC_WIDTH];
    while (p->row_block > 1 && ((double)(p->row_block * p->column_block) * work > FC_ITEM_WORK ||
                                strip_bytes(p, p->row_block, p->column_block) > STRIP_BYTES))
        p->row_block = fc_ceil_div(p->row_block, 2);
    while (p->column_block > p->work.kernels->group_pixels &&
           ((double)p->column_block * work > FC_ITEM_WORK || strip_bytes(p, 1, p->column_block) > STRIP_BYTES))
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

static void book(fc_conv_plan *p)
{
    const ptrdiff_t *out = p->problem.out_size;
    /* vectors of a block: a strip serves one */
    p->k_block = in_place(p) ? fc_max(fc_min(WEIGHT_BYTES / vector_bytes(p), vectors_of(p)), 1) : 1;
    shape_block(p);
    p->column_blocks = fc_ceil_div(out[FC_WIDTH], p->column_block);
    const ptrdiff_t others = p->problem.batch * out[FC_DEPTH] * p->column_blocks;
    share_out(p, others);
    p->row_blocks = fc_ceil_div(out[FC_HEIGHT], p->row_block);
    p->work.items = fc_ceil_div(vectors_of(p), p->k_block) * others * p->row_blocks;
    p->packed_bytes = (size_t)(vectors_of(p) * vector_bytes(p));
    p->work.workspace_bytes = (size_t)(table_bytes(p) + strip_room(p) + (p->packed ? 0 : p->k_block * vector_bytes(p)));
}

/* The weights of some vectors, from the user's array. */
static void pack_vectors(const fc_conv_plan *p, const void *w, ptrdiff_t vector, ptrdiff_t vectors, void *to)
{
    const fc_kernels *kernels = p->work.kernels;
    const ptrdiff_t *k = p->problem.kernel, *s = p->problem.w_stride, taps = taps_of(p), lanes = kernels->lanes;
    for (ptrdiff_t v = vector; v < vector + vectors; v++, to = fc_to(p, to, chain_of(p) * lanes)) {
        const void *from = fc_at(p, w, v * lanes * s[0]);
        const ptrdiff_t rows = fc_min(p->problem.oc - v * lanes, lanes);
        if (fc_weights_in_place(p)) {
            if (rows < lanes) memset(to, 0, (size_t)vector_bytes(p));
            kernels->transpose(from, rows, s[0], chain_of(p), to, lanes);
            continue;
        }
        for (ptrdiff_t t = 0; t < taps; t++) {
            const ptrdiff_t at = t % k[2] * s[4] + t / k[2] % k[1] * s[3] + t / (k[2] * k[1]) * s[2];
            const fc_rows tap = { .x = fc_at(p, from, at),
                                  .rows = p->icg,
                                  .x_row = s[1],
                                  .step = s[0],
                                  .end = rows,
                                  .n = lanes,
                                  .to = fc_to(p, to, t * lanes),
                                  .to_row = taps * lanes };
            kernels->pad_rows(&tap);
        }
    }
}

static void pack(const fc_conv_plan *p, const void *w, void *packed) { pack_vectors(p, w, 0, vectors_of(p), packed); }

/* The outputs of an item. */
typedef struct block {
    ptrdiff_t vector, vectors, image, depth, row, rows, column, columns;
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
    o.vectors = fc_min(p->k_block, vectors_of(p) - o.vector);
    return o;
}

/* What the tiles read: the image, or a strip, which has no planes between those of the taps. */
typedef struct view {
    const void *x; /* of the first lane */
    ptrdiff_t channel, stride[FC_SPATIAL], size[FC_SPATIAL];
    ptrdiff_t at[FC_SPATIAL]; /* of the block's first tap */
    ptrdiff_t planes; /* from a tap's plane to the next one's */
} view;

static view view_image(const fc_conv_plan *p, const fc_buffers *b, const block *o)
{
    const fc_conv_problem *q = &p->problem;
    const ptrdiff_t first[FC_SPATIAL] = { o->depth, o->row, o->column };
    view v = { .x = fc_at(p, b->x, o->image * q->x_stride[FC_N]),
               .channel = q->x_stride[FC_C],
               .planes = q->dilation[0] };
    for (int axis = 0; axis < FC_SPATIAL; axis++) {
        v.stride[axis] = q->x_stride[2 + axis];
        v.size[axis] = q->size[axis];
        v.at[axis] = first[axis] * q->stride[axis] - q->pad[axis];
    }
    return v;
}

/* One row of a strip: input channel c of each output's group, zeros outside the image. */
static void fill_row(const fc_conv_plan *p, const view *image, ptrdiff_t oc, ptrdiff_t c, const void *row,
                     ptrdiff_t columns, char *to)
{
    const fc_kernels *k = p->work.kernels;
    const ptrdiff_t at = image->at[FC_WIDTH], column = k->lanes * (ptrdiff_t)k->size;
    const ptrdiff_t first = fc_min(fc_max(-at, 0), columns), end = fc_max(fc_min(image->size[2] - at, columns), first);
    const fc_spread spread = {
        .x = fc_at(p, row, (oc / p->ocg * p->icg + c) * image->channel + (at + first) * image->stride[FC_WIDTH]),
        .x_column = image->stride[FC_WIDTH],
        .x_group = p->icg * image->channel,
        .columns = end - first,
        .group = p->ocg,
        .first = p->ocg - oc % p->ocg,
        .lanes = (int)fc_min(k->lanes, p->problem.oc - oc),
        .to = to + first * column
    };
    memset(to, 0, (size_t)(first * column));
    k->spread(&spread);
    memset(to + end * column, 0, (size_t)((columns - end) * column));
}

/* The strip of one vector. Spreading a row may write a vector past it: rows are filled in order. */
static view fill_strip(const fc_conv_plan *p, const view *image, const block *o, ptrdiff_t vector, void *room)
{
    const fc_conv_problem *q = &p->problem;
    const strip s = strip_of(p, o->rows, o->columns);
    const ptrdiff_t kd = q->kernel[FC_DEPTH], pitch = s.columns * lanes_of(p);
    char *to = room;
    for (ptrdiff_t i = 0; i < p->icg * kd * s.rows; i++, to += pitch * (ptrdiff_t)p->work.kernels->size) {
        const ptrdiff_t d = image->at[0] + i / s.rows % kd * image->planes, h = image->at[1] + i % s.rows;
        if (d < 0 || d >= image->size[0] || h < 0 || h >= image->size[1])
            memset(to, 0, (size_t)pitch * p->work.kernels->size);
        else
            fill_row(p, image, vector * lanes_of(p), i / (kd * s.rows),
                     fc_at(p, image->x, d * image->stride[0] + h * image->stride[1]), s.columns, to);
    }
    return (view){ .x = room,
                   .channel = s.channel,
                   .stride = { s.plane, pitch, lanes_of(p) },
                   .size = { kd, s.rows, s.columns },
                   .planes = 1 };
}

/* The rows of one plane that rows r, ... of outputs read, count of them; w: the weights of the plane's first taps. */
static ptrdiff_t list_plane(const fc_conv_plan *p, const view *v, ptrdiff_t r, ptrdiff_t count, ptrdiff_t x,
                            ptrdiff_t w, fc_group_row *to)
{
    const fc_conv_problem *q = &p->problem;
    const ptrdiff_t stride = q->stride[1], dilation = q->dilation[1], kh = q->kernel[1];
    const ptrdiff_t shift = count > 1 ? stride : 0, step = fc_gcd(stride, dilation);
    const ptrdiff_t taps = q->kernel[2] * lanes_of(p);
    ptrdiff_t n = 0;
    for (ptrdiff_t at = 0; at <= (kh - 1) * dilation + shift; at += step) {
        const ptrdiff_t h = v->at[1] + r * stride + at, later = at - shift;
        const int first = at % dilation == 0 && at / dilation < kh;
        const int second = count > 1 && later >= 0 && later % dilation == 0;
        if (h < 0 || h >= v->size[1] || !(first || second)) continue;
        to[n++] = (fc_group_row){
            x + h * v->stride[1], { first ? w + at / dilation * taps : -1, second ? w + later / dilation * taps : -1 }
        };
    }
    return n;
}

static ptrdiff_t list_rows(const fc_conv_plan *p, const view *v, ptrdiff_t r, ptrdiff_t count, fc_group_row *to)
{
    const ptrdiff_t *k = p->problem.kernel, channels = p->icg;
    ptrdiff_t n = 0;
    for (ptrdiff_t c = 0; c < channels; c++)
        for (ptrdiff_t td = 0; td < k[0]; td++) {
            const ptrdiff_t d = v->at[0] + td * v->planes, w = (c * k[0] + td) * k[1] * k[2] * lanes_of(p);
            if (d < 0 || d >= v->size[0]) continue;
            n += list_plane(p, v, r, count, c * v->channel + d * v->stride[0], w, to + n);
        }
    return n;
}

/* All outputs of a block, of which the tile says channels and weights. */
static void run_view(const fc_conv_plan *p, const fc_buffers *b, const view *v, const block *o, fc_group_tile *t,
                     void *y, fc_group_row *table)
{
    const fc_conv_problem *q = &p->problem;
    const fc_kernels *k = p->work.kernels;
    t->row = table;
    t->taps = q->kernel[FC_WIDTH];
    t->chain = chain_of(p);
    t->stride = q->stride[FC_WIDTH];
    t->dilation = q->dilation[FC_WIDTH];
    t->x_column = v->stride[FC_WIDTH];
    t->y_column = q->y_stride[FC_W];
    t->y_row = q->y_stride[FC_H];
    for (ptrdiff_t r = 0; r < o->rows; r += t->rows) {
        t->rows = (int)fc_min(FC_GROUP_ROWS, o->rows - r);
        t->reads = list_rows(p, v, r, t->rows, table);
        for (ptrdiff_t column = 0; column < o->columns; column += k->group_pixels) {
            const ptrdiff_t at = v->at[FC_WIDTH] + column * t->stride;
            t->pixels = (int)fc_min(k->group_pixels, o->columns - column);
            t->x = fc_at(p, v->x, at * t->x_column);
            t->first = -at;
            t->end = v->size[FC_WIDTH] - at;
            t->y = fc_to(p, y, r * t->y_row + column * t->y_column);
            k->group_tile(t);
            for (ptrdiff_t i = 0; i < t->rows * t->pixels; i++)
                fc_epilogue(p, b, fc_to(p, t->y, i / t->pixels * t->y_row + i % t->pixels * t->y_column), t->channels,
                            1);
        }
    }
}

static void run_block(const fc_conv_plan *p, const fc_buffers *b, const block *o, const void *w, char *workspace)
{
    const ptrdiff_t *s = p->problem.y_stride, lanes = lanes_of(p), oc = p->problem.oc;
    const ptrdiff_t y = o->image * s[FC_N] + o->depth * s[FC_D] + o->row * s[FC_H] + o->column * s[FC_W];
    const view image = view_image(p, b, o);
    const int reads_image = in_place(p) && p->work.kernels->all_finite(w, o->vectors * chain_of(p) * lanes, 1);
    const ptrdiff_t step = reads_image ? o->vectors : 1;
    for (ptrdiff_t i = 0; i < o->vectors; i += step) {
        const ptrdiff_t first = (o->vector + i) * lanes;
        view v = image;
        if (reads_image) v.x = fc_at(p, v.x, first);
        else v = fill_strip(p, &image, o, o->vector + i, workspace + table_bytes(p));
        fc_group_tile t = { .w = fc_at(p, w, i * lanes * chain_of(p)),
                            .bias = b->bias ? fc_at(p, b->bias, first) : NULL,
                            .channels = fc_min(step * lanes, oc - first) };
        run_view(p, b, &v, o, &t, fc_to(p, b->y, y + first), (void *)workspace);
    }
}

static ptrdiff_t run(const fc_work *work, const fc_buffers *b, void *workspace, ptrdiff_t item, ptrdiff_t end,
                     double deadline)
{
    const fc_conv_plan *p = (const fc_conv_plan *)work;
    char *room = (char *)workspace + table_bytes(p) + strip_room(p);
    ptrdiff_t packed = -1;
    while (item < end) {
        const block o = block_of(p, item++);
        const void *w = p->packed ? fc_at(p, b->w, o.vector * lanes_of(p) * chain_of(p)) : room;
        if (!p->packed && o.vector != packed) pack_vectors(p, b->w, o.vector, o.vectors, room);
        packed = o.vector;
        run_block(p, b, &o, w, workspace);
        if (fc_late(deadline)) break;
    }
    return item;
}

/* weights_of is for transposed convolutions alone */
const fc_algo fc_algo_grouped = { "grouped", "highest", cannot, should_not, book, pack, run, NULL };
