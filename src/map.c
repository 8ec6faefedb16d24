/* Activations on their own: the same function the convolutions' epilogue calls, over blocks of a row. */
#include "dispatch.h"

enum { BLOCK = 4096 }; /* elements of an item: a few microseconds */

static ptrdiff_t run(const fc_work *work, const fc_buffers *b, void *workspace, ptrdiff_t item, ptrdiff_t end,
                     double deadline)
{
    const fc_map_problem *p = &((const fc_map_plan *)work)->problem;
    const fc_kernels *k = work->kernels;
    const ptrdiff_t size = (ptrdiff_t)k->size, blocks = (p->row + BLOCK - 1) / BLOCK;
    (void)workspace;
    while (item < end) {
        const ptrdiff_t row = item / blocks, at = item % blocks * BLOCK;
        const ptrdiff_t n = p->row - at < BLOCK ? p->row - at : BLOCK, from = (row * p->row + at) * size;
        double a = p->a;
        if (b->w)
            a = p->type == FC_F32 ? (double)((const float *)b->w)[row % p->channels]
                                  : ((const double *)b->w)[row % p->channels];
        k->activate(p->activation, n, (const char *)b->x + from, (char *)b->y + from, a, p->b);
        item++;
        if (item % 16 == 0 && deadline > 0 && fc_clock() >= deadline) break;
    }
    return item;
}

/* Without a polynomial: as fast as a copy. */
static int cheap(fc_activation a) { return a <= FC_LEAKY_RELU || a == FC_HARDSIGMOID || a == FC_HARDSWISH; }

fc_status fc_map_plan_make(const fc_map_problem *problem, const fc_options *options, fc_map_plan *plan)
{
    const fc_kernels *kernels = fc_kernels_for(options, problem->type);
    if (!kernels) return FC_NO_ISA;
    const double n = (double)problem->rows * (double)problem->row;
    *plan = (fc_map_plan){
        .problem = *problem,
        .work = { .kernels = kernels,
                  .flops = (cheap(problem->activation) ? 1 : 20) * n,
                  .bytes = 2 * n * (double)kernels->size,
                  .run = run,
                  .items = problem->rows * ((problem->row + BLOCK - 1) / BLOCK) },
    };
    plan->work.parts = fc_parts_for(options, plan->work.flops, plan->work.bytes);
    return FC_OK;
}
