/* The vector vocabulary in plain C for any machine: GNU vectors of 16 bytes, which the compiler lowers to what there
 * is. No fused multiply-add, so baseline is right within the error bound but outside the promise of equal bits. */
typedef T V __attribute__((vector_size(16)));
enum { LANES = 16 / sizeof(T) };
#define V_LEAVE_FREE() (void)0
typedef struct {
    int first, end;
} M;
typedef M M2;

VEC V v_set1(T x)
{
#if FC_DOUBLE
    return (V){ x, x };
#else
    return (V){ x, x, x, x };
#endif
}
VEC V v_zero(void) { return v_set1(0); }
VEC V v_load(const T *p)
{
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
VEC void v_store(T *p, V v) { __builtin_memcpy(p, &v, sizeof v); }
VEC V v_fma(V a, V b, V c) { return a * b + c; }
VEC V v_add(V a, V b) { return a + b; }
VEC V v_mul(V a, V b) { return a * b; }
VEC V v_div(V a, V b) { return a / b; }
/* yes where a < b, else no: a comparison's lanes are all ones or all zeros */
VEC V v_if_less(V a, V b, V yes, V no)
{
    typedef __typeof__(a < b) bits;
    return (V)(((a < b) & (bits)yes) | (~(a < b) & (bits)no));
}
/* low where v is less, high where v is more; a NaN stays */
VEC V v_at_least(V v, V low) { return v_if_less(v, low, low, v); }
VEC V v_at_most(V v, V high) { return v_if_less(high, v, high, v); }
/* lanes first <= lane < end */
VEC M m_range(int first, int end) { return (M){ first, end }; }
/* These loop over lanes and are called: inlined in every kernel they doubled the time to compile all. */
#pragma push_macro("VEC")
#undef VEC
#define VEC static __attribute__((noinline, unused))
VEC V v_load_m(const T *p, M m)
{
    V v = v_zero();
    for (int lane = m.first; lane < m.end; lane++) v[lane] = p[lane];
    return v;
}
VEC void v_store_m(T *p, V v, M m)
{
    for (int lane = m.first; lane < m.end; lane++) p[lane] = v[lane];
}
VEC V v_sqrt(V v)
{
#if FC_DOUBLE
    for (int lane = 0; lane < LANES; lane++) v[lane] = __builtin_sqrt(v[lane]);
#else
    for (int lane = 0; lane < LANES; lane++) v[lane] = __builtin_sqrtf(v[lane]);
#endif
    return v;
}
/* p[0], p[2], p[4], ... */
VEC V v_load2_m(const T *p, M2 m)
{
    V v = v_zero();
    for (int lane = m.first; lane < m.end; lane++) v[lane] = p[2 * lane];
    return v;
}
/* a larger than b, or a NaN; else b: a NaN once met stays */
VEC V v_max(V a, V b)
{
    V most;
    for (int lane = 0; lane < LANES; lane++) most[lane] = a[lane] > b[lane] || a[lane] != a[lane] ? a[lane] : b[lane];
    return most;
}
/* low or high where v lies beyond; a NaN stays */
VEC V v_clamp(V v, V low, V high)
{
    for (int lane = 0; lane < LANES; lane++) {
        v[lane] = v[lane] < low[lane] ? low[lane] : v[lane];
        v[lane] = v[lane] > high[lane] ? high[lane] : v[lane];
    }
    return v;
}
#pragma pop_macro("VEC")
/* the first n lanes, fewer than all */
VEC void v_store_n(T *p, V v, int n) { v_store_m(p, v, m_range(0, n)); }
/* the largest of three, or a NaN if there is one */
VEC V v_max3(V a, V b, V most) { return v_max(b, v_max(a, most)); }
/* where v is larger than most, or a NaN, most and at become v and its id */
VEC void v_max_at(V v, V id, V *most, V *at)
{
    for (int lane = 0; lane < LANES; lane++)
        if (v[lane] > (*most)[lane] || v[lane] != v[lane]) (*most)[lane] = v[lane], (*at)[lane] = id[lane];
}
VEC M2 m2_range(int first, int end) { return (M){ first, end }; }
/* every second of the elements of low and high, from the first on or from the second */
VEC V v_every2(V low, V high, int first)
{
    V v = low;
    for (int lane = 0; lane < LANES; lane++) {
        const int from = first + 2 * lane;
        v[lane] = from < LANES ? low[from] : high[from - LANES];
    }
    return v;
}
VEC V v_even(V low, V high) { return v_every2(low, high, 0); }
VEC V v_odd(V low, V high) { return v_every2(low, high, 1); }
/* the elements 1, 2, ... and 2, 3, ... of two vectors one after the other */
VEC V v_shift1(V a, V b)
{
    V shifted;
    for (int lane = 0; lane < LANES; lane++) shifted[lane] = lane < LANES - 1 ? a[lane + 1] : b[lane + 1 - LANES];
    return shifted;
}
VEC V v_shift2(V a, V b) { return v_shift1(v_shift1(a, b), v_shift1(b, b)); }
/* a where the mask is set, b elsewhere */
VEC V v_select(M m, V a, V b)
{
    for (int lane = m.first; lane < m.end; lane++) b[lane] = a[lane];
    return b;
}
/* a[0], b[0], a[1], b[1], ...: the first half of them, the second */
VEC V v_zip_low(V a, V b)
{
    V v;
    for (int lane = 0; lane < LANES; lane++) v[lane] = lane % 2 ? b[lane / 2] : a[lane / 2];
    return v;
}
VEC V v_zip_high(V a, V b)
{
    V v;
    for (int lane = 0; lane < LANES; lane++) v[lane] = lane % 2 ? b[(LANES + lane) / 2] : a[(LANES + lane) / 2];
    return v;
}
/* v[lane[0] + plus], v[lane[1] + plus], ... */
typedef struct {
    int lane[LANES];
} P;
VEC P p_lanes(const int *lane, int plus)
{
    P p;
    for (int i = 0; i < LANES; i++) p.lane[i] = lane[i] + plus;
    return p;
}
VEC V v_permute(V v, P p)
{
    V permuted = v;
    for (int i = 0; i < LANES; i++) permuted[i] = v[p.lane[i]];
    return permuted;
}
/* joins vectors whose lanes are zero where the other's are not */
VEC V v_or(V a, V b)
{
    V joined;
    for (int lane = 0; lane < LANES; lane++) joined[lane] = a[lane] != 0 ? a[lane] : b[lane];
    return joined;
}
/* lane j of vector i becomes lane i of vector j */
VEC void v_transpose(V v[LANES])
{
    T lanes[LANES][LANES];
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < LANES; j++) lanes[j][i] = v[i][j];
    for (int i = 0; i < LANES; i++) v[i] = v_load(lanes[i]);
}
