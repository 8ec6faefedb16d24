/* How the phases of a transposed convolution are computed together. Those along an axis that read the same inputs are a family:
 * they differ in their weights alone. A cell is a family of the depth, one of the height and one of the width: its phases are
 * rows of the same tiles, beside the output channels. A convolution that is not transposed is one cell of one phase.
 *
 * A cell's packed weights are panels
 *     [group][row / mr][channel * taps + tap][row % mr],   row = ((oc * phases_d + d) * phases_h + h) * phases_w + w */
#include <string.h>
#include "algos.h"

enum {
    CELL_PHASES = 256, /* whose weights of one tap fit a line */
    PACK_ROWS = 256, /* of all cells, packed at a time: streams of panels that L1 holds */
    PACK_CHANNELS = 8, /* output channels, the least of them */
    TURNED_TAPS = 512,
    LINE_BYTES = 34
        << 10 /* weights of one input channel that wait for their places; weaving reads a vector past them */
};

static void lay_out_axis(const fc_conv_plan *p, int axis, fc_cells *l)
{
    ptrdiff_t first = PTRDIFF_MAX, end = PTRDIFF_MIN, count = 0;
    for (ptrdiff_t phase = 0; phase < p->phases[axis]; phase++) {
        fc_axis a;
        fc_phase_axis(p, axis, phase, &a);
        l->k0[axis][phase] = a.k0;
        fc_family *last = count > 0 ? &l->family[axis][count - 1] : NULL;
        if (last && last->axis.taps == a.taps && last->axis.in0 == a.in0) {
            last->phases++;
            continue;
        }
        l->family[axis][count++] = (fc_family){ phase, 1, a };
        if (a.taps == 0) continue;
        first = fc_min(first, a.in0);
        end = fc_max(end, a.in0 + (a.taps - 1) * a.tap_step + 1);
    }
    const fc_axis *a = &l->family[axis]->axis;
    l->families[axis] = count;
    l->in0[axis] = end > first ? first : 0;
    l->span[axis] = end > first ? end - first : 1;
    l->step[axis] = a->in_step;
    l->out_step[axis] = a->out_step;
    l->sets[axis] = fc_min(a->in_step, l->span[axis]);
    l->n[axis] = a->n; /* phase 0 starts first */
}

const char *fc_cells_cannot(const fc_conv_plan *p)
{
    for (int axis = 0; axis < FC_SPATIAL; axis++)
        if (p->phases[axis] > FC_CELL_PHASES) return "the stride has more phases than the scratch takes";
    return fc_phases(p) > CELL_PHASES ? "the strides have more phases than a line of weights takes" : NULL;
}

void fc_cells_of(const fc_conv_plan *p, fc_cells *l)
{
    l->cells = 1;
    for (int axis = 0; axis < FC_SPATIAL; axis++) {
        lay_out_axis(p, axis, l);
        l->cells *= l->families[axis];
    }
}

fc_cell fc_cell_of(const fc_cells *l, ptrdiff_t i)
{
    const ptrdiff_t *n = l->families;
    const fc_family *w = &l->family[FC_WIDTH][i % n[FC_WIDTH]];
    const fc_family *h = &l->family[FC_HEIGHT][i / n[FC_WIDTH] % n[FC_HEIGHT]];
    const fc_family *d = &l->family[FC_DEPTH][i / n[FC_WIDTH] / n[FC_HEIGHT]];
    return (fc_cell){ { d, h, w }, d->phases * h->phases * w->phases, d->axis.taps * h->axis.taps * w->axis.taps };
}

ptrdiff_t fc_cell_panel(const fc_conv_plan *p, const fc_cell *c)
{
    const ptrdiff_t size = (ptrdiff_t)p->work.kernels->size, panel = p->icg * c->taps * p->work.kernels->mr;
    /* powers of two apart, panels that are written side by side would meet in few sets of the cache */
    return panel * size % 1024 == 0 ? panel + 2 * FC_ALIGN / size : panel;
}

ptrdiff_t fc_cell_size(const fc_conv_plan *p, const fc_cell *c, ptrdiff_t ocs)
{
    return fc_ceil_div(ocs * c->phases, p->work.kernels->mr) * fc_cell_panel(p, c);
}

ptrdiff_t fc_cells_size(const fc_conv_plan *p, const fc_cells *l, ptrdiff_t ocs)
{
    ptrdiff_t size = 0;
    for (ptrdiff_t i = 0; i < l->cells; i++) {
        const fc_cell c = fc_cell_of(l, i);
        size += fc_cell_size(p, &c, ocs);
    }
    return size;
}

