/* direct: every output sums over a zero-padded strip of the image, read in place: no panel of patches. The strip is written
 * once for all taps, so this is the way where few output channels would not repay a panel.
 *
 * Vectors run along rows, and a tile takes any three of them. Or, where rows are so narrow that too many lanes would lie
 * idle, they run flat over the rows of the strip, row ends included: outputs between the rows are computed and dropped, the
 * others woven into y from scratch.
 *
 * A transposed convolution falls into cells, whose phases are rows of the same tiles beside the output channels. What the
 * phases of the width give is interleaved on the way to y: whole vectors of outputs are written where phase after phase
 * would scatter them. Packed weights are made for a layer, or for a block of output channels, which then meets all columns of
 * a part. */
#include <math.h>
#include <string.h>
#include "algos.h"

enum {
    STRIP_BYTES = 384 << 10, /* of all channels, in L2 */
    COLUMNS = 64, /* vectors of one row in an item at most */
    ROOM_BYTES = 1 << 20, /* of packed weights in the workspace */
    SCRATCH_TILES = 4, /* side by side, on their way to y */
    TAP_BYTES = 512 << 10 /* of the table of tap offsets */
};

static ptrdiff_t room_of(const fc_conv_plan *p, const fc_cells *l, ptrdiff_t ocs)
{
    return p->packed || fc_weights_in_place(p) ? 0 : fc_round_up(fc_cells_size(p, l, ocs), FC_ALIGN);
}

/* Whether channels lie side by side, pixels apart: blocks of both are transposed on the way to the strip, and to y. */
static int side_by_side(ptrdiff_t channels, const ptrdiff_t stride[FC_AXES])
{
    return channels > 1 && stride[FC_C] == 1 && stride[FC_W] != 1;
}

/* A strip: [channel][depth][set of rows][set of columns][row][pitch]. A set holds what is congruent modulo the step, so that
 * every tap is one offset and the next output the next element. */
static ptrdiff_t set_size(const fc_cells *l, int axis, ptrdiff_t outputs)
{
    return outputs + (l->span[axis] - 1) / l->step[axis];
}
static ptrdiff_t strip_channel(const fc_cells *l, ptrdiff_t rows, ptrdiff_t pitch)
{
    return l->span[FC_DEPTH] * l->sets[FC_HEIGHT] * l->sets[FC_WIDTH] * set_size(l, FC_HEIGHT, rows) * pitch;
}

/* Zeros that every set of columns has both before and after the image: a row's last are the next one's first. No more than
 * lie beyond the outputs' own columns, which rows cannot share. */
static ptrdiff_t shared_zeros(const fc_conv_plan *p, const fc_cells *l, ptrdiff_t jw0, ptrdiff_t columns)
{
    const ptrdiff_t step = l->step[FC_WIDTH], x0 = l->in0[FC_WIDTH] + jw0 * step;
    const ptrdiff_t last = x0 + (set_size(l, FC_WIDTH, columns) - 1) * step;
    const ptrdiff_t before = fc_max(-(x0 + l->sets[FC_WIDTH] - 1), 0);
    const ptrdiff_t after = fc_max(last - p->problem.size[FC_WIDTH] + 1, 0);
    return fc_min(fc_ceil_div(fc_min(before, after), step), set_size(l, FC_WIDTH, columns) - columns);
}

static ptrdiff_t pitch_of(const fc_conv_plan *p, const fc_cells *l, ptrdiff_t jw0, ptrdiff_t columns)
{
    const ptrdiff_t set = set_size(l, FC_WIDTH, columns);
    return l->flat ? set - shared_zeros(p, l, jw0, columns) : fc_round_up(set, p->work.kernels->lanes);
}

static ptrdiff_t longest_pitch(const fc_conv_plan *p, const fc_cells *l, ptrdiff_t columns)
{
    return fc_round_up(set_size(l, FC_WIDTH, columns), l->flat ? 1 : p->work.kernels->lanes);
}

/* Vectors' lanes, idle ones included, for one output of a row. */
static double lanes_along_rows(const fc_conv_plan *p, const fc_cells *l)
{
    const ptrdiff_t lanes = p->work.kernels->lanes, n = l->n[FC_WIDTH];
    /* one vector a tile can be a half: not where all are */
    return (double)fc_round_up(n, n > lanes ? p->work.kernels->tail : lanes) / (double)n;
}
static double lanes_flat(const fc_conv_plan *p, const fc_cells *l)
{
    /* writing a vector to scratch and from there, in multiply-adds of a vector; where it is transposed, beside its lanes */
    const double WEAVE = 12, TURN = 4;
    const double weave = side_by_side(p->ocg, p->problem.y_stride) ? TURN + p->work.kernels->lanes : WEAVE;
    const ptrdiff_t *k = p->problem.kernel, n = l->n[FC_WIDTH], rows = l->n[FC_HEIGHT];
    const ptrdiff_t pitch = set_size(l, FC_WIDTH, n) - shared_zeros(p, l, 0, n);
    const ptrdiff_t lanes = fc_round_up((rows - 1) * pitch + n, p->work.kernels->tail);
    return (double)lanes / (double)(n * rows) * (1 + weave / (double)fc_max(p->icg * k[0] * k[1] * k[2], 1));
}

