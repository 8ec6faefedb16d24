/* Tiles of pixels that leave out products with padding: outputs at the border of an image meet fewer taps inside it.
 *
 * It takes finite weights; then the bits stay. A product with padding is +0 or -0. Added to a sum that is not zero, be it
 * infinite or NaN, it changes nothing, and of a zero at most the sign (a sum can be -0: a negative product too small for its
 * type rounds to that). Sums that differ in the sign of a zero alone stay so, for the next product is zero too, or decides
 * alone. The chain ends with + (bias + 0), which is never -0, and there the sign is lost. */
#include "algos.h"

/* Outputs of a region along one axis that meet the same taps inside the image. */
typedef struct stretch {
    int output, n;
    int tap, end;
} stretch;

typedef struct stretches {
    int n;
    stretch of[FC_REGION_PIXELS];
} stretches;

/* A pixel: its place among the region's outputs, its taps along each axis, and a number of all pixels that share them. */
typedef struct place {
    int pixel, kind;
    const stretch *axis[FC_SPATIAL];
} place;

static void find_stretches(const fc_conv_problem *q, int axis, ptrdiff_t output, ptrdiff_t n, stretches *s)
{
    s->n = 0;
    for (int i = 0; i < (int)n; i++) {
        const fc_axis taps = { .n = q->kernel[axis],
                               .size = q->size[axis],
                               .in0 = (output + i) * q->stride[axis] - q->pad[axis],
                               .in_step = q->dilation[axis] };
        ptrdiff_t tap, end;
        fc_valid(&taps, 0, &tap, &end);
        stretch *last = &s->of[s->n - 1];
        if (s->n > 0 && last->tap == tap && last->end == end) last->n++;
        else s->of[s->n++] = (stretch){ i, 1, (int)tap, (int)end };
    }
}

/* The pixels of all images n[0] that lie in one stretch of each axis. */
static place *visit(const stretch *axis[FC_SPATIAL], int kind, const ptrdiff_t n[1 + FC_SPATIAL], place *to)
{
    const stretch *d = axis[FC_DEPTH], *h = axis[FC_HEIGHT], *w = axis[FC_WIDTH];
    for (int image = 0; image < (int)n[0]; image++)
        for (int jd = d->output; jd < d->output + d->n; jd++)
            for (int jh = h->output; jh < h->output + h->n; jh++)
                for (int jw = w->output; jw < w->output + w->n; jw++) {
                    const int row = (image * (int)n[1] + jd) * (int)n[2] + jh;
                    *to++ = (place){ row * (int)n[3] + jw, kind, { d, h, w } };
                }
    return to;
}

/* All pixels, from stretch to stretch as a snake goes: neighbours on its way have most of their taps in common. */
static void walk(const stretches s[FC_SPATIAL], const ptrdiff_t n[1 + FC_SPATIAL], place *to)
{
    int kind = 0;
    for (int d = 0; d < s[0].n; d++)
        for (int i = 0; i < s[1].n; i++) {
            const int h = d % 2 ? s[1].n - 1 - i : i, back = (d * s[1].n + i) % 2;
            for (int j = 0; j < s[2].n; j++) {
                const int w = back ? s[2].n - 1 - j : j;
                const stretch *axis[] = { &s[0].of[d], &s[1].of[h], &s[2].of[w] };
                to = visit(axis, kind++, n, to);
            }
        }
}

/* The box of taps grows to hold a pixel's. */
static void join(fc_pixel_tile *box, const place *pixel)
{
    for (int axis = 0; axis < FC_SPATIAL; axis++) {
        const stretch *s = pixel->axis[axis];
        if (s->tap < box->tap[axis] || box->pixels == 0) box->tap[axis] = s->tap;
        if (s->end > box->end[axis] || box->pixels == 0) box->end[axis] = s->end;
    }
}

static int taps_of(const fc_pixel_tile *t)
{
    return (t->end[0] - t->tap[0]) * (t->end[1] - t->tap[1]) * (t->end[2] - t->tap[2]);
}

static double time_of(const fc_pixel_tile *t)
{
    /* of a step of the chain, in multiply-adds of a pixel: few pixels wait for their weights */
    static const double TIME[1 + FC_PIXELS_MAX] = { 0, 2.2, 2.6, 3.4, 4.25, 5.25, 6.2 };
    return taps_of(t) * TIME[t->pixels];
}

/* The first tile to run fetches the weights: one of all taps, which reads them as a stream. */
static void lead_with_most(fc_pixel_tile *tiles, int count)
{
    int most = 0;
    for (int i = 1; i < count; i++)
        if (taps_of(&tiles[i]) > taps_of(&tiles[most])) most = i;
    const fc_pixel_tile first = tiles[0];
    tiles[0] = tiles[most];
    tiles[most] = first;
}

/* Cuts n pixels on their way where the tiles take the least time. */
static int cut(const place *way, int n, int most, fc_pixel_tile *tiles)
{
    double least[1 + FC_REGION_PIXELS] = { 0 };
    fc_pixel_tile best[1 + FC_REGION_PIXELS]; /* the last tile of the cheapest cut of that many pixels */
    for (int end = 1; end <= n; end++) {
        fc_pixel_tile t = { .pixels = 0 };
        for (t.first = end - 1; t.first >= 0 && t.pixels < most; t.first--) {
            if (t.pixels == 0 || way[t.first].kind != way[t.first + 1].kind) join(&t, &way[t.first]);
            t.pixels++;
            const double time = least[t.first] + time_of(&t);
            if (t.pixels > 1 && time >= least[end]) continue;
            least[end] = time;
            best[end] = t;
        }
    }
    int count = 0;
    for (int end = n; end > 0; end = best[end].first) tiles[count++] = best[end];
    lead_with_most(tiles, count);
    return count;
}

int fc_border_tiles(const fc_conv_plan *p, const ptrdiff_t output[1 + FC_SPATIAL], const ptrdiff_t n[1 + FC_SPATIAL],
                    int *order, fc_pixel_tile *tiles)
{
    stretches s[FC_SPATIAL];
    place way[FC_REGION_PIXELS];
    const int pixels = (int)(n[0] * n[1] * n[2] * n[3]);
    for (int axis = 0; axis < FC_SPATIAL; axis++)
        find_stretches(&p->problem, axis, output[1 + axis], n[1 + axis], &s[axis]);
    walk(s, n, way);
    for (int i = 0; i < pixels; i++) order[i] = way[i].pixel;
    return cut(way, pixels, p->work.kernels->pixels, tiles);
}

double fc_border_share(const fc_conv_plan *p)
{
    double share = 1;
    for (int axis = 0; axis < FC_SPATIAL; axis++) {
        fc_axis a;
        fc_phase_axis(p, axis, 0, &a);
        ptrdiff_t inside = 0, first, end;
        for (ptrdiff_t tap = 0; tap < a.taps; tap++) {
            fc_valid(&a, tap, &first, &end);
            inside += end - first;
        }
        share *= (double)inside / (double)(a.n * a.taps);
    }
    return share;
}
