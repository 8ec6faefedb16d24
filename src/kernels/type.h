/* The element type of this compilation: every isa file is compiled once with FC_DOUBLE 0 and once with 1. */
#if FC_DOUBLE
typedef double T;
#define FC_TYPE FC_F64
#define FC_SUFFIX f64
#define FC_FUSED(a, b, c) __builtin_fma(a, b, c)
#else
typedef float T;
#define FC_TYPE FC_F32
#define FC_SUFFIX f32
#define FC_FUSED(a, b, c) __builtin_fmaf(a, b, c)
#endif

#if FC_HAS_FMA
#define FMA(a, b, c) FC_FUSED(a, b, c)
#else
#define FMA(a, b, c) ((a) * (b) + (c))
#endif

#define FC_JOIN3(a, b, c) a##_##b##_##c
#define FC_EXPAND3(a, b, c) FC_JOIN3(a, b, c)
#define FN(name) FC_EXPAND3(name, FC_ISA_NAME, FC_SUFFIX)

#define VEC static inline __attribute__((always_inline, unused))
