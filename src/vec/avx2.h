/* The vector vocabulary for AVX2 with FMA: 16 registers of 32 bytes, masks in vector registers. */
#include <immintrin.h>

typedef __m256i M;
#if FC_DOUBLE
typedef __m256d V;
enum { LANES = 4 };
#define VI(op) _mm256_##op##_pd
#else
typedef __m256 V;
enum { LANES = 8 };
#define VI(op) _mm256_##op##_ps
#endif
#define V_LEAVE_FREE() (void)0
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
/* element e belongs to lane e / every, and only the lane's first element counts */
VEC M m_within(int first, int end, int offset, int every)
{
#if FC_DOUBLE
    const M e = _mm256_add_epi64(_mm256_setr_epi64x(0, 1, 2, 3), _mm256_set1_epi64x(offset));
    const M within = _mm256_andnot_si256(_mm256_cmpgt_epi64(_mm256_set1_epi64x(first * every), e),
                                         _mm256_cmpgt_epi64(_mm256_set1_epi64x(end * every), e));
    return every == 1 ? within : _mm256_and_si256(within, _mm256_setr_epi64x(-1, 0, -1, 0));
#else
    const M e = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(offset));
    const M within = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(first * every), e),
                                         _mm256_cmpgt_epi32(_mm256_set1_epi32(end * every), e));
    return every == 1 ? within : _mm256_and_si256(within, _mm256_setr_epi32(-1, 0, -1, 0, -1, 0, -1, 0));
