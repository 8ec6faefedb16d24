/* Where a tile's outputs lie in y, and the scatter of outputs that are not side by side (strided y, channels last, the phases
 * of a transposed convolution). */
#include <string.h>
#include "algos.h"

enum {
    TILE_ROWS = 8,
    TILE_COLUMNS = FC_VECTORS * FC_LANES_MAX,
    FETCHED = 4 /* tiles whose residual is on its way while they are computed */
};

/* Multiply-adds, and columns to prepare, of the items from first to end, counted in multiply-adds of one step. */
static double load_of(const fc_conv_plan *p, ptrdiff_t columns, ptrdiff_t first, ptrdiff_t end, double pack_cost)
{
    const ptrdiff_t lanes = p->work.kernels->lanes, vectors = fc_ceil_div(columns, lanes), n = p->column_blocks;
    const ptrdiff_t mr = p->work.kernels->mr, rows = fc_ceil_div(p->ocg, mr);
    double load = 0;
    for (ptrdiff_t i = 0; i < 2; i++) {
        const ptrdiff_t item = i ? end : first, block = item / p->row_blocks, row_block = item % p->row_blocks;
        const ptrdiff_t start = fc_min(fc_block_start(vectors, block % n, n) * lanes, columns);
        const ptrdiff_t next = fc_min(fc_block_start(vectors, block % n + 1, n) * lanes, columns);
        const double before = (double)(block / n * columns + start), wide = (double)(next - start);
        const double done = (double)(fc_share(rows, row_block, p->row_blocks) * mr);
        load += (i ? 1 : -1) * (before * (double)(rows * mr) + wide * done);
        load += (i ? 1 : -1) * pack_cost * (before + (i && row_block > 0 ? wide : 0));
    }
    return load;
}

/* Of the busiest part: the first, which has the larger shares, or the last, whose columns end in what is left over. */
static double most_load(const fc_conv_plan *p, ptrdiff_t columns, ptrdiff_t repeats, double pack_cost)
{
    const ptrdiff_t items = repeats * p->column_blocks * p->row_blocks, parts = p->work.parts;
    const double first = load_of(p, columns, 0, fc_ceil_div(items, parts), pack_cost);
    const double last = load_of(p, columns, items - items / parts, items, pack_cost);
    return first > last ? first : last;
}

void fc_grid_book(fc_conv_plan *p, ptrdiff_t columns, ptrdiff_t most, ptrdiff_t repeats, double pack_cost)
{
    const ptrdiff_t vectors = fc_ceil_div(columns, p->work.kernels->lanes), parts = p->work.parts;
    const ptrdiff_t rows = fc_ceil_div(p->ocg, p->work.kernels->mr);
    const ptrdiff_t least = fc_ceil_div(fc_block_tiles(vectors), most / FC_VECTORS);
    ptrdiff_t best_columns = 0, best_rows = 0;
    double best = -1;
    for (p->row_blocks = 1; p->row_blocks <= fc_min(rows, 2 * parts); p->row_blocks++)
        for (p->column_blocks = least; p->column_blocks < fc_min(least + 2 * parts, vectors + 1); p->column_blocks++) {
            const double load = most_load(p, columns, repeats, pack_cost);
            if (best >= 0 && load >= best * 0.999) continue;
            best = load;
            best_columns = p->column_blocks;
            best_rows = p->row_blocks;
        }
    p->column_blocks = best_columns;
    p->row_blocks = best_rows;
    p->work.items = repeats * p->column_blocks * p->row_blocks;
}

void *fc_y_row(const fc_conv_plan *p, const fc_buffers *b, ptrdiff_t group, ptrdiff_t row)
{
    return fc_to(p, b->y, (group * p->ocg + row) * p->problem.y_stride[FC_C]);
}

const void *fc_bias_row(const fc_conv_plan *p, const fc_buffers *b, ptrdiff_t group, ptrdiff_t row)
{
    return b->bias ? fc_at(p, b->bias, group * p->ocg + row) : NULL;
}

ptrdiff_t fc_y_offset(const fc_conv_plan *p, const fc_phase *f, ptrdiff_t column)
{
    const ptrdiff_t *s = p->problem.y_stride;
    const fc_axis *d = &f->axis[FC_DEPTH], *h = &f->axis[FC_HEIGHT], *w = &f->axis[FC_WIDTH];
    const ptrdiff_t n = column / f->outputs, jw = column % w->n, jh = column / w->n % h->n;
    const ptrdiff_t jd = column / (w->n * h->n) % d->n;
    return n * s[FC_N] + (d->out0 + jd * d->out_step) * s[FC_D] + (h->out0 + jh * h->out_step) * s[FC_H] +
           (w->out0 + jw * w->out_step) * s[FC_W];
}

