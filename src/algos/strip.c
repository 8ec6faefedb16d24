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
        *s = (fc_strip){ .jd = s->jd, .jh0 = s->jh0, .rows = s->rows, .jw0 = s->jw0, .columns = s->columns };
        return;
    }
    s->strip_rows = span_of(h, s->rows);
    s->row_j = h->in_step;
    s->row_t = h->tap_step;
    s->row_per_tap = s->rows * h->taps < s->strip_rows;
    if (s->row_per_tap) {
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
    s->copies = f->axis[FC_DEPTH].taps * s->sets * (s->row_per_tap ? h->taps : 1);
}

ptrdiff_t fc_strip_tap(const fc_phase *f, const fc_strip *s, ptrdiff_t td, ptrdiff_t th, ptrdiff_t tw)
{
    const fc_axis *w = &f->axis[FC_WIDTH];
    const ptrdiff_t shift = tw * w->tap_step, row = td * s->plane + th * s->row_t * s->sets * s->pitch;
    if (s->set_per_tap) return row + tw * s->pitch;
    return row + shift % w->in_step * s->pitch + shift / w->in_step;
}

int fc_strip_copy_of(const fc_conv_plan *p, const fc_phase *f, const fc_strip *s, ptrdiff_t i, fc_strip_copy *copy)
{
    const fc_axis *d = &f->axis[FC_DEPTH], *h = &f->axis[FC_HEIGHT], *w = &f->axis[FC_WIDTH];
    const ptrdiff_t *x_stride = p->problem.x_stride;
    const ptrdiff_t per_plane = s->row_per_tap ? h->taps : 1;
    const ptrdiff_t set = i % s->sets, th = i / s->sets % per_plane, td = i / (s->sets * per_plane);

    const ptrdiff_t id = d->in0 + s->jd * d->in_step + td * d->tap_step;
    if (id < 0 || id >= d->size) return 0;

    /* the strip's rows: all of them, or every h->taps-th from th on */
    const ptrdiff_t ih = h->in0 + s->jh0 * h->in_step + (s->row_per_tap ? th * h->tap_step : 0);
    const ptrdiff_t step = s->row_per_tap ? h->in_step : 1, every = s->row_per_tap ? h->taps : 1;
    const ptrdiff_t count = s->row_per_tap ? s->rows : s->strip_rows,
                    first = ih < 0 ? fc_min(fc_ceil_div(-ih, step), count) : 0;
    const ptrdiff_t end = ih >= h->size ? 0 : fc_min((h->size - 1 - ih) / step + 1, count);

    /* strip column j is input column iw + j*in_step */
    const ptrdiff_t iw = w->in0 + s->jw0 * w->in_step + (s->set_per_tap ? set * w->tap_step : set);
    const fc_axis columns = { .n = s->pitch, .size = w->size, .in0 = iw, .in_step = w->in_step };
    copy->rows = (fc_rows){ .rows = end - first,
                            .x_row = step * x_stride[FC_H],
                            .step = w->in_step * x_stride[FC_W],
                            .n = s->pitch,
                            .to_row = every * s->sets * s->pitch };
    fc_valid(&columns, 0, &copy->rows.first, &copy->rows.end);
    copy->x = id * x_stride[FC_D] + (ih + first * step) * x_stride[FC_H] + iw * x_stride[FC_W];
    copy->to = td * s->plane + ((th + first * every) * s->sets + set) * s->pitch;
    return end > first;
}

/* Whether some row or plane of the strip lies outside the image; columns outside are padded by the copies. */
static int has_padding(const fc_phase *f, const fc_strip *s)
{
    const fc_axis *d = &f->axis[FC_DEPTH], *h = &f->axis[FC_HEIGHT];
    const ptrdiff_t id = d->in0 + s->jd * d->in_step, ih = h->in0 + s->jh0 * h->in_step;
    return id < 0 || id + (d->taps - 1) * d->tap_step >= d->size || ih < 0 || ih + span_of(h, s->rows) > h->size;
}

void fc_strip_fill(const fc_conv_plan *p, const fc_phase *f, const fc_strip *s, const void *x, ptrdiff_t channels,
                   void *to)
{
    if (has_padding(f, s)) memset(to, 0, (size_t)(channels * s->channel) * p->work.kernels->size);
    for (ptrdiff_t i = 0; i < s->copies; i++) {
        fc_strip_copy copy;
        if (!fc_strip_copy_of(p, f, s, i, &copy)) continue;
        for (ptrdiff_t c = 0; c < channels; c++) {
            copy.rows.x = fc_at(p, x, copy.x + c * p->problem.x_stride[FC_C]);
            copy.rows.to = fc_to(p, to, copy.to + c * s->channel);
            p->work.kernels->pad_rows(&copy.rows);
        }
    }
}
