/* upsample: transposed convolutions with few output channels a group, one output channel at a time. Its phases of the width
 * share what they load, and are woven into rows of y; phases of depth and height are rows of their own, which take the taps
 * that meet the image and no others. (Of ordinary convolutions it can do those of one phase without rows of padding.)
 *
 * The image is read from a strip, [channel][plane][row][pitch], with zeros beside its columns. An item is one group of an
 * image by one plane of outputs in every phase of the depth by a band of rows, in every phase, by a block of columns.
 * Weights are the user's, or a copy of them in their order. */
#include <string.h>
#include "algos.h"

enum {
    STRIP_BYTES = 384 << 10, /* of all channels, in L2 */
    COLUMNS = 64, /* vectors of one phase of a row in an item at most */
    PHASES = FC_UPSAMPLE_PHASES,
    ROWS = 4096 /* rows of taps, over depth and height, at most */
};

/* Phases of each axis, and what they read of it: `span` inputs from in0 on for output 0. */
typedef struct layout {
    fc_axis phase[FC_SPATIAL][PHASES];
    ptrdiff_t in0[FC_SPATIAL], span[FC_SPATIAL], n[FC_SPATIAL];
} layout;

static void lay_out(const fc_conv_plan *p, layout *l)
{
    for (int axis = 0; axis < FC_SPATIAL; axis++) {
        ptrdiff_t first = PTRDIFF_MAX, end = PTRDIFF_MIN;
        for (ptrdiff_t f = 0; f < p->phases[axis]; f++) {
            fc_axis *a = &l->phase[axis][f];
            fc_phase_axis(p, axis, f, a);
            if (a->taps == 0) continue;
            first = fc_min(first, a->in0);
            end = fc_max(end, a->in0 + (a->taps - 1) * a->tap_step + 1);
        }
        l->in0[axis] = end > first ? first : 0;
        l->span[axis] = end > first ? end - first : 1;
        l->n[axis] = l->phase[axis][0].n; /* phase 0 starts first */
    }
}

/* Loads take whole vectors. */
static ptrdiff_t pitch_of(const fc_conv_plan *p, const layout *l, ptrdiff_t columns)
{
    return fc_round_up(columns, p->work.kernels->lanes) + l->span[FC_WIDTH] - 1;
}
static ptrdiff_t strip_size(const fc_conv_plan *p, const layout *l, ptrdiff_t rows, ptrdiff_t columns)
{
    return p->icg * l->span[FC_DEPTH] * (rows + l->span[FC_HEIGHT] - 1) * pitch_of(p, l, columns);
}

static void shape_item(const fc_conv_plan *p, const layout *l, ptrdiff_t *rows, ptrdiff_t *columns)
{
    const ptrdiff_t lanes = p->work.kernels->lanes, size = (ptrdiff_t)p->work.kernels->size;
    *rows = 1;
    *columns = fc_min(l->n[FC_WIDTH], COLUMNS * lanes);
    while (strip_size(p, l, 1, *columns) * size > STRIP_BYTES && *columns > lanes)
        *columns = fc_round_up(*columns / 2, lanes);
    while (*rows < l->n[FC_HEIGHT] && strip_size(p, l, *rows + 1, *columns) * size <= STRIP_BYTES) ++*rows;
}

static int one_phase(const fc_conv_problem *q)
{
    for (int axis = 0; axis < FC_SPATIAL; axis++) {
        const ptrdiff_t reach = q->out_size[axis] + (q->kernel[axis] - 1) * q->dilation[axis] - q->pad[axis];
        if (q->stride[axis] > 1 || (axis != FC_WIDTH && (q->pad[axis] > 0 || reach > q->size[axis]))) return 0;
    }
    return 1;
}

