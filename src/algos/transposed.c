/* Transposed convolution has no padding: an output sums over the inputs that reach it. The algorithms gather through
 * zeros where there is no input, which is the same but for weights that are not finite, for 0 * inf is NaN. Such weights
 * take the scalar chain over what is there, output by output. */
#include "algos.h"

static int weights_finite(const fc_conv_plan *p, const void *w)
{
    const fc_conv_problem *q = &p->problem;
    const ptrdiff_t *k = q->kernel, *s = q->w_stride;
    const ptrdiff_t n[] = { q->ic, p->ocg, k[0], k[1], k[2] };
    /* as many of the last axes as lie one after another are one row */
    ptrdiff_t row = 1, rows = 1, outer = 5;
    while (outer > 0 && (n[outer - 1] == 1 || s[outer - 1] == row)) row *= n[--outer];
    for (ptrdiff_t axis = 0; axis < outer; axis++) rows *= n[axis];
    for (ptrdiff_t i = 0; i < rows; i++) {
        ptrdiff_t at = 0, rest = i;
        for (ptrdiff_t axis = outer - 1; axis >= 0; rest /= n[axis--]) at += rest % n[axis] * s[axis];
        if (!p->work.kernels->all_finite(fc_at(p, w, at), row, 1)) return 0;
    }
    return 1;
}

/* A layer's weights are looked at once: the answer follows them. */
static int *note_of(const fc_conv_plan *p, const void *packed)
{
    return (int *)(void *)((char *)(uintptr_t)packed + p->packed_bytes - FC_ALIGN);
}

void fc_transposed_pack(const fc_conv_plan *p, const void *w, void *packed)
{
    p->algo->pack(p, w, packed);
    *note_of(p, packed) = weights_finite(p, w);
}

/* Output `at`, flat over batch, oc and a phase's depth, height, width. */
static void one_output(const fc_conv_plan *p, const fc_buffers *b, const fc_phase *f, ptrdiff_t at)
{
    const fc_conv_problem *q = &p->problem;
    const ptrdiff_t oc = at / f->outputs % q->oc, n = at / f->outputs / q->oc;
    ptrdiff_t j[FC_SPATIAL] = { 0 }, rest = at % f->outputs;
    for (int axis = FC_WIDTH; axis >= 0; axis--) {
        j[axis] = rest % f->axis[axis].n;
        rest /= f->axis[axis].n;
    }
    fc_chain c = { .channels = p->icg, .x_channel = q->x_stride[FC_C], .bias = b->bias ? fc_at(p, b->bias, oc) : NULL };
    p->algo->weights_of(p, b, f, oc, &c);
    ptrdiff_t x = n * q->x_stride[FC_N] + oc / p->ocg * p->icg * q->x_stride[FC_C];
    ptrdiff_t y = n * q->y_stride[FC_N] + oc * q->y_stride[FC_C];
    for (int axis = 0; axis < FC_SPATIAL; axis++) {
        const fc_axis *a = &f->axis[axis];
        const fc_axis taps = {
            .n = a->taps, .size = a->size, .in0 = a->in0 + j[axis] * a->in_step, .in_step = a->tap_step
        };
        ptrdiff_t first, end;
        fc_valid(&taps, 0, &first, &end);
        c.taps[axis] = end - first;
        c.x_tap[axis] = a->tap_step * q->x_stride[2 + axis];
        x += (taps.in0 + first * a->tap_step) * q->x_stride[2 + axis];
        y += (a->out0 + j[axis] * a->out_step) * q->y_stride[2 + axis];
        c.w = fc_at(p, c.w, first * c.w_tap[axis]);
    }
    c.x = fc_at(p, b->x, x);
    c.y = fc_to(p, b->y, y);
    p->work.kernels->chain(&c);
    fc_epilogue(p, b, c.y, 1, 1);
}

ptrdiff_t fc_transposed_run(const fc_work *work, const fc_buffers *b, void *workspace, ptrdiff_t item, ptrdiff_t end,
                            double deadline)
{
    const fc_conv_plan *p = (const fc_conv_plan *)work;
    if (p->packed ? *note_of(p, b->w) : weights_finite(p, b->w))
        return p->algo->run(work, b, workspace, item, end, deadline);
    for (; item < end; item++) {
        for (ptrdiff_t index = 0; index < fc_phases(p); index++) {
            fc_phase f;
            fc_phase_of(p, index, &f);
            const ptrdiff_t outputs = p->problem.batch * p->problem.oc * f.outputs;
            const ptrdiff_t last = fc_share(outputs, item + 1, work->items);
            for (ptrdiff_t at = fc_share(outputs, item, work->items); at < last; at++) one_output(p, b, &f, at);
        }
        if (fc_late(deadline)) return item + 1;
    }
    return item;
}