static void lay_out(const fc_conv_plan *p, fc_cells *l)
{
    fc_cells_of(p, l);
    l->flat = fc_phases(p) > 1 || p->problem.y_stride[FC_W] != 1 || lanes_flat(p, l) < lanes_along_rows(p, l);
}

/* Rows and columns of an item: the most whose strip of all channels stays in STRIP_BYTES, one tile at least. */
static void shape_item(const fc_conv_plan *p, const fc_cells *l, ptrdiff_t *rows, ptrdiff_t *columns)
{
    const ptrdiff_t lanes = p->work.kernels->lanes, tile = FC_VECTORS * lanes;
    const ptrdiff_t most = STRIP_BYTES / (ptrdiff_t)p->work.kernels->size / fc_max(p->icg, 1);
    *rows = 1;
    *columns = fc_min(l->n[FC_WIDTH], COLUMNS * lanes);
    while (strip_channel(l, 1, longest_pitch(p, l, *columns)) > most && *columns > tile)
        *columns = fc_max(fc_round_up(*columns / 2, lanes), tile);
    const ptrdiff_t pitch = longest_pitch(p, l, *columns);
    while (*rows < l->n[FC_HEIGHT] && (strip_channel(l, *rows + 1, pitch) <= most || *rows * *columns < tile)) ++*rows;
}

static const char *cannot(const fc_conv_plan *p)
{
    const ptrdiff_t *k = p->problem.kernel, taps = k[0] * k[1] * k[2];
    if (taps > TAP_BYTES / (ptrdiff_t)sizeof(ptrdiff_t))
        return "the kernel has too many taps for the table of their offsets";
    const char *many = fc_cells_cannot(p);
    if (many) return many;
    fc_cells l;
    ptrdiff_t rows, columns;
    lay_out(p, &l);
    shape_item(p, &l, &rows, &columns);
    const ptrdiff_t most = (ptrdiff_t)(FC_WORKSPACE_LIMIT / 4 / p->work.kernels->size);
    if (strip_channel(&l, rows, longest_pitch(p, &l, columns)) > most / fc_max(p->icg, 1))
        return "a strip of all channels for one tile of outputs does not fit the workspace";
    if (room_of(p, &l, fc_min(p->ocg, p->work.kernels->mr)) > most)
        return "the weights of one tile do not fit the workspace";
    return NULL;
}

/* Costs of one multiply-add of a vector, in such multiply-adds: lanes that lie idle at the end of a row (direct) or of the
 * whole image (im2col), and the preparation's share. The constants are fitted to 70 shapes of 1 to 16 groups, sizes 7 to 224,
 * kernels 1 to 5, strides 1 and 2, on AVX-512; the kernel sizes and groups of pytest --benchmark show both algorithms. */
static double direct_cost(const fc_conv_plan *p, const fc_cells *l)
{
    /* taps read across cache lines, and with 16 registers a tile's own cost, which im2col's rows of tiles share */
    const double SHIFTED = p->work.kernels->mr == 8 ? (l->flat ? 1 : 1.04) : l->flat ? 1.1 : 1.15;
    const double STRIP = 8, TURN = 21; /* writing a vector to the strip; where it is transposed */
    const ptrdiff_t *k = p->problem.kernel, *s = p->problem.stride;
    const double lanes = SHIFTED * (l->flat ? lanes_flat(p, l) : lanes_along_rows(p, l));
    const double rows = (double)(k[1] * k[2]) * (double)p->ocg;
    if (!side_by_side(p->icg, p->problem.x_stride)) return lanes + STRIP / rows;
    const double ALONE = k[1] * k[2] == 1 ? 1.15 : 1; /* every step of the chain reads the strip from L2 */
    return ALONE * lanes + TURN * (double)(fc_min(s[1], k[1]) * fc_min(s[2], k[2])) / rows;
}

double fc_direct_cost(const fc_conv_plan *p)
{
    fc_cells l;
    if (cannot(p)) return INFINITY;
    lay_out(p, &l);
    return direct_cost(p, &l);
}

static double im2col_cost(const fc_conv_plan *p, const fc_cells *l)
{
    const double VECTOR = 9, TAP = 80, GATHER = 6, SCATTER = 100; /* a lane gathered, a vector scattered */
    const fc_conv_problem *q = &p->problem;
    const ptrdiff_t columns = q->batch * l->n[0] * l->n[1] * l->n[2],
                    chain = p->icg * q->kernel[0] * q->kernel[1] * q->kernel[2];
    const double idle = (double)fc_round_up(columns, p->work.kernels->tail) / (double)columns;
    const double vector = side_by_side(p->icg, q->x_stride) ? GATHER * p->work.kernels->lanes : VECTOR;
    const double scatter = side_by_side(p->ocg, q->y_stride) ? SCATTER / (double)fc_max(chain, 1) : 0;
    return idle + (vector + TAP / (double)p->icg) / (double)p->ocg + scatter;
}

/* Vectors' lanes for all products of a transposed convolution: flat over rows as long as the longest phase's and the zeros
 * between them, or over the pixels of each phase, whose outputs im2col scatters. */
