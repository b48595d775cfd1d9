/* Arm with byte products (FEAT_DotProd): phones since 2018, Apple silicon, Raspberry Pi 5. */
#include "target.h"
#if ED_ARM64
ED_TARGET("arch=armv8.2-a+dotprod")
#include "lanes_neon.h"

#define ED_NAME "neon"
#define ED_TABLE ed_kernels_neon
#include "kernel_table.h"
ED_TARGET_END
#else
typedef int ed_no_neon; /* C wants something in every file */
#endif
