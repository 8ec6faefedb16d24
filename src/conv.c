/* Planning a convolution: the first algorithm that neither cannot nor should_not takes it. */
#include <string.h>
#include "algos/algos.h"
#include "dispatch.h"

#define FC_ALGO(name) &fc_algo_##name,
static const fc_algo *const algos[] = {
#include "conv_algos.def"
};
#undef FC_ALGO
enum { ALGOS = sizeof algos / sizeof algos[0] };

int fc_algo_count(void) { return ALGOS; }
const char *fc_algo_name(int algo) { return algo >= 0 && algo < ALGOS ? algos[algo]->name : NULL; }
const char *fc_algo_precision(int algo) { return algo >= 0 && algo < ALGOS ? algos[algo]->precision : NULL; }
const char *fc_conv_cannot(const fc_conv_plan *plan, int algo)
{
    if (plan->problem.prologue.scaled && algos[algo] != &fc_algo_pointwise) return "only pointwise scales its input";
    return algos[algo]->cannot(plan);
}
const char *fc_conv_should_not(const fc_conv_plan *plan, int algo) { return algos[algo]->should_not(plan); }

int fc_conv_algo(const fc_conv_plan *plan)
{
    int algo = 0;
    while (algos[algo] != plan->algo) algo++;
    return algo;
}

int fc_conv_form(const fc_conv_plan *plan)
{
    int algo = 0;
    while (algos[algo]->pack != plan->algo->pack) algo++;
    return algo;
}

const fc_kernels *fc_kernels_for(const fc_options *options, fc_type type)
{
    const int isa = options->isa < 0 ? fc_isa_best() : options->isa;
    return fc_isa_runs(isa) ? fc_kernels_of(isa, type) : NULL;
}

/* At 100 GF/s and 100 GB/s, the caches' speed. Two threads are level with one at 3 us, and 1.3 to 1.5 times as fast at 5;
 * more threads take longer to meet. */
int fc_parts_for(const fc_options *options, double flops, double bytes)
{
    const double microseconds = (flops + bytes) / 100e3, worth = microseconds / 4;
    if (options->threads > 0) return options->threads < FC_MAX_PARTS ? options->threads : FC_MAX_PARTS;
    const int most = options->max_threads < FC_MAX_PARTS ? options->max_threads : FC_MAX_PARTS;
    if (microseconds < 3 || most < 2) return 1;
    return worth < 2 ? 2 : worth < most ? (int)worth : most;
}

static double count_bytes(const fc_conv_problem *p, size_t size)
{
    double x = (double)p->batch * (double)p->ic, y = (double)p->batch * (double)p->oc;
    double w = (double)p->oc * (double)p->ic / (double)p->groups;
    for (int axis = 0; axis < FC_SPATIAL; axis++) {
        x *= (double)p->size[axis];
        y *= (double)p->out_size[axis];
        w *= (double)p->kernel[axis];
    }
    return (x + y * (p->residual == FC_NO_RESIDUAL ? 1 : 2) + w) * (double)size;
}

static double count_flops(const fc_conv_problem *p)
{
    double steps = (double)p->batch * (double)p->oc * (double)p->ic / (double)p->groups;
    for (int axis = 0; axis < FC_SPATIAL; axis++)
        steps *= (double)p->kernel[axis] * (double)(p->transposed ? p->size[axis] : p->out_size[axis]);
    return 2 * steps;
}

static fc_status choose(const char *forced, fc_conv_plan *plan)
{
    for (int algo = 0; algo < ALGOS; algo++) {
        plan->algo = algos[algo];
        if (forced) {
            if (strcmp(forced, algos[algo]->name) == 0) return fc_conv_cannot(plan, algo) ? FC_CANNOT : FC_OK;
        } else if (!fc_conv_cannot(plan, algo) && (algo == ALGOS - 1 || !algos[algo]->should_not(plan))) {
            return FC_OK;
        }
    }
    return FC_NO_ALGO;
}

fc_status fc_conv_plan_make(const fc_conv_problem *problem, const fc_options *options, fc_conv_plan *plan)
{
    const fc_kernels *kernels = fc_kernels_for(options, problem->type);
    if (!kernels) return FC_NO_ISA;
    *plan = (fc_conv_plan){
        .problem = *problem,
        .packed = options->packed,
        .icg = problem->ic / problem->groups,
        .ocg = problem->oc / problem->groups,
        .work = { .kernels = kernels, .flops = count_flops(problem), .bytes = count_bytes(problem, kernels->size) },
    };
    plan->work.parts = fc_parts_for(options, plan->work.flops, plan->work.bytes);
    for (int axis = 0; axis < FC_SPATIAL; axis++)
        plan->phases[axis] = !problem->transposed                              ? 1
                             : problem->stride[axis] < problem->out_size[axis] ? problem->stride[axis]
                                                                               : problem->out_size[axis];
    const fc_status status = choose(options->algorithm, plan);
    if (status != FC_OK) return status;
    plan->packed_bytes = fc_weights_packed_bytes(plan); /* unless the algorithm has a form of its own */
    plan->algo->book(plan);
    plan->work.workspace_bytes = (plan->work.workspace_bytes + FC_ALIGN - 1) / FC_ALIGN * FC_ALIGN;
    plan->work.run = problem->transposed ? fc_transposed_run : plan->algo->run;
    if (problem->transposed) plan->packed_bytes = (plan->packed_bytes + FC_ALIGN - 1) / FC_ALIGN * FC_ALIGN + FC_ALIGN;
    return FC_OK;
}

typedef struct packing {
    const fc_conv_plan *plan;
    const void *weights;
    void *packed;
} packing;

static void pack(void *of)
{
    const packing *p = of;
    (p->plan->problem.transposed ? fc_transposed_pack : p->plan->algo->pack)(p->plan, p->weights, p->packed);
}

void fc_conv_pack(const fc_conv_plan *plan, const void *weights, void *packed)
{
    packing p = { plan, weights, packed };
    fc_with_stack(pack, &p);
}

ptrdiff_t fc_conv_pack_unit(const fc_conv_plan *plan)
{
    return plan->algo == &fc_algo_channels && plan->problem.groups == 1 ? fc_channels_pack_unit(plan) : 0;
}

void fc_conv_pack_piece(const fc_conv_plan *plan, const void *weights, void *packed, ptrdiff_t first, ptrdiff_t end)
{
    fc_channels_pack_piece(plan, weights, packed, first, end);
}
