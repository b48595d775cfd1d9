/* Which instruction sets this machine has. */
#ifndef ED_ISA_H
#define ED_ISA_H

#include "kernels.h"

/* The kernels of a name, or with NULL the best; NULL if this machine cannot run them. */
const EdKernels *ed_kernels_named(const char *name);

#endif
