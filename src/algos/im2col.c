/* im2col + GEMM, a panel at a time: y[oc][p] = w[oc][k] * patches[k][p], never the whole matrix of patches.
 *
 * k runs over (ic, kd, kh, kw), columns p over (batch, od, oh, ow). An item is a block of columns by a block of output
 * channels. Its columns are packed as tiles of up to three vectors,
 *     panel[tile][k][vectors * lanes]
 * zero padding on the way, channel after channel for one tap, so that the innermost loop of packing is a masked load and
 * a store. The panel stays in L2 while mr rows of weights after mr rows meet all of it. */
#include "algos.h"

enum {
    PANEL_BYTES = 224 << 10, /* in L2 beside weights, image and outputs; 160 to 320 KB were level, 512 slower */
    CHAIN_BYTES = 1 << 20,       /* a longer chain is blocked: the sums rest in y */
    PACK_COST = 6,               /* packing a vector, in multiply-adds of a vector: trials on ResNet-50, AVX-512 */
    PACK_CHANNELS = 16,          /* packed at a time for all taps: their image rows stay in L1 and in the first TLB */
    PACK_TAPS = 12               /* taps whose pieces are held at a time */
};

/* Elements for packing weights a block of rows at a time, where the user's order does not run along the chain. */
static ptrdiff_t room_of(const fc_conv_plan *p, ptrdiff_t chain)
{
    if (p->packed || fc_weights_in_place(p)) return 0;
    return fc_round_up(fc_min(p->k_block, fc_max(chain, 1)) * p->work.kernels->mr, FC_ALIGN);
}

static const char *cannot(const fc_conv_plan *p)
{
    (void)p;
    return NULL;
}

static const char *should_not(const fc_conv_plan *p)
{
    (void)p;
    return NULL;
}

static void book(fc_conv_plan *p)
{
    const fc_kernels *k = p->work.kernels;
    fc_phase f;
    fc_phase_longest(p, &f);
    const ptrdiff_t vectors = fc_ceil_div(p->problem.batch * f.outputs, k->lanes), chain = p->icg * f.taps;
    p->k_block = fc_max(CHAIN_BYTES / (FC_VECTORS * k->lanes * (ptrdiff_t)k->size), 1);
    if (f.taps > 0 && f.taps <= p->k_block) p->k_block -= p->k_block % f.taps;
    const ptrdiff_t held = fc_min(p->k_block, fc_max(chain, 1));
    const ptrdiff_t fit = PANEL_BYTES / (held * k->lanes * (ptrdiff_t)k->size);
    const ptrdiff_t panel = fc_max(fit - fit % FC_VECTORS, FC_VECTORS);
    fc_grid_book(p, p->problem.batch * f.outputs, panel, fc_phases(p) * p->problem.groups, PACK_COST);
    p->column_block = fc_block_longest(vectors, p->column_blocks);
    p->work.workspace_bytes = (size_t)(room_of(p, chain) + p->column_block * k->lanes * held) * k->size;
}

/* The pieces of image rows under one vector of columns, before a tap is chosen. */
typedef struct segment {
    ptrdiff_t n, jd, jh, jw;
    int first, end;
} segment;

static int segments_of(const fc_conv_plan *p, const fc_phase *f, ptrdiff_t column, segment *s)
{
    const ptrdiff_t nw = f->axis[FC_WIDTH].n, nh = f->axis[FC_HEIGHT].n, nd = f->axis[FC_DEPTH].n;
    const ptrdiff_t columns = p->problem.batch * f->outputs;
    ptrdiff_t jw = column % nw, jh = column / nw % nh, jd = column / (nw * nh) % nd, n = column / f->outputs;
    int count = 0, lane = 0;
    const int lanes = (int)fc_min(p->work.kernels->lanes, columns - column);
    while (lane < lanes) {
        const int length = (int)fc_min(nw - jw, lanes - lane);
        s[count++] = (segment){ n, jd, jh, jw, lane, lane + length };
        lane += length;
        jw = 0;
        if (++jh == nh) {
            jh = 0;
            if (++jd == nd) jd = 0, n++;
        }
    }
    return count;
}

/* The pieces of one vector of columns that one tap finds inside the image. */
static int pieces_of(const fc_conv_plan *p, const fc_phase *f, const segment *s, int count, ptrdiff_t tap,
                     fc_piece *piece)
{
    const fc_axis *d = &f->axis[FC_DEPTH], *h = &f->axis[FC_HEIGHT], *w = &f->axis[FC_WIDTH];
    const ptrdiff_t *stride = p->problem.x_stride;
    const ptrdiff_t tw = tap % w->taps, th = tap / w->taps % h->taps, td = tap / (w->taps * h->taps);
    int pieces = 0;
    ptrdiff_t valid, valid_end;
    fc_valid(w, tw, &valid, &valid_end);
    for (int i = 0; i < count; i++) {
        const ptrdiff_t id = d->in0 + s[i].jd * d->in_step + td * d->tap_step;
        const ptrdiff_t ih = h->in0 + s[i].jh * h->in_step + th * h->tap_step;
        if (id < 0 || id >= d->size || ih < 0 || ih >= h->size) continue;
        /* lane l of this segment is output jw + (l - first) */
        const ptrdiff_t to_lane = s[i].first - s[i].jw;
        const int first = (int)fc_max(s[i].first, fc_min(valid + to_lane, s[i].end));
        const int end = (int)fc_min(s[i].end, fc_max(valid_end + to_lane, s[i].first));
        if (first >= end) continue;
        piece[pieces++] = (fc_piece){
            .at = s[i].n * stride[FC_N] + id * stride[FC_D] + ih * stride[FC_H] +
                  (w->in0 - to_lane * w->in_step + tw * w->tap_step) * stride[FC_W],
            .first = first,
            .end = end,
        };
    }
    return pieces;
}

