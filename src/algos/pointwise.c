/* pointwise: y[oc][p] = w[oc][ic] * x[ic][p]. A 1x1 kernel of stride 1 without padding is a matrix product with the image
 * itself, read in place: no panel, no strip. Columns p run over one image; the channels of x are x_stride[C] apart. */
#include "algos.h"

enum { BLOCK_BYTES = 512 << 10 }; /* of x under one item: stays in L2 while the output channels pass */

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
    return NULL;
}

static const char *should_not(const fc_conv_plan *p)
{
    const ptrdiff_t *o = p->problem.out_size;
    if (o[0] * o[1] * o[2] < FC_VECTORS * p->work.kernels->lanes && p->problem.batch > 1)
        return "images smaller than a tile: im2col fills its vectors across the batch";
    return NULL;
}

static void book(fc_conv_plan *p)
{
    const fc_kernels *k = p->work.kernels;
    const ptrdiff_t *o = p->problem.out_size;
    const ptrdiff_t vectors = fc_ceil_div(o[0] * o[1] * o[2], k->lanes);
    const ptrdiff_t most = fc_max(BLOCK_BYTES / (fc_max(p->icg, 1) * k->lanes * (ptrdiff_t)k->size), FC_VECTORS);
    fc_grid_book(p, vectors, most, p->problem.groups * p->problem.batch, 0);
    p->work.workspace_bytes = p->packed || fc_weights_in_place(p) ? 0 : (size_t)(p->icg * k->mr) * k->size;
}

static void run_item(const fc_conv_plan *p, const fc_phase *f, const fc_buffers *b, ptrdiff_t item, void *room)
{
    const fc_kernels *k = p->work.kernels;
    const ptrdiff_t row_block = item % p->row_blocks, block = item / p->row_blocks % p->column_blocks;
    const ptrdiff_t image = item / (p->row_blocks * p->column_blocks);
    const ptrdiff_t group = image % p->problem.groups, n = image / p->problem.groups;
    const ptrdiff_t vectors = fc_ceil_div(f->outputs, k->lanes), rows = fc_ceil_div(p->ocg, k->mr);
    const ptrdiff_t v0 = fc_share(vectors, block, p->column_blocks),
                    v1 = fc_share(vectors, block + 1, p->column_blocks);
    const ptrdiff_t row_end = fc_min(fc_share(rows, row_block + 1, p->row_blocks) * k->mr, p->ocg);
    const void *x = fc_at(p, b->x, n * p->problem.x_stride[FC_N] + group * p->icg * p->problem.x_stride[FC_C]);
    for (ptrdiff_t row = fc_share(rows, row_block, p->row_blocks) * k->mr; row < row_end; row += k->mr) {
        const fc_weights w = fc_weights_of(p, b, f, group, row, 0, p->icg, 0, 1, room);
        for (ptrdiff_t v = v0; v < v1; v += FC_VECTORS) {
            fc_tile t = { .channels = p->icg,
                          .taps = 1,
                          .b_step = p->problem.x_stride[FC_C],
                          .w = w.w,
                          .w_row = w.w_row,
                          .packed = w.packed,
                          .vectors = (int)fc_min(FC_VECTORS, v1 - v),
                          .rows = (int)fc_min(k->mr, row_end - row),
                          .first = 1,
                          .last = 1,
                          .bias = fc_bias_row(p, b, group, row) };
            ptrdiff_t column[FC_VECTORS];
            for (int j = 0; j < t.vectors; j++) {
                const ptrdiff_t at = (v + j) * k->lanes;
                t.lanes[j] = (int)fc_min(k->lanes, f->outputs - at);
                t.b[j] = fc_at(p, x, at);
                column[j] = n * f->outputs + at;
            }
            fc_tile_run(p, f, &t, column, fc_y_row(p, b, group, row));
        }
    }
}

static ptrdiff_t run(const fc_work *work, const fc_buffers *b, void *workspace, ptrdiff_t item, ptrdiff_t end,
                     double deadline)
{
    const fc_conv_plan *p = (const fc_conv_plan *)work;
    void *room = work->workspace_bytes ? workspace : NULL;
    fc_phase f;
    fc_phase_of(p, 0, &f);
    while (item < end) {
        run_item(p, &f, b, item++, room);
        if (fc_late(deadline)) break;
    }
    return item;
}

const fc_algo fc_algo_pointwise = { "pointwise", "highest",       cannot, should_not,
                                    book,        fc_weights_pack, run,    fc_weights_of_output };
