/* Planning pooling: an item is a band of rows of outputs of one image, channel and depth, by a block of columns. */
#include "dispatch.h"

enum { OUTPUTS = 4096 }; /* of an item, about */

static ptrdiff_t run(const fc_work *work, const fc_buffers *b, void *workspace, ptrdiff_t item, ptrdiff_t end,
                     double deadline)
{
    return work->kernels->pool((const fc_pool_plan *)work, b, workspace, item, end, deadline);
}

/* Rows a tree of k terms holds at once. */
static ptrdiff_t levels(ptrdiff_t k)
{
    ptrdiff_t bits = 1;
    while (k >>= 1) bits++;
    return bits;
}

/* Trees, or a row of padding in their place. */
static size_t workspace_of(const fc_pool_problem *p)
{
    ptrdiff_t trees = 0;
    for (int axis = 0; axis < FC_SPATIAL; axis++) trees += levels(p->adaptive ? p->size[axis] : p->kernel[axis]);
    trees *= FC_POOL_SPAN;
    if (fc_pool_is_small(p) && trees < p->size[FC_WIDTH]) trees = p->size[FC_WIDTH];
    return (size_t)(2 * FC_POOL_SPAN + FC_POOL_FEW + trees);
}

static ptrdiff_t band_of(const fc_pool_problem *p, int parts)
{
    const ptrdiff_t rows = p->out_size[FC_HEIGHT], planes = p->batch * p->channels * p->out_size[FC_DEPTH];
    const ptrdiff_t most = OUTPUTS / p->out_size[FC_WIDTH] + 1,
                    least = (4 * parts + planes - 1) / planes; /* bands a plane */
    const ptrdiff_t band = (rows + least - 1) / least;
    return band < most ? band : most;
}

fc_status fc_pool_plan_make(const fc_pool_problem *problem, const fc_options *options, fc_pool_plan *plan)
{
    const fc_kernels *kernels = fc_kernels_for(options, problem->type);
    if (!kernels) return FC_NO_ISA;
    const ptrdiff_t *out = problem->out_size;
    double x = (double)problem->batch * (double)problem->channels, y = x, taps = 0;
    for (int axis = 0; axis < FC_SPATIAL; axis++) {
        x *= (double)problem->size[axis];
        y *= (double)out[axis];
        taps += (double)(problem->adaptive ? problem->size[axis] / out[axis] + 1 : problem->kernel[axis]);
    }
    *plan = (fc_pool_plan){
        .problem = *problem,
        .work = { .kernels = kernels,
                  .flops = y * taps,
                  .bytes = (x + y) * (double)kernels->size,
                  .run = run,
                  .workspace_bytes = workspace_of(problem) * kernels->size },
    };
    plan->work.parts = fc_parts_for(options, plan->work.flops, plan->work.bytes);
    plan->band = band_of(problem, plan->work.parts);
    plan->work.items = problem->batch * problem->channels * out[0] * ((out[1] + plan->band - 1) / plan->band) *
                       ((out[2] + FC_POOL_BLOCK - 1) / FC_POOL_BLOCK);
    return FC_OK;
}
