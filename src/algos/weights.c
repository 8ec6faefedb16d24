/* Weights as the tiles read them: in place (rows of OIHW are sequential streams of broadcasts), or in panels of mr rows,
 *     packed[phase][group][row / mr][channel * taps + tap][row % mr]
 * made once for a layer, or a block at a time where the user's order does not run along the chain. */
#include <string.h>
#include "algos.h"

/* Strides of output row, input channel and tap in the user's array. */
static ptrdiff_t row_stride(const fc_conv_plan *p) { return p->problem.w_stride[p->problem.transposed ? 1 : 0]; }
static ptrdiff_t channel_stride(const fc_conv_plan *p) { return p->problem.w_stride[p->problem.transposed ? 0 : 1]; }

static const void *element(const fc_conv_plan *p, const void *w, ptrdiff_t group, ptrdiff_t row, ptrdiff_t channel)
{
    const fc_conv_problem *q = &p->problem;
    const ptrdiff_t first = q->transposed ? group * p->icg : group * p->ocg;
    return fc_at(p, w, first * q->w_stride[0] + row * row_stride(p) + channel * channel_stride(p));
}

int fc_weights_in_place(const fc_conv_plan *p)
{
    const fc_conv_problem *q = &p->problem;
    const ptrdiff_t *k = q->kernel, *s = q->w_stride;
    return !q->transposed && (k[2] == 1 || s[4] == 1) && (k[1] == 1 || s[3] == k[2]) &&
           (k[0] == 1 || s[2] == k[1] * k[2]) && (p->icg == 1 || s[1] == k[0] * k[1] * k[2]);
}

size_t fc_weights_packed_bytes(const fc_conv_plan *p)
{
    const ptrdiff_t *k = p->problem.kernel;
    const ptrdiff_t rows = fc_round_up(p->ocg, p->work.kernels->mr);
    return (size_t)(p->problem.groups * rows * p->icg * k[0] * k[1] * k[2]) * p->work.kernels->size;
}

static void pack_rows(const fc_conv_plan *p, const fc_phase *f, const void *w, ptrdiff_t group, ptrdiff_t row,
                      ptrdiff_t channel0, ptrdiff_t channels, ptrdiff_t tap0, ptrdiff_t taps, void *to)
{
    const fc_axis *a = f->axis;
    const ptrdiff_t *s = p->problem.w_stride + 2;
    fc_weight_block block = {
        .row = row_stride(p),
        .rows = fc_min(p->work.kernels->mr, p->ocg - row),
        .channel = channel_stride(p),
        .channels = channels,
    };
    for (int axis = 0; axis < FC_SPATIAL; axis++) {
        block.tap[axis] = a[axis].k_step * s[axis];
        block.taps[axis] = a[axis].taps;
    }
    const void *from = element(p, w, group, row, channel0);
    if (taps == f->taps) {
        block.w = fc_at(p, from, a[0].k0 * s[0] + a[1].k0 * s[1] + a[2].k0 * s[2]);
        p->work.kernels->pack_weights(&block, to);
        return;
    }
    /* a chain cut within one channel's taps: tap by tap */
    block.taps[0] = block.taps[1] = block.taps[2] = 1;
    for (ptrdiff_t t = tap0; t < tap0 + taps; t++) {
        const ptrdiff_t tw = t % a[2].taps, th = t / a[2].taps % a[1].taps, td = t / a[2].taps / a[1].taps;
        block.w = fc_at(p, from,
                        (a[0].k0 + td * a[0].k_step) * s[0] + (a[1].k0 + th * a[1].k_step) * s[1] +
                            (a[2].k0 + tw * a[2].k_step) * s[2]);
        p->work.kernels->pack_weights(&block, to);
        to = fc_to(p, to, p->work.kernels->mr);
    }
}

