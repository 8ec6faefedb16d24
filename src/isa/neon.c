#define FC_ISA_NAME neon
#define FC_MR 8
#define FC_HAS_FMA 1
#include "../kernels/type.h"
#include "../vec/neon.h"
#include "../kernels/kernels.inc"
