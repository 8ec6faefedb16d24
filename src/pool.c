/* Planning pooling: an item is a band of rows of outputs, from plane to plane, by a block of columns. */
#include "dispatch.h"

enum {
    OUTPUTS = 4096, /* of an item, about */
    SHEET = 2048,   /* elements reduced along the width at once: with what comes of them they stay in L1 */
    LONGEST = 32768, /* elements a window reaches over along the width, where a row of windows is reduced at once */
    TALL = 65536, /* elements reduced by doubling down the height at once: with what comes of them they stay in L2 */
    WIDE = 16384, /* columns of an image whose rows go through registers */
    TABLE = 8192, /* rows of the image that a few rows of outputs read */
    SLACK = FC_POOL_SLACK
};

static ptrdiff_t run(const fc_work *work, const fc_buffers *b, void *workspace, ptrdiff_t item, ptrdiff_t end,
                     double deadline)
{
    return work->kernels->pool((const fc_pool_plan *)work, b, workspace, item, end, deadline);
}

static ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static ptrdiff_t most(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }
static ptrdiff_t round_up(ptrdiff_t n, ptrdiff_t to) { return (n + to - 1) / to * to; }
static ptrdiff_t reach(const fc_pool_problem *p, int axis) { return (p->kernel[axis] - 1) * p->dilation[axis] + 1; }

/* Adaptive windows that are all alike are ordinary ones: with a remainder of at most 1 they never drift by an element. */
static void make_ordinary(fc_pool_problem *p)
{
    for (int axis = 0; axis < FC_SPATIAL; axis++)
        if (p->size[axis] < p->out_size[axis] || p->size[axis] % p->out_size[axis] > 1) return;
    p->adaptive = 0;
    for (int axis = 0; axis < FC_SPATIAL; axis++) {
        p->stride[axis] = p->size[axis] / p->out_size[axis];
        p->kernel[axis] = p->stride[axis] + p->size[axis] % p->out_size[axis];
    }
}

/* Rows a tree of k terms holds at once. */
static ptrdiff_t levels(ptrdiff_t k)
{
    ptrdiff_t bits = 1;
    while (k >>= 1) bits++;
    return bits;
}

/* Every row of outputs by itself. */
static void book_rows(fc_pool_plan *plan)
{
    const fc_pool_problem *p = &plan->problem;
    const ptrdiff_t rows = p->out_size[FC_HEIGHT], planes = p->batch * p->channels * p->out_size[FC_DEPTH];
    const ptrdiff_t bands = (4 * plan->work.parts + planes - 1) / planes; /* a plane, at least */
    ptrdiff_t trees = 0;
    for (int axis = 0; axis < FC_SPATIAL; axis++) trees += levels(p->adaptive ? p->size[axis] : p->kernel[axis]);
    plan->band = least((rows + bands - 1) / bands, OUTPUTS / p->out_size[FC_WIDTH] + 1);
    plan->work.items = planes * ((rows + plan->band - 1) / plan->band) *
                       ((p->out_size[FC_WIDTH] + FC_POOL_BLOCK - 1) / FC_POOL_BLOCK);
    plan->work.workspace_bytes = (size_t)((2 + trees) * FC_POOL_SPAN + FC_POOL_FEW) * plan->work.kernels->size;
}

/* Whether a vector's lanes are neighbours along the width, or channels. */
static int is_planar(const fc_pool_problem *p)
{
    return (p->x_stride[FC_W] == 1 || p->size[FC_WIDTH] == 1) && (p->y_stride[FC_W] == 1 || p->out_size[FC_WIDTH] == 1);
}

static int is_last(const fc_pool_problem *p)
{
    return p->x_stride[FC_C] == 1 && p->y_stride[FC_C] == 1 && p->channels > 1;
}

/* Images that are one window each, and so one output; those lie side by side. */
static int is_single(const fc_pool_problem *p)
{
    for (int axis = 0; axis < FC_SPATIAL; axis++)
        if (p->out_size[axis] != 1 || p->kernel[axis] != p->size[axis] || p->pad[axis] || p->dilation[axis] != 1)
            return 0;
    return !p->adaptive && p->y_stride[FC_C] == 1 && (p->batch == 1 || p->y_stride[FC_N] == p->channels);
}

static ptrdiff_t next_power(ptrdiff_t n)
{
    ptrdiff_t power = 1;
    while (power < n) power *= 2;
    return power;
}

static ptrdiff_t power_within(ptrdiff_t n) { return n & -n; }

/* Columns of channels a row of the sheet holds, in blocks: all that fit beside each other, or enough to fill vectors. */
static void book_columns(fc_pool_plan *plan)
{
    const fc_pool_problem *p = &plan->problem;
    const ptrdiff_t ow = p->out_size[FC_WIDTH];
    const ptrdiff_t across = p->adaptive ? p->size[FC_WIDTH] : reach(p, FC_WIDTH);
    const ptrdiff_t stride = p->adaptive ? 0 : p->stride[FC_WIDTH];
    plan->unit = 1;
    if (!is_planar(p)) {
        const ptrdiff_t enough = across + least(7, ow - 1) * stride;
        plan->unit = p->channels;
        while (plan->unit > 64 && plan->unit * enough > SHEET) plan->unit = round_up(plan->unit / 2, FC_LANES_MAX);
    }
    plan->channel_blocks = (p->channels + plan->unit - 1) / plan->unit;
    const ptrdiff_t span = most(SHEET / plan->unit, 2 * across);
    plan->block = p->adaptive || stride == 0 ? ow : least(ow, (span - across) / stride + 1);
    plan->blocks = (ow + plan->block - 1) / plan->block;
    ptrdiff_t row = across + (plan->block - 1) * stride;
    plan->single = plan->unit == 1 && is_single(p);
    if (plan->single) row = next_power(row);
    /* so many levels halve the places; a row begins at one that stays */
    const ptrdiff_t halved = least(ow == 1 ? row : power_within(stride), next_power(row));
    plan->pitch = round_up(row, next_power(most(halved, 1))) * plan->unit;
}

