/* channels: y[p][oc] = sum over (ic, kd, kh, kw) of x[p][ic, k] * w[ic, k][oc], lanes along output channels.
 *
 * Each input is broadcast, so pixels are read wherever they lie: in place, or where windows reach past the image from a
 * zero-padded box around it, in the image's own order. Weights are panels of FC_CHANNEL_VECTORS vectors of channels,
 *     packed[group][panel][channel * taps + tap][vectors * lanes]
 * made once, or a block of the chain at a time. An item is a region of outputs by some vectors of output channels; its sums
 * go to y where channels lie side by side there (channels last, 1x1 images), else to a block that is transposed at last.
 * This is the way of images too small to fill vectors, of matrix-vector products, and of channels last. */
#include <math.h>
#include <string.h>
#include "algos.h"

enum {
    BOX_BYTES = 384 << 10,  /* of a box, in L2 beside a block of weights */
    CHAIN_STEPS = 42, /* of a panel at a time for each pixel of a tile: 64 KB, in L2; of 3 pixels 16 KB, in L1 */
    TAP_BYTES = 1 << 20,   /* of the table of tap offsets */
    BORDER_CHAIN = 128,     /* steps of a chain from which on tiles that leave out padding repay their cutting */
    NEAR_BYTES = 1 << 20,   /* of weights that the next region finds in L2 */
    PIXEL_AXES = 4 /* batch, depth, height, width */
};

/* Where the tiles read: the image, or a box around what a region reads. */
typedef struct view {
    ptrdiff_t stride[FC_AXES];
    ptrdiff_t size[FC_AXES]; /* of a box */
} view;

/* A pixel's first input in the view, its outputs in y. */
typedef struct pixel {
    ptrdiff_t x, y;
} pixel;

typedef struct region {
    ptrdiff_t first[PIXEL_AXES], n[PIXEL_AXES], pixels;
} region;

static ptrdiff_t width_of(const fc_conv_plan *p) { return FC_CHANNEL_VECTORS * p->work.kernels->lanes; }
static ptrdiff_t taps_of(const fc_conv_plan *p)
{
    return p->problem.kernel[0] * p->problem.kernel[1] * p->problem.kernel[2];
}
static ptrdiff_t chain_of(const fc_conv_plan *p) { return p->icg * taps_of(p); }
static ptrdiff_t pixels_of(const fc_conv_plan *p)
{
    const ptrdiff_t *o = p->problem.out_size;
    return p->problem.batch * o[0] * o[1] * o[2];
}
static ptrdiff_t vectors_of(const fc_conv_plan *p) { return fc_ceil_div(p->ocg, p->work.kernels->lanes); }

/* Whether some window reaches past the image. */
static int padded(const fc_conv_problem *q)
{
    for (int axis = 0; axis < FC_SPATIAL; axis++) {
        const ptrdiff_t last = (q->out_size[axis] - 1) * q->stride[axis] + (q->kernel[axis] - 1) * q->dilation[axis];
        if (q->pad[axis] > 0 || last - q->pad[axis] >= q->size[axis]) return 1;
    }
    return 0;
}

/* Whether outputs of one pixel lie side by side in y. */
static int in_y(const fc_conv_plan *p) { return p->problem.y_stride[FC_C] == 1 || p->ocg == 1; }

/* Whether products with padding are left out, as border.c tells, where the weights are finite. */
static int leaves_out(const fc_conv_plan *p)
{
    const double REPAID = 0.93; /* of all products: tiles of all taps follow one another more smoothly */
    return padded(&p->problem) && chain_of(p) >= BORDER_CHAIN && fc_border_share(p) < REPAID;
}

/* Few pixels whose inputs, and so weights, lie in the order of the chain: packing would cost more than the sums. */
static int in_rows(const fc_conv_plan *p)
{
    return !p->packed && pixels_of(p) <= p->work.kernels->pixels && taps_of(p) == 1 && p->problem.x_stride[FC_C] == 1 &&
           !padded(&p->problem) && fc_weights_in_place(p);
}

static view box_of(const fc_conv_plan *p, const ptrdiff_t n[PIXEL_AXES])
{
    const fc_conv_problem *q = &p->problem;
    view v = { .size = { n[0], p->icg } };
    for (int axis = 0; axis < FC_SPATIAL; axis++)
        v.size[2 + axis] = (n[1 + axis] - 1) * q->stride[axis] + (q->kernel[axis] - 1) * q->dilation[axis] + 1;
    static const int first[FC_AXES] = { FC_W, FC_H, FC_D, FC_C, FC_N },
                     last[FC_AXES] = { FC_C, FC_W, FC_H, FC_D, FC_N };
    const int *order = q->x_stride[FC_C] == 1 ? last : first;
    ptrdiff_t step = 1;
    for (int i = 0; i < FC_AXES; i++) {
        v.stride[order[i]] = step;
        step *= v.size[order[i]];
        /* channels of neighbours a power of two apart would meet in few sets of the cache */
        if (order[i] == FC_C && i == 0 && step * (ptrdiff_t)p->work.kernels->size % 1024 == 0)
            step += FC_ALIGN / (ptrdiff_t)p->work.kernels->size;
    }
    return v;
}

