/* fastconv without Python: reads one case a line, prints one line of result bits for each.
 *
 *     type isa algorithm threads packed hurried control low high seed conv   <convolution>
 *     type isa algorithm threads packed -       -       -   -    -    parts  <convolution>
 *     type isa -         threads -      hurried control low high seed pool   <pooling>
 *
 * all but isa and algorithm integers; harness.py writes these lines and knows the order of the rest. The inputs follow from
 * the seed, the same on every machine: random signs and mantissas, exponents from low to high. The algorithm "chain" is no
 * algorithm of the library but the contract itself, one scalar fma after another in ascending (ic, id, ih, iw).
 *
 * packed: weights through fc_conv_pack. hurried: a deadline that has always passed, so that every resumption happens.
 * control: bits to set in the caller's floating-point control word, which must neither change a result nor be lost.
 *
 * A line answers "ok <algorithm>: <bits in hex>...", or why not; parts: "ok <algorithm>: <outputs written>..." part by part. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fastconv.h"

typedef struct options {
    fc_type type;
    char isa[16], algorithm[16];
    int threads, packed, hurried;
    unsigned control;
    int low, high;
    uint64_t seed;
} options;

static void fail(const char *why)
{
    fprintf(stderr, "harness: %s\n", why);
    exit(2);
}

static ptrdiff_t read_int(void)
{
    ptrdiff_t n;
    if (scanf("%td", &n) != 1) fail("a number is missing");
    return n;
}

static void read_axes(ptrdiff_t to[FC_SPATIAL])
{
    for (int axis = 0; axis < FC_SPATIAL; axis++) to[axis] = read_int();
}

static ptrdiff_t volume(const ptrdiff_t size[FC_SPATIAL]) { return size[0] * size[1] * size[2]; }

static void *room(size_t bytes)
{
    void *p = aligned_alloc(FC_ALIGN, (bytes / FC_ALIGN + 1) * FC_ALIGN);
    if (!p) fail("no memory");
    memset(p, 0xff, bytes); /* NaN, so that nothing may be read before it is written */
    return p;
}

/* The bits of element i of a stream: the finaliser of SplitMix64 (Steele, Lea, Flood 2014) over a counter. */
static uint64_t random_bits(uint64_t stream, uint64_t i)
{
    uint64_t z = (stream << 32 | (i + 1)) * 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static void *random_array(const options *o, uint64_t stream, ptrdiff_t n)
{
    const size_t size = o->type == FC_F32 ? 4 : 8;
    void *array = room((size_t)n * size);
    for (ptrdiff_t i = 0; i < n; i++) {
        const uint64_t bits = random_bits(4 * o->seed + stream, (uint64_t)i), sign = bits >> 63;
        const int exponent = o->low + (int)(bits >> 53 & 0x3ff) % (o->high - o->low + 1);
        if (o->type == FC_F32) {
            const uint32_t value = (uint32_t)(sign << 31 | (uint64_t)(exponent + 127) << 23 | (bits & 0x7fffff));
            memcpy((char *)array + 4 * i, &value, 4);
        } else {
            const uint64_t value = sign << 63 | (uint64_t)(exponent + 1023) << 52 | (bits & 0xfffffffffffff);
            memcpy((char *)array + 8 * i, &value, 8);
        }
    }
    return array;
}

static double value_at(const options *o, const void *array, ptrdiff_t i)
{
    return o->type == FC_F32 ? (double)((const float *)array)[i] : ((const double *)array)[i];
}

/* Strides of (batch, channels, *size), channels first or last. */
static void lay_out(ptrdiff_t stride[FC_AXES], ptrdiff_t channels, const ptrdiff_t size[FC_SPATIAL], int last)
{
    stride[FC_W] = last ? channels : 1;
    stride[FC_H] = stride[FC_W] * size[FC_WIDTH];
    stride[FC_D] = stride[FC_H] * size[FC_HEIGHT];
    stride[FC_C] = last ? 1 : stride[FC_D] * size[FC_DEPTH];
    stride[FC_N] = volume(size) * channels;
}

/* Copies between (batch, channels, *size) in this order and in the strides'. */
static void *laid_out(const options *o, const void *from, ptrdiff_t batch, ptrdiff_t channels,
                      const ptrdiff_t size[FC_SPATIAL], const ptrdiff_t stride[FC_AXES], int back)
{
    const size_t bytes = o->type == FC_F32 ? 4 : 8;
    char *to = room((size_t)(batch * channels * volume(size)) * bytes);
    ptrdiff_t i = 0;
    for (ptrdiff_t n = 0; n < batch; n++)
        for (ptrdiff_t c = 0; c < channels; c++)
            for (ptrdiff_t d = 0; d < size[0]; d++)
                for (ptrdiff_t h = 0; h < size[1]; h++)
                    for (ptrdiff_t w = 0; w < size[2]; w++, i++) {
                        const ptrdiff_t at = n * stride[FC_N] + c * stride[FC_C] + d * stride[FC_D] + h * stride[FC_H] +
                                             w * stride[FC_W];
                        memcpy(to + (back ? i : at) * (ptrdiff_t)bytes,
                               (const char *)from + (back ? at : i) * (ptrdiff_t)bytes, bytes);
                    }
    return to;
}

static void print_bits(const options *o, const void *array, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        uint32_t narrow;
        uint64_t wide;
        if (isnan(value_at(o, array, i))) printf(" nan"); /* its sign and payload are not promised */
        else if (o->type == FC_F32) memcpy(&narrow, (const float *)array + i, 4), printf(" %08x", (unsigned)narrow);
        else memcpy(&wide, (const double *)array + i, 8), printf(" %016llx", (unsigned long long)wide);
    }
}

