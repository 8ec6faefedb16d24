#define FC_ISA_NAME avx2
#define FC_MR 4
#define FC_HAS_FMA 1
#include "../kernels/type.h"
#include "../vec/avx2.h"
#include "../kernels/kernels.inc"