/* Rows of outputs reduced at once. */
static void book_sheet(fc_pool_plan *plan)
{
    const fc_pool_problem *p = &plan->problem;
    const ptrdiff_t *out = p->out_size, stride = p->stride[FC_HEIGHT], kd = p->kernel[FC_DEPTH];
    const ptrdiff_t high = p->adaptive ? p->size[FC_HEIGHT] : reach(p, FC_HEIGHT);
    plan->rows = p->batch * plan->channel_blocks * out[FC_DEPTH] * out[FC_HEIGHT];
    plan->along_rows = most(1, SHEET / plan->pitch);
    plan->sheet_rows = plan->along_rows;
    plan->tall = 0;
    if (!p->adaptive && p->kernel[FC_HEIGHT] > 12 * stride && high <= TALL / FC_LANES_MAX / 2 && out[FC_HEIGHT] > 1) {
        plan->tall = TALL;
        plan->sheet_rows = most(plan->along_rows, least(2 * high / stride + 1, TALL / plan->pitch));
        plan->sheet_rows = least(plan->sheet_rows, out[FC_HEIGHT]);
    }
    const ptrdiff_t tables = (p->adaptive ? p->size[FC_DEPTH] : kd);
    if (!p->adaptive) plan->sheet_rows = least(plan->sheet_rows, most(1, (TABLE / tables - high) / stride + 1));
    plan->table = tables * (p->adaptive ? high : (least(plan->sheet_rows, out[FC_HEIGHT]) - 1) * stride + high);
    plan->table = round_up(plan->table, FC_LANES_MAX);
    plan->sheet = plan->sheet_rows * plan->pitch + SLACK;
    plan->along = most(least(plan->along_rows, plan->sheet_rows) * plan->pitch, 1) + SLACK;
    plan->counts = most(plan->single ? plan->sheet_rows : plan->block * plan->unit, 1) + SLACK;
    const ptrdiff_t sheets = plan->tall ? 1 : 4;
    plan->band = most(1, least(sheets * plan->sheet_rows, plan->rows / (4 * plan->work.parts)));
}

/* Windows two or three columns wide; rows of padding as long as the image stand in for those outside it. */
static void book_slides(fc_pool_plan *plan)
{
    const fc_pool_problem *p = &plan->problem;
    const ptrdiff_t kw = p->kernel[FC_WIDTH], *out = p->out_size;
    plan->slides = plan->unit == 1 && !p->adaptive && (kw == 2 || kw == 3) && p->stride[FC_WIDTH] <= 2 &&
                   p->dilation[FC_WIDTH] == 1 && p->size[FC_WIDTH] <= WIDE && !plan->tall && !plan->single;
    if (!plan->slides) return;
    plan->blocks = 1;
    plan->block = out[FC_WIDTH];
    plan->pitch = p->size[FC_WIDTH];
    plan->sheet = plan->along = SLACK;
    plan->counts = plan->block + SLACK;
    plan->band = least(OUTPUTS / plan->block + 1, most(1, plan->rows / (4 * plan->work.parts)));
}

static void book_items(fc_pool_plan *plan)
{
    plan->work.items = (plan->rows + plan->band - 1) / plan->band * plan->blocks;
    const ptrdiff_t elements = plan->sheet + 2 * plan->along + 2 * (plan->tall + SLACK) + plan->pitch + SLACK +
                               plan->counts;
    plan->work.workspace_bytes = (size_t)elements * plan->work.kernels->size + (size_t)plan->table * sizeof(void *);
}

/* Whether windows outgrow the workspace, or lie in memory so that lanes would have to be gathered. */
static int goes_by_rows(const fc_pool_problem *p)
{
    const int adaptive = p->adaptive;
    const ptrdiff_t across = adaptive ? p->size[FC_WIDTH] : reach(p, FC_WIDTH);
    const ptrdiff_t high = adaptive ? p->size[FC_HEIGHT] : reach(p, FC_HEIGHT);
    const ptrdiff_t deep = adaptive ? p->size[FC_DEPTH] : p->kernel[FC_DEPTH];
    return p->indices || across > LONGEST || high > TABLE || deep > TABLE / high || !(is_planar(p) || is_last(p)) ||
           (!is_planar(p) && (adaptive || across * least(p->channels, 64) > LONGEST));
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
        .work = { .kernels = kernels, .flops = y * taps, .bytes = (x + y) * (double)kernels->size, .run = run },
    };
    plan->work.parts = fc_parts_for(options, plan->work.flops, plan->work.bytes);
    if (problem->adaptive) make_ordinary(&plan->problem);
    if (goes_by_rows(&plan->problem)) {
        book_rows(plan);
    } else {
        book_columns(plan);
        book_sheet(plan);
        book_slides(plan);
        book_items(plan);
    }
    plan->work.workspace_bytes = (plan->work.workspace_bytes + FC_ALIGN - 1) / FC_ALIGN * FC_ALIGN;
    return FC_OK;
}