static ptrdiff_t elements_of(const view *box) { return box->stride[FC_N] * box->size[FC_N]; }

static int fits(const fc_conv_plan *p, const ptrdiff_t n[PIXEL_AXES], ptrdiff_t box_bytes)
{
    const ptrdiff_t pixels = n[0] * n[1] * n[2] * n[3], vectors = fc_min(vectors_of(p), FC_CHANNEL_VECTORS);
    const double outputs = (double)(pixels * vectors * p->work.kernels->lanes);
    if (pixels > FC_REGION_PIXELS || outputs * (double)chain_of(p) > FC_ITEM_WORK) return 0;
    if (!padded(&p->problem)) return 1;
    const view box = box_of(p, n);
    return elements_of(&box) * (ptrdiff_t)p->work.kernels->size <= box_bytes;
}

static ptrdiff_t outputs_along(const fc_conv_plan *p, int axis)
{
    return axis == 0 ? p->problem.batch : p->problem.out_size[axis - 1];
}

/* As many outputs as fit: of a row, then rows, planes, images, each only once all of the axis before are in. */
static void shape_region(const fc_conv_plan *p, ptrdiff_t n[PIXEL_AXES])
{
    for (int axis = 0; axis < PIXEL_AXES; axis++) n[axis] = 1;
    for (int axis = PIXEL_AXES - 1; axis >= 0; axis--) {
        const ptrdiff_t all = outputs_along(p, axis);
        ptrdiff_t blocks = 1;
        for (n[axis] = all; n[axis] > 1 && !fits(p, n, BOX_BYTES); n[axis] = fc_ceil_div(all, blocks)) blocks *= 2;
        if (n[axis] < all) break;
    }
}

static const char *cannot(const fc_conv_plan *p)
{
    const ptrdiff_t size = (ptrdiff_t)p->work.kernels->size, most = (ptrdiff_t)FC_WORKSPACE_LIMIT / 4;
    if (p->problem.transposed) return "the convolution is transposed";
    if (taps_of(p) > TAP_BYTES / (ptrdiff_t)sizeof(fc_tap))
        return "the kernel has too many taps for the table of their offsets";
    if (taps_of(p) * width_of(p) * size > most) return "the weights of one channel do not fit the workspace";
    const ptrdiff_t one[PIXEL_AXES] = { 1, 1, 1, 1 };
    const view box = box_of(p, one);
    if (padded(&p->problem) && elements_of(&box) * size > most)
        return "a window of all channels does not fit the workspace";
    return NULL;
}

static size_t packed_bytes(const fc_conv_plan *p)
{
    return (size_t)(p->problem.groups * vectors_of(p) * p->work.kernels->lanes * chain_of(p)) * p->work.kernels->size;
}

/* Behind packed weights: whether all are finite. They are looked at once. */
static int *note_of(const fc_conv_plan *p, const void *packed)
{
    return (int *)(void *)((char *)(uintptr_t)packed + packed_bytes(p));
}

/* What a tile takes for each of its multiply-adds: one of fewer vectors of output channels broadcasts a pixel for fewer of
 * them, and has fewer chains to hide the way of its weights. */
static double tile_cost(const fc_conv_plan *p)
{
    const int few = p->work.kernels->pixels < FC_PIXELS_MAX; /* smaller tiles load more, and wait for their sums */
    static const double costs[2][FC_CHANNEL_VECTORS - 1] = { { 1.4, 1.25, 1.1 }, { 1.4, 1.45, 1.3 } };
    const double loads = few ? 1.07 : 1, *cost = costs[few];
    const ptrdiff_t vectors = vectors_of(p), rest = vectors % FC_CHANNEL_VECTORS;
    const double whole = (double)(vectors - rest);
    return loads * (rest ? whole + (double)rest * cost[rest - 1] : whole) / (double)vectors;
}

static double idle_lanes(const fc_conv_plan *p)
{
    return (double)(vectors_of(p) * p->work.kernels->lanes) / (double)p->ocg;
}

double fc_channels_tile_cost(const fc_conv_plan *p)
{
    const double WAIT = 2; /* 3 pixels by one vector are too few chains to hide a multiply-add's latency */
    const int waits = vectors_of(p) == 1 && p->work.kernels->pixels < FC_PIXELS_MAX;
    return tile_cost(p) * idle_lanes(p) * (waits ? WAIT : 1);
}

