/* depthwise: groups of one input channel. Each channel's part of the image is copied once into a zero-padded strip in L1;
 * its output channels (the multiplier) are computed from there, vectors along rows. An item is one image channel by a band
 * of rows by a block of columns; channels run fastest, so that the geometry is worked out once for all of them. */
#include <string.h>
#include "algos.h"

enum {
    STRIP_BYTES = 96 << 10,
    COLUMNS = 64, /* vectors of one row in an item at most */
    TABLE_BYTES = 512 << 10
};

static const char *cannot(const fc_conv_plan *p)
{
    fc_phase f;
    fc_phase_longest(p, &f);
    if (p->icg != 1) return "a group has more than one input channel";
    if (f.taps > TABLE_BYTES / (ptrdiff_t)sizeof(ptrdiff_t))
        return "the kernel has too many taps for the table of their offsets";
    fc_strip s = { .rows = 1, .columns = fc_min(f.axis[FC_WIDTH].n, FC_VECTORS * p->work.kernels->lanes) };
    fc_strip_plan(p, &f, &s);
    if ((size_t)s.channel * p->work.kernels->size > FC_WORKSPACE_LIMIT / 4)
        return "a strip of one tile of outputs does not fit the workspace";
    return NULL;
}

static const char *should_not(const fc_conv_plan *p)
{
    if (p->ocg > 4 * p->work.kernels->mr)
        return "many output channels from one: direct keeps more of them in registers";
    return NULL;
}

static void book(fc_conv_plan *p)
{
    const fc_kernels *k = p->work.kernels;
    const ptrdiff_t size = (ptrdiff_t)k->size, lanes = k->lanes;
    fc_phase f;
    fc_phase_longest(p, &f);
    const ptrdiff_t most = STRIP_BYTES / size;
    fc_strip s = { .rows = 1, .columns = fc_min(f.axis[FC_WIDTH].n, COLUMNS * lanes) };
    fc_strip_plan(p, &f, &s);
    while (s.channel > most && s.columns > FC_VECTORS * lanes) {
        s.columns = fc_max(fc_round_up(s.columns / 2, lanes), FC_VECTORS * lanes);
        fc_strip_plan(p, &f, &s);
    }
    const ptrdiff_t planes = fc_phases(p) * p->problem.batch * p->problem.groups * f.axis[FC_DEPTH].n;
    const ptrdiff_t rows = f.axis[FC_HEIGHT].n, bands = fc_min(fc_ceil_div(2 * p->work.parts, planes), rows);
    const double row_work = (double)f.taps * (double)p->ocg * (double)s.columns;
    for (fc_strip taller = s; taller.rows < fc_ceil_div(rows, bands);) {
        taller.rows++;
        if (row_work * (double)taller.rows > FC_ITEM_WORK) break;
        fc_strip_plan(p, &f, &taller);
        if (taller.channel > most) break;
        s = taller;
    }
    p->row_block = s.rows;
    p->column_block = s.columns;
    p->row_blocks = fc_ceil_div(rows, s.rows);
    p->column_blocks = fc_ceil_div(f.axis[FC_WIDTH].n, s.columns);
    p->work.items = planes * p->row_blocks * p->column_blocks;
    /* tap offsets, weights' offsets, one channel's weights, the strip and a row of outputs, each with room for vectors
     * that reach past its end */
    const ptrdiff_t table = fc_round_up(f.taps, FC_ALIGN), slack = 4 * lanes;
    p->k_block = table;
    p->work.workspace_bytes = (size_t)(table * (2 * (ptrdiff_t)sizeof(ptrdiff_t) + size) +
                                       (fc_round_up(s.channel + slack, FC_ALIGN) + fc_round_up(s.columns, lanes)) *
                                           size);
}

/* Offsets of the phase's taps in the user's weights of one output channel. */
static ptrdiff_t weight_offset(const fc_conv_plan *p, const fc_phase *f, ptrdiff_t t)
{
    const ptrdiff_t *s = p->problem.w_stride + 2;
    const fc_axis *a = f->axis;
    const ptrdiff_t tw = t % a[2].taps, th = t / a[2].taps % a[1].taps, td = t / a[2].taps / a[1].taps;
    return (a[0].k0 + td * a[0].k_step) * s[0] + (a[1].k0 + th * a[1].k_step) * s[1] +
           (a[2].k0 + tw * a[2].k_step) * s[2];
}

static const void *weights_at(const fc_conv_plan *p, const void *w, ptrdiff_t group, ptrdiff_t row)
{
    const ptrdiff_t *s = p->problem.w_stride;
    return fc_at(p, w, p->problem.transposed ? group * s[0] + row * s[1] : (group * p->ocg + row) * s[0]);
}

