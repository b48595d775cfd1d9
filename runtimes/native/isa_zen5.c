/* AMD's processors since 2024 (Zen 5): what a step uses once is read around their caches, so that it
 * displaces nothing. Intel's take several times as long for that, and Zen 4 a fifth.
 */
#include "target.h"
#if ED_X86
ED_TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
#include "lanes_avx512.h"

#define ED_NAME "zen5"
#define ED_TABLE ed_kernels_zen5
#define ED_STAYS 0
#include "kernel_table.h"
ED_TARGET_END
#endif