static ptrdiff_t packed_offset(const fc_conv_plan *p, const fc_phase *f, ptrdiff_t group, ptrdiff_t row)
{
    const ptrdiff_t rows = fc_round_up(p->ocg, p->work.kernels->mr);
    return p->icg * (f->taps_before * p->problem.groups * rows + f->taps * (group * rows + row));
}

void fc_weights_pack(const fc_conv_plan *p, const void *w, void *packed)
{
    for (ptrdiff_t index = 0; index < fc_phases(p); index++) {
        fc_phase f;
        fc_phase_of(p, index, &f);
        for (ptrdiff_t group = 0; group < p->problem.groups; group++)
            for (ptrdiff_t row = 0; row < p->ocg; row += p->work.kernels->mr)
                pack_rows(p, &f, w, group, row, 0, p->icg, 0, f.taps,
                          fc_to(p, packed, packed_offset(p, &f, group, row)));
    }
}

void fc_weights_turn(const fc_conv_plan *p, const void *w, ptrdiff_t oc, ptrdiff_t rows, ptrdiff_t channel,
                     ptrdiff_t channels, void *to, ptrdiff_t width)
{
    const fc_kernels *kernels = p->work.kernels;
    const ptrdiff_t *k = p->problem.kernel, *s = p->problem.w_stride, taps = k[0] * k[1] * k[2];
    const void *from = fc_at(p, w, oc * s[0] + channel * s[1]);
    if (fc_weights_in_place(p)) {
        if (rows < width) memset(to, 0, (size_t)(channels * taps * width) * kernels->size);
        kernels->transpose(from, rows, s[0], channels * taps, to, width);
        return;
    }
    for (ptrdiff_t t = 0; t < taps; t++) {
        const ptrdiff_t at = t % k[2] * s[4] + t / k[2] % k[1] * s[3] + t / (k[2] * k[1]) * s[2];
        const fc_rows tap = { .x = fc_at(p, from, at),
                              .rows = channels,
                              .x_row = s[1],
                              .step = s[0],
                              .end = rows,
                              .n = width,
                              .to = fc_to(p, to, t * width),
                              .to_row = taps * width };
        kernels->pad_rows(&tap);
    }
}

fc_weights fc_weights_of(const fc_conv_plan *p, const fc_buffers *b, const fc_phase *f, ptrdiff_t group, ptrdiff_t row,
                         ptrdiff_t channel0, ptrdiff_t channels, ptrdiff_t tap0, ptrdiff_t taps, void *room)
{
    const ptrdiff_t k0 = channel0 * f->taps + tap0;
    if (p->packed)
        return (fc_weights){ fc_at(p, b->w, packed_offset(p, f, group, row) + k0 * p->work.kernels->mr), 1, 1 };
    if (!room) return (fc_weights){ fc_at(p, element(p, b->w, group, row, 0), k0), row_stride(p), 0 };
    pack_rows(p, f, b->w, group, row, channel0, channels, tap0, taps, room);
    return (fc_weights){ room, 1, 1 };
}

void fc_weights_of_output(const fc_conv_plan *p, const fc_buffers *b, const fc_phase *f, ptrdiff_t oc, fc_chain *c)
{
    const ptrdiff_t group = oc / p->ocg, row = oc % p->ocg, mr = p->work.kernels->mr;
    const fc_axis *a = f->axis;
    const ptrdiff_t *s = p->problem.w_stride + 2;
    if (p->packed) {
        c->w = fc_at(p, b->w, packed_offset(p, f, group, row - row % mr) + row % mr);
        c->w_channel = f->taps * mr;
        c->w_tap[2] = mr;
        c->w_tap[1] = a[2].taps * mr;
        c->w_tap[0] = a[1].taps * a[2].taps * mr;
        return;
    }
    c->w = fc_at(p, element(p, b->w, group, row, 0), a[0].k0 * s[0] + a[1].k0 * s[1] + a[2].k0 * s[2]);
    c->w_channel = channel_stride(p);
    for (int axis = 0; axis < FC_SPATIAL; axis++) c->w_tap[axis] = a[axis].k_step * s[axis];
}
