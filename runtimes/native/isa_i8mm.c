/* Arm with small products of byte matrices (FEAT_I8MM): since 2021, Apple's since M2. */
#include "target.h"
#if ED_ARM64
ED_TARGET("arch=armv8.2-a+dotprod+i8mm")
#include "lanes_neon.h"

#define ED_NAME "i8mm"
#define ED_TABLE ed_kernels_i8mm
#define ED_OWN_PRODUCT "products_i8mm.h"
#include "kernel_table.h"
ED_TARGET_END
#else
typedef int ed_no_i8mm; /* C wants something in every file */
#endif
