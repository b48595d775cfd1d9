/* Instruction sets, asked of the processor once. */
#define _GNU_SOURCE
#include "isa.h"

#include <string.h>

#include "target.h"

#if ED_X86
#include <cpuid.h>
#endif
#if ED_AMX
#include <sys/syscall.h>
#include <unistd.h>
#define AMX_TILE 24 /* bits of leaf 7 */
#define AMX_INT8 25
#define ASK_FOR_STATE 0x1023
#define TILE_DATA 18
#endif
#if ED_ARM64 && defined(__linux__)
#include <sys/auxv.h>
#define HWCAP_DOT (1UL << 20)
#define HWCAP2_MATRIX (1UL << 13)
#endif

typedef struct {
    const EdKernels *kernels;
    int (*here)(void);
} Choice;

static int always(void)
{
    return 1;
}

#if ED_X86
static int has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
}

static int has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

/* Of AMD's processors, as they count them; 0 for those of others. */
static unsigned amd_family(void)
{
    unsigned a, b, c, d;
    if (!__builtin_cpu_is("amd") || !__get_cpuid(1, &a, &b, &c, &d))
        return 0;
    return (a >> 8 & 15) + (a >> 20 & 255);
}

static int has_zen4(void)
{
    return has_avx512() && amd_family() == 25;
}

static int has_zen5(void)
{
    return has_avx512() && amd_family() >= 26;
}
#if ED_AMX
/* Linux saves the tiles of those processes only that asked for it, and may refuse. */
static int may_use_tiles(void)
{
    return !syscall(SYS_arch_prctl, ASK_FOR_STATE, TILE_DATA);
}

static int has_amx(void)
{
    unsigned a, b, c, d;
    if (!has_avx512() || !__builtin_cpu_supports("avx512vbmi") ||
        !__builtin_cpu_supports("gfni") || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return 0;
    return d >> AMX_TILE & 1 && d >> AMX_INT8 & 1 && may_use_tiles();
}
#endif
#if ED_AVXVNNI
static int has_avxvnni(void)
{
    return has_avx2() && __builtin_cpu_supports("avxvnni");
}
#endif
#elif ED_ARM64 && defined(__linux__)
static int has_dot(void)
{
    return (getauxval(AT_HWCAP) & HWCAP_DOT) != 0;
}

static int has_i8mm(void)
{
    return has_dot() && (getauxval(AT_HWCAP2) & HWCAP2_MATRIX) != 0;
}
#elif ED_ARM64
/* Every Apple processor since the M1 has them. */
static int has_dot(void)
{
    return 1;
}

static int has_i8mm(void)
{
    return 0;
}
#endif

/* Best first. */
static const Choice choices[] = {
#if ED_X86
#if ED_AMX
    {&ed_kernels_amx, has_amx},
#endif
    {&ed_kernels_zen5, has_zen5},
    {&ed_kernels_zen4, has_zen4},
    {&ed_kernels_avx512, has_avx512},
#if ED_AVXVNNI
    {&ed_kernels_avxvnni, has_avxvnni},
#endif
    {&ed_kernels_avx2, has_avx2},
#elif ED_ARM64
    {&ed_kernels_i8mm, has_i8mm},
    {&ed_kernels_neon, has_dot},
#endif
    {&ed_kernels_portable, always},
};

#define CHOICES (sizeof choices / sizeof *choices)

const EdKernels *ed_kernels_named(const char *name)
{
    for (size_t i = 0; i < CHOICES; i++)
        if ((!name || !strcmp(name, choices[i].kernels->name)) && choices[i].here())
            return choices[i].kernels;
    return NULL;
}

const char *const *ed_isas(void)
{
    static const char *names[CHOICES + 1];
    size_t count = 0;
    for (size_t i = 0; i < CHOICES; i++)
        if (choices[i].here())
            names[count++] = choices[i].kernels->name;
    return names;
}
