/* AMD's processors with AVX-512 (since 2022): what a step uses once is read around their caches, so
 * that it displaces nothing. Intel's take several times as long for that.
 */
#include "target.h"
#if ED_X86
ED_TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
#include "lanes_avx512.h"

#define ED_NAME "zen"
#define ED_TABLE ed_kernels_zen
#define ED_STAYS 0
#include "kernel_table.h"
ED_TARGET_END
#endif
