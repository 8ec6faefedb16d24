/* Inside the library: a row of the ISA table as kernels. */
#ifndef FC_DISPATCH_H
#define FC_DISPATCH_H

#include "kernels/kernels.h"

const fc_kernels *fc_kernels_of(int isa, fc_type type);
/* The kernels options ask for, or NULL where this machine cannot run them. */
const fc_kernels *fc_kernels_for(const fc_options *options, fc_type type);
/* How many parts: what options say, or what the work is worth. */
int fc_parts_for(const fc_options *options, double flops, double bytes);
/* Calls work(with) where there is stack enough for algorithms. */
void fc_with_stack(void (*work)(void *), void *with);

#endif