static const char *cannot(const fc_conv_plan *p)
{
    const ptrdiff_t *k = p->problem.kernel;
    if (!p->problem.transposed && !one_phase(&p->problem)) return "a convolution has strides, or rows of padding";
    if (k[0] * k[1] > ROWS) return "the kernel has too many rows of taps for the table of their offsets";
    for (int axis = 0; axis < FC_SPATIAL; axis++)
        if (p->phases[axis] > PHASES) return "the stride has more phases than the table takes";
    layout l;
    lay_out(p, &l);
    if ((size_t)strip_size(p, &l, 1, fc_min(l.n[FC_WIDTH], p->work.kernels->lanes)) * p->work.kernels->size >
        FC_WORKSPACE_LIMIT / 4)
        return "a strip of all channels for one vector of outputs does not fit the workspace";
    return NULL;
}

/* Rows of a tile of direct: output channels by the most phases, of all axes, that read the same inputs. */
static ptrdiff_t rows_of_direct(const fc_conv_plan *p)
{
    layout l;
    lay_out(p, &l);
    ptrdiff_t rows = p->ocg;
    for (int axis = 0; axis < FC_SPATIAL; axis++) {
        ptrdiff_t most = 1, alike = 1;
        for (ptrdiff_t f = 1; f < p->phases[axis]; f++) {
            const fc_axis *a = &l.phase[axis][f];
            alike = a->in0 == a[-1].in0 && a->taps == a[-1].taps ? alike + 1 : 1;
            most = fc_max(most, alike);
        }
        rows *= most;
    }
    return rows;
}

static const char *should_not(const fc_conv_plan *p)
{
    if (p->phases[FC_WIDTH] == 1) return "the stride along the width is 1: no phases share what they load";
    if (p->icg == 1 ? p->ocg > 4 : rows_of_direct(p) > 2)
        return "output channels and phases enough share their inputs in direct's tiles (benchmarks/compare.py --set "
               "transposed: 9x9 with stride 2 and 3)";
    return NULL;
}

/* A row of outputs, where they do not lie side by side in y. */
static ptrdiff_t line_size(const fc_conv_plan *p)
{
    return p->problem.y_stride[FC_W] == 1 ? 0 : fc_round_up(p->column_block * p->phases[FC_WIDTH], FC_ALIGN);
}
static ptrdiff_t rows_bytes(void) { return ROWS * (ptrdiff_t)sizeof(ptrdiff_t); }

static void book(fc_conv_plan *p)
{
    const ptrdiff_t parts = p->work.parts, size = (ptrdiff_t)p->work.kernels->size;
    layout l;
    ptrdiff_t rows;
    lay_out(p, &l);
    shape_item(p, &l, &rows, &p->column_block);
    p->column_blocks = fc_ceil_div(l.n[FC_WIDTH], p->column_block);
    const ptrdiff_t others = p->problem.batch * p->problem.groups * l.n[FC_DEPTH] * p->column_blocks;
    const double work = p->work.flops / 2 / (double)(others * l.n[FC_HEIGHT]);
    while (rows > 1 && work * (double)rows > FC_ITEM_WORK) rows = fc_ceil_div(rows, 2);
    /* bands even over the parts */
    const ptrdiff_t bands = fc_max(fc_ceil_div(l.n[FC_HEIGHT], rows),
                                   others % parts ? fc_ceil_div(4 * parts, others) : 1);
    p->row_block = fc_ceil_div(l.n[FC_HEIGHT], fc_min(bands, l.n[FC_HEIGHT]));
    p->row_blocks = fc_ceil_div(l.n[FC_HEIGHT], p->row_block);
    p->work.items = others * p->row_blocks;
    const ptrdiff_t *k = p->problem.kernel;
    p->packed_bytes = (size_t)(p->problem.oc * p->icg * k[0] * k[1] * k[2] * size);
    p->work.workspace_bytes = (size_t)(2 * rows_bytes() +
                                       size * (line_size(p) + strip_size(p, &l, p->row_block, p->column_block)));
}

/* Strides of weights: output channel of a group, input channel of a group, depth, height, width; group. */
typedef struct weights {
    ptrdiff_t oc, ic, tap[FC_SPATIAL], group;
} weights;

