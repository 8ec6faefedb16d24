/* The vector vocabulary for AArch64 NEON: 32 registers of 16 bytes, no masks: partial vectors go lane by lane, so that no
 * byte outside the array is touched. */
#include <arm_neon.h>

#if FC_DOUBLE
typedef float64x2_t V;
enum { LANES = 2 };
#define VI(op) op##_f64
#else
typedef float32x4_t V;
enum { LANES = 4 };
#define VI(op) op##_f32
#endif
#define V_LEAVE_FREE() (void)0
typedef struct {
    int first, end;
} M;
typedef M M2;

VEC V v_set1(T x) { return VI(vdupq_n)(x); }
VEC V v_zero(void) { return VI(vdupq_n)(0); }
VEC V v_load(const T *p) { return VI(vld1q)(p); }
VEC void v_store(T *p, V v) { VI(vst1q)(p, v); }
VEC V v_fma(V a, V b, V c) { return VI(vfmaq)(c, a, b); }
VEC V v_add(V a, V b) { return VI(vaddq)(a, b); }
VEC V v_mul(V a, V b) { return VI(vmulq)(a, b); }
VEC V v_div(V a, V b) { return VI(vdivq)(a, b); }
VEC V v_sqrt(V v) { return VI(vsqrtq)(v); }
/* lanes first <= lane < end */
VEC M m_range(int first, int end) { return (M){ first, end }; }
VEC V v_load_m(const T *p, M m)
{
    if (m.first == 0 && m.end == LANES) return v_load(p);
    T lanes[LANES] = { 0 };
    for (int lane = m.first; lane < m.end; lane++) lanes[lane] = p[lane];
    return v_load(lanes);
}
VEC void v_store_m(T *p, V v, M m)
{
    T lanes[LANES];
    v_store(lanes, v);
    for (int lane = m.first; lane < m.end; lane++) p[lane] = lanes[lane];
}
/* the first n lanes, fewer than all */
VEC void v_store_n(T *p, V v, int n) { v_store_m(p, v, m_range(0, n)); }
/* a larger than b, or a NaN; else b: a NaN once met stays */
VEC V v_max(V a, V b)
{
#if FC_DOUBLE
    return vbslq_f64(vbicq_u64(vceqq_f64(a, a), vcgtq_f64(a, b)), b, a);
#else
    return vbslq_f32(vbicq_u32(vceqq_f32(a, a), vcgtq_f32(a, b)), b, a);
#endif
}
/* yes where a < b, else no */
VEC V v_if_less(V a, V b, V yes, V no) { return VI(vbslq)(VI(vcltq)(a, b), yes, no); }
/* low where v is less, high where v is more; a NaN stays */
VEC V v_at_least(V v, V low) { return v_if_less(v, low, low, v); }
VEC V v_at_most(V v, V high) { return v_if_less(high, v, high, v); }
/* low or high where v lies beyond; a NaN stays */
VEC V v_clamp(V v, V low, V high) { return v_at_most(v_at_least(v, low), high); }
/* the largest of three, or a NaN if there is one */
VEC V v_max3(V a, V b, V most) { return v_max(b, v_max(a, most)); }
/* where v is larger than most, or a NaN, most and at become v and its id */
VEC void v_max_at(V v, V id, V *most, V *at)
{
#if FC_DOUBLE
    const uint64x2_t worse = vbicq_u64(vceqq_f64(v, v), vcgtq_f64(v, *most));
#else
    const uint32x4_t worse = vbicq_u32(vceqq_f32(v, v), vcgtq_f32(v, *most));
#endif
    *most = VI(vbslq)(worse, *most, v);
    *at = VI(vbslq)(worse, *at, id);
}
VEC M2 m2_range(int first, int end) { return (M){ first, end }; }
/* every second of the elements of low and high, from the first on or from the second */
VEC V v_even(V low, V high) { return VI(vuzp1q)(low, high); }
VEC V v_odd(V low, V high) { return VI(vuzp2q)(low, high); }
/* the elements 1, 2, ... and 2, 3, ... of two vectors one after the other */
VEC V v_shift1(V a, V b) { return VI(vextq)(a, b, 1); }
#if FC_DOUBLE
VEC V v_shift2(V a, V b)
{
    (void)a;
    return b;
}
#else
VEC V v_shift2(V a, V b) { return vextq_f32(a, b, 2); }
#endif
/* p[0], p[2], p[4], ... */
VEC V v_load2_m(const T *p, M2 m)
{
    T lanes[LANES] = { 0 };
    for (int lane = m.first; lane < m.end; lane++) lanes[lane] = p[2 * lane];
    return v_load(lanes);
}
/* a where the mask is set, b elsewhere */
VEC V v_select(M m, V a, V b)
{
    for (int lane = m.first; lane < m.end; lane++) b[lane] = a[lane];
    return b;
}
/* a[0], b[0], a[1], b[1], ...: the first half of them, the second */
VEC V v_zip_low(V a, V b) { return VI(vzip1q)(a, b); }
VEC V v_zip_high(V a, V b) { return VI(vzip2q)(a, b); }
/* v[lane[0] + plus], v[lane[1] + plus], ... */
typedef uint8x16_t P;
#if FC_DOUBLE
VEC P p_lanes(const int *lane, int plus)
{
    const uint8x8_t low = vdup_n_u8((uint8_t)(8 * (lane[0] + plus))), high = vdup_n_u8((uint8_t)(8 * (lane[1] + plus)));
    return vaddq_u8(vcombine_u8(low, high), vreinterpretq_u8_u64(vdupq_n_u64(0x0706050403020100)));
}
VEC V v_permute(V v, P lanes) { return vreinterpretq_f64_u8(vqtbl1q_u8(vreinterpretq_u8_f64(v), lanes)); }
#else
VEC P p_lanes(const int *lane, int plus)
{
    const uint32x4_t lanes = vreinterpretq_u32_s32(vaddq_s32(vld1q_s32(lane), vdupq_n_s32(plus)));
    return vreinterpretq_u8_u32(vmlaq_u32(vdupq_n_u32(0x03020100), lanes, vdupq_n_u32(0x04040404)));
}
VEC V v_permute(V v, P lanes) { return vreinterpretq_f32_u8(vqtbl1q_u8(vreinterpretq_u8_f32(v), lanes)); }
#endif
/* joins vectors whose lanes are zero where the other's are not */
#if FC_DOUBLE
VEC V v_or(V a, V b) { return vreinterpretq_f64_u64(vorrq_u64(vreinterpretq_u64_f64(a), vreinterpretq_u64_f64(b))); }
#else
VEC V v_or(V a, V b) { return vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(b))); }
#endif
/* lane j of vector i becomes lane i of vector j */
VEC void v_transpose(V v[LANES])
{
#if FC_DOUBLE
    const V low = vzip1q_f64(v[0], v[1]);
    v[1] = vzip2q_f64(v[0], v[1]);
    v[0] = low;
#else
    const V even0 = vzip1q_f32(v[0], v[2]), even1 = vzip1q_f32(v[1], v[3]);
    const V odd0 = vzip2q_f32(v[0], v[2]), odd1 = vzip2q_f32(v[1], v[3]);
    v[0] = vzip1q_f32(even0, even1), v[1] = vzip2q_f32(even0, even1);
    v[2] = vzip1q_f32(odd0, odd1), v[3] = vzip2q_f32(odd0, odd1);
#endif
}
#undef VI
