/* pointwise: y[oc][p] = w[oc][ic] * x[ic][p]. A 1x1 kernel of stride 1 without padding is a matrix product with the image
 * itself, read in place: no strip. Columns p run over one image; the channels of x are x_stride[C] apart. Every step of the
 * chain is another page, and of planes of 4096 bytes the same set of L1, so the tiles of the first rows copy what they read
 * into a panel, from which all further rows read. A prologue's results go into that panel before all tiles. */
#include "algos.h"

enum {
    BLOCK_BYTES = 224 << 10, /* of x under one item: stays in L2 while the output channels pass */
    SCALE_COST = 3, /* of a vector in the prologue, in multiply-adds of a vector */
    KEPT_ROWS = 8 /* tiles of rows from which on a copy repays: at 4 it cost 3 %, from 8 on at most 3 % */
};

static const char *cannot(const fc_conv_plan *p)
{
    const fc_conv_problem *q = &p->problem;
    ptrdiff_t run = 1;
    for (int axis = FC_WIDTH; axis >= 0; axis--) {
        if (q->kernel[axis] != 1) return "the kernel is larger than 1";
        const int same = q->out_size[axis] == q->size[axis] && (q->stride[axis] == 1 || q->size[axis] == 1);
        if (q->pad[axis] != 0 || !same) return "the image is strided or padded";
        if (q->size[axis] > 1 && q->x_stride[2 + axis] != run) return "the pixels of a channel do not lie side by side";
        run *= q->size[axis];
    }
    if (!p->packed && !fc_weights_in_place(p) &&
        (size_t)(p->icg * p->work.kernels->mr) * p->work.kernels->size > FC_WORKSPACE_LIMIT)
        return "weights of one block of output channels do not fit the workspace";
    if (q->prologue.scaled &&
        (size_t)(p->icg * ((FC_VECTORS + 1) * p->work.kernels->lanes + p->work.kernels->mr)) * p->work.kernels->size >
            FC_WORKSPACE_LIMIT)
        return "scaled columns of all channels do not fit the workspace";
    return NULL;
}

/* Vectors that tiles along so many pixels take for each that they fill: the last tile takes as long as 8 chains wait. */
static double tiles_cost(const fc_conv_plan *p, ptrdiff_t pixels)
{
    const ptrdiff_t lanes = p->work.kernels->lanes, whole = pixels / (FC_VECTORS * lanes) * FC_VECTORS;
    const ptrdiff_t rest = fc_ceil_div(pixels - whole * lanes, lanes), least = fc_ceil_div(8, p->work.kernels->mr);
    return (double)((whole + (rest ? fc_max(rest, least) : 0)) * lanes) / (double)pixels;
}

double fc_image_cost(const fc_conv_plan *p)
{
    const double BESIDE = 60; /* of an image by some rows, in multiply-adds of a vector */
    const ptrdiff_t *o = p->problem.out_size, pixels = o[0] * o[1] * o[2];
    const double vectors = (double)pixels / (double)p->work.kernels->lanes;
    return tiles_cost(p, pixels) + BESIDE / (vectors * (double)fc_max(p->icg, 1));
}

double fc_batch_cost(const fc_conv_plan *p)
{
    /* a piece of a row copied into a vector, a vector of a tile that lies in two images, in multiply-adds of a vector */
    const double PIECE = 9, SCATTER = 100;
    const ptrdiff_t *o = p->problem.out_size, pixels = o[0] * o[1] * o[2];
    const ptrdiff_t lanes = p->work.kernels->lanes, tile = FC_VECTORS * lanes;
    const double pieces = 1 + (double)lanes / (double)o[FC_WIDTH];
    const double scattered = pixels % tile ? (double)fc_min(tile, pixels) / (double)pixels : 0;
    return tiles_cost(p, p->problem.batch * pixels) + PIECE * pieces / (double)p->ocg +
           SCATTER * scattered / (double)fc_max(p->icg, 1);
}

static const char *should_not(const fc_conv_plan *p)
{
    if (p->problem.prologue.scaled || p->problem.batch == 1) return NULL;
    if (fc_image_cost(p) > fc_batch_cost(p))
        return "images of few tiles: im2col fills its vectors across the batch (src/README.md, 1x1 on four images of "
               "7x7)";
    return NULL;
}

/* Elements for packing weights, where the user's order does not run along the chain. */
static ptrdiff_t room_of(const fc_conv_plan *p)
{
    return p->packed || fc_weights_in_place(p) ? 0 : fc_round_up(p->icg * p->work.kernels->mr, FC_ALIGN);
}