/* A block of the chain: channels of all taps, or some taps of one channel. */
typedef struct chain_block {
    ptrdiff_t channel, channels, tap, taps;
} chain_block;

static void pack_vector(const fc_conv_plan *p, const fc_phase *f, const segment *s, int count, const chain_block *c,
                        const void *x, void *to, ptrdiff_t pitch)
{
    const ptrdiff_t x_c = p->problem.x_stride[FC_C], step = f->axis[FC_WIDTH].in_step * p->problem.x_stride[FC_W];
    for (ptrdiff_t t0 = 0; t0 < c->taps; t0 += PACK_TAPS) {
        fc_piece piece[PACK_TAPS][FC_LANES_MAX];
        int pieces[PACK_TAPS];
        const int taps = (int)fc_min(PACK_TAPS, c->taps - t0);
        for (int t = 0; t < taps; t++) pieces[t] = pieces_of(p, f, s, count, c->tap + t0 + t, piece[t]);
        for (ptrdiff_t channel = 0; channel < c->channels; channel += PACK_CHANNELS)
            for (int t = 0; t < taps; t++)
                p->work.kernels->pack_columns(fc_at(p, x, channel * x_c), fc_min(PACK_CHANNELS, c->channels - channel),
                                              x_c, piece[t], pieces[t], step,
                                              fc_to(p, to, (channel * c->taps + t0 + t) * pitch), c->taps * pitch);
    }
}

static void pack_panel(const fc_conv_plan *p, const fc_phase *f, const fc_buffers *b, ptrdiff_t group,
                       ptrdiff_t vector0, ptrdiff_t vectors, const chain_block *c, void *panel)
{
    const ptrdiff_t lanes = p->work.kernels->lanes, steps = c->channels * c->taps;
    const void *x = fc_at(p, b->x, (group * p->icg + c->channel) * p->problem.x_stride[FC_C]);
    for (ptrdiff_t v = 0; v < vectors; v++) {
        segment s[FC_LANES_MAX];
        const int count = segments_of(p, f, (vector0 + v) * lanes, s);
        const ptrdiff_t tile = v - v % FC_VECTORS, pitch = fc_min(FC_VECTORS, vectors - tile) * lanes;
        pack_vector(p, f, s, count, c, x, fc_to(p, panel, tile * lanes * steps + (v - tile) * lanes), pitch);
    }
}

static chain_block next_block(const fc_conv_plan *p, const fc_phase *f, const chain_block *c)
{
    if (f->taps <= p->k_block) {
        const ptrdiff_t channel = c->channel + c->channels;
        const ptrdiff_t most = fc_max(p->k_block / fc_max(f->taps, 1), 1);
        return (chain_block){ channel, fc_min(most, p->icg - channel), 0, f->taps };
    }
    if (c->tap + c->taps < f->taps) {
        const ptrdiff_t tap = c->tap + c->taps;
        return (chain_block){ c->channel, 1, tap, fc_min(p->k_block, f->taps - tap) };
    }
    return (chain_block){ c->channel + 1, 1, 0, p->k_block };
}

static ptrdiff_t run(const fc_work *work, const fc_buffers *b, void *workspace, ptrdiff_t item, ptrdiff_t end,
                     double deadline)
{
    const fc_conv_plan *p = (const fc_conv_plan *)work;
    const fc_kernels *k = p->work.kernels;
    const ptrdiff_t rows = fc_ceil_div(p->ocg, k->mr), in_group = p->column_blocks * p->row_blocks;
    ptrdiff_t held = -1; /* whose columns the panel holds */
    fc_phase f = { .index = -1 };
    for (; item < end; item++) {
        const ptrdiff_t index = item / (in_group * p->problem.groups), group = item / in_group % p->problem.groups;
        const ptrdiff_t block = item / p->row_blocks % p->column_blocks, row_block = item % p->row_blocks;
        if (index != f.index) fc_phase_of(p, index, &f);
        const ptrdiff_t vectors = fc_ceil_div(p->problem.batch * f.outputs, k->lanes);
        const ptrdiff_t v0 = fc_block_start(vectors, block, p->column_blocks),
                        v1 = fc_block_start(vectors, block + 1, p->column_blocks);
        const ptrdiff_t row0 = fc_share(rows, row_block, p->row_blocks) * k->mr;
        const ptrdiff_t row_end = fc_min(fc_share(rows, row_block + 1, p->row_blocks) * k->mr, p->ocg);
        const ptrdiff_t chain = p->icg * f.taps;
        const ptrdiff_t room = room_of(p, chain);
        void *panel = fc_to(p, workspace, room);
        chain_block c = { 0, 0, 0, 0 };
        do {
            c = next_block(p, &f, &c);
            const int whole = c.channels * c.taps == chain;
            if (!whole || held != item / p->row_blocks) pack_panel(p, &f, b, group, v0, v1 - v0, &c, panel);
            held = whole ? item / p->row_blocks : -1;
            const ptrdiff_t columns = fc_min(v1 * k->lanes, p->problem.batch * f.outputs) - v0 * k->lanes;
            fc_block_run(p, &f, b,
                         &(fc_block){ group, row0, row_end, v0 * k->lanes, columns, c.channel, c.channels, c.tap,
                                      c.taps, panel, NULL, room ? workspace : NULL, NULL });
        } while (c.channel + c.channels < p->icg || c.tap + c.taps < f.taps);
        if (fc_late(deadline)) return item + 1;
    }
    return item;
}

const fc_algo fc_algo_im2col = { "im2col", "highest",       cannot, should_not,
                                 book,     fc_weights_pack, run,    fc_weights_of_output };