static weights weights_in(const fc_conv_plan *p)
{
    const ptrdiff_t *s = p->problem.w_stride, *k = p->problem.kernel, taps = k[0] * k[1] * k[2];
    if (p->packed) return (weights){ p->icg * taps, taps, { k[1] * k[2], k[2], 1 }, p->ocg * p->icg * taps };
    if (p->problem.transposed) return (weights){ s[1], s[0], { s[2], s[3], s[4] }, p->icg * s[0] };
    return (weights){ s[0], s[1], { s[2], s[3], s[4] }, p->ocg * s[0] };
}

/* packed[oc][channel][tap] */
static void pack(const fc_conv_plan *p, const void *w, void *packed)
{
    fc_conv_plan unpacked = *p;
    unpacked.packed = 0;
    const weights from = weights_in(&unpacked);
    const ptrdiff_t *k = p->problem.kernel;
    for (ptrdiff_t oc = 0; oc < p->problem.oc; oc++)
        for (ptrdiff_t c = 0; c < p->icg; c++)
            for (ptrdiff_t t = 0; t < k[0] * k[1]; t++, packed = fc_to(p, packed, k[2])) {
                const ptrdiff_t at = oc / p->ocg * from.group + oc % p->ocg * from.oc + c * from.ic +
                                     t / k[1] * from.tap[0] + t % k[1] * from.tap[1];
                const fc_rows row = {
                    .x = fc_at(p, w, at), .rows = 1, .step = from.tap[2], .end = k[2], .n = k[2], .to = packed
                };
                p->work.kernels->pad_rows(&row);
            }
}

static void weights_of(const fc_conv_plan *p, const fc_buffers *b, const fc_phase *f, ptrdiff_t oc, fc_chain *c)
{
    const weights w = weights_in(p);
    ptrdiff_t at = oc / p->ocg * w.group + oc % p->ocg * w.oc;
    for (int axis = 0; axis < FC_SPATIAL; axis++) {
        at += f->axis[axis].k0 * w.tap[axis];
        c->w_tap[axis] = f->axis[axis].k_step * w.tap[axis];
    }
    c->w = fc_at(p, b->w, at);
    c->w_channel = w.ic;
}

typedef struct item {
    const fc_conv_plan *p;
    const fc_buffers *b;
    layout l;
    weights weights;
    fc_upsample_phase phase[PHASES];
    ptrdiff_t n, group, jd, jh0, rows, jw0, columns, pitch, plane, channel;
    ptrdiff_t *x_row, *w_row;
    void *line, *strip;
} item;

static void place(item *it, ptrdiff_t at)
{
    const fc_conv_plan *p = it->p;
    const layout *l = &it->l;
    it->jw0 = at % p->column_blocks * p->column_block;
    it->columns = fc_min(p->column_block, l->n[FC_WIDTH] - it->jw0);
    at /= p->column_blocks;
    it->jh0 = at % p->row_blocks * p->row_block;
    it->rows = fc_min(p->row_block, l->n[FC_HEIGHT] - it->jh0);
    at /= p->row_blocks;
    it->jd = at % l->n[FC_DEPTH];
    at /= l->n[FC_DEPTH];
    it->group = at % p->problem.groups;
    it->n = at / p->problem.groups;
    it->pitch = pitch_of(p, l, it->columns);
    it->plane = (it->rows + l->span[FC_HEIGHT] - 1) * it->pitch;
    it->channel = l->span[FC_DEPTH] * it->plane;
}