/* packed[phase][oc][tap] */
static void pack(const fc_conv_plan *p, const void *w, void *packed)
{
    char *to = packed;
    for (ptrdiff_t index = 0; index < fc_phases(p); index++) {
        fc_phase f;
        fc_phase_of(p, index, &f);
        for (ptrdiff_t oc = 0; oc < p->problem.oc; oc++)
            for (ptrdiff_t t = 0; t < f.taps; t++, to += p->work.kernels->size)
                memcpy(to, fc_at(p, weights_at(p, w, oc / p->ocg, oc % p->ocg), weight_offset(p, &f, t)),
                       p->work.kernels->size);
    }
}

static void weights_of(const fc_conv_plan *p, const fc_buffers *b, const fc_phase *f, ptrdiff_t oc, fc_chain *c)
{
    fc_weights_of_output(p, b, f, oc, c);
    if (!p->packed) return;
    c->w = fc_at(p, b->w, f->taps_before * p->problem.oc + oc * f->taps);
    c->w_tap[2] = 1;
    c->w_tap[1] = f->axis[2].taps;
    c->w_tap[0] = f->axis[1].taps * f->axis[2].taps;
}

/* Everything that stays the same from channel to channel. Where the strip takes few copies they are worked out once, and
 * its padding, which they do not touch, is zeroed once. */
enum { COPIES = 4 };
typedef struct geometry {
    fc_phase f;
    fc_strip strip;
    fc_strip_copy copy[COPIES];
    int copies; /* or -1: more than COPIES */
    ptrdiff_t *tap, *weight;
    void *room, *image, *line;
    int grid, in_place;
} geometry;

static void prepare_copies(const fc_conv_plan *p, geometry *g)
{
    g->copies = -1;
    if (g->strip.copies > COPIES) return;
    g->copies = 0;
    for (ptrdiff_t i = 0; i < g->strip.copies; i++)
        if (fc_strip_copy_of(p, &g->f, &g->strip, i, &g->copy[g->copies])) {
            g->copy[g->copies].rows.to = fc_to(p, g->image, g->copy[g->copies].to);
            g->copies++;
        }
    memset(g->image, 0, (size_t)g->strip.channel * p->work.kernels->size);
}

static void fill(const fc_conv_plan *p, geometry *g, const void *x)
{
    if (g->copies < 0) {
        fc_strip_fill(p, &g->f, &g->strip, x, 1, g->image);
        return;
    }
    for (int i = 0; i < g->copies; i++) {
        g->copy[i].rows.x = fc_at(p, x, g->copy[i].x);
        p->work.kernels->pad_rows(&g->copy[i].rows);
    }
}

static void lay_out(const fc_conv_plan *p, geometry *g, ptrdiff_t block, void *workspace)
{
    const fc_axis *d = &g->f.axis[FC_DEPTH], *h = &g->f.axis[FC_HEIGHT], *w = &g->f.axis[FC_WIDTH];
    fc_strip *s = &g->strip;
    const ptrdiff_t column_block = block % p->column_blocks, row_block = block / p->column_blocks % p->row_blocks;
    s->jd = block / (p->column_blocks * p->row_blocks);
    s->jh0 = row_block * p->row_block;
    s->jw0 = column_block * p->column_block;
    s->rows = fc_min(p->row_block, h->n - s->jh0);
    s->columns = fc_min(p->column_block, w->n - s->jw0);
    if (s->jd >= d->n || s->rows <= 0 || s->columns <= 0) return;
    fc_strip_plan(p, &g->f, s);
    g->tap = workspace;
    g->weight = g->tap + p->k_block;
    g->room = g->weight + p->k_block;
    g->image = fc_to(p, g->room, p->k_block);
    g->line = fc_to(p, g->image, fc_round_up(s->channel + 4 * p->work.kernels->lanes, FC_ALIGN));
    ptrdiff_t t = 0;
    for (ptrdiff_t td = 0; td < d->taps; td++)
        for (ptrdiff_t th = 0; th < h->taps; th++)
            for (ptrdiff_t tw = 0; tw < w->taps; tw++, t++) {
                g->tap[t] = fc_strip_tap(&g->f, s, td, th, tw);
                g->weight[t] = weight_offset(p, &g->f, t);
            }
    g->grid = t > 0 && d->taps == 1 && s->row_t == 1;
    g->in_place = fc_weights_in_place(p);
    prepare_copies(p, g);
}

