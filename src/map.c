/* What goes element by element: activations on their own, sums of two arrays, copies; in blocks of a row, by the kernels that
 * the convolutions' epilogue calls. */
#include "dispatch.h"

enum { BLOCK = 4096 }; /* elements of an item: a few microseconds */

static void run_block(const fc_map_plan *plan, double a, ptrdiff_t n, const void *x, const void *residual, void *y)
{
    const fc_map_problem *p = &plan->problem;
    const fc_kernels *k = plan->work.kernels;
    if (p->residual == FC_RESIDUAL_FIRST) {
        k->add(n, x, residual, y);
        x = y;
    }
    if (x != y || p->activation != FC_IDENTITY) k->activate(p->activation, n, x, y, a, p->b);
    if (p->residual == FC_RESIDUAL_LAST) k->add(n, y, residual, y);
}

static ptrdiff_t run(const fc_work *work, const fc_buffers *b, void *workspace, ptrdiff_t item, ptrdiff_t end,
                     double deadline)
{
    const fc_map_problem *p = &((const fc_map_plan *)work)->problem;
    const ptrdiff_t size = (ptrdiff_t)work->kernels->size, blocks = (p->row + BLOCK - 1) / BLOCK;
    ptrdiff_t row = item / blocks, block = item % blocks;
    (void)workspace;
    while (item < end) {
        const ptrdiff_t at = block * BLOCK, n = p->row - at < BLOCK ? p->row - at : BLOCK;
        double a = p->a;
        if (b->w)
            a = p->type == FC_F32 ? (double)((const float *)b->w)[row % p->channels]
                                  : ((const double *)b->w)[row % p->channels];
        run_block((const fc_map_plan *)work, a, n, (const char *)b->x + (row * p->x_row + at) * size,
                  b->residual ? (const char *)b->residual + (row * p->residual_row + at) * size : NULL,
                  (char *)b->y + (row * p->y_row + at) * size);
        if (++block == blocks) block = 0, row++;
        if (++item % 16 == 0 && deadline > 0 && fc_clock() >= deadline) break;
    }
    return item;
}

/* Without a polynomial: as fast as a copy. */
static int cheap(fc_activation a)
{
    return a <= FC_LEAKY_RELU || a == FC_HARDSIGMOID || a == FC_HARDSWISH || a == FC_CLIP;
}

fc_status fc_map_plan_make(const fc_map_problem *problem, const fc_options *options, fc_map_plan *plan)
{
    const fc_kernels *kernels = fc_kernels_for(options, problem->type);
    if (!kernels) return FC_NO_ISA;
    const double n = (double)problem->rows * (double)problem->row;
    const int arrays = problem->residual == FC_NO_RESIDUAL ? 2 : 3;
    *plan = (fc_map_plan){
        .problem = *problem,
        .work = { .kernels = kernels,
                  .flops = (cheap(problem->activation) ? 1 : 20) * n,
                  .bytes = arrays * n * (double)kernels->size,
                  .run = run,
                  .items = problem->rows * ((problem->row + BLOCK - 1) / BLOCK) },
    };
    plan->work.parts = fc_parts_for(options, plan->work.flops, plan->work.bytes);
    return FC_OK;
}