/* Rows of the image that the item reads: those outside are never looked at. */
static void fill_strip(const item *it)
{
    const fc_conv_plan *p = it->p;
    const layout *l = &it->l;
    const ptrdiff_t *s = p->problem.x_stride, *size = p->problem.size;
    const ptrdiff_t ih0 = it->jh0 + l->in0[FC_HEIGHT], iw0 = it->jw0 + l->in0[FC_WIDTH],
                    id0 = it->jd + l->in0[FC_DEPTH];
    const ptrdiff_t ih = fc_max(ih0, 0), end = fc_min(ih0 + it->rows + l->span[FC_HEIGHT] - 1, size[1]);
    const fc_axis columns = { .n = it->pitch, .size = size[2], .in0 = iw0, .in_step = 1 };
    fc_rows copy = { .rows = end - ih, .x_row = s[FC_H], .step = s[FC_W], .n = it->pitch, .to_row = it->pitch };
    fc_valid(&columns, 0, &copy.first, &copy.end);
    for (ptrdiff_t c = 0; c < p->icg && copy.rows > 0; c++)
        for (ptrdiff_t id = fc_max(id0, 0); id < fc_min(id0 + l->span[FC_DEPTH], size[0]); id++) {
            copy.x = fc_at(p, it->b->x,
                           it->n * s[FC_N] + (it->group * p->icg + c) * s[FC_C] + id * s[FC_D] + ih * s[FC_H] +
                               iw0 * s[FC_W]);
            copy.to = fc_to(p, it->strip, c * it->channel + (id - id0) * it->plane + (ih - ih0) * it->pitch);
            p->work.kernels->pad_rows(&copy);
        }
}

/* Taps of an axis that meet the image at output j of a phase. */
static void met(const fc_axis *a, ptrdiff_t j, ptrdiff_t *first, ptrdiff_t *end)
{
    const fc_axis taps = { .n = a->taps, .size = a->size, .in0 = a->in0 + j, .in_step = a->tap_step };
    fc_valid(&taps, 0, first, end);
}
static int met_by_all(const fc_axis *a, ptrdiff_t j)
{
    return a->in0 + j >= 0 && a->in0 + j + (a->taps - 1) * a->tap_step < a->size;
}

/* Rows of taps that meet the image in row r of phases d and h. */
static ptrdiff_t list_rows(const item *it, const fc_axis *d, const fc_axis *h, ptrdiff_t r)
{
    const layout *l = &it->l;
    ptrdiff_t d_first, d_end, h_first, h_end, count = 0;
    met(d, it->jd, &d_first, &d_end);
    met(h, it->jh0 + r, &h_first, &h_end);
    for (ptrdiff_t td = d_first; td < d_end; td++)
        for (ptrdiff_t th = h_first; th < h_end; th++, count++) {
            it->x_row[count] = (d->in0 + td * d->tap_step - l->in0[FC_DEPTH]) * it->plane +
                               (h->in0 + th * h->tap_step - l->in0[FC_HEIGHT]) * it->pitch;
            it->w_row[count] = (d->k0 + td * d->k_step) * it->weights.tap[FC_DEPTH] +
                               (h->k0 + th * h->k_step) * it->weights.tap[FC_HEIGHT];
        }
    return count;
}

/* Lines of outputs that lie apart in y: through one that does not. */
static void run_apart(const item *it, const fc_upsample *lines)
{
    const fc_conv_plan *p = it->p;
    const size_t size = p->work.kernels->size;
    for (ptrdiff_t i = 0; i < lines->lines; i++) {
        fc_upsample u = *lines;
        u.lines = u.y_step = 1;
        u.x = fc_at(p, lines->x, i * lines->x_line);
        u.y = it->line;
        p->work.kernels->upsample(&u);
        char *y = fc_to(p, lines->y, i * lines->y_line);
        for (ptrdiff_t j = 0; j < u.n; j++) memcpy(fc_to(p, y, j * lines->y_step), fc_at(p, it->line, j), size);
    }
}