static void run_scattered(const fc_conv_plan *p, const fc_phase *f, const fc_buffers *b, fc_tile *t,
                          const ptrdiff_t column[FC_VECTORS], void *y)
{
    _Alignas(FC_ALIGN) char scratch[TILE_ROWS * TILE_COLUMNS * sizeof(float)];
    ptrdiff_t offset[TILE_COLUMNS];
    const fc_kernels *k = p->work.kernels;
    const ptrdiff_t y_row = t->y_row;
    ptrdiff_t columns = 0;
    t->y_row = FC_VECTORS * k->lanes;
    for (int j = 0; j < t->vectors; j++) {
        t->y[j] = fc_to(p, scratch, columns);
        for (int lane = 0; lane < t->lanes[j]; lane++) offset[columns++] = fc_y_offset(p, f, column[j] + lane);
    }
    for (int i = 0; i < t->rows && !t->first; i++)
        k->gather(fc_to(p, y, i * y_row), offset, columns, fc_to(p, scratch, i * t->y_row));
    k->gemm_tile(t);
    for (int i = 0; i < t->rows; i++) {
        void *sums = fc_to(p, scratch, i * t->y_row), *to = fc_to(p, y, i * y_row);
        if (t->last) fc_epilogue_scattered(p, b, sums, columns, to, offset);
        k->scatter(sums, columns, to, offset);
    }
    t->y_row = y_row;
}

/* Whole tiles that lie side by side in y from a column on: they run as one. */
static ptrdiff_t repeats_of(const fc_conv_plan *p, const fc_phase *f, ptrdiff_t column, ptrdiff_t columns)
{
    const ptrdiff_t wide = FC_VECTORS * p->work.kernels->lanes;
    const ptrdiff_t repeats = fc_max(fc_min(columns, f->run - column % f->run) / wide, 1);
    return p->problem.residual == FC_NO_RESIDUAL ? repeats : fc_min(repeats, FETCHED);
}

/* The tiles of all rows but the first fetch the next block's image, a line of every channel each. */
static void fetch_next(const fc_conv_plan *p, const fc_block *o, ptrdiff_t row, ptrdiff_t at, fc_tile *t)
{
    const ptrdiff_t wide = FC_VECTORS * p->work.kernels->lanes, size = (ptrdiff_t)p->work.kernels->size;
    const ptrdiff_t before = (row - o->row) / p->work.kernels->mr - 1;
    const ptrdiff_t line = (before * fc_ceil_div(o->columns, wide) + at / wide) * FC_ALIGN;
    if (!o->next || before < 0 || line >= o->columns * size + FC_ALIGN) return;
    t->ahead = (const char *)o->next + line;
    t->ahead_step = p->problem.x_stride[FC_C] * size;
    t->ahead_next = FC_ALIGN;
}

void fc_block_run(const fc_conv_plan *p, const fc_phase *f, const fc_buffers *b, const fc_block *o)
{
    const fc_kernels *k = p->work.kernels;
    const ptrdiff_t steps = o->channels * o->taps, most = FC_VECTORS * k->lanes;
    for (ptrdiff_t row = o->row; row < o->row_end; row += k->mr) {
        const fc_weights w = fc_weights_of(p, b, f, o->group, row, o->channel, o->channels, o->tap, o->taps, o->room);
        const int in_place = o->x && (row == o->row || !o->panel);
        void *y = fc_y_row(p, b, o->group, row);
        for (ptrdiff_t at = 0, wide; at < o->columns; at += wide) {
            const ptrdiff_t left = o->columns - at;
            fc_tile t = { .channels = steps,
                          .taps = 1,
                          .w = w.w,
                          .w_row = w.w_row,
                          .packed = w.packed,
                          .repeats = repeats_of(p, f, o->column + at, left),
                          .vectors = (int)fc_min(FC_VECTORS, fc_ceil_div(left, k->lanes)),
                          .rows = (int)fc_min(k->mr, o->row_end - row),
                          .first = o->channel == 0 && o->tap == 0,
                          .last = o->channel + o->channels == p->icg && o->tap + o->taps == f->taps,
                          .bias = fc_bias_row(p, b, o->group, row) };
            fetch_next(p, o, row, at, &t);
            void *panel = o->panel ? fc_to(p, o->panel, at * steps) : NULL;
            t.b_step = in_place ? p->problem.x_stride[FC_C] : t.vectors * k->lanes;
            t.b_next = in_place ? most : most * steps;
            t.keep = in_place ? panel : NULL;
            ptrdiff_t column[FC_VECTORS];
            for (int j = 0; j < t.vectors; j++) {
                column[j] = o->column + at + j * k->lanes;
                t.lanes[j] = (int)fc_min(k->lanes, left - j * k->lanes);
                t.b[j] = in_place ? fc_at(p, o->x, at + j * k->lanes) : fc_at(p, panel, j * k->lanes);
            }
            wide = fc_min(t.repeats * most, left);
            fc_tile_run(p, f, b, &t, column, y);
        }
    }
}

void fc_tile_run(const fc_conv_plan *p, const fc_phase *f, const fc_buffers *b, fc_tile *t,
                 const ptrdiff_t column[FC_VECTORS], void *y)
{
    t->y_row = p->problem.y_stride[FC_C];
    for (int j = 0; j < t->vectors; j++) {
        /* whole images side by side, and only one of them, is the rule: no division then */
        const ptrdiff_t at = f->run == f->outputs && column[j] < f->run ? column[j] : column[j] % f->run;
        if (at + t->lanes[j] > f->run) {
            run_scattered(p, f, b, t, column, y);
            return;
        }
        t->y[j] = fc_to(p, y, at == column[j] ? f->origin + at : fc_y_offset(p, f, column[j]));
    }
    if (t->last) {
        fc_epilogue_soon(p, b, t);
        fc_epilogue_within(p, b, t);
    }
    p->work.kernels->gemm_tile(t);
    if (t->last) fc_epilogue_tile(p, b, t);
}