static int phases_fill_less(const fc_conv_plan *p, const fc_cells *l)
{
    const double SCATTER = 150; /* of a vector of outputs, in multiply-adds of a vector */
    enum { PHASES = 64 }; /* that the plan may take time to look at */
    const ptrdiff_t lanes = p->work.kernels->lanes, tail = p->work.kernels->tail, *n = l->n;
    const ptrdiff_t most = p->problem.batch * n[0] * n[1] * n[2];
    /* as functions only where packing the weights is all the work: im2col's order packs 3x3 with stride 2 slower */
    if (fc_phases(p) > PHASES || (!p->packed && most > lanes)) return 0;
    double flat = 0, apart = 0;
    for (ptrdiff_t i = 0; i < fc_phases(p); i++) {
        fc_phase f;
        fc_phase_of(p, i, &f);
        const ptrdiff_t columns = p->problem.batch * f.outputs;
        flat += (double)(f.taps * most);
        apart += (double)fc_round_up(columns, tail) * ((double)f.taps + SCATTER / (double)fc_max(p->icg, 1));
    }
    return flat * direct_cost(p, l) > apart;
}

static const char *should_not(const fc_conv_plan *p)
{
    fc_cells l;
    lay_out(p, &l);
    if (p->problem.transposed && phases_fill_less(p, &l))
        return "im2col's vectors run over the pixels of small images and leave fewer lanes idle (benchmarks/compare.py "
               "--set transposed: 4x4 with stride 2 of 8x8)";
    if (!p->problem.transposed && direct_cost(p, &l) > im2col_cost(p, &l))
        return "a strip and idle lanes at the ends of rows cost more than im2col's panel (pytest --benchmark, kernel "
               "sizes)";
    return NULL;
}

/* Of what is computed into scratch before it goes to y: output channels, and columns. */
static ptrdiff_t scratch_channels(const fc_conv_plan *p)
{
    const fc_kernels *k = p->work.kernels;
    return side_by_side(p->ocg, p->problem.y_stride) ? fc_max(k->lanes, k->mr) : k->mr;
}
static ptrdiff_t scratch_columns(const fc_conv_plan *p)
{
    return (fc_phases(p) > 1 ? 1 : SCRATCH_TILES) * FC_VECTORS * p->work.kernels->lanes;
}

/* Elements of it, for the phases of one family of depth and of height. */
static ptrdiff_t scratch_size(const fc_conv_plan *p, const fc_cells *l)
{
    ptrdiff_t most[FC_SPATIAL] = { 1, 1, p->phases[FC_WIDTH] };
    for (int axis = 0; axis < FC_WIDTH; axis++)
        for (ptrdiff_t i = 0; i < l->families[axis]; i++) most[axis] = fc_max(most[axis], l->family[axis][i].phases);
    const ptrdiff_t rows = fc_min(p->ocg, scratch_channels(p)) * most[0] * most[1] * most[2];
    return fc_round_up(rows * scratch_columns(p) + p->work.kernels->lanes,
                       FC_ALIGN); /* weaving reads up to a vector past the last row */
}

/* Output channels of an item: what the room holds and a deadline allows. Where weights are packed, no more than a part's
 * share where each part's are plenty, so that parts do not pack the same. */
static ptrdiff_t channels_of_item(const fc_conv_plan *p, const fc_cells *l, ptrdiff_t columns)
{
    const ptrdiff_t mr = p->work.kernels->mr, *k = p->problem.kernel, size = (ptrdiff_t)p->work.kernels->size;
    const ptrdiff_t share = fc_round_up(fc_ceil_div(p->ocg, p->work.parts), mr);
    const double work = (double)(p->icg * k[0] * k[1] * k[2]) * (double)columns;
    ptrdiff_t ocs = share >= 4 * mr && room_of(p, l, mr) > 0 ? share : p->ocg;
    while (ocs > mr && (room_of(p, l, ocs) * size > ROOM_BYTES || work * (double)ocs > FC_ITEM_WORK))
        ocs = fc_round_up(ocs / 2, mr);
    return ocs;
}

static ptrdiff_t tap_bytes(const fc_conv_plan *p)
{
    const ptrdiff_t *k = p->problem.kernel;
    return fc_round_up(k[0] * k[1] * k[2] * (ptrdiff_t)sizeof(ptrdiff_t), FC_ALIGN);
}

