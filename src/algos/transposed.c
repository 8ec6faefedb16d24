/* Transposed convolution has no padding: an output sums over the inputs that reach it. The algorithms gather through
 * zeros where there is no input, which is the same but for weights that are not finite, for 0 * inf is NaN. Such weights
 * take the scalar chain over what is there, output by output. */
#include "algos.h"

static int weights_finite(const fc_conv_plan *p, const fc_buffers *b)
{
    const fc_conv_problem *q = &p->problem;
    const fc_kernels *kernels = p->work.kernels;
    if (p->packed) return kernels->all_finite(b->w, (ptrdiff_t)(p->packed_bytes / kernels->size), 1);
    const ptrdiff_t *k = q->kernel, *s = q->w_stride;
    ptrdiff_t row
    = k[2], rows = k[1] * k[0] * p->ocg, inner[4] = { q->ic, p->ocg, k[0], k[1] };
    const int contiguous = s[4] == 1 && s[3] == k[2] && s[2] == k[1] * k[2] && s[1] == k[0] * k[1] * k[2];
    if (contiguous) row
    *= rows, rows = 1, inner[1] = inner[2] = inner[3] = 1;
    for (ptrdiff_t i = 0; i < q->ic * rows; i++) {
        const ptrdiff_t kh = i % inner[3], kd = i / inner[3] % inner[2], oc = i / (inner[3] * inner[2]) % inner[1];
        const ptrdiff_t ic = i / (inner[3] * inner[2] * inner[1]);
        if (!kernels->all_finite(fc_at(p, b->w, ic * s[0] + oc * s[1] + kd * s[2] + kh * s[3]), row, s[4])) return 0;
    }
    return 1;
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
    if (q->activation != FC_IDENTITY) p->work.kernels->activate(q->activation, 1, c.y, c.y, q->a, q->b);
}

ptrdiff_t fc_transposed_run(const fc_work *work, const fc_buffers *b, void *workspace, ptrdiff_t item, ptrdiff_t end,
                            double deadline)
{
    const fc_conv_plan *p = (const fc_conv_plan *)work;
    if (weights_finite(p, b)) return p->algo->run(work, b, workspace, item, end, deadline);
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