/* A vector of weights that comes from beyond L2. */
static double fetch_cost(const fc_conv_plan *p) { return packed_bytes(p) > NEAR_BYTES ? 3 : 0; }

/* As in direct.c: idle lanes and the preparation's share. */
double fc_channels_cost(const fc_conv_plan *p)
{
    /* a vector of weights packed, whose rows may meet in few sets of L1, or transposed and used; of sums transposed */
    const double PACK = 4, SETS = 3, ROWS = 3, STORE = 4, CUT = 1.05; /* tiles cut at the border are smaller */
    const double BESIDE =
        12; /* what a vector of sums takes beside its chain, where transposing them does not hide it */
    const double idle = idle_lanes(p), chain = (double)chain_of(p);
    const int many = pixels_of(p) > p->work.kernels->lanes;
    double loads = many ? fc_channels_tile_cost(p) / idle : tile_cost(p);
    ptrdiff_t n[PIXEL_AXES];
    shape_region(p, n);
    double weights = p->packed ? 0 : in_rows(p) ? ROWS : PACK;
    if (weights == PACK && p->problem.w_stride[0] * (ptrdiff_t)p->work.kernels->size % 4096 == 0) weights += SETS;
    weights += fetch_cost(p);
    if (leaves_out(p)) loads *= CUT * fc_border_share(p);
    return idle * (loads + weights / (double)(n[0] * n[1] * n[2] * n[3]) + (in_y(p) ? many * BESIDE : STORE) / chain);
}

/* Whether pixels that follow one another lie apart: channels last, or images of one pixel. */
static int apart(ptrdiff_t batch, const ptrdiff_t size[FC_SPATIAL], const ptrdiff_t stride[FC_AXES])
{
    static const int axes[FC_SPATIAL] = { FC_D, FC_H, FC_W };
    for (int i = FC_SPATIAL - 1; i >= 0; i--)
        if (size[i] > 1) return stride[axes[i]] != 1;
    return batch > 1 && stride[FC_N] != 1;
}

/* The cheaper of direct and im2col, lanes along rows of the image or along all of it; of 1x1 kernels, as pointwise.c counts. */
static double pixels_cost(const fc_conv_plan *p)
{
    const double VECTOR = 9, GATHER = 6, SCATTER = 100; /* a vector of inputs packed, or a lane; a vector of outputs */
    const ptrdiff_t lanes = p->work.kernels->lanes, tail = p->work.kernels->tail;
    const fc_conv_problem *q = &p->problem;
    const ptrdiff_t pixels = pixels_of(p), w = q->out_size[2];
    /* as functions with 16 registers, packing weights takes what fewer tiles would save: idle lanes alone count */
    const int by_tiles = pixels > lanes && (p->packed || p->work.kernels->mr == 8);
    if (by_tiles && !fc_algo_pointwise.cannot(p))
        return fmin(fc_image_cost(p), fc_batch_cost(p)) + fetch_cost(p) / (double)pixels;
    const int gathered = apart(q->batch, q->size, q->x_stride), scattered = apart(q->batch, q->out_size, q->y_stride);
    /* a weight's broadcast takes as long as a whole vector's multiply-add, few rows wait for one another */
    const double alone = pixels <= lanes && p->work.kernels->mr < 8 ? 2 : 1;
    const double flat = alone * (double)fc_max(fc_round_up(pixels, tail), lanes) / (double)pixels;
    const double rows = alone * (double)fc_max(fc_round_up(w, tail), lanes) / (double)w;
    const double vector = gathered ? GATHER * (double)lanes : taps_of(p) > 1 ? VECTOR : 0;
    const double loads = gathered && p->work.kernels->mr < 8 ? 1.07 : 1; /* as in tile_cost */
    const double packed = loads * flat + vector / (double)p->ocg + (scattered ? SCATTER / (double)chain_of(p) : 0);
    /* few pixels gathered are im2col's */
    const double unpacked = !gathered ? rows : pixels > lanes ? fc_direct_cost(p) : packed;
    return fmin(packed, unpacked) + fetch_cost(p) / (double)pixels;
}

static const char *should_not(const fc_conv_plan *p)
{
    if (fc_channels_cost(p) >= pixels_cost(p))
        return "lanes along pixels leave fewer idle, or repay the packing of weights less (pytest --benchmark, 1x1 and "
               "7x7 images)";
    return NULL;
}

/* What the workspace holds, in order. */
typedef struct rooms {
    size_t taps, pixels, order, tiles, weights, sums, box, all;
} rooms;

