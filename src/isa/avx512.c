#define FC_ISA_NAME avx512
#define FC_MR 8
#define FC_HAS_FMA 1
#include "../kernels/type.h"
#include "../vec/avx512.h"
#include "../kernels/kernels.inc"