/* The band's rows of phases d and h, those that meet the same taps at a time; od: the plane of y. */
static void run_phase(const item *it, fc_upsample u, void *y, ptrdiff_t od, ptrdiff_t d, ptrdiff_t h)
{
    const fc_conv_plan *p = it->p;
    const ptrdiff_t *s = p->problem.y_stride;
    const fc_axis *depth = &it->l.phase[FC_DEPTH][d], *height = &it->l.phase[FC_HEIGHT][h];
    const ptrdiff_t rows = fc_min(it->rows, height->n - it->jh0);
    u.y_line = height->out_step * s[FC_H];
    for (ptrdiff_t r = 0; r < rows; r += u.lines) {
        u.lines = 1;
        while (met_by_all(height, it->jh0 + r) && r + u.lines < rows && met_by_all(height, it->jh0 + r + u.lines))
            u.lines++;
        u.rows = list_rows(it, depth, height, r);
        u.x = fc_at(p, it->strip, r * it->pitch);
        u.y = fc_to(p, y, od * s[FC_D] + (h + (it->jh0 + r) * height->out_step) * s[FC_H]);
        if (u.y_step == 1) p->work.kernels->upsample(&u);
        else run_apart(it, &u);
        for (ptrdiff_t i = 0; i < u.lines; i++) fc_epilogue(p, it->b, fc_to(p, u.y, i * u.y_line), u.n, u.y_step);
    }
}

static void run_item(const item *it)
{
    const fc_conv_plan *p = it->p;
    const layout *l = &it->l;
    const ptrdiff_t *phases = p->phases, *s = p->problem.y_stride, ow = it->jw0 * phases[FC_WIDTH];
    for (ptrdiff_t m = 0; m < p->ocg; m++) {
        const fc_upsample u = { .w = fc_at(p, it->b->w, it->group * it->weights.group + m * it->weights.oc),
                                .bias = fc_bias_row(p, it->b, it->group, m),
                                .channels = p->icg,
                                .x_channel = it->channel,
                                .w_channel = it->weights.ic,
                                .x_row = it->x_row,
                                .w_row = it->w_row,
                                .x_tap = l->phase[FC_WIDTH]->tap_step,
                                .w_tap = l->phase[FC_WIDTH]->k_step * it->weights.tap[FC_WIDTH],
                                .x_line = it->pitch,
                                .n = fc_min(it->columns * phases[FC_WIDTH], p->problem.out_size[FC_WIDTH] - ow),
                                .y_step = s[FC_W],
                                .phase = it->phase,
                                .phases = (int)phases[FC_WIDTH] };
        void *y = fc_to(p, fc_y_row(p, it->b, it->group, m), it->n * s[FC_N] + ow * s[FC_W]);
        for (ptrdiff_t d = 0; d < phases[FC_DEPTH]; d++) {
            const ptrdiff_t od = it->jd * phases[FC_DEPTH] + d;
            for (ptrdiff_t h = 0; h < phases[FC_HEIGHT] && od < p->problem.out_size[FC_DEPTH]; h++)
                run_phase(it, u, y, od, d, h);
        }
    }
}

static ptrdiff_t run(const fc_work *work, const fc_buffers *b, void *workspace, ptrdiff_t at, ptrdiff_t end,
                     double deadline)
{
    const fc_conv_plan *p = (const fc_conv_plan *)work;
    item it = { .p = p, .b = b, .weights = weights_in(p), .x_row = workspace };
    lay_out(p, &it.l);
    it.w_row = it.x_row + ROWS;
    it.line = it.w_row + ROWS;
    it.strip = fc_to(p, it.line, line_size(p));
    for (ptrdiff_t f = 0; f < p->phases[FC_WIDTH]; f++) {
        const fc_axis *a = &it.l.phase[FC_WIDTH][f];
        it.phase[f] = (fc_upsample_phase){ a->taps > 0 ? a->in0 - it.l.in0[FC_WIDTH] : 0, a->taps,
                                           a->taps > 0 ? a->k0 * it.weights.tap[FC_WIDTH] : 0 };
    }
    while (at < end) {
        place(&it, at++);
        fill_strip(&it);
        run_item(&it);
        if (fc_late(deadline)) break;
    }
    return at;
}

const fc_algo fc_algo_upsample = { "upsample", "highest", cannot, should_not, book, pack, run, weights_of };
