/* direct: y[oc][o] = sum over (ic, kd, kh, kw) of w * strip[ic][o*stride + k*dilation], read in place from a zero-padded
 * strip of the image: no panel of patches. An item is a band of output rows by a block of columns by a block of output
 * channels; vectors run along output rows, and a tile takes any three of them. The strip is written once for all taps,
 * so this is the way where few output channels would not repay a panel. */
#include "algos.h"

enum {
    STRIP_BYTES = 384 << 10, /* of all channels, in L2 */
    COLUMNS = 64, /* vectors of one row in an item at most */
    TAP_BYTES = 512 << 10 /* of the table of tap offsets */
};

static void strip_of(const fc_conv_plan *p, const fc_phase *f, ptrdiff_t rows, ptrdiff_t columns, fc_strip *s)
{
    *s = (fc_strip){ .rows = rows, .columns = columns };
    fc_strip_plan(p, f, s);
}

/* Columns, then rows of an item: the most whose strip of all channels stays in STRIP_BYTES, one tile at least. */
static void shape_item(const fc_conv_plan *p, const fc_phase *f, ptrdiff_t *rows, ptrdiff_t *columns, fc_strip *s)
{
    const ptrdiff_t lanes = p->work.kernels->lanes, size = (ptrdiff_t)p->work.kernels->size;
    const ptrdiff_t most = STRIP_BYTES / size / fc_max(p->icg, 1);
    *rows = 1;
    *columns = fc_min(f->axis[FC_WIDTH].n, COLUMNS * lanes);
    for (strip_of(p, f, 1, *columns, s); s->channel > most && *columns > FC_VECTORS * lanes;
         strip_of(p, f, 1, *columns, s))
        *columns = fc_max(fc_round_up(*columns / 2, lanes), FC_VECTORS * lanes);
    const double row_work = (double)f->taps * (double)p->icg * (double)p->ocg * (double)*columns;
    while (*rows < f->axis[FC_HEIGHT].n && row_work * (double)(*rows + 1) <= FC_ITEM_WORK) {
        fc_strip taller;
        strip_of(p, f, *rows + 1, *columns, &taller);
        if (taller.channel > most) break;
        *s = taller;
        ++*rows;
    }
}

static ptrdiff_t tap_bytes(const fc_phase *f) { return fc_round_up(f->taps * (ptrdiff_t)sizeof(ptrdiff_t), FC_ALIGN); }

static const char *cannot(const fc_conv_plan *p)
{
    fc_phase f;
    fc_strip s;
    ptrdiff_t rows, columns;
    fc_phase_longest(p, &f);
    if (f.taps > TAP_BYTES / (ptrdiff_t)sizeof(ptrdiff_t))
        return "the kernel has too many taps for the table of their offsets";
    shape_item(p, &f, &rows, &columns, &s);
    if ((size_t)s.channel * p->work.kernels->size > FC_WORKSPACE_LIMIT / 4)
        return "a strip of one channel for one tile of outputs does not fit the workspace";
    if ((size_t)f.taps * (size_t)p->work.kernels->mr * p->work.kernels->size > FC_WORKSPACE_LIMIT / 4)
        return "the weights of one channel do not fit the workspace";
    return NULL;
}

/* Costs of one multiply-add of a vector, in such multiply-adds: lanes that lie idle at the end of a row (direct) or of the
 * whole image (im2col), and the preparation's share. The constants are fitted to 70 shapes of 1 to 16 groups, sizes 7 to 224,
 * kernels 1 to 5, strides 1 and 2, on AVX-512; the kernel sizes and groups of pytest --benchmark show both algorithms. */
static double direct_cost(const fc_conv_plan *p, const fc_phase *f)
{
    const double STRIP = 8, SHIFTED = 1.04; /* taps read across cache lines */
    const ptrdiff_t lanes = p->work.kernels->lanes, w = f->axis[FC_WIDTH].n;
    /* one vector a tile can be a half: not where all are */
    const double idle = (double)fc_round_up(w, w > lanes ? p->work.kernels->tail : lanes) / (double)w;
    return SHIFTED * idle + STRIP * (double)f->axis[FC_DEPTH].taps / ((double)f->taps * (double)p->ocg);
}

static double im2col_cost(const fc_conv_plan *p, const fc_phase *f)
{
    const double VECTOR = 9, TAP = 80;
    const ptrdiff_t columns = p->problem.batch * f->outputs;
    const double idle = (double)fc_round_up(columns, p->work.kernels->tail) / (double)columns;
    return idle + (VECTOR + TAP / (double)p->icg) / (double)p->ocg;
}

