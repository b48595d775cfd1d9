/* Instruction sets per file, so that no flag of the whole build decides what a machine must have.
 *
 * ED_X86: this build has the tables avx2, avx512, zen4 and zen5, ED_AVXVNNI: avxvnni,
 * ED_AMX: amx, ED_ARM64: neon and i8mm.
 */
#ifndef ED_TARGET_H
#define ED_TARGET_H

/* All headers stand before ED_TARGET: clang would give their functions the target as well. */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#define ED_X86 1
#include <immintrin.h>
#else
#define ED_X86 0
#endif

/* gcc 11 and clang 12 brought it. */
#if ED_X86 && defined(__has_include)
#if __has_include(<avxvnniintrin.h>)
#define ED_AVXVNNI 1
#endif
#endif
#ifndef ED_AVXVNNI
#define ED_AVXVNNI 0
#endif

/* gcc 11 and clang 12 as well; only Linux can be asked for the tiles. */
#if ED_X86 && defined(__linux__) && defined(__has_include)
#if __has_include(<amxint8intrin.h>)
#define ED_AMX 1
#endif
#endif
#ifndef ED_AMX
#define ED_AMX 0
#endif

/* Older compilers know the newer instructions only if the whole build asks for them. */
#if !defined(__aarch64__)
#define ED_ARM64 0
#elif defined(__apple_build_version__)
#define ED_ARM64 (__clang_major__ >= 15)
#elif defined(__clang__)
#define ED_ARM64 (__clang_major__ >= 16)
#else
#define ED_ARM64 (__GNUC__ >= 10)
#endif
#if ED_ARM64
#include <arm_neon.h>
#endif

#define ED_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define ED_TARGET(features) \
    ED_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define ED_TARGET_END ED_PRAGMA(clang attribute pop)
#else
#define ED_TARGET(features) ED_PRAGMA(GCC target(features))
#define ED_TARGET_END
#endif

#endif
