/* What follows the sum and its bias: act(acc), act(acc + residual) or act(acc) + residual, each step rounded, while the
 * outputs are in L1. The residual lies as y does: a place in y is one in the residual. */
#include <math.h>
#include "algos.h"

enum { TOGETHER = FC_VECTORS * FC_LANES_MAX }; /* strided outputs gathered at a time: a tile's columns */

static int has_epilogue(const fc_conv_problem *q)
{
    return q->activation != FC_IDENTITY || q->residual != FC_NO_RESIDUAL;
}

static const void *residual_at(const fc_buffers *b, const void *y)
{
    return b->residual ? (const char *)b->residual + ((const char *)y - (const char *)b->y) : NULL;
}

/* n sums become outputs; residual: as many elements, side by side, where the problem has one. */
static void finish(const fc_conv_plan *p, ptrdiff_t n, void *y, const void *residual)
{
    const fc_conv_problem *q = &p->problem;
    const fc_kernels *k = p->work.kernels;
    if (q->residual == FC_RESIDUAL_FIRST) k->add(n, y, residual, y);
    if (q->activation != FC_IDENTITY) k->activate(q->activation, n, y, y, q->a, q->b);
    if (q->residual == FC_RESIDUAL_LAST) k->add(n, y, residual, y);
}

/* Whether the activation holds sums between two numbers, or does nothing. */
static int clamps(const fc_conv_problem *q, fc_finish *to)
{
    to->clamps = q->activation != FC_IDENTITY;
    to->high = q->activation == FC_RELU6 ? 6 : INFINITY;
    return q->activation == FC_IDENTITY || q->activation == FC_RELU || q->activation == FC_RELU6;
}

int fc_epilogue_clamps(const fc_conv_plan *p, fc_finish *to)
{
    fc_finish finish = { 0 };
    const int all = p->problem.residual == FC_NO_RESIDUAL && clamps(&p->problem, &finish);
    *to = all ? finish : (fc_finish){ 0 };
    return all;
}

void fc_epilogue_within(const fc_conv_plan *p, const fc_buffers *b, fc_tile *t)
{
    const fc_conv_problem *q = &p->problem;
    fc_finish finish = { .adds = q->residual != FC_NO_RESIDUAL };
    if (!clamps(q, &finish) || (finish.clamps && q->residual == FC_RESIDUAL_LAST)) return;
    if (finish.adds) finish.residual = (const char *)b->residual - (const char *)b->y;
    t->finish = finish;
    t->finished = 1;
}

void fc_epilogue_scattered(const fc_conv_plan *p, const fc_buffers *b, void *sums, ptrdiff_t n, const void *y,
                           const ptrdiff_t *offset)
{
    _Alignas(FC_ALIGN) char residual[TOGETHER * sizeof(double)];
    if (p->problem.residual != FC_NO_RESIDUAL) p->work.kernels->gather(residual_at(b, y), offset, n, residual);
    finish(p, n, sums, residual);
}

/* Not inlined: nothing else wants its room on the stack. */
static __attribute__((noinline)) void finish_strided(const fc_conv_plan *p, const fc_buffers *b, void *y, ptrdiff_t n,
                                                     ptrdiff_t step)
{
    _Alignas(FC_ALIGN) char sums[TOGETHER * sizeof(double)];
    ptrdiff_t offset[TOGETHER];
    for (ptrdiff_t i = 0; i < TOGETHER; i++) offset[i] = i * step;
    for (; n > 0; n -= TOGETHER, y = fc_to(p, y, TOGETHER * step)) {
        const ptrdiff_t count = fc_min(n, TOGETHER);
        p->work.kernels->gather(y, offset, count, sums);
        fc_epilogue_scattered(p, b, sums, count, y, offset);
        p->work.kernels->scatter(sums, count, y, offset);
    }
}

void fc_epilogue(const fc_conv_plan *p, const fc_buffers *b, void *y, ptrdiff_t n, ptrdiff_t step)
{
    if (!has_epilogue(&p->problem)) return;
    if (step == 1 || n == 1) finish(p, n, y, residual_at(b, y));
    else finish_strided(p, b, y, n, step);
}

void fc_epilogue_soon(const fc_conv_plan *p, const fc_buffers *b, const fc_tile *t)
{
    if (p->problem.residual == FC_NO_RESIDUAL) return;
    const ptrdiff_t line = FC_ALIGN / (ptrdiff_t)p->work.kernels->size;
    for (int j = 0; j < t->vectors; j++) {
        const ptrdiff_t n = t->repeats > 1 ? t->repeats * t->vectors * t->lanes[0] : t->lanes[j];
        for (int i = 0; i < t->rows; i++) {
            const void *residual = residual_at(b, fc_to(p, t->y[j], i * t->y_row));
            for (ptrdiff_t at = 0; at < n; at += line) __builtin_prefetch(fc_at(p, residual, at));
        }
        if (t->repeats > 1) return;
    }
}

void fc_epilogue_tile(const fc_conv_plan *p, const fc_buffers *b, const fc_tile *t)
{
    const ptrdiff_t lanes = p->work.kernels->lanes;
    if (t->finished || !has_epilogue(&p->problem)) return;
    for (int i = 0; i < t->rows; i++)
        for (int j = 0, next; j < t->vectors; j = next) {
            /* vectors side by side are one row */
            ptrdiff_t n = t->lanes[j];
            for (next = j + 1; next < t->vectors && t->y[next] == fc_to(p, t->y[j], n); next++) n += t->lanes[next];
            if (t->repeats > 1) n = t->repeats * t->vectors * lanes;
            void *y = fc_to(p, t->y[j], i * t->y_row);
            finish(p, n, y, residual_at(b, y));
        }
}