/* The user's weights of one input channel and some output channels, on their way into panels. Where they are few enough they are
 * turned at once, into lines[tap of the kernel][oc]; else a tap is gathered at a time, into lines[phase][oc]. */
typedef struct source {
    const fc_conv_plan *p;
    const fc_cells *l;
    const void *w;
    ptrdiff_t ocs, oc_stride, pitch;
    int turned, in_order; /* lie as the rows of the only cell do */
    ptrdiff_t place[TURNED_TAPS]; /* in lines: of all cells, their taps, their phases */
    _Alignas(FC_ALIGN) char lines[LINE_BYTES], line[LINE_BYTES];
} source;

/* Taps of the kernel that are tap t of a cell, phase after phase: their places in lines, or in the user's weights. */
static ptrdiff_t find_places(const source *s, const fc_cell *c, ptrdiff_t t, ptrdiff_t *to)
{
    const ptrdiff_t *k = s->p->problem.kernel, *stride = s->p->problem.w_stride + 2;
    const fc_axis *d = &c->f[0]->axis, *h = &c->f[1]->axis, *w = &c->f[2]->axis;
    const ptrdiff_t td = t / (w->taps * h->taps) * d->k_step, th = t / w->taps % h->taps * h->k_step,
                    tw = t % w->taps * w->k_step;
    for (ptrdiff_t fd = 0; fd < c->f[0]->phases; fd++)
        for (ptrdiff_t fh = 0; fh < c->f[1]->phases; fh++)
            for (ptrdiff_t fw = 0; fw < c->f[2]->phases; fw++) {
                const ptrdiff_t kd = s->l->k0[0][c->f[0]->first + fd] + td, kh = s->l->k0[1][c->f[1]->first + fh] + th,
                                kw = s->l->k0[2][c->f[2]->first + fw] + tw;
                *to++ = s->turned ? ((kd * k[1] + kh) * k[2] + kw) * s->pitch
                                  : kd * stride[0] + kh * stride[1] + kw * stride[2];
            }
    return c->phases;
}

static void gather_lines(source *s, ptrdiff_t phases, ptrdiff_t place[CELL_PHASES])
{
    for (ptrdiff_t f = 0; f < phases; f++) {
        const ptrdiff_t from = place[f];
        place[f] = f * s->pitch;
        const fc_rows row = { .x = fc_at(s->p, s->w, from),
                              .rows = 1,
                              .step = s->oc_stride,
                              .end = s->ocs,
                              .n = s->ocs,
                              .to = fc_to(s->p, s->lines, place[f]) };
        s->p->work.kernels->pad_rows(&row);
    }
}

/* Weights of one channel into a cell's panels, `panel` elements apart. */
static void pack_cell(source *s, const fc_cell *c, const ptrdiff_t *place, void *to, ptrdiff_t panel)
{
    const fc_kernels *k = s->p->work.kernels;
    const ptrdiff_t rows = s->ocs * c->phases, line = 0;
    ptrdiff_t gathered[CELL_PHASES];
    for (ptrdiff_t t = 0; t < c->taps; t++, to = fc_to(s->p, to, k->mr), place += c->phases) {
        if (!s->turned) {
            place = gathered;
            gather_lines(s, find_places(s, c, t, gathered), gathered);
        }
        const fc_weave weave = { .from = s->lines,
                                 .phase = place,
                                 .phase_line = &line,
                                 .phases = (int)c->phases,
                                 .lines = 1,
                                 .n = rows,
                                 .y = s->line,
                                 .y_step = 1 };
        const void *from = s->in_order ? s->w : c->phases > 1 ? s->line : fc_at(s->p, s->lines, place[0]);
        if (from == s->line) k->weave(&weave);
        k->deal(from, rows, to, panel);
    }
}

