/* The vector vocabulary for AVX-512: 32 registers of 64 bytes, masks of their own. */
#include <immintrin.h>

#if FC_DOUBLE
typedef __m512d V;
typedef __mmask8 M;
enum { LANES = 8 };
#define VI(op) _mm512_##op##_pd
#else
typedef __m512 V;
typedef __mmask16 M;
enum { LANES = 16 };
#define VI(op) _mm512_##op##_ps
#endif
/* GCC keeps pointers in vector registers that a loop seems to leave over, and then spills the loop's vectors for want of one:
 * float64 tiles ran at 32 GF/s in place of 55. Nothing that lives across this can be in the last register. */
#define V_LEAVE_FREE() __asm__ volatile("" ::: "xmm31")
typedef struct {
    M low, high;
} M2;

VEC V v_zero(void) { return VI(setzero)(); }
VEC V v_set1(T x) { return VI(set1)(x); }
VEC V v_load(const T *p) { return VI(loadu)(p); }
VEC void v_store(T *p, V v) { VI(storeu)(p, v); }
VEC V v_fma(V a, V b, V c) { return VI(fmadd)(a, b, c); }
VEC V v_add(V a, V b) { return VI(add)(a, b); }
VEC V v_mul(V a, V b) { return VI(mul)(a, b); }
VEC V v_div(V a, V b) { return VI(div)(a, b); }
VEC V v_sqrt(V v) { return VI(sqrt)(v); }
/* lanes first <= lane < end */
VEC M m_range(int first, int end) { return (M)(((1u << end) - 1u) & ~((1u << first) - 1u)); }
VEC V v_load_m(const T *p, M m) { return VI(maskz_loadu)(m, p); }
VEC void v_store_m(T *p, V v, M m) { VI(mask_storeu)(p, m, v); }
/* the first n lanes, fewer than all */
VEC void v_store_n(T *p, V v, int n) { v_store_m(p, v, m_range(0, n)); }
/* a larger than b, or a NaN; else b: a NaN once met stays */
VEC V v_max(V a, V b)
{
    /* the instruction returns its second operand for a NaN in either */
#if FC_DOUBLE
    return VI(mask_blend)(_mm512_cmp_pd_mask(a, a, _CMP_UNORD_Q), VI(max)(a, b), a);
#else
    return VI(mask_blend)(_mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), VI(max)(a, b), a);
#endif
}
/* yes where a < b, else no */
#if FC_DOUBLE
VEC V v_if_less(V a, V b, V yes, V no) { return VI(mask_blend)(_mm512_cmp_pd_mask(a, b, _CMP_LT_OQ), no, yes); }
#else
VEC V v_if_less(V a, V b, V yes, V no) { return VI(mask_blend)(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes); }
#endif
/* low where v is less, high where v is more; a NaN stays, because the instructions return their second operand then */
VEC V v_at_least(V v, V low) { return VI(max)(low, v); }
VEC V v_at_most(V v, V high) { return VI(min)(high, v); }
/* low or high where v lies beyond; a NaN stays: the instructions return their second operand then */
VEC V v_clamp(V v, V low, V high) { return VI(min)(high, VI(max)(low, v)); }
/* the largest of three, or a NaN if there is one: as v_max twice, with one comparison for the two new ones */
VEC V v_max3(V a, V b, V most)
{
    /* the instruction returns its second operand for a NaN in either */
    const V larger = VI(max)(b, VI(max)(a, most));
#if FC_DOUBLE
    return VI(mask_blend)(_mm512_cmp_pd_mask(a, b, _CMP_UNORD_Q), larger, v_set1(__builtin_nan("")));
#else
    return VI(mask_blend)(_mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q), larger, v_set1(__builtin_nanf("")));
#endif
}
/* where v is larger than most, or a NaN, most and at become v and its id */
VEC void v_max_at(V v, V id, V *most, V *at)
{
#if FC_DOUBLE
    const M better = _mm512_cmp_pd_mask(v, *most, _CMP_GT_OQ) | _mm512_cmp_pd_mask(v, v, _CMP_UNORD_Q);
#else
    const M better = _mm512_cmp_ps_mask(v, *most, _CMP_GT_OQ) | _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
#endif
    *most = VI(mask_blend)(better, *most, v);
    *at = VI(mask_blend)(better, *at, id);
}
/* the masks under which two loads bring just the even elements 2*first .. 2*(end-1) */
VEC M2 m2_range(int first, int end)
{
    const unsigned long long even = 0x5555555555555555ull & ((1ull << 2 * end) - 1) & ~((1ull << 2 * first) - 1);
    return (M2){ (M)even, (M)(even >> LANES) };
}
/* every second of the elements of low and high, from the first on or from the second */
VEC V v_even(V low, V high)
{
#if FC_DOUBLE
    return VI(permutex2var)(low, _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14), high);
#else
    return VI(permutex2var)(low, _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30), high);
#endif
}
VEC V v_odd(V low, V high)
{
#if FC_DOUBLE
    return VI(permutex2var)(low, _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15), high);
#else
    return VI(permutex2var)(low, _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31), high);
