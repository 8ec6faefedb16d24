/* Normalisation by neighbours: softmax and layer normalisation of each row, and local response normalisation, in blocks of
 * pixels. */
#include "dispatch.h"

static ptrdiff_t run(const fc_work *work, const fc_buffers *b, void *workspace, ptrdiff_t item, ptrdiff_t end,
                     double deadline)
{
    const fc_norm_problem *p = &((const fc_norm_plan *)work)->problem;
    const fc_kernels *k = work->kernels;
    const ptrdiff_t blocks = (p->row + FC_LOCAL_RESPONSE_PIXELS - 1) / FC_LOCAL_RESPONSE_PIXELS;
    (void)workspace;
    while (item < end) {
        if (p->kind == FC_SOFTMAX) {
            const size_t at = (size_t)(item * p->row) * k->size;
            k->softmax(p->row, (const char *)b->x + at, (char *)b->y + at);
        } else if (p->kind == FC_LAYER_NORM) {
            const size_t at = (size_t)(item * p->row) * k->size;
            k->layer_norm(p->row, p->bias, (const char *)b->x + at, b->scale, b->shift, (char *)b->y + at);
        } else {
            const ptrdiff_t first = item % blocks * FC_LOCAL_RESPONSE_PIXELS, rest = p->row - first;
            const size_t at = (size_t)(item / blocks * p->channels * p->row + first) * k->size;
            k->local_response(&(fc_local_response){
                .x = (const char *)b->x + at,
                .y = (char *)b->y + at,
                .channels = p->channels,
                .plane = p->row,
                .pixels = rest < FC_LOCAL_RESPONSE_PIXELS ? rest : FC_LOCAL_RESPONSE_PIXELS,
                .before = p->before,
                .after = p->after,
                .scale = p->scale,
                .bias = p->bias,
            });
        }
        item++;
        if (deadline > 0 && fc_clock() >= deadline) break;
    }
    return item;
}

fc_status fc_norm_plan_make(const fc_norm_problem *problem, const fc_options *options, fc_norm_plan *plan)
{
    const fc_kernels *kernels = fc_kernels_for(options, problem->type);
    if (!kernels) return FC_NO_ISA;
    const ptrdiff_t blocks = (problem->row + FC_LOCAL_RESPONSE_PIXELS - 1) / FC_LOCAL_RESPONSE_PIXELS;
    const double n = (double)problem->batch * (double)problem->channels * (double)problem->row;
    *plan = (fc_norm_plan){
        .problem = *problem,
        .work = { .kernels = kernels,
                  .flops = 20 * n, /* an exp, or roots, a division and squares */
                  .bytes = 2 * n * (double)kernels->size,
                  .run = run,
                  .items = problem->batch * (problem->kind == FC_LOCAL_RESPONSE ? blocks : problem->channels) },
    };
    plan->work.parts = fc_parts_for(options, plan->work.flops, plan->work.bytes);
    return FC_OK;
}
