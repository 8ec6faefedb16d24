/* depthwise: groups of one input channel, their output channels (the multiplier) one after another, vectors along rows.
 * The image is read in place where its columns lie side by side and the taps of a row are few; else, and where weights
 * are not finite, from a zero-padded strip. An item is one image channel by a band of rows by a block of columns;
 * channels run fastest, so that the geometry is worked out once for all of them. */
#include <string.h>
#include "algos.h"

enum {
    STRIP_BYTES = 96 << 10,
    COLUMNS = 64, /* vectors of one row in an item at most */
    TABLE_BYTES = 512 << 10,
    TOGETHER = 250000 /* operations from one look at the clock to the next: some microseconds */
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

/* 1x1 kernels, but of planes each for itself unless they are large. */
static int pointwise_instead(const fc_conv_plan *p)
{
    const ptrdiff_t *o = p->problem.out_size, outputs = o[0] * o[1] * o[2], large = p->ocg > 1 ? 400 / p->ocg : 12000;
    return (p->problem.groups == 1 || outputs >= large) && !fc_algo_pointwise.cannot(p) &&
           !fc_algo_pointwise.should_not(p);
}

/* direct reads one strip for all output channels of an image where depthwise reads the image for each. A kernel of 3x3, whose
 * weights stay in registers, needs more of them to repay it; of several images each would need a strip. */
static int direct_instead(const fc_conv_plan *p)
{
    const ptrdiff_t *k = p->problem.kernel, taps = k[0] * k[1] * k[2], mr = p->work.kernels->mr;
    const int strided = p->problem.stride[FC_WIDTH] > 1;
    if (p->problem.groups > 1) return p->ocg > 4 * mr;
    if (taps <= 9 && !strided) return p->ocg >= (mr == 8 ? 32 : 64);
    return p->ocg >= 4 && taps * p->ocg * (strided ? 2 : 1) >= 100;
}

static const char *should_not(const fc_conv_plan *p)
{
    if (fc_phases(p) > 1) return "phase after phase scatters its outputs: direct interleaves them";
    if (pointwise_instead(p)) return "pointwise scales whole planes faster (src/README.md, experiments)";
    if (direct_instead(p))
        return "many output channels from one: direct reads them from one strip (src/README.md, experiments)";
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
    /* a block of the kernel takes as long for fewer rows */
    if (s.rows > k->mr && s.rows < rows) {
        s.rows -= s.rows % k->mr;
        fc_strip_plan(p, &f, &s);
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

/* What the kernel reads, the image or a strip of it: output row r of the block, tap row th meet in row
 * `row0 + r*row_j + th*row_t`, which may lie outside. */
typedef struct view {
    fc_depthwise d; /* of all rows and channels */
    ptrdiff_t origin, row, row0, row_j, row_t, rows;
    ptrdiff_t every; /* rows of outputs so far apart share rows of the image */
} view;

/* Everything that stays the same from channel to channel. */
typedef struct geometry {
    fc_phase f;
    fc_strip strip;
    view image, padded;
    int in_place; /* the image is read */
    ptrdiff_t y; /* elements from a channel's first output to the block's */
    ptrdiff_t *tap, *weight,
        near[FC_DEPTHWISE_MASKED]; /* columns of taps in the strip; of weights; of taps in the image */
    void *room, *copy, *line;
} geometry;

static void view_image(const fc_conv_plan *p, geometry *g)
{
    const fc_axis *d = &g->f.axis[FC_DEPTH], *h = &g->f.axis[FC_HEIGHT], *w = &g->f.axis[FC_WIDTH];
    const ptrdiff_t *stride = p->problem.x_stride, id = d->in0 + g->strip.jd * d->in_step,
                    ih = h->in0 + g->strip.jh0 * h->in_step, iw = w->in0 + g->strip.jw0 * w->in_step;
    const fc_axis planes = { .n = d->taps, .size = d->size, .in0 = id, .in_step = d->tap_step };
    const int by_two = w->in_step == 2 && h->in_step == 2 && w->tap_step == 1 && h->tap_step == 1 &&
                       fc_depthwise_unrolled(h->taps, w->taps);
    g->in_place = g->f.taps && stride[FC_W] == 1 && w->taps <= FC_DEPTHWISE_MASKED && (w->in_step == 1 || by_two);
    if (!g->in_place) return;
    for (ptrdiff_t tw = 0; tw < w->taps; tw++) g->near[tw] = tw * w->tap_step;
    g->image = (view){ .d = { .tap = g->near,
                              .x_plane = d->tap_step * stride[FC_D],
                              .step = w->in_step,
                              .first = -iw,
                              .end = w->size - iw },
                       .origin = id * stride[FC_D] + ih * stride[FC_H] + iw,
                       .row = stride[FC_H],
                       .row0 = ih,
                       .row_j = h->in_step,
                       .row_t = h->tap_step,
                       .rows = h->size };
    fc_valid(&planes, 0, &g->image.d.depth_first, &g->image.d.depth_end);
}

static void view_strip(geometry *g)
{
    const fc_strip *s = &g->strip;
    for (ptrdiff_t tw = 0; tw < g->f.axis[FC_WIDTH].taps; tw++) g->tap[tw] = fc_strip_tap(&g->f, s, 0, 0, tw);
    g->padded = (view){
        .d = { .tap = g->tap, .x_plane = s->plane, .step = 1, .padded = 1, .depth_end = g->f.axis[FC_DEPTH].taps },
        .row = s->sets * s->pitch,
        .row_j = s->row_j,
        .row_t = fc_max(s->row_t, 1),
        .rows = s->strip_rows
    };
}

/* Which rows of the view meet every-th rows of outputs from first on, count of them. */
static void take_rows(const fc_conv_plan *p, const view *v, ptrdiff_t first, ptrdiff_t every, ptrdiff_t count,
                      fc_depthwise *d)
{
    d->rows = count;
    d->stride = every * v->row_j / v->row_t;
    const fc_axis rows = {
        .n = d->stride * (count - 1) + d->kh, .size = v->rows, .in0 = v->row0 + first * v->row_j, .in_step = v->row_t
    };
    d->x = fc_at(p, d->x, first * v->row_j * v->row);
    fc_valid(&rows, 0, &d->row_first, &d->row_end);
}

static void prepare_view(const fc_conv_plan *p, const geometry *g, view *v)
{
    const fc_conv_problem *q = &p->problem;
    const fc_axis *h = &g->f.axis[FC_HEIGHT];
    v->d.n = g->strip.columns;
    v->d.kh = h->taps;
    v->d.kw = g->f.axis[FC_WIDTH].taps;
    v->d.x_row = v->row_t * v->row;
    v->d.y_row = h->out_step * q->y_stride[FC_H];
    v->d.x_channel = q->x_stride[FC_C];
    v->d.w_channel = p->ocg * g->f.taps;
    v->d.bias_channel = p->ocg;
    v->d.y_channel = p->ocg * q->y_stride[FC_C];
    v->every = v->row_t / fc_gcd(v->row_t, v->row_j);
    take_rows(p, v, 0, v->every, fc_ceil_div(g->strip.rows, v->every), &v->d);
}

static void lay_out(const fc_conv_plan *p, geometry *g, ptrdiff_t block, void *workspace)
{
    const fc_conv_problem *q = &p->problem;
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
    g->copy = fc_to(p, g->room, p->k_block);
    g->line = fc_to(p, g->copy, fc_round_up(s->channel + 4 * p->work.kernels->lanes, FC_ALIGN));
    for (ptrdiff_t t = 0; t < g->f.taps; t++) g->weight[t] = weight_offset(p, &g->f, t);
    g->y = (d->out0 + s->jd * d->out_step) * q->y_stride[FC_D] + (h->out0 + s->jh0 * h->out_step) * q->y_stride[FC_H] +
           (w->out0 + s->jw0 * w->out_step) * q->y_stride[FC_W];
    view_image(p, g);
    view_strip(g);
    if (g->in_place) prepare_view(p, g, &g->image);
    prepare_view(p, g, &g->padded);
}

/* Where rows of outputs go one by one through a line: elements of y do not lie side by side. */
static void run_lines(const fc_conv_plan *p, const fc_buffers *b, const geometry *g, const view *v,
                      const fc_depthwise *channels)
{
    const ptrdiff_t y_w = p->problem.y_stride[FC_W] * g->f.axis[FC_WIDTH].out_step;
    for (ptrdiff_t c = 0; c < channels->channels; c++)
        for (ptrdiff_t r = 0; r < g->strip.rows; r++) {
            fc_depthwise d = *channels;
            d.channels = 1;
            d.x = fc_at(p, d.x, c * d.x_channel);
            d.w = fc_at(p, d.w, c * d.w_channel);
            if (d.bias) d.bias = fc_at(p, d.bias, c * d.bias_channel);
            d.y = g->line;
            take_rows(p, v, r, v->every, 1, &d);
            p->work.kernels->depthwise(&d);
            char *y = fc_to(p, channels->y, c * d.y_channel + r * d.y_row);
            for (ptrdiff_t j = 0; j < d.n; j++)
                memcpy(fc_to(p, y, j * y_w), fc_at(p, g->line, j), p->work.kernels->size);
            fc_epilogue(p, b, y, d.n, y_w);
        }
}

static void run_view(const fc_conv_plan *p, const fc_buffers *b, const geometry *g, const view *v,
                     const fc_depthwise *channels)
{
    const ptrdiff_t rows = g->strip.rows, n = channels->n, y_row = channels->y_row, y_channel = channels->y_channel;
    if (n > 1 && p->problem.y_stride[FC_W] * g->f.axis[FC_WIDTH].out_step != 1) {
        run_lines(p, b, g, v, channels);
        return;
    }
    for (ptrdiff_t r = 0; r < fc_min(v->every, rows); r++) {
        fc_depthwise d = *channels;
        d.y = fc_to(p, d.y, r * y_row);
        d.y_row = v->every * y_row;
        if (v->every > 1) take_rows(p, v, r, v->every, fc_ceil_div(rows - r, v->every), &d);
        p->work.kernels->depthwise(&d);
    }
    const ptrdiff_t whole = y_row == n ? rows : 1;
    for (ptrdiff_t c = 0; c < channels->channels; c++)
        for (ptrdiff_t r = 0; r < rows; r += whole)
            fc_epilogue(p, b, fc_to(p, channels->y, c * y_channel + r * y_row), whole * n, 1);
}

/* The m-th output channels of count groups from channel on. */
static void run_channels(const fc_conv_plan *p, geometry *g, const fc_buffers *b, ptrdiff_t image, ptrdiff_t channel,
                         ptrdiff_t count, ptrdiff_t m)
{
    const fc_conv_problem *q = &p->problem;
    const fc_kernels *k = p->work.kernels;
    const ptrdiff_t oc = channel * p->ocg + m;
    const void *x = fc_at(p, b->x, image * q->x_stride[FC_N] + channel * q->x_stride[FC_C]);
    const void *w = p->packed ? fc_at(p, b->w, g->f.taps_before * q->oc + oc * g->f.taps)
                              : weights_at(p, b->w, channel, m);
    if (!p->packed && !fc_weights_in_place(p)) {
        k->gather(w, g->weight, g->f.taps, g->room);
        w = g->room;
    }
    const int in_place = g->in_place && k->all_finite(w, ((count - 1) * p->ocg + 1) * g->f.taps, 1);
    if (!in_place && count > 1) {
        for (ptrdiff_t c = 0; c < count; c++) run_channels(p, g, b, image, channel + c, 1, m);
        return;
    }
    if (!in_place) fc_strip_fill(p, &g->f, &g->strip, x, 1, g->copy);
    const view *v = in_place ? &g->image : &g->padded;
    fc_depthwise d = v->d;
    d.x = in_place ? fc_at(p, x, v->origin) : g->copy;
    d.w = w;
    d.bias = b->bias ? fc_at(p, b->bias, oc) : NULL;
    d.y = fc_to(p, b->y, image * q->y_stride[FC_N] + oc * q->y_stride[FC_C] + g->y);
    d.channels = count;
    run_view(p, b, g, v, &d);
}

/* How many channels from this item on the kernel may take at once: those of one image whose weights follow each other. */
static ptrdiff_t together(const fc_conv_plan *p, ptrdiff_t channel, ptrdiff_t items)
{
    const ptrdiff_t *kernel = p->problem.kernel;
    const double most = TOGETHER / (p->work.flops / (double)p->work.items + 1);
    const int follow = p->packed ||
                       (fc_weights_in_place(p) && p->problem.w_stride[0] == kernel[0] * kernel[1] * kernel[2]);
    return !follow ? 1 : fc_min(fc_min(items, 1 + (ptrdiff_t)most), p->problem.groups - channel);
}

static ptrdiff_t run(const fc_work *work, const fc_buffers *b, void *workspace, ptrdiff_t item, ptrdiff_t end,
                     double deadline)
{
    const fc_conv_plan *p = (const fc_conv_plan *)work;
    const ptrdiff_t groups = p->problem.groups, channels = p->problem.batch * groups,
                    blocks = work->items / channels / fc_phases(p);
    ptrdiff_t laid_out = -1;
    geometry g = { .f = { .index = -1 } };
    while (item < end) {
        const ptrdiff_t index = item / channels / blocks, block = item / channels % blocks, channel = item % channels;
        const ptrdiff_t count = together(p, channel % groups, end - item);
        if (index != g.f.index) fc_phase_of(p, index, &g.f);
        if (item / channels != laid_out) lay_out(p, &g, block, workspace);
        laid_out = item / channels;
        if (g.strip.rows > 0 && g.strip.columns > 0 && g.strip.jd < g.f.axis[FC_DEPTH].n)
            for (ptrdiff_t m = 0; m < p->ocg; m++) run_channels(p, &g, b, channel / groups, channel % groups, count, m);
        item += count;
        if (fc_late(deadline)) break;
    }
    return item;
}

const fc_algo fc_algo_depthwise = { "depthwise", "highest", cannot, should_not, book, pack, run, weights_of };