/* How the user's weights lie, and where each goes. */
static void look_at(source *s, const fc_conv_plan *p, const fc_cells *l)
{
    const ptrdiff_t *k = p->problem.kernel, *stride = p->problem.w_stride, taps = k[0] * k[1] * k[2];
    s->p = p;
    s->l = l;
    s->oc_stride = stride[p->problem.transposed ? 1 : 0];
    s->pitch = fc_max(fc_round_up(PACK_ROWS / fc_phases(p), PACK_CHANNELS), PACK_CHANNELS);
    s->turned = (k[2] == 1 || stride[4] == 1) && (k[1] == 1 || stride[3] == k[2]) &&
                (k[0] == 1 || stride[2] == k[1] * k[2]) && taps <= TURNED_TAPS &&
                (taps * s->pitch + p->work.kernels->lanes) * (ptrdiff_t)p->work.kernels->size <= LINE_BYTES;
    ptrdiff_t *place = s->place;
    s->in_order = s->turned && l->cells == 1 && fc_phases(p) == taps && s->oc_stride == taps;
    for (ptrdiff_t i = 0; i < l->cells && s->turned; i++) {
        const fc_cell c = fc_cell_of(l, i);
        for (ptrdiff_t t = 0; t < c.taps; t++) place += find_places(s, &c, t, place);
    }
    for (ptrdiff_t t = 0; t < taps && s->in_order; t++) s->in_order = s->place[t] == t * s->pitch;
}

/* Hardware does not foresee the next channel's weights: they lie on another page. */
static void fetch(const void *at, ptrdiff_t bytes)
{
    for (ptrdiff_t i = 0; i < bytes; i += FC_ALIGN) __builtin_prefetch((const char *)at + i);
}

void fc_cells_pack(const fc_conv_plan *p, const fc_cells *l, const fc_cells_block *b, const void *w, ptrdiff_t at,
                   ptrdiff_t groups, void *to)
{
    const fc_kernels *kernels = p->work.kernels;
    const ptrdiff_t *k = p->problem.kernel, *stride = p->problem.w_stride, taps = k[0] * k[1] * k[2];
    const ptrdiff_t first = p->problem.transposed ? b->group * p->icg : b->group * p->ocg;
    const ptrdiff_t ic_stride = stride[p->problem.transposed ? 0 : 1], size = (ptrdiff_t)kernels->size;
    source s;
    look_at(&s, p, l);
    for (ptrdiff_t oc = 0; oc < b->ocs; oc += s.pitch) {
        s.ocs = fc_min(s.pitch, b->ocs - oc);
        s.w = fc_at(p, w, first * stride[0] + (b->oc0 + oc) * s.oc_stride);
        for (ptrdiff_t channel = 0; channel < p->icg; channel++, s.w = fc_at(p, s.w, ic_stride)) {
            const ptrdiff_t *place = s.place;
            char *panels = to;
            if (s.turned && !s.in_order) kernels->transpose(s.w, s.ocs, s.oc_stride, taps, s.lines, s.pitch);
            if (s.oc_stride == taps && channel + 1 < p->icg) fetch(fc_at(p, s.w, ic_stride), s.ocs * taps * size);
            for (ptrdiff_t i = 0; i < l->cells; i++) {
                const fc_cell c = fc_cell_of(l, i);
                const ptrdiff_t all = fc_cell_size(p, &c, b->ocs), panel = fc_cell_panel(p, &c), mr = kernels->mr;
                const ptrdiff_t first_row = oc * c.phases / mr;
                pack_cell(&s, &c, place, fc_to(p, panels, at * all + first_row * panel + channel * c.taps * mr), panel);
                panels = fc_to(p, panels, groups * all);
                if (s.turned) place += c.taps * c.phases;
            }
        }
    }
}

void fc_cells_weights_of(const fc_conv_plan *p, const fc_cells *l, const fc_buffers *b, const fc_phase *f, ptrdiff_t oc,
                         fc_chain *chain)
{
    fc_weights_of_output(p, b, f, oc, chain);
    const ptrdiff_t mr = p->work.kernels->mr;
    const void *panel = b->w;
    for (ptrdiff_t i = 0; i < l->cells && p->packed; i++) {
        const fc_cell c = fc_cell_of(l, i);
        const ptrdiff_t size = fc_cell_size(p, &c, p->ocg);
        ptrdiff_t row = oc % p->ocg;
        int within = 1;
        for (int axis = 0; axis < FC_SPATIAL; axis++) {
            const ptrdiff_t at = f->axis[axis].out0 - c.f[axis]->first;
            within = within && at >= 0 && at < c.f[axis]->phases;
            row = row * c.f[axis]->phases + at;
        }
        if (within) {
            chain->w = fc_at(p, panel, oc / p->ocg * size + row / mr * fc_cell_panel(p, &c) + row % mr);
            chain->w_channel = c.taps * mr;
            chain->w_tap[2] = mr;
            chain->w_tap[1] = f->axis[2].taps * mr;
            chain->w_tap[0] = f->axis[1].taps * f->axis[2].taps * mr;
        }
        panel = fc_at(p, panel, p->problem.groups * size);
    }
}