static void book(fc_conv_plan *p)
{
    const ptrdiff_t parts = p->work.parts, *k = p->problem.kernel, size = (ptrdiff_t)p->work.kernels->size;
    fc_cells l;
    ptrdiff_t rows;
    lay_out(p, &l);
    shape_item(p, &l, &rows, &p->column_block);
    p->row_block = channels_of_item(p, &l, rows * p->column_block);
    const double row_work = (double)(p->row_block * p->icg * k[0] * k[1] * k[2]) * (double)p->column_block;
    while (rows > 1 && row_work * (double)rows > FC_ITEM_WORK) rows = fc_ceil_div(rows, 2);
    p->row_blocks = fc_ceil_div(p->ocg, p->row_block);
    p->column_blocks = fc_ceil_div(l.n[FC_WIDTH], p->column_block);
    const ptrdiff_t others = p->problem.groups * p->row_blocks * p->problem.batch * l.n[FC_DEPTH] * p->column_blocks;
    /* bands even over the parts, two a part at least where they are not even already, as far as rows allow */
    const ptrdiff_t bands = fc_max(fc_ceil_div(l.n[FC_HEIGHT], rows),
                                   others % parts ? fc_ceil_div(2 * parts, others) : 1);
    p->k_block = fc_ceil_div(l.n[FC_HEIGHT], fc_min(bands, l.n[FC_HEIGHT]));
    p->work.items = others * fc_ceil_div(l.n[FC_HEIGHT], p->k_block);
    const ptrdiff_t strip = p->icg * strip_channel(&l, p->k_block, longest_pitch(p, &l, p->column_block));
    const ptrdiff_t elements = room_of(p, &l, p->row_block) + scratch_size(p, &l) + strip + l.span[FC_WIDTH];
    p->packed_bytes = (size_t)(p->problem.groups * fc_cells_size(p, &l, p->ocg) * size);
    p->work.workspace_bytes = (size_t)(tap_bytes(p) + elements * size);
}

static const void *weights_at(const fc_conv_plan *p, const void *w, const fc_cells_block *b)
{
    return fc_at(p, w, (b->group * p->ocg + b->oc0) * p->problem.w_stride[0]);
}

static void pack(const fc_conv_plan *p, const void *w, void *packed)
{
    fc_cells l;
    lay_out(p, &l);
    for (ptrdiff_t group = 0; group < p->problem.groups; group++)
        fc_cells_pack(p, &l, &(fc_cells_block){ group, 0, p->ocg }, w, group, p->problem.groups, packed);
}

static void weights_of(const fc_conv_plan *p, const fc_buffers *b, const fc_phase *f, ptrdiff_t oc, fc_chain *chain)
{
    fc_cells l;
    lay_out(p, &l);
    fc_cells_weights_of(p, &l, b, f, oc, chain);
}

/* What one item works on, and what is fetched into L2 meanwhile. */
typedef struct item {
    const fc_conv_plan *p;
    const fc_buffers *b;
    fc_cells l;
    fc_cells_block block;
    ptrdiff_t n, jd, jh0, rows, jw0, columns;
    ptrdiff_t shared, pitch, channel; /* of the strip */
    ptrdiff_t *tap;
    void *room, *strip, *scratch;
    /* the rows of the image that the next item reads and this one did not: of each channel so many bytes in a run */
    const char *soon;
    ptrdiff_t soon_bytes, soon_left; /* what no tile has fetched yet: channels, or bytes of each run */
    int soon_by_lines;
    /* of sums that go through scratch: what is done in registers, and whether nothing is left to do */
    fc_finish finish;
    int finished;
} item;

static void place(item *it, ptrdiff_t at)
{
    const fc_conv_plan *p = it->p;
    const fc_cells *l = &it->l;
    const ptrdiff_t bands = fc_ceil_div(l->n[FC_HEIGHT], p->k_block);
    it->jw0 = at % p->column_blocks * p->column_block;
    it->columns = fc_min(p->column_block, l->n[FC_WIDTH] - it->jw0);
    it->jh0 = at / p->column_blocks % bands * p->k_block;
    it->rows = fc_min(p->k_block, l->n[FC_HEIGHT] - it->jh0);
    at /= p->column_blocks * bands;
    it->jd = at % l->n[FC_DEPTH];
    it->n = at / l->n[FC_DEPTH] % p->problem.batch;
    at /= l->n[FC_DEPTH] * p->problem.batch;
    it->block.group = at / p->row_blocks;
    it->block.oc0 = at % p->row_blocks * p->row_block;
    it->block.ocs = fc_min(p->row_block, p->ocg - it->block.oc0);
    it->shared = l->flat ? shared_zeros(p, l, it->jw0, it->columns) : 0;
    it->pitch = pitch_of(p, l, it->jw0, it->columns);
    it->channel = strip_channel(l, it->rows, it->pitch);
}

