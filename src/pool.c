/* Planning pooling: an item is a band of rows of outputs, from plane to plane, by a block of columns. */
#include <string.h>
#include "dispatch.h"

enum {
    OUTPUTS = 4096, /* of an item, about */
    SHEET = 2048,   /* elements reduced along the width at once: with what comes of them they stay in L1 */
    LAST_SHEET = 8192, /* of channels last, where rows are read whole: in L2 */
    LONGEST = 32768, /* elements a window reaches over along the width, where a row of windows is reduced at once */
    TALL = 65536, /* elements reduced by doubling down the height at once: with what comes of them they stay in L2 */
    WIDE = 16384, /* columns of an image whose rows go through registers */
    FEW = 8, /* taps a stride that are joined one by one, not by doubling */
    PIXELS = 65536, /* outputs of a row of channels last, from which on it goes in blocks */
    WINDOW = 32, /* taps of a window read at once, and so as many streams of channels */
    PLACES = 1024, /* taps of a window whose maxima are found with their places */
    TURNED = 8192, /* elements of a vector of planes and their outputs: they stay near L1 */
    TURNED_FAR = 32768, /* the same of overlapping windows in rows under two vectors: in L2 */
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
    plan->way = FC_POOL_ROWS;
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

/* Columns of the image under n columns of outputs, at most. */
static ptrdiff_t columns_under(const fc_pool_problem *p, ptrdiff_t n)
{
    if (!p->adaptive) return reach(p, FC_WIDTH) + (n - 1) * p->stride[FC_WIDTH];
    const ptrdiff_t size = p->size[FC_WIDTH], out = p->out_size[FC_WIDTH];
    return least(size, (size + out - 1) / out * n + 2);
}

/* Windows two or three columns wide, at most two apart. */
static int is_narrow(const fc_pool_problem *p)
{
    const ptrdiff_t k = p->kernel[FC_WIDTH], stride = p->out_size[FC_WIDTH] == 1 ? 1 : p->stride[FC_WIDTH];
    return !p->adaptive && stride <= 2 && (k == 2 || k == 3) && p->dilation[FC_WIDTH] == 1;
}

/* Tap by tap where that is less work than doubling over all columns; turned where outputs lie too far apart for vectors. */
static fc_pool_way way_along(const fc_pool_plan *plan)
{
    const fc_pool_problem *p = &plan->problem;
    const ptrdiff_t k = p->kernel[FC_WIDTH], stride = p->out_size[FC_WIDTH] == 1 ? 1 : p->stride[FC_WIDTH];
    if (plan->single) return FC_POOL_LEVELS;
    if (plan->unit > 1) return p->adaptive || plan->planes || k <= FEW * stride ? FC_POOL_TAPS : FC_POOL_LEVELS;
    if (p->adaptive) return FC_POOL_TURNED; /* goes_by_rows sees to wide windows */
    if (is_narrow(p) && p->kernel[FC_DEPTH] == 1 && p->size[FC_WIDTH] <= WIDE) return FC_POOL_SLIDES;
    if (stride <= 2 && k <= FEW && (stride == 1 || p->dilation[FC_WIDTH] == 1)) return FC_POOL_TAPS;
    /* of a stride of 5 every tap takes five loads: turned, few rows of outputs or wide windows are faster */
    if ((stride == 3 && k <= FEW) || (stride == 5 && k <= 5 && p->out_size[FC_WIDTH] >= plan->work.kernels->lanes))
        return FC_POOL_TAPS;
    const int halves = p->dilation[FC_WIDTH] == 1 && power_within(stride) * 2 >= stride && k >= stride;
    return stride > 2 && !halves && k <= FEW * stride && columns_under(p, 1) <= SHEET ? FC_POOL_TURNED : FC_POOL_LEVELS;
}

/* Taps of a window along an axis, at most. */
static ptrdiff_t taps_of(const fc_pool_problem *p, int axis)
{
    return p->adaptive ? least(p->size[axis], (p->size[axis] - 1) / p->out_size[axis] + 2) : p->kernel[axis];
}

/* Elements of the sheet of some rows where a column is several channels: more than fit L1 where whole rows are read at once. */
static ptrdiff_t sheet_of(const fc_pool_problem *p)
{
    if (p->out_size[FC_WIDTH] == 1) return taps_of(p, FC_HEIGHT) >= FC_POOL_HIGH ? 2 * LAST_SHEET : SHEET;
    return p->kernel[FC_WIDTH] <= FEW * p->stride[FC_WIDTH] ? LAST_SHEET : SHEET;
}

/* Channels of a column: those that fit beside each other, and no more than leave work for all parts. */
static ptrdiff_t unit_of(const fc_pool_plan *plan)
{
    const fc_pool_problem *p = &plan->problem;
    const ptrdiff_t enough = columns_under(p, least(4, p->out_size[FC_WIDTH])), sheet = sheet_of(p);
    const ptrdiff_t rows = p->batch * p->out_size[FC_DEPTH] * p->out_size[FC_HEIGHT];
    ptrdiff_t unit = p->channels;
    while (unit > 64 && (unit * enough > sheet || rows * ((p->channels - 1) / unit + 1) < plan->work.parts))
        unit = round_up(unit / 2, FC_LANES_MAX);
    return unit;
}

/* Columns of channels a row of the sheet holds, in blocks: all that fit beside each other, or enough to fill vectors. */
static void book_columns(fc_pool_plan *plan)
{
    const fc_pool_problem *p = &plan->problem;
    const ptrdiff_t ow = p->out_size[FC_WIDTH], stride = p->stride[FC_WIDTH];
    plan->unit = plan->planes ? p->channels : is_planar(p) ? 1 : unit_of(plan);
    plan->single = plan->unit == 1 && !plan->planes && is_single(p);
    plan->way = way_along(plan);
    plan->channel_blocks = (p->channels + plan->unit - 1) / plan->unit;
    const ptrdiff_t sheet = !plan->planes && plan->unit > 1 ? sheet_of(p) : SHEET;
    const ptrdiff_t one = columns_under(p, 1), span = most(sheet / plan->unit, 2 * one);
    const ptrdiff_t step = p->adaptive ? (p->size[FC_WIDTH] - 1) / ow + 1 : stride;
    plan->block = step == 0 || ow == 1 || plan->planes || plan->way == FC_POOL_SLIDES
                      ? ow
                      : most(1, least(ow, (span - one) / step + 1));
    if (p->adaptive && !plan->planes) plan->block = least(plan->block, SHEET);
    plan->blocks = (ow + plan->block - 1) / plan->block;
    ptrdiff_t row = columns_under(p, plan->block);
    if (plan->single) row = next_power(row);
    if (plan->way == FC_POOL_LEVELS && plan->unit == 1) {
        /* so many levels halve the places; a row begins at one that stays */
        const ptrdiff_t halved = least(ow == 1 ? row : power_within(stride), next_power(row));
        row = round_up(row, next_power(most(halved, 1)));
    }
    const ptrdiff_t lanes = plan->work.kernels->lanes;
    plan->lead = 0;
    if (plan->unit == 1 && plan->way == FC_POOL_TAPS) plan->lead = round_up(p->pad[FC_WIDTH], lanes) - p->pad[FC_WIDTH];
    plan->pitch = (row + plan->lead) * plan->unit;
    if (plan->unit == 1 && (plan->way == FC_POOL_TAPS || plan->way == FC_POOL_TURNED))
        plan->pitch = round_up(plan->pitch, lanes);
}

/* Rows of outputs reduced at once. */
static void book_sheet(fc_pool_plan *plan)
{
    const fc_pool_problem *p = &plan->problem;
    const ptrdiff_t *out = p->out_size, stride = p->stride[FC_HEIGHT], kd = p->kernel[FC_DEPTH];
    const ptrdiff_t high = p->adaptive ? p->size[FC_HEIGHT] : reach(p, FC_HEIGHT);
    const int lanes = plan->work.kernels->lanes;
    plan->rows = (plan->planes ? 1 : p->batch) * plan->channel_blocks * out[FC_DEPTH] * out[FC_HEIGHT];
    plan->along_rows = most(1, SHEET / most(plan->pitch, plan->way == FC_POOL_TURNED ? plan->block : 1));
    plan->along_rows = least(plan->along_rows, plan->rows);
    if (plan->way == FC_POOL_TURNED) plan->along_rows = round_up(plan->along_rows, lanes);
    plan->sheet_rows = plan->along_rows;
    plan->tall = 0;
    if (!p->adaptive && !plan->planes && plan->way != FC_POOL_SLIDES && p->kernel[FC_HEIGHT] > 12 * stride &&
        high <= TALL / FC_LANES_MAX / 2 && out[FC_HEIGHT] > 1) {
        plan->tall = TALL;
        plan->sheet_rows = most(plan->along_rows, least(2 * high / stride + 1, TALL / plan->pitch));
        plan->sheet_rows = least(plan->sheet_rows, out[FC_HEIGHT]);
    }
    if (!plan->tall && !plan->planes && plan->unit > 1 && taps_of(p, FC_HEIGHT) >= FC_POOL_HIGH &&
        (p->adaptive || out[FC_HEIGHT] == 1))
        plan->tall = FC_POOL_CHUNK * levels(taps_of(p, FC_HEIGHT) / 4 + 1);
    const ptrdiff_t tables = (p->adaptive ? p->size[FC_DEPTH] : kd);
    if (!p->adaptive) plan->sheet_rows = least(plan->sheet_rows, most(1, (TABLE / tables - high) / stride + 1));
    plan->table = tables * (p->adaptive ? high : (least(plan->sheet_rows, out[FC_HEIGHT]) - 1) * stride + high);
    plan->table = round_up(plan->table, FC_LANES_MAX);
    plan->along_rows = least(plan->along_rows, plan->sheet_rows);
    plan->sheet = plan->sheet_rows * plan->pitch + SLACK;
    plan->along = most(plan->along_rows * plan->pitch, 1) + SLACK;
    if (plan->way == FC_POOL_TURNED) {
        plan->sheet = round_up(plan->sheet_rows, lanes) * plan->pitch + SLACK;
        plan->along = round_up(plan->along_rows, lanes) * most(plan->pitch, plan->block) + SLACK;
    }
    plan->counts = most(plan->single ? plan->sheet_rows : plan->block * plan->unit, 1) + SLACK;
    plan->padding = plan->pitch + SLACK;
    const ptrdiff_t sheets = plan->tall ? 1 : 4;
    plan->band = most(1, least(sheets * plan->sheet_rows, plan->rows / (4 * plan->work.parts)));
    if (plan->way == FC_POOL_TURNED) plan->band = round_up(plan->band, lanes);
}

static void book_items(fc_pool_plan *plan)
{
    const ptrdiff_t lanes = plan->work.kernels->lanes;
    plan->work.items = (plan->rows + plan->band - 1) / plan->band * plan->blocks;
    if (plan->planes) plan->work.items = plan->problem.batch * ((plan->planes + lanes - 1) / lanes);
    const ptrdiff_t elements = plan->sheet + 2 * plan->along + 2 * (plan->tall + SLACK) + plan->padding + plan->counts +
                               plan->turned + plan->turned_out;
    plan->work.workspace_bytes = (size_t)elements * plan->work.kernels->size + (size_t)plan->table * sizeof(void *);
}

/* Windows of channels last that are few taps of one plane, or share few of them with the next. */
static int is_pixels(const fc_pool_plan *plan)
{
    const fc_pool_problem *p = &plan->problem;
    const ptrdiff_t k = taps_of(p, FC_WIDTH), rows = taps_of(p, FC_DEPTH) * taps_of(p, FC_HEIGHT);
    const int apart = p->adaptive || p->out_size[FC_WIDTH] == 1 || k <= p->stride[FC_WIDTH];
    if (is_planar(p) || !is_last(p)) return 0;
    if (p->indices) /* which are kept in 31 bits */
        return p->i_stride[FC_C] == 1 && k <= PLACES && rows <= PLACES / k &&
               p->size[FC_DEPTH] <= INT32_MAX / p->size[FC_HEIGHT] / p->size[FC_WIDTH];
    if (p->channels < plan->work.kernels->lanes) return 0;
    if ((k == 2 || k == 3) && taps_of(p, FC_DEPTH) == 1) return rows <= WINDOW;
    return apart && k <= WINDOW && rows <= WINDOW / k;
}

/* Bands of whole rows, while there are enough of them; then blocks of columns, at last of channels. */
static void book_pixels(fc_pool_plan *plan)
{
    const fc_pool_problem *p = &plan->problem;
    const ptrdiff_t tap_rows = taps_of(p, FC_DEPTH) * taps_of(p, FC_HEIGHT), columns = taps_of(p, FC_WIDTH);
    const ptrdiff_t *out = p->out_size, rows = p->batch * out[FC_DEPTH] * out[FC_HEIGHT];
    const ptrdiff_t enough = (4 * plan->work.parts + rows - 1) / rows, ow = out[FC_WIDTH];
    plan->way = FC_POOL_PIXELS;
    plan->unit = p->channels;
    plan->block = most(least(ow, 2 * FEW), least((ow + enough - 1) / enough, PIXELS / p->channels));
    plan->blocks = (ow + plan->block - 1) / plan->block;
    while (plan->blocks * ((p->channels - 1) / plan->unit + 1) < enough && plan->unit > 4 * FC_LANES_MAX)
        plan->unit = round_up(plan->unit / 2, FC_LANES_MAX);
    /* the last one has a whole vector, too */
    while (p->channels % plan->unit > 0 && p->channels % plan->unit < FC_LANES_MAX) plan->unit += FC_LANES_MAX;
    plan->channel_blocks = (p->channels + plan->unit - 1) / plan->unit;
    plan->rows = rows * plan->channel_blocks;
    plan->band = most(1, least(OUTPUTS * 4 / (plan->block * plan->unit), plan->rows / (4 * plan->work.parts)));
    plan->padding = plan->unit + SLACK;
    plan->counts = plan->block + SLACK;
    plan->table = round_up(tap_rows * (1 + (columns > 3 || p->indices ? 1 : 4) * columns), FC_LANES_MAX);
    if (p->indices) plan->sheet = plan->table; /* where taps are in the image */
    book_items(plan);
}

/* Maxima with their places: rows of taps are copied with their padding, for as many outputs as keep them in L1. */
static void book_indexed(fc_pool_plan *plan)
{
    const fc_pool_problem *p = &plan->problem;
    const ptrdiff_t *k = p->kernel, *out = p->out_size, tap_rows = k[FC_DEPTH] * k[FC_HEIGHT];
    const ptrdiff_t span = most(1, (SHEET - reach(p, FC_WIDTH)) / p->stride[FC_WIDTH] + 1);
    plan->way = FC_POOL_INDEXED;
    plan->unit = 1;
    plan->channel_blocks = p->channels;
    plan->block = least(out[FC_WIDTH], span);
    plan->blocks = (out[FC_WIDTH] + plan->block - 1) / plan->block;
    plan->pitch = columns_under(p, plan->block) + SLACK;
    plan->rows = p->batch * p->channels * out[FC_DEPTH] * out[FC_HEIGHT];
    plan->band = most(1, least(OUTPUTS / plan->block, plan->rows / (4 * plan->work.parts)));
    plan->sheet = tap_rows * plan->pitch + SLACK;
    plan->counts = plan->block + SLACK;
    plan->table = round_up(tap_rows * k[FC_WIDTH], FC_LANES_MAX);
    book_items(plan);
}

static int is_indexed(const fc_pool_problem *p)
{
    return p->indices && !p->adaptive && is_planar(p) && p->i_stride[FC_W] == 1 && reach(p, FC_WIDTH) <= SHEET &&
           p->kernel[FC_DEPTH] <= FC_POOL_TAP_ROWS / p->kernel[FC_HEIGHT];
}

/* Whether windows outgrow the workspace, or lie in memory so that lanes would have to be gathered. */
static int goes_by_rows(const fc_pool_problem *p)
{
    const int adaptive = p->adaptive;
    const ptrdiff_t across = columns_under(p, 1);
    const ptrdiff_t high = adaptive ? p->size[FC_HEIGHT] : reach(p, FC_HEIGHT);
    const ptrdiff_t deep = adaptive ? p->size[FC_DEPTH] : p->kernel[FC_DEPTH];
    return p->indices || across > (adaptive ? SHEET : LONGEST) || high > TABLE || deep > TABLE / high ||
           !(is_planar(p) || is_last(p)) || (!is_planar(p) && across * least(p->channels, 64) > LONGEST);
}

/* Whether an array's planes lie in memory one element after the other. */
static int is_compact(const ptrdiff_t *stride, const ptrdiff_t *size)
{
    return (size[2] == 1 || stride[FC_W] == 1) && (size[1] == 1 || stride[FC_H] == size[2]) &&
           (size[0] == 1 || stride[FC_D] == size[1] * size[2]);
}

static ptrdiff_t volume(const ptrdiff_t *size) { return size[0] * size[1] * size[2]; }

/* The strides of a vector of turned planes. */
static void turn(ptrdiff_t *stride, const ptrdiff_t *size, ptrdiff_t lanes)
{
    stride[FC_C] = 1;
    stride[FC_W] = lanes;
    stride[FC_H] = lanes * size[2];
    stride[FC_D] = stride[FC_H] * size[1];
    stride[FC_N] = stride[FC_D] * size[0];
}

/* Elements of a vector of planes and their outputs, at most, for these to be turned. */
static ptrdiff_t turned_most(const fc_pool_plan *plan)
{
    const fc_pool_problem *p = &plan->problem;
    const ptrdiff_t lanes = plan->work.kernels->lanes, groups = p->batch * (p->channels / lanes);
    const ptrdiff_t *k = p->kernel;
    /* tap by tap: of larger windows doubling is less work */
    const int overlaps = !p->adaptive && k[FC_WIDTH] > p->stride[FC_WIDTH] &&
                         most(k[FC_HEIGHT], k[FC_WIDTH]) <= 2 * FEW;
    return overlaps && p->size[FC_WIDTH] <= 2 * lanes && groups >= 4 * plan->work.parts ? TURNED_FAR : TURNED;
}

/* Planes too small to fill vectors become the lanes of vectors. */
static void turn_planes(fc_pool_plan *plan)
{
    fc_pool_problem *p = &plan->problem;
    const ptrdiff_t lanes = plan->work.kernels->lanes;
    if (is_single(p) || !is_planar(p) || !is_compact(p->x_stride, p->size) || !is_compact(p->y_stride, p->out_size) ||
        p->channels < lanes / 2 ||
        (volume(p->size) + volume(p->out_size)) * (is_narrow(p) ? FC_LANES_MAX : lanes) >
            (is_narrow(p) ? TURNED : turned_most(plan)) ||
        columns_under(p, p->out_size[FC_WIDTH]) * lanes > TURNED)
        return;
    plan->planes = p->channels;
    plan->x_image = p->x_stride[FC_N], plan->x_plane = p->x_stride[FC_C];
    plan->y_image = p->y_stride[FC_N], plan->y_plane = p->y_stride[FC_C];
    plan->turned = volume(p->size) * lanes, plan->turned_out = volume(p->out_size) * lanes;
    p->channels = lanes;
    turn(p->x_stride, p->size, lanes);
    turn(p->y_stride, p->out_size, lanes);
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
    if (is_indexed(&plan->problem)) {
        book_indexed(plan);
    } else if (is_pixels(plan)) {
        book_pixels(plan);
    } else if (goes_by_rows(&plan->problem)) {
        book_rows(plan);
    } else {
        turn_planes(plan);
        book_columns(plan);
        book_sheet(plan);
        book_items(plan);
    }
    plan->work.workspace_bytes = (plan->work.workspace_bytes + FC_ALIGN - 1) / FC_ALIGN * FC_ALIGN;
    return FC_OK;
}

static inline ptrdiff_t put(const size_t bytes, ptrdiff_t n, const char *x, const int64_t *place, ptrdiff_t size,
                            char *y)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        if (place[i] < 0 || place[i] >= size) return i;
        memcpy(y + (size_t)place[i] * bytes, x + (size_t)i * bytes, bytes);
    }
    return n;
}

ptrdiff_t fc_unpool(size_t bytes, ptrdiff_t n, const void *x, const int64_t *place, ptrdiff_t size, void *y)
{
    switch (bytes) {
    case 1:
        return put(1, n, x, place, size, y);
    case 2:
        return put(2, n, x, place, size, y);
    case 4:
        return put(4, n, x, place, size, y);
    case 8:
        return put(8, n, x, place, size, y);
    default:
        return put(16, n, x, place, size, y);
    }
}
