/* AMD's processors of 2022 and 2023 (Zen 4): few lines at a time can be asked for into the cache of
 * the first level, so weights come into that of the second, and from there when they are near.
 */
#include "target.h"
#if ED_X86
ED_TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
#include "lanes_avx512.h"

#define ED_NAME "zen4"
#define ED_TABLE ed_kernels_zen4
#define ED_NEAR 1024
#include "kernel_table.h"
ED_TARGET_END
#endif