/* One set of rows and columns of one plane of the strip, or both sets of columns; to: its first row. */
static void fill_set(const item *it, ptrdiff_t id, ptrdiff_t ih, ptrdiff_t iw, int both, ptrdiff_t to)
{
    const fc_conv_plan *p = it->p;
    const fc_kernels *k = p->work.kernels;
    const ptrdiff_t *s = p->problem.x_stride, *size = p->problem.size, *step = it->l.step;
    const int turned = side_by_side(p->icg, s);
    const fc_axis rows = { .n = set_size(&it->l, 1, it->rows), .size = size[1], .in0 = ih, .in_step = step[1] };
    const fc_axis columns = {
        .n = both ? 2 * it->pitch : it->pitch, .size = size[2], .in0 = iw, .in_step = both ? 1 : step[2]
    };
    const ptrdiff_t set = rows.n * it->pitch;
    fc_rows copy = { .x_row = step[1] * s[FC_H], .step = step[2] * s[FC_W], .n = it->pitch, .to_row = it->pitch };
    ptrdiff_t first, end;
    fc_valid(&rows, 0, &first, &end);
    fc_valid(&columns, 0, &copy.first, &copy.end);
    if (id < 0 || id >= size[0]) first = end = 0;
    copy.rows = end - first;
    const ptrdiff_t x = it->n * s[FC_N] + it->block.group * p->icg * s[FC_C] + id * s[FC_D] +
                        (ih + first * step[1]) * s[FC_H] + iw * s[FC_W];
    const size_t before = (size_t)(first * it->pitch) * p->work.kernels->size;
    const size_t after = (size_t)((rows.n - end) * it->pitch) * p->work.kernels->size;
    for (ptrdiff_t c = 0; c < p->icg; c++) {
        copy.x = fc_at(p, it->b->x, x + c * s[FC_C]);
        for (int i = 0; i <= both; i++) {
            void *rows_of = fc_to(p, it->strip, c * it->channel + to + i * set);
            if (before) memset(rows_of, 0, before);
            if (after) memset(fc_to(p, rows_of, end * it->pitch), 0, after);
        }
        copy.to = fc_to(p, it->strip, c * it->channel + to + first * it->pitch);
        if (copy.rows <= 0) continue;
        if (both) k->part_rows(&copy, set);
        else if (!turned) k->pad_rows(&copy);
        else if (c == 0) k->turn_rows(&copy, p->icg, it->channel);
    }
}

static void fill_strip(const item *it)
{
    const fc_cells *l = &it->l;
    const int both = l->sets[2] == 2 && l->step[2] == 2 && it->p->problem.x_stride[FC_W] == 1;
    const ptrdiff_t set = (1 + both) * set_size(l, FC_HEIGHT, it->rows) * it->pitch;
    ptrdiff_t to = 0;
    for (ptrdiff_t d = 0; d < l->span[0]; d++)
        for (ptrdiff_t h = 0; h < l->sets[1]; h++)
            for (ptrdiff_t w = 0; w < l->sets[2]; w += 1 + both, to += set)
                fill_set(it, l->in0[0] + it->jd * l->step[0] + d, l->in0[1] + it->jh0 * l->step[1] + h,
                         l->in0[2] + it->jw0 * l->step[2] + w, both, to);
    memset(fc_to(it->p, it->strip, it->p->icg * it->channel), 0, (size_t)it->shared * it->p->work.kernels->size);
}

/* Offsets of all cells' taps in a strip, cell after cell. */
static void fill_taps(const item *it)
{
    const fc_cells *l = &it->l;
    const ptrdiff_t set = set_size(l, FC_HEIGHT, it->rows) * it->pitch, *step = l->step;
    ptrdiff_t *to = it->tap;
    for (ptrdiff_t i = 0; i < l->cells; i++) {
        const fc_cell c = fc_cell_of(l, i);
        const fc_axis *d = &c.f[0]->axis, *h = &c.f[1]->axis, *w = &c.f[2]->axis;
        for (ptrdiff_t td = 0; td < d->taps; td++)
            for (ptrdiff_t th = 0; th < h->taps; th++)
                for (ptrdiff_t tw = 0; tw < w->taps; tw++) {
                    const ptrdiff_t id = d->in0 - l->in0[0] + td * d->tap_step;
                    const ptrdiff_t ih = h->in0 - l->in0[1] + th * h->tap_step;
                    const ptrdiff_t iw = w->in0 - l->in0[2] + tw * w->tap_step;
                    *to++ = ((id * l->sets[1] + ih % step[1]) * l->sets[2] + iw % step[2]) * set +
                            ih / step[1] * it->pitch + iw / step[2];
                }
    }
}

/* The rows of some output channels in one cell: tiles ready but for their columns. */
typedef struct strand {
    fc_tile tile;
    ptrdiff_t panel, rows, phases; /* phases of the width: the cell's innermost */
    void *scratch;
} strand;

/* Some output channels in all cells of one family of the depth and one of the height. */
typedef struct band {
    const fc_family *d, *h;
    ptrdiff_t oc, ocs, strands;
    strand strand[FC_CELL_PHASES];
    ptrdiff_t phase[FC_CELL_PHASES],
        phase_line[FC_CELL_PHASES]; /* where the phases of the width lie in scratch; from oc to oc */
} band;

/* Where the next cell's panels begin. */
static const void *next_panel(const item *it, const fc_cell *c, const void *panel)
{
    const fc_conv_plan *p = it->p;
    return p->packed ? fc_at(p, panel, p->problem.groups * fc_cell_size(p, c, p->ocg))
                     : fc_at(p, panel, fc_cell_size(p, c, it->block.ocs));
}

static strand strand_of(const item *it, const band *a, const fc_cell *c, const void *panel, const ptrdiff_t *tap)
{
    const fc_conv_plan *p = it->p;
    strand s = { .panel = fc_cell_panel(p, c), .rows = a->ocs * c->phases, .phases = c->f[FC_WIDTH]->phases };
    s.tile = (fc_tile){ .channels = c->taps > 0 ? p->icg : 0,
                        .taps = c->taps,
                        .b_step = it->channel,
                        .tap = c->taps > 0 ? tap : NULL,
                        .packed = p->packed || !fc_weights_in_place(p),
                        .repeats = 1,
                        .first = 1,
                        .last = 1 };
    ptrdiff_t row = a->oc * c->phases;
    if (p->packed) {
        row += it->block.oc0 * c->phases;
        panel = fc_at(p, panel, it->block.group * fc_cell_size(p, c, p->ocg));
    }
    s.tile.w = fc_at(p, panel, row / p->work.kernels->mr * s.panel);
    if (s.tile.packed) return s;
    s.tile.w = fc_at(p, weights_at(p, it->b->w, &it->block), a->oc * p->problem.w_stride[0]);
    s.tile.w_row = p->problem.w_stride[0];
    return s;
}

