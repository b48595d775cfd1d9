/* x86 with AVX-512 and its byte products (VNNI): server cores since 2019, laptops since 2021. */
#include "target.h"
#if ED_X86
ED_TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
#include "lanes_avx512.h"

#define ED_NAME "avx512"
#define ED_TABLE ed_kernels_avx512
#include "kernel_table.h"
ED_TARGET_END
#endif
