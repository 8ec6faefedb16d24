/* Zero-padded strips: see fc_strip in algos.h for the memory order. */
#include <string.h>
#include "algos.h"

/* Elements between the outputs' first and last read along an axis, both included. */
static ptrdiff_t span_of(const fc_axis *a, ptrdiff_t outputs)
{
    return (outputs - 1) * a->in_step + (a->taps - 1) * a->tap_step + 1;
}

void fc_strip_plan(const fc_conv_plan *p, const fc_phase *f, fc_strip *s)
{
    const fc_axis *h = &f->axis[FC_HEIGHT], *w = &f->axis[FC_WIDTH];
    const ptrdiff_t lanes = p->work.kernels->lanes;
    if (h->taps == 0 || w->taps == 0 || f->axis[FC_DEPTH].taps == 0) {
        s->row_j = s->row_t = s->strip_rows = s->sets = s->pitch = s->plane = s->channel = 0;
        s->set_per_tap = 0;
        return;
    }
    s->strip_rows = span_of(h, s->rows);
    s->row_j = h->in_step;
    s->row_t = h->tap_step;
    if (s->rows * h->taps < s->strip_rows) {
        s->strip_rows = s->rows * h->taps;
        s->row_j = h->taps;
        s->row_t = 1;
    }
    /* the smaller of the two ways, so that no part of a block needs more than the whole: workspaces are booked by blocks */
    const ptrdiff_t apart = fc_round_up(s->columns, lanes);
    const ptrdiff_t together = fc_round_up(fc_ceil_div(span_of(w, s->columns), w->in_step), lanes);
    s->set_per_tap = w->taps * apart < w->in_step * together;
    s->sets = s->set_per_tap ? w->taps : w->in_step;
    s->pitch = s->set_per_tap ? apart : together;
    s->plane = s->strip_rows * s->sets * s->pitch;
    s->channel = f->axis[FC_DEPTH].taps * s->plane;
}

ptrdiff_t fc_strip_tap(const fc_phase *f, const fc_strip *s, ptrdiff_t td, ptrdiff_t th, ptrdiff_t tw)
{
    const fc_axis *w = &f->axis[FC_WIDTH];
    const ptrdiff_t shift = tw * w->tap_step, row = td * s->plane + th * s->row_t * s->sets * s->pitch;
    if (s->set_per_tap) return row + tw * s->pitch;
    return row + shift % w->in_step * s->pitch + shift / w->in_step;
}

/* The rows of one set: input row in0 + i*step of strip rows i = from, from + every, ... */
static void fill_rows(const fc_conv_plan *p, const fc_strip *s, const fc_axis *h, const char *x, ptrdiff_t set,
                      ptrdiff_t in_row, ptrdiff_t step, ptrdiff_t from, ptrdiff_t every, ptrdiff_t count, fc_rows *r, void *plane)
{
    const ptrdiff_t x_h = p->problem.x_stride[FC_H], size = (ptrdiff_t)p->work.kernels->size;
    const ptrdiff_t start = in_row;
    ptrdiff_t first = start < 0 ? fc_min(fc_ceil_div(-start, step), count) : 0;
    ptrdiff_t end = start >= h->size ? 0 : fc_min((h->size - 1 - start) / step + 1, count);
    if (end < first) end = first = 0;
    char *to = fc_to(p, plane, (from * s->sets + set) * s->pitch);
    const ptrdiff_t to_row = every * s->sets * s->pitch;
    for (ptrdiff_t i = 0; i < count; i++)
        if (i < first || i >= end) memset(to + i * to_row * size, 0, (size_t)(s->pitch * size));
    r->x = x + (start + first * step) * x_h * size;
    r->rows = end - first;
    r->x_row = step * x_h;
    r->to = to + first * to_row * size;
    r->to_row = to_row;
    if (r->rows > 0) p->work.kernels->pad_rows(r);
}

static void fill_plane(const fc_conv_plan *p, const fc_phase *f, const fc_strip *s, const char *x, void *plane)
{
    const fc_axis *h = &f->axis[FC_HEIGHT], *w = &f->axis[FC_WIDTH];
    const ptrdiff_t x_w = p->problem.x_stride[FC_W], size = (ptrdiff_t)p->work.kernels->size;
    for (ptrdiff_t set = 0; set < s->sets; set++) {
        const ptrdiff_t at = w->in0 + s->jw0 * w->in_step + (s->set_per_tap ? set * w->tap_step : set);
        /* strip column j is input column at + j*in_step */
        fc_axis columns = { .n = s->pitch, .size = w->size, .in0 = at, .in_step = w->in_step };
        fc_rows r = { .step = w->in_step * x_w, .n = s->pitch };
        fc_valid(&columns, 0, &r.first, &r.end);
        const char *from = x + at * x_w * size;
        const ptrdiff_t in_row = h->in0 + s->jh0 * h->in_step;
        if (s->row_t == 1 && s->row_j == h->taps && (h->in_step != h->taps || h->tap_step != 1)) {
            for (ptrdiff_t th = 0; th < h->taps; th++) /* strip rows of a tap of their own */
                fill_rows(p, s, h, from, set, in_row + th * h->tap_step, h->in_step, th, h->taps, s->rows, &r, plane);
        } else {
            fill_rows(p, s, h, from, set, in_row, 1, 0, 1, s->strip_rows, &r, plane);
        }
    }
}

void fc_strip_fill(const fc_conv_plan *p, const fc_phase *f, const fc_strip *s, const void *x, ptrdiff_t channels, void *to)
{
    const fc_axis *d = &f->axis[FC_DEPTH];
    const ptrdiff_t *x_stride = p->problem.x_stride;
    if (s->channel == 0) return;
    for (ptrdiff_t c = 0; c < channels; c++)
        for (ptrdiff_t td = 0; td < d->taps; td++) {
            const ptrdiff_t id = d->in0 + s->jd * d->in_step + td * d->tap_step;
            void *plane = fc_to(p, to, c * s->channel + td * s->plane);
            if (id < 0 || id >= d->size) memset(plane, 0, (size_t)s->plane * p->work.kernels->size);
            else fill_plane(p, f, s, fc_at(p, x, c * x_stride[FC_C] + id * x_stride[FC_D]), plane);
        }
}