static rooms rooms_of(const fc_conv_plan *p)
{
    const size_t size = p->work.kernels->size, width = (size_t)width_of(p);
    const ptrdiff_t *n = p->region, taps = taps_of(p), pixels = n[0] * n[1] * n[2] * n[3];
    const view box = box_of(p, n);
    const size_t bytes[] = { (size_t)taps * sizeof(fc_tap),
                             (size_t)pixels * sizeof(pixel),
                             (size_t)pixels * sizeof(int),
                             (size_t)pixels * sizeof(fc_pixel_tile),
                             p->packed || in_rows(p) ? 0 : (size_t)(p->k_block * taps) * width * size,
                             in_y(p) ? 0 : (size_t)pixels * width * size,
                             padded(&p->problem) ? (size_t)elements_of(&box) * size : 0 };
    size_t at[8] = { 0 };
    for (int i = 0; i < 7; i++) at[i + 1] = at[i] + (size_t)fc_round_up((ptrdiff_t)bytes[i], FC_ALIGN);
    return (rooms){ at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7] };
}

static ptrdiff_t regions_of(const fc_conv_plan *p)
{
    ptrdiff_t regions = 1;
    for (int axis = 0; axis < PIXEL_AXES; axis++) regions *= fc_ceil_div(outputs_along(p, axis), p->region[axis]);
    return regions;
}

static void book(fc_conv_plan *p)
{
    const ptrdiff_t parts = p->work.parts;
    shape_region(p, p->region);
    p->k_block = fc_max(fc_min(CHAIN_STEPS * p->work.kernels->pixels / taps_of(p), p->icg), 1);
    /* output channels are split until the busiest part does least */
    const ptrdiff_t others = regions_of(p) * p->problem.groups, vectors = vectors_of(p);
    ptrdiff_t best = -1;
    for (ptrdiff_t blocks = 1; blocks <= fc_min(vectors, 2 * parts); blocks++) {
        const ptrdiff_t load = fc_ceil_div(others * blocks, parts) * fc_ceil_div(vectors, blocks);
        if (best >= 0 && load >= best) continue;
        best = load;
        p->row_blocks = blocks;
    }
    p->work.items = others * p->row_blocks;
    p->packed_bytes = packed_bytes(p) + FC_ALIGN;
    p->work.workspace_bytes = rooms_of(p).all;
}

/* Steps of the chain from channel c on, of some vectors of output channels, into a panel width elements wide. */
static void pack_block(const fc_conv_plan *p, const void *w, ptrdiff_t group, ptrdiff_t vector, ptrdiff_t vectors,
                       ptrdiff_t c, ptrdiff_t channels, void *to, ptrdiff_t width)
{
    const ptrdiff_t lanes = p->work.kernels->lanes, oc = vector * lanes;
    fc_weights_turn(p, w, group * p->ocg + oc, fc_min(vectors * lanes, p->ocg - oc), c, channels, to, width);
}

static ptrdiff_t panel_width(const fc_conv_plan *p, ptrdiff_t panel)
{
    return fc_min(vectors_of(p) - panel * FC_CHANNEL_VECTORS, FC_CHANNEL_VECTORS) * p->work.kernels->lanes;
}

static ptrdiff_t panel_offset(const fc_conv_plan *p, ptrdiff_t group, ptrdiff_t panel)
{
    return (group * vectors_of(p) + panel * FC_CHANNEL_VECTORS) * p->work.kernels->lanes * chain_of(p);
}

/* Panels of one group; w is where the weights of output channel 0 lie, or would. Whether all are finite. */
static int pack_panels(const fc_conv_plan *p, const void *w, void *packed, ptrdiff_t group, ptrdiff_t first,
                       ptrdiff_t end)
{
    for (ptrdiff_t panel = first; panel < end; panel++)
        pack_block(p, w, group, panel * FC_CHANNEL_VECTORS, panel_width(p, panel) / p->work.kernels->lanes, 0, p->icg,
                   fc_to(p, packed, panel_offset(p, group, panel)), panel_width(p, panel));
    const ptrdiff_t at = panel_offset(p, group, first);
    const ptrdiff_t last = panel_offset(p, group, end - 1) + panel_width(p, end - 1) * chain_of(p);
    return p->work.kernels->all_finite(fc_at(p, packed, at), last - at, 1);
}

static void pack(const fc_conv_plan *p, const void *w, void *packed)
{
    int finite = 1;
    for (ptrdiff_t group = 0; group < p->problem.groups; group++)
        finite &= pack_panels(p, w, packed, group, 0, fc_ceil_div(vectors_of(p), FC_CHANNEL_VECTORS));
    *note_of(p, packed) = finite;
}

ptrdiff_t fc_channels_pack_unit(const fc_conv_plan *p) { return FC_CHANNEL_VECTORS * p->work.kernels->lanes; }