#endif
}
/* lanes first <= lane < end */
VEC M m_range(int first, int end) { return m_within(first, end, 0, 1); }
VEC V v_load_m(const T *p, M m) { return VI(maskload)(p, m); }
VEC void v_store_m(T *p, V v, M m) { VI(maskstore)(p, m, v); }
/* the first n lanes, fewer than all, in pieces: a masked store takes 12 cycles on Zen */
VEC void v_store_n(T *p, V v, int n)
{
#if FC_DOUBLE
    __m128d left = _mm256_castpd256_pd128(v);
    if (n & 2) {
        _mm_storeu_pd(p, left);
        left = _mm256_extractf128_pd(v, 1);
    }
    if (n & 1) _mm_store_sd(p + (n & 2), left);
#else
    __m128 left = _mm256_castps256_ps128(v);
    if (n & 4) {
        _mm_storeu_ps(p, left);
        left = _mm256_extractf128_ps(v, 1);
    }
    if (n & 2) {
        _mm_storel_pi((__m64 *)(p + (n & 4)), left);
        left = _mm_movehl_ps(left, left);
    }
    if (n & 1) _mm_store_ss(p + (n & 6), left);
#endif
}
/* a larger than b, or a NaN; else b: a NaN once met stays */
VEC V v_max(V a, V b)
{
    /* the instruction returns its second operand for a NaN in either; all ones are a NaN */
    return VI(or)(VI(max)(a, b), VI(cmp)(a, a, _CMP_UNORD_Q));
}
/* yes where a < b, else no */
VEC V v_if_less(V a, V b, V yes, V no) { return VI(blendv)(no, yes, VI(cmp)(a, b, _CMP_LT_OQ)); }
/* low where v is less, high where v is more; a NaN stays, because the instructions return their second operand then */
VEC V v_at_least(V v, V low) { return VI(max)(low, v); }
VEC V v_at_most(V v, V high) { return VI(min)(high, v); }
/* low or high where v lies beyond; a NaN stays: the instructions return their second operand then */
VEC V v_clamp(V v, V low, V high) { return VI(min)(high, VI(max)(low, v)); }
/* the largest of three, or a NaN if there is one: as v_max twice, with one comparison for the two new ones */
VEC V v_max3(V a, V b, V most)
{
    /* the instruction returns its second operand for a NaN in either; all ones are a NaN */
    return VI(or)(VI(max)(b, VI(max)(a, most)), VI(cmp)(a, b, _CMP_UNORD_Q));
}
/* where v is larger than most, or a NaN, most and at become v and its id */
VEC void v_max_at(V v, V id, V *most, V *at)
{
    const V better = VI(or)(VI(cmp)(v, *most, _CMP_GT_OQ), VI(cmp)(v, v, _CMP_UNORD_Q));
    *most = VI(blendv)(*most, v, better);
    *at = VI(blendv)(*at, id, better);
}
/* the masks under which two loads bring just the even elements 2*first .. 2*(end-1) */
VEC M2 m2_range(int first, int end) { return (M2){ m_within(first, end, 0, 2), m_within(first, end, LANES, 2) }; }
/* every second of the elements of low and high, from the first on or from the second */
#if FC_DOUBLE
VEC V v_even(V low, V high) { return _mm256_permute4x64_pd(_mm256_unpacklo_pd(low, high), 0xd8); }
VEC V v_odd(V low, V high) { return _mm256_permute4x64_pd(_mm256_unpackhi_pd(low, high), 0xd8); }
#else
VEC V v_in_order(V mixed) { return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8)); }
VEC V v_even(V low, V high) { return v_in_order(_mm256_shuffle_ps(low, high, 0x88)); }
VEC V v_odd(V low, V high) { return v_in_order(_mm256_shuffle_ps(low, high, 0xdd)); }
#endif
/* the elements 1, 2, ... and 2, 3, ... of two vectors one after the other */
#if FC_DOUBLE
VEC V v_shift2(V a, V b) { return _mm256_permute2f128_pd(a, b, 0x21); }
VEC V v_shift1(V a, V b) { return _mm256_shuffle_pd(a, v_shift2(a, b), 5); }
#else
VEC __m256i middle(V a, V b) { return _mm256_castps_si256(_mm256_permute2f128_ps(a, b, 0x21)); }
VEC V v_shift1(V a, V b) { return _mm256_castsi256_ps(_mm256_alignr_epi8(middle(a, b), _mm256_castps_si256(a), 4)); }
VEC V v_shift2(V a, V b) { return _mm256_castsi256_ps(_mm256_alignr_epi8(middle(a, b), _mm256_castps_si256(a), 8)); }
#endif
/* p[0], p[2], p[4], ... */
VEC V v_load2_m(const T *p, M2 m) { return v_even(VI(maskload)(p, m.low), VI(maskload)(p + LANES, m.high)); }
/* a where the mask is set, b elsewhere */
#if FC_DOUBLE
VEC V v_select(M m, V a, V b) { return _mm256_blendv_pd(b, a, _mm256_castsi256_pd(m)); }
#else
VEC V v_select(M m, V a, V b) { return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(m)); }
#endif
/* a[0], b[0], a[1], b[1], ...: the first half of them, the second */
VEC V v_zip_low(V a, V b) { return VI(permute2f128)(VI(unpacklo)(a, b), VI(unpackhi)(a, b), 0x20); }
VEC V v_zip_high(V a, V b) { return VI(permute2f128)(VI(unpacklo)(a, b), VI(unpackhi)(a, b), 0x31); }
/* v[lane[0] + plus], v[lane[1] + plus], ... */
typedef __m256i P;
#if FC_DOUBLE
VEC P p_lanes(const int *lane, int plus)
{
    const __m128i lanes = _mm_add_epi32(_mm_loadu_si128((const __m128i *)lane), _mm_set1_epi32(plus));
    const P twice = _mm256_cvtepu32_epi64(_mm_add_epi32(lanes, lanes)); /* halves of an element are permuted */
    return _mm256_or_si256(twice, _mm256_slli_epi64(_mm256_add_epi64(twice, _mm256_set1_epi64x(1)), 32));
}
VEC V v_permute(V v, P lanes) { return _mm256_castps_pd(_mm256_permutevar8x32_ps(_mm256_castpd_ps(v), lanes)); }
#else
VEC P p_lanes(const int *lane, int plus)
{
    return _mm256_add_epi32(_mm256_loadu_si256((const __m256i *)lane), _mm256_set1_epi32(plus));
}
VEC V v_permute(V v, P lanes) { return _mm256_permutevar8x32_ps(v, lanes); }
#endif
/* joins vectors whose lanes are zero where the other's are not */
VEC V v_or(V a, V b) { return VI(or)(a, b); }
/* lane j of vector i becomes lane i of vector j: within blocks of 16 bytes, then the blocks */
VEC void v_transpose(V v[LANES])
{
#if FC_DOUBLE
#pragma GCC unroll 2
    for (int i = 0; i < 4; i += 2) {
        const V low = VI(unpacklo)(v[i], v[i + 1]), high = VI(unpackhi)(v[i], v[i + 1]);
        v[i] = low, v[i + 1] = high;
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        const V low = _mm256_permute2f128_pd(v[i], v[i + 2], 0x20);
        v[i + 2] = _mm256_permute2f128_pd(v[i], v[i + 2], 0x31);
        v[i] = low;
    }
#else
    V four[8];
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        const V low0 = VI(unpacklo)(v[i], v[i + 1]), low1 = VI(unpacklo)(v[i + 2], v[i + 3]);
        const V high0 = VI(unpackhi)(v[i], v[i + 1]), high1 = VI(unpackhi)(v[i + 2], v[i + 3]);
        four[i] = VI(shuffle)(low0, low1, 0x44);
        four[i + 1] = VI(shuffle)(low0, low1, 0xee);
        four[i + 2] = VI(shuffle)(high0, high1, 0x44);
        four[i + 3] = VI(shuffle)(high0, high1, 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_permute2f128_ps(four[i], four[i + 4], 0x20);
        v[i + 4] = _mm256_permute2f128_ps(four[i], four[i + 4], 0x31);
    }
#endif
}
#undef VI
