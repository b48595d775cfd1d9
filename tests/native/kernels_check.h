/* Random numbers and comparisons for kernels_check.c.
 *
 * All buffers are exactly as large as the functions may touch, for the address sanitizer.
 */
#ifndef KERNELS_CHECK_H
#define KERNELS_CHECK_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "isa.h"
#include "lanes_portable.h"

static const EdKernels *plain, *under_test;
static uint64_t state = 1;

static uint32_t any32(void)
{
    state += 0x9e3779b97f4a7c15u;
    uint64_t z = (state ^ state >> 30) * 0xbf58476d1ce4e5b9u;
    return (uint32_t)((z ^ z >> 27) * 0x94d049bb133111ebu >> 32);
}

static int between(int low, int high)
{
    return low + (int)(any32() % (uint32_t)(high - low + 1));
}

/* From -1 to 1. */
static float even(void)
{
    return (float)((int32_t)any32()) * 0x1p-31f;
}

static void *room(size_t size)
{
    void *bytes = calloc(size ? size : 1, 1);
    if (!bytes)
        exit(2);
    return bytes;
}

static float *floats(int count)
{
    return room(sizeof(float) * (size_t)count);
}

static void *copy(const void *from, size_t size)
{
    return memcpy(room(size), from, size);
}

static void fail(const char *function, const char *what)
{
    printf("%s: %s: %s\n", under_test->name, function, what);
    exit(1);
}

static void same(const char *function, const void *got, const void *want, size_t size)
{
    const uint8_t *a = got, *b = want;
    for (size_t i = 0; i < size; i++)
        if (a[i] != b[i]) {
            char text[80];
            snprintf(text, sizeof text, "byte %zu of %zu differs from portable", i, size);
            fail(function, text);
        }
}

static void near(const char *function, double got, double want, double error)
{
    char text[120];
    snprintf(text, sizeof text, "%.9g instead of %.9g", got, want);
    if (!(fabs(got - want) <= error))
        fail(function, text);
}

/* Numbers of one sort: plain, small, the edge of the normal ones, large, of all sizes, zeros. */
static float *numbers(int count)
{
    static const float size[] = {1.0f, 1e-4f, 1e-38f, 1e4f, 1.0f, 0.0f};
    int sort = between(0, 5);
    float *x = floats(count);
    for (int i = 0; i < count; i++)
        x[i] = sort == 4 ? ldexpf(even(), between(-40, 12)) : even() * size[sort];
    if (sort && count)
        x[between(0, count - 1)] = 0.0f;
    return x;
}

static uint16_t *halves(int count, float size)
{
    uint16_t *to = room(2 * (size_t)count);
    for (int i = 0; i < count; i++)
        to[i] = ed_half_from_float(even() * size);
    return to;
}

static int8_t *small(int count)
{
    int8_t *x = room((size_t)count);
    int sort = between(0, 2);
    for (int i = 0; i < count; i++) {
        int ends = 127 - 254 * between(0, 1);
        x[i] = (int8_t)(sort == 0 ? between(-127, 127) : sort == 1 ? ends : 127);
    }
    return x;
}

#endif