/* A tile's bias, one a row: the user's, or, where an output channel has several rows, gathered in room. */
static const void *bias_rows(const item *it, const band *a, const strand *s, ptrdiff_t row, int rows, void *room)
{
    const fc_conv_plan *p = it->p;
    const ptrdiff_t phases = a->d->phases * a->h->phases * s->phases, oc = it->block.oc0 + a->oc;
    if (!it->b->bias || phases == 1) return fc_bias_row(p, it->b, it->block.group, oc + row);
    ptrdiff_t offset[FC_ROWS_MAX], channel = row / phases, phase = row % phases;
    for (int r = 0; r < rows; r++) {
        offset[r] = channel;
        if (++phase == phases) phase = 0, channel++;
    }
    p->work.kernels->gather(fc_bias_row(p, it->b, it->block.group, oc), offset, rows, room);
    return room;
}

/* y of one image and output channel, at a place of outputs along each axis. */
static void *output_at(const item *it, ptrdiff_t oc, ptrdiff_t od, ptrdiff_t oh, ptrdiff_t ow)
{
    const ptrdiff_t *s = it->p->problem.y_stride;
    return fc_to(it->p, fc_y_row(it->p, it->b, it->block.group, it->block.oc0 + oc),
                 it->n * s[FC_N] + od * s[FC_D] + oh * s[FC_H] + ow * s[FC_W]);
}

/* A strand's rows; t has the columns: b, lanes, and y of row 0 in y or in scratch. */
static void run_strand(const item *it, const band *a, const strand *s, fc_tile *t)
{
    const fc_conv_plan *p = it->p;
    const fc_kernels *k = p->work.kernels;
    for (ptrdiff_t row = 0;;) {
        _Alignas(FC_ALIGN) char bias[FC_ROWS_MAX * sizeof(double)];
        t->w = fc_at(p, s->tile.w, t->packed ? row / k->mr * s->panel : row * t->w_row);
        t->rows = (int)fc_min(k->mr, s->rows - row);
        t->bias = bias_rows(it, a, s, row, t->rows, bias);
        k->gemm_tile(t);
        if (!it->l.flat) fc_epilogue_tile(p, it->b, t);
        row += k->mr;
        if (row >= s->rows) return;
        for (int j = 0; j < t->vectors; j++) t->y[j] = fc_to(p, t->y[j], k->mr * t->y_row);
    }
}

/* The same where channels lie side by side in y. */
static void turn_piece(const item *it, const fc_weave *w)
{
    const fc_conv_plan *p = it->p;
    for (int f = 0; f < w->phases && f < w->n; f++)
        p->work.kernels->transpose(fc_at(p, w->from, w->phase[f]), w->lines, w->phase_line[f],
                                   fc_ceil_div(w->n - f, w->phases), fc_to(p, w->y, f * w->y_step),
                                   w->phases * w->y_step);
    for (ptrdiff_t j = 0; j < w->n && !it->finished; j++)
        fc_epilogue(p, it->b, fc_to(p, w->y, j * w->y_step), w->lines, 1);
}

/* From scratch to y: one phase of the depth and one of the height, row piece after row piece. */
static void weave_rows(const item *it, const band *a, ptrdiff_t d, ptrdiff_t h, ptrdiff_t column, ptrdiff_t wide)
{
    const fc_conv_plan *p = it->p;
    const fc_conv_problem *q = &p->problem;
    const ptrdiff_t end = column + wide, od = it->l.out_step[0] * it->jd + a->d->first + d;
    ptrdiff_t r = column / it->pitch, phase[FC_CELL_PHASES];
    for (ptrdiff_t f = 0; f < p->phases[2]; f++)
        phase[f] = a->phase[f] + (d * a->h->phases + h) * a->phase_line[f] / (a->d->phases * a->h->phases);
    if (od >= q->out_size[0]) return;
    for (ptrdiff_t from = column; from < end; from = ++r * it->pitch) {
        const ptrdiff_t jw = from - r * it->pitch;
        const ptrdiff_t oh = it->l.out_step[1] * (it->jh0 + r) + a->h->first + h,
                        ow = it->l.out_step[2] * (it->jw0 + jw);
        if (jw >= it->columns || oh >= q->out_size[1]) continue;
        const fc_weave piece = { .from = fc_at(p, it->scratch, from - column),
                                 .phase = phase,
                                 .phase_line = a->phase_line,
                                 .phases = (int)p->phases[2],
                                 .lines = a->ocs,
                                 .n = fc_min(fc_min(it->columns - jw, end - from) * p->phases[2], q->out_size[2] - ow),
                                 .y = output_at(it, a->oc, od, oh, ow),
                                 .y_line = q->y_stride[FC_C],
                                 .y_step = q->y_stride[FC_W] };
        if (side_by_side(p->ocg, q->y_stride)) {
            turn_piece(it, &piece);
            continue;
        }
        p->work.kernels->weave(&piece);
        for (ptrdiff_t line = 0; line < piece.lines && !it->finished; line++)
            fc_epilogue(p, it->b, fc_to(p, piece.y, line * piece.y_line), piece.n, piece.y_step);
    }
}

