/* x86 with AVX2: every core since 2013 to 2015. */
#include "target.h"
#if ED_X86
ED_TARGET("avx2,fma,f16c")
#include "lanes_avx2.h"

#define ED_NAME "avx2"
#define ED_TABLE ed_kernels_avx2
#define ED_OWN_CHUNK4 "products_avx2.h"
#include "kernel_table.h"
ED_TARGET_END
#else
typedef int ed_no_avx2; /* C wants something in every file */
#endif