static void run_rows(const fc_conv_plan *p, const geometry *g, fc_depthwise *d, void *y)
{
    const fc_conv_problem *q = &p->problem;
    const fc_kernels *k = p->work.kernels;
    const fc_axis *a = g->f.axis;
    const ptrdiff_t y_w = q->y_stride[FC_W] * a[FC_WIDTH].out_step, y_h = q->y_stride[FC_H] * a[FC_HEIGHT].out_step;
    char *row
    = fc_to(p, y,
            (a[0].out0 + g->strip.jd * a[0].out_step) * q->y_stride[FC_D] +
                (a[1].out0 + g->strip.jh0 * a[1].out_step) * q->y_stride[FC_H] +
                (a[2].out0 + g->strip.jw0 * a[2].out_step) * q->y_stride[FC_W]);
    if (y_w == 1 || d->n == 1) {
        d->y = row;
        d->y_row = y_h;
        k->depthwise(d);
        for (ptrdiff_t r = 0; r < d->rows && q->activation != FC_IDENTITY; r++)
            k->activate(q->activation, d->n, fc_to(p, row, r * y_h), fc_to(p, row, r * y_h), q->a, q->b);
        return;
    }
    const ptrdiff_t rows = d->rows;
    d->rows = 1;
    d->y = g->line;
    for (ptrdiff_t r = 0; r < rows; r++, d->x = fc_at(p, d->x, d->stride * d->x_row)) {
        k->depthwise(d);
        if (q->activation != FC_IDENTITY) k->activate(q->activation, d->n, g->line, g->line, q->a, q->b);
        for (ptrdiff_t j = 0; j < d->n; j++) memcpy(fc_to(p, row, r * y_h + j * y_w), fc_at(p, g->line, j), k->size);
    }
}

static void run_channel(const fc_conv_plan *p, geometry *g, const fc_buffers *b, ptrdiff_t n, ptrdiff_t channel)
{
    const fc_conv_problem *q = &p->problem;
    const fc_strip *s = &g->strip;
    fill(p, g, fc_at(p, b->x, n * q->x_stride[FC_N] + channel * q->x_stride[FC_C]));
    for (ptrdiff_t m = 0; m < p->ocg; m++) {
        const ptrdiff_t oc = channel * p->ocg + m;
        fc_depthwise d = { .x = g->image,
                           .bias = b->bias ? fc_at(p, b->bias, oc) : NULL,
                           .tap = g->tap,
                           .taps = g->f.taps,
                           .rows = s->rows,
                           .x_row = s->sets * s->pitch,
                           .stride = s->row_j,
                           .n = s->columns,
                           .kh = g->grid ? g->f.axis[FC_HEIGHT].taps : 0,
                           .kw = g->grid ? g->f.axis[FC_WIDTH].taps : 0 };
        if (p->packed) {
            d.w = fc_at(p, b->w, g->f.taps_before * q->oc + oc * g->f.taps);
        } else if (g->in_place) {
            d.w = weights_at(p, b->w, channel, m);
        } else {
            p->work.kernels->gather(weights_at(p, b->w, channel, m), g->weight, g->f.taps, g->room);
            d.w = g->room;
        }
        run_rows(p, g, &d, fc_to(p, b->y, n * q->y_stride[FC_N] + oc * q->y_stride[FC_C]));
    }
}

static ptrdiff_t run(const fc_work *work, const fc_buffers *b, void *workspace, ptrdiff_t item, ptrdiff_t end,
                     double deadline)
{
    const fc_conv_plan *p = (const fc_conv_plan *)work;
    const ptrdiff_t channels = p->problem.batch * p->problem.groups, blocks = work->items / channels / fc_phases(p);
    ptrdiff_t laid_out = -1;
    const int heavy = work->flops / (double)work->items > 1e5; /* then the clock costs nothing beside an item */
    geometry g = { .f = { .index = -1 } };
    while (item < end) {
        const ptrdiff_t index = item / channels / blocks, block = item / channels % blocks, channel = item % channels;
        if (index != g.f.index) fc_phase_of(p, index, &g.f);
        if (item / channels != laid_out) lay_out(p, &g, block, workspace);
        laid_out = item / channels;
        if (g.strip.rows > 0 && g.strip.columns > 0 && g.strip.jd < g.f.axis[FC_DEPTH].n)
            run_channel(p, &g, b, channel / p->problem.groups, channel % p->problem.groups);
        item++;
        if ((item % 16 == 0 || heavy) && fc_late(deadline)) break;
    }
    return item;
}

const fc_algo fc_algo_depthwise = { "depthwise", "highest", cannot, should_not, book, pack, run, weights_of };