/* Elements for a copy of the block's columns. */
static ptrdiff_t panel_of(const fc_conv_plan *p)
{
    const fc_kernels *k = p->work.kernels;
    const ptrdiff_t panel = p->column_block * k->lanes * p->icg;
    const int repays = p->problem.prologue.scaled || fc_ceil_div(p->ocg, k->mr * p->row_blocks) >= KEPT_ROWS;
    return repays && (size_t)(room_of(p) + panel) * k->size <= FC_WORKSPACE_LIMIT ? panel : 0;
}

static void book(fc_conv_plan *p)
{
    const fc_kernels *k = p->work.kernels;
    const ptrdiff_t *o = p->problem.out_size;
    const ptrdiff_t vectors = fc_ceil_div(o[0] * o[1] * o[2], k->lanes);
    const ptrdiff_t most = fc_max(BLOCK_BYTES / (fc_max(p->icg, 1) * k->lanes * (ptrdiff_t)k->size), FC_VECTORS);
    fc_grid_book(p, o[0] * o[1] * o[2], most, p->problem.groups * p->problem.batch,
                 p->problem.prologue.scaled ? SCALE_COST : 0);
    p->column_block = fc_block_longest(vectors, p->column_blocks);
    p->work.workspace_bytes = (size_t)(room_of(p) + panel_of(p)) * k->size;
}

/* The prologue of a block's columns, into its panel. */
static void scale_columns(const fc_conv_plan *p, const fc_buffers *b, const fc_block *o)
{
    const fc_prologue *q = &p->problem.prologue;
    const fc_scaling s = { .x = o->x,
                           .scale = b->scale,
                           .shift = b->shift,
                           .channels = o->channels,
                           .x_step = p->problem.x_stride[FC_C],
                           .n = o->columns,
                           .activation = q->activation,
                           .a = q->a,
                           .b = q->b,
                           .to = o->panel };
    p->work.kernels->scale_columns(&s);
}

/* fresh: the workspace has nothing yet of the item's columns. */
static void run_item(const fc_conv_plan *p, const fc_phase *f, const fc_buffers *b, ptrdiff_t item, int fresh,
                     void *workspace)
{
    const fc_kernels *k = p->work.kernels;
    const ptrdiff_t row_block = item % p->row_blocks, block = item / p->row_blocks % p->column_blocks;
    const ptrdiff_t image = item / (p->row_blocks * p->column_blocks);
    const ptrdiff_t group = image % p->problem.groups, n = image / p->problem.groups;
    const ptrdiff_t vectors = fc_ceil_div(f->outputs, k->lanes), rows = fc_ceil_div(p->ocg, k->mr);
    const ptrdiff_t at = fc_block_start(vectors, block, p->column_blocks) * k->lanes;
    const ptrdiff_t end = fc_min(fc_block_start(vectors, block + 1, p->column_blocks) * k->lanes, f->outputs);
    const void *x = fc_at(p, b->x, n * p->problem.x_stride[FC_N] + group * p->icg * p->problem.x_stride[FC_C]);
    const int follows = row_block == p->row_blocks - 1 && block < p->column_blocks - 1;
    fc_block o = {
        .group = group,
        .row = fc_share(rows, row_block, p->row_blocks) * k->mr,
        .row_end = fc_min(fc_share(rows, row_block + 1, p->row_blocks) * k->mr, p->ocg),
        .column = n * f->outputs + at,
        .columns = end - at,
        .channels = p->icg,
        .taps = 1,
        .panel = panel_of(p) ? fc_to(p, workspace, room_of(p)) : NULL,
        .x = fc_at(p, x, at),
        .room = room_of(p) ? workspace : NULL,
        .next = follows ? fc_at(p, x, end) : NULL,
    };
    if (p->problem.prologue.scaled) {
        if (fresh) scale_columns(p, b, &o);
        o.x = NULL;
    }
    fc_block_run(p, f, b, &o);
}

static ptrdiff_t run(const fc_work *work, const fc_buffers *b, void *workspace, ptrdiff_t item, ptrdiff_t end,
                     double deadline)
{
    const fc_conv_plan *p = (const fc_conv_plan *)work;
    fc_phase f;
    fc_phase_of(p, 0, &f);
    const ptrdiff_t first = item;
    while (item < end) {
        run_item(p, &f, b, item, item == first || item % p->row_blocks == 0, workspace);
        item++;
        if (fc_late(deadline)) break;
    }
    return item;
}

const fc_algo fc_algo_pointwise = { "pointwise", "highest",       cannot, should_not,
                                    book,        fc_weights_pack, run,    fc_weights_of_output };