void fc_channels_pack_piece(const fc_conv_plan *p, const void *w, void *packed, ptrdiff_t first, ptrdiff_t end)
{
    const ptrdiff_t unit = fc_channels_pack_unit(p);
    const void *origin = fc_at(p, w, -first * p->problem.w_stride[0]);
    const int finite = pack_panels(p, origin, packed, 0, first / unit, fc_ceil_div(end, unit));
    *note_of(p, packed) = finite && (first == 0 || *note_of(p, packed));
}

static region region_of(const fc_conv_plan *p, ptrdiff_t index)
{
    region r = { .pixels = 1 };
    for (int axis = PIXEL_AXES - 1; axis >= 0; axis--) {
        const ptrdiff_t all = outputs_along(p, axis), blocks = fc_ceil_div(all, p->region[axis]);
        r.first[axis] = index % blocks * p->region[axis];
        r.n[axis] = fc_min(p->region[axis], all - r.first[axis]);
        r.pixels *= r.n[axis];
        index /= blocks;
    }
    return r;
}

/* Pixels in the order of the outputs that lie equally far apart: of a row, or of rows that follow one another without a gap. */
static ptrdiff_t line_of(const fc_conv_plan *p, const region *r, const view *v)
{
    const fc_conv_problem *q = &p->problem;
    const int joined = q->stride[1] * v->stride[FC_H] == r->n[3] * q->stride[2] * v->stride[FC_W] &&
                       q->y_stride[FC_H] == r->n[3] * q->y_stride[FC_W];
    return joined ? r->n[2] * r->n[3] : r->n[3];
}

/* The region's pixels in the order of the outputs; x counts from the view's first element that the region reads, y from the
 * region's first output. */
static void list_pixels(const fc_conv_plan *p, const region *r, const view *v, pixel *to)
{
    const ptrdiff_t *s = p->problem.stride, *y = p->problem.y_stride, *x = v->stride;
    for (ptrdiff_t n = 0; n < r->n[0]; n++)
        for (ptrdiff_t d = 0; d < r->n[1]; d++)
            for (ptrdiff_t h = 0; h < r->n[2]; h++) {
                const ptrdiff_t row = n * x[FC_N] + d * s[0] * x[FC_D] + h * s[1] * x[FC_H];
                const ptrdiff_t y_row = n * y[FC_N] + d * y[FC_D] + h * y[FC_H];
                for (ptrdiff_t w = 0; w < r->n[3]; w++)
                    *to++ = (pixel){ row + w * s[2] * x[FC_W], y_row + w * y[FC_W] };
            }
}

/* The taps of a tile, of a panel width elements wide; returns how many they are. */
static ptrdiff_t list_taps(const fc_conv_plan *p, const view *v, const fc_pixel_tile *t, ptrdiff_t width, fc_tap *to)
{
    const ptrdiff_t *k = p->problem.kernel, *dilation = p->problem.dilation, *x = v->stride;
    const fc_tap *begin = to;
    for (ptrdiff_t d = t->tap[0]; d < t->end[0]; d++)
        for (ptrdiff_t h = t->tap[1]; h < t->end[1]; h++)
            for (ptrdiff_t w = t->tap[2]; w < t->end[2]; w++)
                *to++ = (fc_tap){ d * dilation[0] * x[FC_D] + h * dilation[1] * x[FC_H] + w * dilation[2] * x[FC_W],
                                  ((d * k[1] + h) * k[2] + w) * width };
    return to - begin;
}

/* Tiles of all taps, nearly equal, in the order of the outputs; the larger ones first. */
static ptrdiff_t share_tiles(const fc_conv_plan *p, ptrdiff_t pixels, int *order, fc_pixel_tile *to)
{
    const ptrdiff_t *k = p->problem.kernel, tiles = fc_ceil_div(pixels, p->work.kernels->pixels);
    for (ptrdiff_t i = 0; i < pixels; i++) order[i] = (int)i;
    for (ptrdiff_t i = 0, first = 0; i < tiles; i++) {
        const ptrdiff_t n = fc_ceil_div(pixels - first, tiles - i);
        to[i] = (fc_pixel_tile){ (int)first, (int)n, { 0 }, { (int)k[0], (int)k[1], (int)k[2] } };
        first += n;
    }
    return tiles;
}

/* The part of an axis of a box that lies inside the image: box elements first to end; from: the image's at first. */
typedef struct inside {
    ptrdiff_t first, end, from;
} inside;

static inside inside_of(const fc_conv_plan *p, const region *r, const view *box, int axis)
{
    const fc_conv_problem *q = &p->problem;
    const ptrdiff_t at = r->first[1 + axis] * q->stride[axis] - q->pad[axis];
    const ptrdiff_t first = fc_min(fc_max(-at, 0), box->size[2 + axis]);
    const ptrdiff_t end = fc_max(fc_min(q->size[axis] - at, box->size[2 + axis]), first);
    return (inside){ first, end, at + first };
}