#if defined(__x86_64__)
static unsigned get_control(void)
{
    unsigned word;
    __asm__ volatile("stmxcsr %0" : "=m"(word));
    return word;
}
static void set_control(unsigned word) { __asm__ volatile("ldmxcsr %0" : : "m"(word)); }
#elif defined(__aarch64__)
static unsigned get_control(void)
{
    unsigned long word;
    __asm__ volatile("mrs %0, fpcr" : "=r"(word));
    return (unsigned)word;
}
static void set_control(unsigned word) { __asm__ volatile("msr fpcr, %0" : : "r"((unsigned long)word)); }
#else
static unsigned get_control(void) { return 0; }
static void set_control(unsigned word) { (void)word; }
#endif

/* Runs the work under the control word asked for; false if that was not put back. */
static int run(const options *o, const fc_work *work, fc_buffers *b)
{
    ptrdiff_t progress[FC_MAX_PARTS] = { 0 };
    b->workspace = room(work->workspace_bytes * (size_t)work->parts);
    const unsigned before = get_control(), during = before | o->control;
    set_control(during);
    const double deadline = o->hurried ? 1e-9 : 0; /* seconds of a clock that started earlier: always late */
    while (fc_run(work, b, progress, deadline) == FC_MORE) continue;
    const unsigned after = get_control();
    set_control(before);
    free(b->workspace);
    return after == during;
}

static fc_options library_options(const options *o)
{
    fc_options options = { .isa = 0, .threads = o->threads, .max_threads = 1, .packed = o->packed };
    while (options.isa < fc_isa_count() && strcmp(fc_isa_name(options.isa), o->isa) != 0) options.isa++;
    if (strcmp(o->algorithm, "auto") != 0) options.algorithm = o->algorithm;
    return options;
}

/* The input that output o meets through tap k along an axis, or -1: none. */
static ptrdiff_t input_of(const fc_conv_problem *p, int axis, ptrdiff_t o, ptrdiff_t k)
{
    const ptrdiff_t s = p->stride[axis], d = p->dilation[axis];
    const ptrdiff_t i = p->transposed ? o + p->pad[axis] - k * d : o * s - p->pad[axis] + k * d;
    if (p->transposed) return i >= 0 && i % s == 0 && i / s < p->size[axis] ? i / s : -1;
    return i >= 0 && i < p->size[axis] ? i : -1;
}

/* One element, by the contract. Transposed, a later tap meets an earlier input: taps descend. */
static void chain_at(const options *o, const fc_conv_problem *p, const fc_buffers *b, ptrdiff_t n, ptrdiff_t oc,
                     const ptrdiff_t at[FC_SPATIAL], ptrdiff_t to)
{
    const ptrdiff_t icg = p->ic / p->groups, ocg = p->oc / p->groups, group = oc / ocg, taps = volume(p->kernel);
    float narrow = 0;
    double wide = 0;
    for (ptrdiff_t c = 0; c < icg; c++)
        for (ptrdiff_t step = 0; step < taps; step++) {
            const ptrdiff_t tap = p->transposed ? taps - 1 - step : step, ic = group * icg + c;
            const ptrdiff_t kw = tap % p->kernel[2], kh = tap / p->kernel[2] % p->kernel[1],
                            kd = tap / (p->kernel[2] * p->kernel[1]);
            const ptrdiff_t d = input_of(p, 0, at[0], kd), h = input_of(p, 1, at[1], kh), w = input_of(p, 2, at[2], kw);
            if (d < 0 || h < 0 || w < 0) continue;
            const ptrdiff_t x = (((n * p->ic + ic) * p->size[0] + d) * p->size[1] + h) * p->size[2] + w;
            const ptrdiff_t k = (p->transposed ? ic * ocg + oc % ocg : oc * icg + c) * taps + tap;
            if (o->type == FC_F32) narrow = fmaf(((const float *)b->w)[k], ((const float *)b->x)[x], narrow);
            else wide = fma(((const double *)b->w)[k], ((const double *)b->x)[x], wide);
        }
    if (o->type == FC_F32) ((float *)b->y)[to] = narrow + ((b->bias ? ((const float *)b->bias)[oc] : 0) + 0.0f);
    else ((double *)b->y)[to] = wide + ((b->bias ? ((const double *)b->bias)[oc] : 0) + 0.0);
}

