/* How a convolution, transposed or not, falls into phases that are ordinary convolutions.
 *
 * Transposed, output o takes input i through tap k where i*s - pad + k*d = o. The outputs congruent to f modulo s
 * (phase f) meet only the taps with k*d = f + pad modulo s: k0, k0 + s/g, ... with g = fc_gcd(d, s). Along them i falls
 * by d/g as k grows, so the phase is a convolution of stride 1 and dilation d/g whose taps run from the last k to the
 * first, which puts the chain in ascending order of i. */
#include "algos.h"

static void forward_axis(const fc_conv_problem *p, int axis, fc_axis *a)
{
    *a = (fc_axis){ .n = p->out_size[axis],
                    .taps = p->kernel[axis],
                    .size = p->size[axis],
                    .in0 = -p->pad[axis],
                    .in_step = p->stride[axis],
                    .tap_step = p->dilation[axis],
                    .k0 = 0,
                    .k_step = 1,
                    .out0 = 0,
                    .out_step = 1 };
}

/* The least k from 0 on with k*d = target modulo n; d and n have no common divisor. By Euclid's algorithm: looking for it
 * in turn would take n steps a phase, and there may be as many phases as outputs. */
static ptrdiff_t first_tap(ptrdiff_t d, ptrdiff_t target, ptrdiff_t n)
{
    ptrdiff_t before = n, rest = d % n, inverse_before = 0, inverse = 1; /* inverse * d = rest modulo n */
    while (rest > 1) {
        const ptrdiff_t times = before / rest, next = before % rest, inverse_next = inverse_before - times * inverse;
        before = rest, inverse_before = inverse;
        rest = next, inverse = inverse_next;
    }
    const ptrdiff_t positive = inverse < 0 ? inverse + n : inverse;
    return n == 1 ? 0 : (ptrdiff_t)((__int128)(target % n) * positive % n);
}

static void transposed_axis(const fc_conv_problem *p, int axis, ptrdiff_t phase, fc_axis *a)
{
    const ptrdiff_t s = p->stride[axis], d = p->dilation[axis], g = fc_gcd(d, s), every = s / g;
    const ptrdiff_t target = phase + p->pad[axis];
    ptrdiff_t k = 0, taps = 0;
    if (target % g == 0) {
        k = first_tap(d / g, target / g, every);
        if (k < p->kernel[axis]) taps = (p->kernel[axis] - 1 - k) / every + 1;
    }
    const ptrdiff_t last = k + (taps - 1) * every;
    *a = (fc_axis){ .n = fc_ceil_div(p->out_size[axis] - phase, s),
                    .taps = taps,
                    .size = p->size[axis],
                    .in0 = taps ? (target - last * d) / s : 0,
                    .in_step = 1,
                    .tap_step = d / g,
                    .k0 = last,
                    .k_step = -every,
                    .out0 = phase,
                    .out_step = s };
}

void fc_phase_axis(const fc_conv_plan *p, int axis, ptrdiff_t phase, fc_axis *a)
{
    if (p->problem.transposed) transposed_axis(&p->problem, axis, phase, a);
    else forward_axis(&p->problem, axis, a);
}

ptrdiff_t fc_phases(const fc_conv_plan *p) { return p->phases[0] * p->phases[1] * p->phases[2]; }

static void place_outputs(const fc_conv_plan *p, fc_phase *phase)
{
    const ptrdiff_t *s = p->problem.y_stride + 2;
    int side_by_side = 1;
    phase->run = 1;
    phase->origin = 0;
    for (int axis = FC_WIDTH; axis >= 0; axis--) {
        const fc_axis *a = &phase->axis[axis];
        phase->origin += a->out0 * s[axis];
        if (a->n == 1) continue;
        side_by_side = side_by_side && s[axis] * a->out_step == phase->run;
        if (side_by_side) phase->run *= a->n;
    }
}

static void split(const fc_conv_plan *p, ptrdiff_t index, fc_phase *phase)
{
    const ptrdiff_t w = index % p->phases[FC_WIDTH], rest = index / p->phases[FC_WIDTH];
    fc_phase_axis(p, FC_WIDTH, w, &phase->axis[FC_WIDTH]);
    fc_phase_axis(p, FC_HEIGHT, rest % p->phases[FC_HEIGHT], &phase->axis[FC_HEIGHT]);
    fc_phase_axis(p, FC_DEPTH, rest / p->phases[FC_HEIGHT], &phase->axis[FC_DEPTH]);
    phase->index = index;
    phase->taps = phase->outputs = 1;
    for (int axis = 0; axis < FC_SPATIAL; axis++) {
        phase->taps *= phase->axis[axis].taps;
        phase->outputs *= phase->axis[axis].n;
    }
    place_outputs(p, phase);
}

void fc_phase_of(const fc_conv_plan *p, ptrdiff_t index, fc_phase *phase)
{
    phase->taps_before = 0;
    if (p->packed)
        for (ptrdiff_t earlier = 0; earlier < index; earlier++) {
            split(p, earlier, phase);
            const ptrdiff_t taps = phase->taps;
            phase->taps_before += taps;
        }
    const ptrdiff_t before = phase->taps_before;
    split(p, index, phase);
    phase->taps_before = before;
}

void fc_phase_longest(const fc_conv_plan *p, fc_phase *longest)
{
    split(p, 0, longest); /* its outputs are the most: phase 0 starts first */
    longest->taps_before = 0;
    longest->taps = 1;
    for (int axis = 0; axis < FC_SPATIAL; axis++) {
        /* of the phase that meets the first tap; where there are fewer phases than the stride, that may be none */
        const ptrdiff_t s = p->problem.transposed ? p->problem.stride[axis] : 1;
        longest->axis[axis].taps = fc_ceil_div(p->problem.kernel[axis], s / fc_gcd(p->problem.dilation[axis], s));
        longest->taps *= longest->axis[axis].taps;
    }
}

static ptrdiff_t floor_div(ptrdiff_t a, ptrdiff_t b) { return a / b - (a % b < 0); }

void fc_valid(const fc_axis *a, ptrdiff_t tap, ptrdiff_t *first, ptrdiff_t *end)
{
    const ptrdiff_t start = a->in0 + tap * a->tap_step;
    *first = fc_min(fc_max(floor_div(-start + a->in_step - 1, a->in_step), 0), a->n);
    *end = fc_max(fc_min(floor_div(a->size - 1 - start, a->in_step) + 1, a->n), *first);
}
