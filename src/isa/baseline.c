#define FC_ISA_NAME baseline
#define FC_MR 4
#define FC_HAS_FMA 0
#include "../kernels/type.h"
#include "../vec/baseline.h"
#include "../kernels/kernels.inc"