#endif
}
/* the elements 1, 2, ... and 2, 3, ... of two vectors one after the other */
#if FC_DOUBLE
#define SHIFT(a, b, n) _mm512_castsi512_pd(_mm512_alignr_epi64(_mm512_castpd_si512(b), _mm512_castpd_si512(a), n))
#else
#define SHIFT(a, b, n) _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(b), _mm512_castps_si512(a), n))
#endif
VEC V v_shift1(V a, V b) { return SHIFT(a, b, 1); }
VEC V v_shift2(V a, V b) { return SHIFT(a, b, 2); }
#undef SHIFT
/* p[0], p[2], p[4], ... */
VEC V v_load2_m(const T *p, M2 m) { return v_even(VI(maskz_loadu)(m.low, p), VI(maskz_loadu)(m.high, p + LANES)); }
/* a where the mask is set, b elsewhere */
VEC V v_select(M m, V a, V b) { return VI(mask_blend)(m, b, a); }
/* a[0], b[0], a[1], b[1], ...: the first half of them, the second */
#if FC_DOUBLE
VEC V v_zip_low(V a, V b) { return VI(permutex2var)(a, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), b); }
VEC V v_zip_high(V a, V b) { return VI(permutex2var)(a, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), b); }
#else
VEC V v_zip_low(V a, V b)
{
    return VI(permutex2var)(a, _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23), b);
}
VEC V v_zip_high(V a, V b)
{
    return VI(permutex2var)(a, _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31), b);
}
#endif
/* v[lane[0] + plus], v[lane[1] + plus], ... */
typedef __m512i P;
#if FC_DOUBLE
VEC P p_lanes(const int *lane, int plus)
{
    return _mm512_cvtepi32_epi64(_mm256_add_epi32(_mm256_loadu_si256((const __m256i *)lane), _mm256_set1_epi32(plus)));
}
#else
VEC P p_lanes(const int *lane, int plus) { return _mm512_add_epi32(_mm512_loadu_si512(lane), _mm512_set1_epi32(plus)); }
#endif
VEC V v_permute(V v, P lanes) { return VI(permutexvar)(lanes, v); }
/* joins vectors whose lanes are zero where the other's are not */
VEC V v_or(V a, V b) { return VI(or)(a, b); }

/* Lane j of vector i becomes lane i of vector j: within blocks of 16 bytes, then the blocks. */
VEC void v_transpose(V v[LANES])
{
#if FC_DOUBLE
    V pair[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        pair[i] = VI(unpacklo)(v[i], v[i + 1]);
        pair[i + 1] = VI(unpackhi)(v[i], v[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        const V even0 = _mm512_shuffle_f64x2(pair[i], pair[i + 2], 0x88);
        const V even1 = _mm512_shuffle_f64x2(pair[i + 4], pair[i + 6], 0x88);
        const V odd0 = _mm512_shuffle_f64x2(pair[i], pair[i + 2], 0xdd);
        const V odd1 = _mm512_shuffle_f64x2(pair[i + 4], pair[i + 6], 0xdd);
        v[i] = _mm512_shuffle_f64x2(even0, even1, 0x88);
        v[i + 2] = _mm512_shuffle_f64x2(odd0, odd1, 0x88);
        v[i + 4] = _mm512_shuffle_f64x2(even0, even1, 0xdd);
        v[i + 6] = _mm512_shuffle_f64x2(odd0, odd1, 0xdd);
    }
#else
    V four[16];
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        const __m512d low0 = _mm512_castps_pd(VI(unpacklo)(v[i], v[i + 1]));
        const __m512d low1 = _mm512_castps_pd(VI(unpacklo)(v[i + 2], v[i + 3]));
        const __m512d high0 = _mm512_castps_pd(VI(unpackhi)(v[i], v[i + 1]));
        const __m512d high1 = _mm512_castps_pd(VI(unpackhi)(v[i + 2], v[i + 3]));
        four[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(low0, low1));
        four[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low0, low1));
        four[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high0, high1));
        four[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high0, high1));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const V even0 = _mm512_shuffle_f32x4(four[i], four[i + 4], 0x88);
        const V even1 = _mm512_shuffle_f32x4(four[i + 8], four[i + 12], 0x88);
        const V odd0 = _mm512_shuffle_f32x4(four[i], four[i + 4], 0xdd);
        const V odd1 = _mm512_shuffle_f32x4(four[i + 8], four[i + 12], 0xdd);
        v[i] = _mm512_shuffle_f32x4(even0, even1, 0x88);
        v[i + 4] = _mm512_shuffle_f32x4(odd0, odd1, 0x88);
        v[i + 8] = _mm512_shuffle_f32x4(even0, even1, 0xdd);
        v[i + 12] = _mm512_shuffle_f32x4(odd0, odd1, 0xdd);
    }
#endif
}

/* Half a vector, for the tail of a row: where a core splits 64-byte arithmetic in two it takes half the time. */
#define FC_HALF 1
#if FC_DOUBLE
typedef __m256d H;
#define HI(op) _mm256_##op##_pd
#else
typedef __m256 H;
#define HI(op) _mm256_##op##_ps
#endif
VEC H h_zero(void) { return HI(setzero)(); }
VEC H h_set1(T x) { return HI(set1)(x); }
#if FC_DOUBLE
VEC H h_low(V v) { return _mm512_castpd512_pd256(v); }
#else
VEC H h_low(V v) { return _mm512_castps512_ps256(v); }
#endif
VEC H h_fma(H a, H b, H c) { return HI(fmadd)(a, b, c); }
VEC H h_add(H a, H b) { return HI(add)(a, b); }
VEC H h_clamp(H v, H low, H high) { return HI(min)(high, HI(max)(low, v)); }
VEC H h_load_m(const T *p, M m) { return HI(maskz_loadu)((__mmask8)m, p); }
VEC void h_store_m(T *p, H v, M m) { HI(mask_storeu)(p, (__mmask8)m, v); }
#undef HI
#undef VI
