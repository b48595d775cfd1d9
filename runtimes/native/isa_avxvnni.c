/* x86 with AVX2 and its byte products (AVX-VNNI): laptop cores without AVX-512, since 2021. */
#include "target.h"
#if ED_AVXVNNI
ED_TARGET("avx2,fma,f16c,avxvnni")
#define LANES_VNNI
#include "lanes_avx2.h"

#define ED_NAME "avxvnni"
#define ED_TABLE ed_kernels_avxvnni
#include "kernel_table.h"
ED_TARGET_END
#else
typedef int ed_no_avxvnni; /* C wants something in every file */
#endif