/* Where the box's columns are the image's, elements side by side: rows with the zeros at their ends. */
static fc_rows whole_rows(const fc_conv_plan *p, const view *box, const inside *h, const inside *w)
{
    return (fc_rows){ .rows = h->end - h->first,
                      .x_row = p->problem.x_stride[FC_H],
                      .to_row = box->stride[FC_H],
                      .step = 1,
                      .first = w->first * p->icg,
                      .end = w->end * p->icg,
                      .n = box->size[FC_W] * p->icg };
}

/* Copies what lies inside the image, zero elsewhere. x: the group's first channel of the region's first image. */
static void fill_box(const fc_conv_plan *p, const region *r, const view *box, const void *x, void *to)
{
    const ptrdiff_t *xs = p->problem.x_stride, *bs = box->stride, *size = box->size;
    const inside d = inside_of(p, r, box, 0), h = inside_of(p, r, box, 1), w = inside_of(p, r, box, 2);
    const int last = bs[FC_C] == 1, whole = last && xs[FC_W] == p->icg && bs[FC_W] == p->icg;
    if (!whole || d.end - d.first < size[FC_D] || h.end - h.first < size[FC_H])
        memset(to, 0, (size_t)elements_of(box) * p->work.kernels->size);
    const ptrdiff_t outer = whole ? 1 : last ? h.end - h.first : p->icg;
    for (ptrdiff_t n = 0; n < r->n[0]; n++)
        for (ptrdiff_t jd = 0; jd < d.end - d.first; jd++)
            for (ptrdiff_t i = 0; i < outer; i++) {
                const ptrdiff_t c = last ? 0 : i, jh = last ? i : 0, column = whole ? w.first : 0;
                const ptrdiff_t from = n * xs[FC_N] + c * xs[FC_C] + (d.from + jd) * xs[FC_D] +
                                       (h.from + jh) * xs[FC_H] + (w.from - column) * xs[FC_W];
                const ptrdiff_t at = n * bs[FC_N] + c * bs[FC_C] + (d.first + jd) * bs[FC_D] +
                                     (h.first + jh) * bs[FC_H] + (w.first - column) * bs[FC_W];
                fc_rows copy = { .step = last ? xs[FC_C] : xs[FC_W] };
                if (whole) copy = whole_rows(p, box, &h, &w);
                else if (last)
                    copy.rows = w.end - w.first, copy.x_row = xs[FC_W], copy.to_row = bs[FC_W], copy.n = p->icg;
                else
                    copy.rows = h.end - h.first, copy.x_row = xs[FC_H], copy.to_row = bs[FC_H],
                    copy.n = w.end - w.first;
                if (!whole) copy.end = copy.n;
                copy.x = fc_at(p, x, from);
                copy.to = fc_to(p, to, at);
                p->work.kernels->pad_rows(&copy);
            }
}

/* What an item works on. */
typedef struct job {
    const fc_buffers *b;
    ptrdiff_t group, first, pixels, tiles; /* first: the region's first output in y */
    const pixel *at;
    ptrdiff_t line; /* of so many pixels neighbours lie equally far apart; none where tiles leave out padding */
    const int *order;
    const fc_pixel_tile *tile;
    fc_tap *tap; /* room for them */
    const void *x; /* the group's first channel at the view's beginning */
    const view *v; /* what x is */
    void *weights, *sums;
    int finished; /* sums are outputs */
    void *y; /* the first pixel of the panel's first output channel */
} job;

/* The sums of a panel, [pixel][channel], to y, where they become outputs: as many pixels at once as lie side by side there. */
static void store_transposed(const fc_conv_plan *p, const job *j, ptrdiff_t width, ptrdiff_t channels)
{
    const pixel *at = j->at;
    const ptrdiff_t y_channel = p->problem.y_stride[FC_C];
    for (ptrdiff_t first = 0, end; first < j->pixels; first = end) {
        for (end = first + 1; end < j->pixels && at[end].y == at[end - 1].y + 1;) end++;
        char *y = fc_to(p, j->y, at[first].y);
        p->work.kernels->transpose(fc_at(p, j->sums, first * width), end - first, width, channels, y, y_channel);
        for (ptrdiff_t c = 0; c < channels && !j->finished; c++)
            fc_epilogue(p, j->b, fc_to(p, y, c * y_channel), end - first, 1);
    }
}