/* Columns of one strand into scratch: whole tiles in one call, and what is left. */
static void run_columns(const item *it, const band *a, const strand *s, ptrdiff_t column, ptrdiff_t wide)
{
    const fc_conv_plan *p = it->p;
    const ptrdiff_t lanes = p->work.kernels->lanes, tile = FC_VECTORS * lanes;
    for (ptrdiff_t at = 0, n; at < wide; at += n) {
        fc_tile t = s->tile;
        t.repeats = fc_max((wide - at) / tile, 1);
        n = fc_min(t.repeats * tile, wide - at);
        t.vectors = (int)fc_min(fc_ceil_div(n, lanes), FC_VECTORS);
        t.b_next = tile;
        t.y_row = scratch_columns(p);
        t.finish = it->finish;
        for (int j = 0; j < t.vectors; j++) {
            t.b[j] = fc_at(p, it->strip, column + at + j * lanes);
            t.lanes[j] = (int)fc_min(lanes, n - j * lanes);
            t.y[j] = fc_to(p, s->scratch, at + j * lanes);
        }
        run_strand(it, a, s, &t);
    }
}

static void run_flat(item *it, const band *a)
{
    const fc_conv_plan *p = it->p;
    const ptrdiff_t all = (it->rows - 1) * it->pitch + it->columns, most = scratch_columns(p);
    it->finished = fc_epilogue_clamps(p, &it->finish);
    for (ptrdiff_t column = 0; column < all; column += most) {
        const ptrdiff_t wide = fc_min(most, all - column);
        for (const strand *s = a->strand; s < a->strand + a->strands; s++) run_columns(it, a, s, column, wide);
        for (ptrdiff_t d = 0; d < a->d->phases; d++)
            for (ptrdiff_t h = 0; h < a->h->phases; h++) weave_rows(it, a, d, h, column, wide);
    }
}

/* A tile may end in half a vector, which costs less: the tail of a row goes there. */
static void half_last(fc_tile *t, int half)
{
    const int last = t->vectors - 1;
    for (int j = 0; j < last && t->lanes[last] > half; j++) {
        if (t->lanes[j] > half) continue;
        const int lanes = t->lanes[j];
        const void *b = t->b[j];
        void *y = t->y[j];
        t->lanes[j] = t->lanes[last], t->b[j] = t->b[last], t->y[j] = t->y[last];
        t->lanes[last] = lanes, t->b[last] = b, t->y[last] = y;
    }
}

/* Each tile fetches a channel's run, at every step a share of it; or, where there are fewer tiles than channels, some lines of
 * every channel's, at every step one. */
static void fetch_soon(item *it, fc_tile *t)
{
    const ptrdiff_t channel = it->p->problem.x_stride[FC_C] * (ptrdiff_t)it->p->work.kernels->size;
    t->ahead = NULL;
    t->ahead_step = t->ahead_channel = t->ahead_next = 0;
    if (it->soon_left <= 0) return;
    t->ahead = it->soon;
    if (it->soon_by_lines) {
        t->ahead_step = FC_ALIGN;
        t->ahead_next = t->taps * FC_ALIGN;
        t->ahead_channel = channel - t->ahead_next;
        it->soon_left -= t->repeats * t->ahead_next;
    } else {
        t->ahead_step = fc_ceil_div(it->soon_bytes, t->channels * t->taps);
        t->ahead_next = channel;
        it->soon_left -= t->repeats;
    }
    it->soon += t->repeats * t->ahead_next;
}

static void run_along_rows(item *it, const band *a)
{
    const fc_conv_plan *p = it->p;
    const ptrdiff_t lanes = p->work.kernels->lanes, *s = p->problem.y_stride;
    const ptrdiff_t across = fc_ceil_div(it->columns, lanes), vectors = it->rows * across;
    char *y = output_at(it, a->oc, it->jd, it->jh0, it->jw0);
    fc_tile t = a->strand->tile;
    t.y_row = s[FC_C];
    t.b_next = FC_VECTORS * lanes;
    fc_epilogue_within(p, it->b, &t);
    ptrdiff_t r = 0, i = 0;
    for (ptrdiff_t v = 0; v < vectors; v += FC_VECTORS * t.repeats) {
        t.vectors = (int)fc_min(FC_VECTORS, vectors - v);
        t.repeats = fc_max((it->columns / lanes - i) / FC_VECTORS, 1); /* whole tiles in this row */
        for (int j = 0; j < t.vectors; j++) {
            t.b[j] = fc_at(p, it->strip, r * it->pitch + i * lanes);
            t.lanes[j] = (int)fc_min(lanes, it->columns - i * lanes);
            t.y[j] = fc_to(p, y, r * s[FC_H] + i * lanes);
            if (j == t.vectors - 1) i += FC_VECTORS * (t.repeats - 1);
            if (++i == across) i = 0, r++;
        }
        half_last(&t, (int)lanes / 2);
        fetch_soon(it, &t);
        run_strand(it, a, a->strand, &t);
    }
}

