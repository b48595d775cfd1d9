/* x86 with AVX-512 and products of byte tiles (AMX): server cores since 2023. */
#include "target.h"
#if ED_AMX
ED_TARGET("avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni,amx-int8,avx2,fma,f16c")
#define ED_GFNI
#include "lanes_avx512.h"

#define ED_NAME "amx"
#define ED_TABLE ed_kernels_amx
#define ED_MANY_ROWS "products_amx.h"
#include "kernel_table.h"
ED_TARGET_END
#else
typedef int ed_no_amx; /* C wants something in every file */
#endif
