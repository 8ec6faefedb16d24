/* The ISA table: which rows this build has, which of them this machine runs, their kernels. */
#include "dispatch.h"

#if defined(__x86_64__)
#define FC_CPU(feature) (__builtin_cpu_supports(feature) != 0)
#define FC_ISA_X86(name, runs, flags) FC_ISA(name, runs)
#define FC_ISA_ARM(name, runs, flags)
#elif defined(__aarch64__)
#define FC_ISA_X86(name, runs, flags)
#define FC_ISA_ARM(name, runs, flags) FC_ISA(name, runs)
#else
#define FC_ISA_X86(name, runs, flags)
#define FC_ISA_ARM(name, runs, flags)
#endif
#define FC_ISA_ANY(name, runs, flags) FC_ISA(name, runs)

#define FC_ISA(name, runs) extern const fc_kernels fc_##name##_f32, fc_##name##_f64;
#include "isa.def"
#undef FC_ISA

#define FC_ISA(name, runs) #name,
static const char *const names[] = {
#include "isa.def"
};
#undef FC_ISA

#define FC_ISA(name, runs) { &fc_##name##_f32, &fc_##name##_f64 },
static const fc_kernels *const kernels[][FC_TYPES] = {
#include "isa.def"
};
#undef FC_ISA

enum { ISAS = sizeof names / sizeof names[0] };

int fc_isa_count(void) { return ISAS; }

const char *fc_isa_name(int isa) { return isa >= 0 && isa < ISAS ? names[isa] : NULL; }

int fc_isa_runs(int isa)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
#define FC_ISA(name, runs) runs,
    const int runs[] = {
#include "isa.def"
    };
#undef FC_ISA
    return isa >= 0 && isa < ISAS && runs[isa];
}

int fc_isa_best(void)
{
    int isa = 0;
    while (!fc_isa_runs(isa)) isa++;
    return isa;
}

const fc_kernels *fc_kernels_of(int isa, fc_type type) { return kernels[isa][type]; }