/* All output channels in the cells from the i-th on that differ in their family of the width. */
static void run_cells(item *it, ptrdiff_t i, const void *panel, const ptrdiff_t *tap)
{
    const fc_conv_plan *p = it->p;
    const fc_cells *l = &it->l;
    const fc_kernels *k = p->work.kernels;
    const fc_cell first = fc_cell_of(l, i);
    const ptrdiff_t lines = first.f[0]->phases * first.f[1]->phases, width = scratch_columns(p);
    const ptrdiff_t most = l->flat ? scratch_channels(p) : k->mr;
    band a = { .d = first.f[0], .h = first.f[1], .strands = l->families[FC_WIDTH] };
    for (; a.oc < it->block.ocs; a.oc += most) {
        const void *w = panel;
        const ptrdiff_t *t = tap;
        a.ocs = fc_min(most, it->block.ocs - a.oc);
        for (ptrdiff_t s = 0; s < a.strands; s++) {
            const fc_cell c = fc_cell_of(l, i + s);
            const fc_family *f = c.f[FC_WIDTH];
            const ptrdiff_t at = f->first * lines * a.ocs * width;
            a.strand[s] = strand_of(it, &a, &c, w, t);
            a.strand[s].scratch = fc_to(p, it->scratch, at);
            for (ptrdiff_t j = 0; j < f->phases; j++) {
                a.phase[f->first + j] = at + j * width;
                a.phase_line[f->first + j] = lines * f->phases * width;
            }
            w = next_panel(it, &c, w);
            t += c.taps;
        }
        (l->flat ? run_flat : run_along_rows)(it, &a);
    }
}

static void run_item(item *it)
{
    const fc_cells *l = &it->l;
    const void *panel = it->p->packed ? it->b->w : it->room;
    const ptrdiff_t *tap = it->tap;
    for (ptrdiff_t i = 0; i < l->cells; i++) {
        const fc_cell c = fc_cell_of(l, i);
        if (i % l->families[FC_WIDTH] == 0) run_cells(it, i, panel, tap);
        panel = next_panel(it, &c, panel);
        tap += c.taps;
    }
}

/* The next item is the band of rows below this one, as a rule. */
static void look_ahead(item *it, int more)
{
    const fc_conv_plan *p = it->p;
    const fc_kernels *k = p->work.kernels;
    const ptrdiff_t *s = p->problem.x_stride, step = it->l.step[FC_HEIGHT];
    const ptrdiff_t rows = fc_min(it->rows, it->l.n[FC_HEIGHT] - it->jh0 - it->rows) * step;
    const ptrdiff_t tiles = fc_ceil_div(it->block.ocs, k->mr) * (it->rows * it->columns / (FC_VECTORS * k->lanes));
    const ptrdiff_t ih = it->l.in0[FC_HEIGHT] + it->jh0 * step +
                         it->l.sets[FC_HEIGHT] * set_size(&it->l, FC_HEIGHT, it->rows);
    it->soon_left = 0;
    if (!more || it->l.flat || p->column_blocks > 1 || p->problem.size[FC_DEPTH] > 1) return;
    if (rows <= 0 || ih < 0 || ih + rows > p->problem.size[FC_HEIGHT] || s[FC_W] != 1 || s[FC_H] < 0) return;
    it->soon = fc_at(p, it->b->x, it->n * s[FC_N] + it->block.group * p->icg * s[FC_C] + ih * s[FC_H]);
    it->soon_bytes = rows * s[FC_H] * (ptrdiff_t)k->size;
    it->soon_by_lines = tiles < p->icg;
    it->soon_left = it->soon_by_lines ? it->soon_bytes : p->icg;
}

static ptrdiff_t run(const fc_work *work, const fc_buffers *b, void *workspace, ptrdiff_t at, ptrdiff_t end,
                     double deadline)
{
    const fc_conv_plan *p = (const fc_conv_plan *)work;
    item it = { .p = p, .b = b, .tap = workspace };
    fc_cells_block held = { -1, -1, -1 };
    lay_out(p, &it.l);
    const ptrdiff_t room = room_of(p, &it.l, p->row_block);
    it.room = (char *)workspace + tap_bytes(p);
    it.scratch = fc_to(p, it.room, room);
    it.strip = fc_to(p, it.scratch, scratch_size(p, &it.l));
    while (at < end) {
        place(&it, at++);
        if (room > 0 && (it.block.group != held.group || it.block.oc0 != held.oc0))
            fc_cells_pack(p, &it.l, &it.block, b->w, 0, 1, it.room);
        held = it.block;
        fill_taps(&it);
        fill_strip(&it);
        look_ahead(&it, at < end);
        run_item(&it);
        if (fc_late(deadline)) break;
    }
    return at;
}

const fc_algo fc_algo_direct = { "direct", "highest", cannot, should_not, book, pack, run, weights_of };