static void chain(const options *o, const fc_conv_problem *p, const fc_buffers *b)
{
    ptrdiff_t to = 0, at[FC_SPATIAL];
    for (ptrdiff_t n = 0; n < p->batch; n++)
        for (ptrdiff_t oc = 0; oc < p->oc; oc++)
            for (at[0] = 0; at[0] < p->out_size[0]; at[0]++)
                for (at[1] = 0; at[1] < p->out_size[1]; at[1]++)
                    for (at[2] = 0; at[2] < p->out_size[2]; at[2]++) chain_at(o, p, b, n, oc, at, to++);
    for (ptrdiff_t i = 0; i < to && p->residual != FC_NO_RESIDUAL; i++)
        if (o->type == FC_F32) ((float *)b->y)[i] += ((const float *)b->residual)[i];
        else ((double *)b->y)[i] += ((const double *)b->residual)[i];
}

static const char *plan_for(const options *o, const fc_conv_problem *p, fc_conv_plan *plan)
{
    const fc_options options = library_options(o);
    switch (fc_conv_plan_make(p, &options, plan)) {
    case FC_OK:
        return plan->work.parts == o->threads ? NULL : "not the number of parts asked for";
    case FC_CANNOT:
        return "cannot";
    case FC_NO_ISA:
        return "no such ISA";
    default:
        return "no such algorithm";
    }
}

static const char *plan_and_run(const options *o, const fc_conv_problem *p, fc_buffers *b)
{
    const fc_options options = library_options(o);
    fc_conv_plan plan;
    void *packed = NULL;
    const char *trouble = plan_for(o, p, &plan);
    if (trouble) return trouble;
    if (plan.work.workspace_bytes > FC_WORKSPACE_LIMIT) return "more workspace than a part may have";
    if (options.algorithm && strcmp(fc_algo_name(fc_conv_algo(&plan)), options.algorithm) != 0)
        return "another algorithm runs";
    if (o->packed) {
        packed = room(plan.packed_bytes);
        fc_conv_pack(&plan, b->w, packed);
        b->w = packed;
    }
    const int restored = run(o, &plan.work, b);
    free(packed);
    return restored ? NULL : "the caller's floating-point control word is lost";
}

static void report(const options *o, const char *trouble, const void *y, ptrdiff_t n)
{
    if (trouble) {
        printf("%s", trouble);
        return;
    }
    printf("ok %s:", o->algorithm);
    print_bits(o, y, n);
}

/* How many outputs each part writes: they run one by one, while all others are at their end already. */
static void print_parts(const options *o, const fc_conv_problem *p)
{
    const size_t size = o->type == FC_F32 ? 4 : 8;
    const ptrdiff_t n = p->batch * p->oc * volume(p->out_size);
    fc_conv_plan plan;
    const char *trouble = plan_for(o, p, &plan);
    if (trouble) {
        printf("%s", trouble);
        return;
    }
    printf("ok %s:", fc_algo_name(fc_conv_algo(&plan)));
    const size_t x_bytes = (size_t)(p->batch * p->ic * volume(p->size)) * size;
    const size_t w_bytes = plan.packed_bytes + (size_t)(p->ic * p->oc / p->groups * volume(p->kernel)) * size;
    void *x = room(x_bytes), *w = room(w_bytes), *y = room((size_t)n * size);
    memset(x, 0, x_bytes), memset(w, 0, w_bytes);
    void *workspace = room(plan.work.workspace_bytes * (size_t)plan.work.parts);
    const fc_buffers b = { .x = x, .w = w, .y = y, .workspace = workspace };
    ptrdiff_t progress[FC_MAX_PARTS], before = 0;
    for (int part = 0; part < plan.work.parts; part++) {
        ptrdiff_t written = 0;
        for (int other = 0; other < plan.work.parts; other++) progress[other] = other == part ? 0 : plan.work.items;
        fc_run(&plan.work, &b, progress, 0);
        for (ptrdiff_t i = 0; i < n; i++) written += !isnan(value_at(o, y, i));
        printf(" %td", written - before);
        before = written;
    }
    free(x), free(w), free(y), free(workspace);
}