/* Where the pixels of a tile read, and where their sums go: y, or the block of sums, width elements a pixel. */
static void place_pixels(const fc_conv_plan *p, const job *j, const fc_pixel_tile *tile, ptrdiff_t width,
                         fc_channel_tile *t)
{
    t->pixels = tile->pixels;
    for (int i = 0; i < t->pixels; i++) {
        const int pixel = j->order[tile->first + i];
        t->x[i] = fc_at(p, j->x, j->at[pixel].x);
        t->y[i] = in_y(p) ? fc_to(p, j->y, j->at[pixel].y) : fc_to(p, j->sums, pixel * width);
    }
}

/* The tiles from i on that are alike and lie in a line: one call for all, unless they fetch weights. */
static void repeat_tile(const fc_conv_plan *p, const job *j, ptrdiff_t i, fc_channel_tile *t)
{
    const fc_pixel_tile *tile = &j->tile[i];
    t->repeats = 1;
    if (t->ahead || t->pixels < 2 || tile->first % fc_max(j->line, 1) + t->pixels > j->line) return;
    const ptrdiff_t size = (ptrdiff_t)p->work.kernels->size;
    const ptrdiff_t most = fc_min((j->line - tile->first % j->line) / t->pixels, j->tiles - i);
    while (t->repeats < most && tile[t->repeats].pixels == t->pixels) t->repeats++;
    t->x_next = ((const char *)t->x[1] - (const char *)t->x[0]) / size * t->pixels;
    t->y_next = ((const char *)t->y[1] - (const char *)t->y[0]) / size * t->pixels;
}

/* A block of the chain for all pixels. Products with padding are left out if the weights are finite. */
static void run_tiles(const fc_conv_plan *p, const job *j, ptrdiff_t width, int finite, fc_channel_tile *t)
{
    const ptrdiff_t *k = p->problem.kernel;
    const int linear = taps_of(p) == 1;
    const fc_pixel_tile *listed = NULL;
    const char *next = (const char *)t->w + t->channels * t->w_step * (ptrdiff_t)p->work.kernels->size;
    const char *next_end = p->packed ? next + t->channels * t->w_step * (ptrdiff_t)p->work.kernels->size : next;
    for (ptrdiff_t i = 0; i < j->tiles; i++) {
        fc_pixel_tile tile = j->tile[i];
        for (int axis = 0; axis < FC_SPATIAL && !finite; axis++) tile.tap[axis] = 0, tile.end[axis] = (int)k[axis];
        if (!listed || memcmp(listed->tap, tile.tap, sizeof tile.tap) || memcmp(listed->end, tile.end, sizeof tile.end))
            t->taps = list_taps(p, j->v, &tile, width, j->tap);
        listed = &j->tile[i];
        t->tap = linear && t->taps == 1 ? NULL : j->tap;
        t->ahead = next < next_end ? next : NULL;
        place_pixels(p, j, &tile, width, t);
        repeat_tile(p, j, i, t);
        next += t->repeats * t->channels * t->taps * FC_ALIGN;
        i += t->repeats - 1;
        p->work.kernels->channel_tile(t);
    }
}

/* Some vectors of one panel of output channels, from vector on, for all pixels, a block of the chain at a time. */
static void run_blocks(const fc_conv_plan *p, const job *item, ptrdiff_t vector, ptrdiff_t width, fc_channel_tile *t)
{
    const fc_kernels *k = p->work.kernels;
    const ptrdiff_t taps = taps_of(p), panel = vector / FC_CHANNEL_VECTORS;
    const ptrdiff_t within = vector % FC_CHANNEL_VECTORS * k->lanes;
    job block = *item;
    t->w_step = taps * width;
    for (ptrdiff_t c = 0; c < p->icg; c += t->channels) {
        t->channels = fc_min(p->k_block, p->icg - c);
        t->first = c == 0;
        t->last = c + t->channels == p->icg;
        block.x = fc_at(p, item->x, c * t->x_step);
        int finite = 1;
        if (p->packed) {
            t->w = fc_at(p, item->b->w, panel_offset(p, item->group, panel) + c * taps * width + within);
            finite = *note_of(p, item->b->w);
        } else {
            t->w = item->weights;
            pack_block(p, item->b->w, item->group, vector, t->vectors, c, t->channels, item->weights, width);
            if (leaves_out(p)) finite = k->all_finite(item->weights, t->channels * taps * width, 1);
        }
        run_tiles(p, &block, width, finite, t);
    }
}

