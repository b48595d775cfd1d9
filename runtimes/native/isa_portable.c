/* Any machine: plain C. */
#include "lanes_portable.h"

#define ED_NAME "portable"
#define ED_TABLE ed_kernels_portable
#include "kernel_table.h"