static const char *should_not(const fc_conv_plan *p)
{
    fc_phase f;
    fc_phase_longest(p, &f);
    if (f.taps > 0 && direct_cost(p, &f) > im2col_cost(p, &f))
        return "a strip and idle lanes at the ends of rows cost more than im2col's panel (pytest --benchmark, kernel "
               "sizes)";
    return NULL;
}

static ptrdiff_t room_of(const fc_conv_plan *p, const fc_phase *f)
{
    if (p->packed || fc_weights_in_place(p)) return 0;
    return fc_round_up(p->k_block * f->taps * p->work.kernels->mr, FC_ALIGN);
}

static void book(fc_conv_plan *p)
{
    const fc_kernels *k = p->work.kernels;
    fc_phase f;
    fc_strip s;
    fc_phase_longest(p, &f);
    shape_item(p, &f, &p->row_block, &p->column_block, &s);
    const ptrdiff_t size = (ptrdiff_t)k->size, rows = f.axis[FC_HEIGHT].n;
    /* the chain is blocked by channels where strip or weights would not fit */
    p->k_block = fc_max(fc_min(p->icg, (ptrdiff_t)(FC_WORKSPACE_LIMIT / 4) / size / fc_max(s.channel, 1)), 1);
    p->k_block = fc_max(fc_min(p->k_block, (ptrdiff_t)(FC_WORKSPACE_LIMIT / 4) / size / fc_max(f.taps * k->mr, 1)), 1);
    p->column_blocks = fc_ceil_div(f.axis[FC_WIDTH].n, p->column_block);
    const ptrdiff_t others = fc_phases(p) * p->problem.groups * p->problem.batch * f.axis[FC_DEPTH].n *
                             p->column_blocks;
    /* bands even over the parts, two a part at least, as far as rows allow */
    const ptrdiff_t wanted = fc_min(fc_max(fc_ceil_div(rows, p->row_block), fc_ceil_div(2 * p->work.parts, others)),
                                    rows);
    p->row_block = fc_ceil_div(rows, wanted);
    p->row_blocks = fc_ceil_div(rows, p->row_block);
    p->work.items = others * p->row_blocks;
    strip_of(p, &f, p->row_block, p->column_block, &s);
    p->work.workspace_bytes = (size_t)(tap_bytes(&f) + room_of(p, &f) * size +
                                       fc_round_up(p->k_block * s.channel * size, FC_ALIGN));
}

/* Where an item's outputs are. */
typedef struct place {
    ptrdiff_t n, group;
    fc_strip strip;
} place;

static place place_of(const fc_conv_plan *p, const fc_phase *f, ptrdiff_t item)
{
    place at = { 0 };
    const ptrdiff_t h = f->axis[FC_HEIGHT].n, w = f->axis[FC_WIDTH].n;
    const ptrdiff_t column_block = item % p->column_blocks, row_block = item / p->column_blocks % p->row_blocks;
    ptrdiff_t rest = item / (p->column_blocks * p->row_blocks);
    at.strip.jd = rest % f->axis[FC_DEPTH].n;
    rest /= f->axis[FC_DEPTH].n;
    at.group = rest % p->problem.groups;
    at.n = rest / p->problem.groups;
    at.strip.jh0 = fc_min(row_block * p->row_block, h);
    at.strip.rows = fc_min(p->row_block, h - at.strip.jh0);
    at.strip.jw0 = fc_min(column_block * p->column_block, w);
    at.strip.columns = fc_min(p->column_block, w - at.strip.jw0);
    return at;
}

/* A tile may end in half a vector, which costs less: the tail of a row goes there. */
static void half_last(fc_tile *t, ptrdiff_t column[FC_VECTORS], int half)
{
    const int last = t->vectors - 1;
    for (int j = 0; j < last && t->lanes[last] > half; j++) {
        if (t->lanes[j] > half) continue;
        const int lanes = t->lanes[j];
        const void *b = t->b[j];
        const ptrdiff_t at = column[j];
        t->lanes[j] = t->lanes[last], t->b[j] = t->b[last], column[j] = column[last];
        t->lanes[last] = lanes, t->b[last] = b, column[last] = at;
    }
}