static void convolution(const options *o, int parts)
{
    fc_conv_problem p = { .type = o->type };
    p.transposed = (int)read_int();
    const int last = (int)read_int(), with_bias = (int)read_int();
    p.activation = (fc_activation)read_int();
    p.residual = (fc_residual)read_int();
    p.a = 0.125, p.b = 20; /* as slope, alpha, beta and threshold */
    p.batch = read_int(), p.ic = read_int(), p.oc = read_int(), p.groups = read_int();
    read_axes(p.size), read_axes(p.kernel), read_axes(p.stride), read_axes(p.dilation), read_axes(p.pad),
        read_axes(p.out_size);
    lay_out(p.x_stride, p.ic, p.size, last);
    lay_out(p.y_stride, p.oc, p.out_size, last);
    lay_out(p.w_stride, (p.transposed ? p.oc : p.ic) / p.groups, p.kernel, 0);
    if (parts) {
        print_parts(o, &p);
        return;
    }

    const ptrdiff_t n = p.batch * p.oc * volume(p.out_size);
    void *x = random_array(o, 0, p.batch * p.ic * volume(p.size));
    void *w = random_array(o, 1, p.ic * p.oc / p.groups * volume(p.kernel)), *bias = random_array(o, 2, p.oc);
    void *residual = random_array(o, 3, n), *r_laid = laid_out(o, residual, p.batch, p.oc, p.out_size, p.y_stride, 0);
    void *x_laid = laid_out(o, x, p.batch, p.ic, p.size, p.x_stride, 0),
         *y = room((size_t)n * (o->type == FC_F32 ? 4 : 8));
    fc_buffers b = { .x = x_laid, .w = w, .bias = with_bias ? bias : NULL, .residual = r_laid, .y = y };
    if (strcmp(o->algorithm, "chain") == 0) {
        b.x = x;
        b.residual = residual;
        chain(o, &p, &b);
        report(o, NULL, y, n);
    } else {
        const char *trouble = plan_and_run(o, &p, &b);
        void *in_order = laid_out(o, y, p.batch, p.oc, p.out_size, p.y_stride, 1);
        report(o, trouble, in_order, n);
        free(in_order);
    }
    free(x), free(x_laid), free(w), free(bias), free(residual), free(r_laid), free(y);
}

static void pooling(const options *o)
{
    fc_pool_problem p = { .type = o->type };
    p.kind = (fc_pool_kind)read_int();
    p.adaptive = (int)read_int(), p.count_include_pad = (int)read_int(), p.indices = (int)read_int();
    p.batch = read_int(), p.channels = read_int();
    read_axes(p.size), read_axes(p.kernel), read_axes(p.stride), read_axes(p.dilation), read_axes(p.pad),
        read_axes(p.out_size);
    memcpy(p.pad_after, p.pad, sizeof p.pad);
    lay_out(p.x_stride, p.channels, p.size, 0);
    lay_out(p.y_stride, p.channels, p.out_size, 0);
    lay_out(p.i_stride, p.channels, p.out_size, 0);

    const ptrdiff_t n = p.batch * p.channels * volume(p.out_size);
    const fc_options options = library_options(o);
    fc_pool_plan plan;
    fc_buffers b = { .x = random_array(o, 0, p.batch * p.channels * volume(p.size)),
                     .y = room((size_t)n * 8),
                     .indices = room((size_t)n * sizeof(int64_t)) };
    const char *trouble = fc_pool_plan_make(&p, &options, &plan) == FC_OK ? NULL : "no such ISA";
    if (!trouble && !run(o, &plan.work, &b)) trouble = "the caller's floating-point control word is lost";
    report(o, trouble, b.y, n);
    for (ptrdiff_t i = 0; i < n && p.indices && !trouble; i++) printf(" %lld", (long long)b.indices[i]);
    free((void *)b.x), free(b.y), free(b.indices);
}

int main(void)
{
    options o;
    int type;
    char op[8];
    while (scanf("%d %15s %15s %d %d %d %u %d %d", &type, o.isa, o.algorithm, &o.threads, &o.packed, &o.hurried,
                 &o.control, &o.low, &o.high) == 9) {
        o.type = (fc_type)type;
        o.seed = (uint64_t)read_int();
        if (scanf("%7s", op) != 1) fail("an op is missing");
        if (strcmp(op, "conv") == 0) convolution(&o, 0);
        else if (strcmp(op, "parts") == 0) convolution(&o, 1);
        else if (strcmp(op, "pool") == 0) pooling(&o);
        else fail("no such op");
        putchar('\n');
        fflush(stdout);
    }
    return 0;
}