static void run_panel(const fc_conv_plan *p, job *j, ptrdiff_t vector, int vectors)
{
    const fc_kernels *k = p->work.kernels;
    const ptrdiff_t oc = vector * k->lanes, channels = fc_min(vectors * k->lanes, p->ocg - oc);
    const ptrdiff_t width = p->packed ? panel_width(p, vector / FC_CHANNEL_VECTORS) : vectors * k->lanes;
    j->y = fc_to(p, fc_y_row(p, j->b, j->group, oc), j->first);
    fc_channel_tile t = { .x_step = j->v->stride[FC_C],
                          .vectors = vectors,
                          .lanes = (int)(channels - (vectors - 1) * k->lanes),
                          .bias = fc_bias_row(p, j->b, j->group, oc) };
    if (in_rows(p)) {
        t.channels = p->icg;
        t.w_step = p->problem.w_stride[0];
        t.w = fc_at(p, j->b->w, (j->group * p->ocg + oc) * t.w_step);
        place_pixels(p, j, j->tile, width, &t);
        k->channel_rows(&t);
    } else {
        j->finished = fc_epilogue_clamps(p, &t.finish);
        run_blocks(p, j, vector, width, &t);
    }
    if (!in_y(p)) store_transposed(p, j, width, channels);
    for (ptrdiff_t i = 0; i < j->pixels && in_y(p) && !j->finished; i++)
        fc_epilogue(p, j->b, fc_to(p, j->y, j->at[i].y), channels, 1);
}

/* What the workspace holds: lists of a region's pixels and tiles, and the box of a group. */
typedef struct held {
    region r;
    ptrdiff_t group, tiles;
} held;

/* Lists without gaps of padding depend on the region's size alone. */
static void list_region(const fc_conv_plan *p, const region *r, const view *v, void *workspace, held *h)
{
    const rooms room = rooms_of(p);
    int *order = (void *)((char *)workspace + room.order);
    fc_pixel_tile *tile = (void *)((char *)workspace + room.tiles);
    if (!memcmp(h->r.n, r->n, sizeof r->n) && (!leaves_out(p) || !memcmp(&h->r, r, sizeof *r))) return;
    list_pixels(p, r, v, (void *)((char *)workspace + room.pixels));
    h->tiles = leaves_out(p) ? fc_border_tiles(p, r->first, r->n, order, tile) : share_tiles(p, r->pixels, order, tile);
}

static void run_item(const fc_conv_plan *p, const fc_buffers *b, ptrdiff_t item, void *workspace, held *h)
{
    const rooms room = rooms_of(p);
    const ptrdiff_t block = item % p->row_blocks, rest = item / p->row_blocks, group = rest % p->problem.groups;
    const region r = region_of(p, rest / p->problem.groups);
    const ptrdiff_t *xs = p->problem.x_stride, *ys = p->problem.y_stride;
    view v = { .size = { 0 } };
    const void *x = fc_at(p, b->x, r.first[0] * xs[FC_N] + group * p->icg * xs[FC_C]);
    if (padded(&p->problem)) {
        void *box = (char *)workspace + room.box;
        v = box_of(p, r.n);
        if (group != h->group || memcmp(&h->r, &r, sizeof r)) fill_box(p, &r, &v, x, box);
        x = box;
    } else {
        memcpy(v.stride, xs, sizeof v.stride);
        for (int axis = 0; axis < FC_SPATIAL; axis++)
            x = fc_at(p, x, (r.first[1 + axis] * p->problem.stride[axis] - p->problem.pad[axis]) * xs[2 + axis]);
    }
    list_region(p, &r, &v, workspace, h);
    h->r = r;
    h->group = group;
    job j = { .b = b,
              .group = group,
              .first = r.first[0] * ys[FC_N] + r.first[1] * ys[FC_D] + r.first[2] * ys[FC_H] + r.first[3] * ys[FC_W],
              .pixels = r.pixels,
              .tiles = h->tiles,
              .at = (void *)((char *)workspace + room.pixels),
              .line = leaves_out(p) ? 0 : line_of(p, &r, &v),
              .order = (void *)((char *)workspace + room.order),
              .tile = (void *)((char *)workspace + room.tiles),
              .tap = (void *)((char *)workspace + room.taps),
              .x = x,
              .v = &v,
              .weights = (char *)workspace + room.weights,
              .sums = (char *)workspace + room.sums };
    const ptrdiff_t vectors = vectors_of(p), end = fc_share(vectors, block + 1, p->row_blocks);
    for (ptrdiff_t next, vector = fc_share(vectors, block, p->row_blocks); vector < end; vector = next) {
        next = fc_min(vector - vector % FC_CHANNEL_VECTORS + FC_CHANNEL_VECTORS, end);
        run_panel(p, &j, vector, (int)(next - vector));
    }
}

static ptrdiff_t run(const fc_work *work, const fc_buffers *b, void *workspace, ptrdiff_t item, ptrdiff_t end,
                     double deadline)
{
    held h = { .group = -1 };
    while (item < end) {
        run_item((const fc_conv_plan *)work, b, item++, workspace, &h);
        if (fc_late(deadline)) break;
    }
    return item;
}

/* weights_of is for transposed convolutions alone */
const fc_algo fc_algo_channels = { "channels", "highest", cannot, should_not, book, pack, run, NULL };