static void run_rows(const fc_conv_plan *p, const fc_phase *f, const fc_buffers *b, const place *at, ptrdiff_t row,
                     fc_tile *t, const void *strip)
{
    const fc_kernels *k = p->work.kernels;
    const fc_strip *s = &at->strip;
    const ptrdiff_t across = fc_ceil_div(s->columns, k->lanes), vectors = s->rows * across;
    const ptrdiff_t first_column = ((at->n * f->axis[FC_DEPTH].n + s->jd) * f->axis[FC_HEIGHT].n + s->jh0) *
                                   f->axis[FC_WIDTH].n;
    void *y = fc_y_row(p, b, at->group, row);
    ptrdiff_t r = 0, across_at = 0;
    for (ptrdiff_t v = 0; v < vectors; v += FC_VECTORS) {
        ptrdiff_t column[FC_VECTORS];
        t->vectors = (int)fc_min(FC_VECTORS, vectors - v);
        for (int j = 0; j < t->vectors; j++) {
            const ptrdiff_t c = across_at * k->lanes;
            t->b[j] = fc_at(p, strip, r * s->row_j * s->sets * s->pitch + c);
            t->lanes[j] = (int)fc_min(k->lanes, s->columns - c);
            column[j] = first_column + r * f->axis[FC_WIDTH].n + s->jw0 + c;
            if (++across_at == across) across_at = 0, r++;
        }
        half_last(t, column, k->lanes / 2);
        fc_tile_run(p, f, t, column, y);
    }
}

static void run_item(const fc_conv_plan *p, const fc_phase *f, const fc_buffers *b, place *at, void *workspace)
{
    const fc_kernels *k = p->work.kernels;
    fc_strip *s = &at->strip;
    ptrdiff_t *tap = workspace;
    void *room = (char *)workspace + tap_bytes(f), *strip = fc_to(p, room, room_of(p, f));
    fc_strip_plan(p, f, s);
    const fc_axis *d = &f->axis[FC_DEPTH], *h = &f->axis[FC_HEIGHT], *w = &f->axis[FC_WIDTH];
    for (ptrdiff_t td = 0, t = 0; td < d->taps; td++)
        for (ptrdiff_t th = 0; th < h->taps; th++)
            for (ptrdiff_t tw = 0; tw < w->taps; tw++) tap[t++] = fc_strip_tap(f, s, td, th, tw);
    ptrdiff_t c = 0;
    do {
        const ptrdiff_t channels = fc_min(p->k_block, p->icg - c);
        const ptrdiff_t *stride = p->problem.x_stride;
        if (f->taps > 0)
            fc_strip_fill(p, f, s, fc_at(p, b->x, at->n * stride[FC_N] + (at->group * p->icg + c) * stride[FC_C]),
                          channels, strip);
        for (ptrdiff_t row = 0; row < p->ocg; row += k->mr) {
            const fc_weights weights = fc_weights_of(p, b, f, at->group, row, c, channels, 0, f->taps,
                                                     room_of(p, f) ? room : NULL);
            fc_tile t = { .channels = f->taps > 0 ? channels : 0,
                          .taps = f->taps,
                          .b_step = s->channel,
                          .tap = tap,
                          .w = weights.w,
                          .w_row = weights.w_row,
                          .packed = weights.packed,
                          .repeats = 1,
                          .rows = (int)fc_min(k->mr, p->ocg - row),
                          .first = c == 0,
                          .last = c + channels == p->icg,
                          .bias = fc_bias_row(p, b, at->group, row) };
            run_rows(p, f, b, at, row, &t, strip);
        }
        c += channels;
    } while (c < p->icg);
}

static ptrdiff_t run(const fc_work *work, const fc_buffers *b, void *workspace, ptrdiff_t item, ptrdiff_t end,
                     double deadline)
{
    const fc_conv_plan *p = (const fc_conv_plan *)work;
    const ptrdiff_t in_phase = work->items / fc_phases(p);
    fc_phase f = { .index = -1 }, longest;
    fc_phase_longest(p, &longest); /* phases differ in outputs: items count as in the longest */
    while (item < end) {
        if (item / in_phase != f.index) fc_phase_of(p, item / in_phase, &f);
        place at = place_of(p, &longest, item % in_phase);
        at.strip.rows = fc_min(at.strip.rows, f.axis[FC_HEIGHT].n - at.strip.jh0);
        at.strip.columns = fc_min(at.strip.columns, f.axis[FC_WIDTH].n - at.strip.jw0);
        if (at.strip.rows > 0 && at.strip.columns > 0 && at.strip.jd < f.axis[FC_DEPTH].n)
            run_item(p, &f, b, &at, workspace);
        item++;
        if (fc_late(deadline)) break;
    }
    return item;
}

const fc_algo fc_algo_direct = { "direct", "highest",       cannot, should_not,
                                 book,     fc_weights_pack, run,    fc_weights_of_output };
