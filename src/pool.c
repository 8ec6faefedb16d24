/* Planning pooling: an item is a block of one row of outputs. */
#include "dispatch.h"

static ptrdiff_t run(const fc_work *work, const fc_buffers *b, void *workspace, ptrdiff_t item, ptrdiff_t end, double deadline)
{
    return work->kernels->pool(&((const fc_pool_plan *)work)->problem, b, workspace, item, end, deadline);
}

/* Rows a tree of k terms holds at once. */
static ptrdiff_t levels(ptrdiff_t k)
{
    ptrdiff_t bits = 1;
    while (k >>= 1) bits++;
    return bits;
}

fc_status fc_pool_plan_make(const fc_pool_problem *problem, const fc_options *options, fc_pool_plan *plan)
{
    const fc_kernels *kernels = fc_kernels_for(options, problem->type);
    if (!kernels) return FC_NO_ISA;
    double x = (double)problem->batch * (double)problem->channels, y = x, taps = 0;
    ptrdiff_t deepest = 2;
    for (int axis = 0; axis < FC_SPATIAL; axis++) {
        const ptrdiff_t longest = problem->adaptive ? problem->size[axis] : problem->kernel[axis];
        x *= (double)problem->size[axis];
        y *= (double)problem->out_size[axis];
        taps += (double)(problem->adaptive ? problem->size[axis] / problem->out_size[axis] + 1 : longest);
        deepest += levels(longest);
    }
    *plan = (fc_pool_plan){
        .problem = *problem,
        .work = { .kernels = kernels, .flops = y * taps, .bytes = (x + y) * (double)kernels->size, .run = run,
                  .items = problem->batch * problem->channels * problem->out_size[0] * problem->out_size[1] *
                           ((problem->out_size[2] + FC_POOL_BLOCK - 1) / FC_POOL_BLOCK),
                  .workspace_bytes = (size_t)((2 + deepest) * FC_POOL_SPAN + FC_POOL_FEW) * kernels->size },
    };
    plan->work.parts = fc_parts_for(options, plan->work.flops, plan->work.bytes);
    return FC_OK;
}
