/* What the files of the driver share: dice, numbers that hurt, arrays of just their size. */
#ifndef EDGEDEC_TREE_DICE_H
#define EDGEDEC_TREE_DICE_H

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tree.h"

typedef struct {
    uint64_t state, hash;
} Dice;

static inline void stop(const char *what, const char *file, int line)
{
    fprintf(stderr, "%s:%d: %s does not hold\n", file, line, what);
    exit(2);
}

#define HOLD(what) ((what) ? (void)0 : stop(#what, __FILE__, __LINE__))

static inline uint64_t next(Dice *dice)
{
    uint64_t z = dice->state += 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

/* From `low` to `high`, both included. */
static inline int range(Dice *dice, int low, int high)
{
    return low + (int)(next(dice) % (uint64_t)(high - low + 1));
}

static inline int one_in(Dice *dice, int n)
{
    return range(dice, 1, n) == 1;
}

static inline float unit(Dice *dice)
{
    return (float)range(dice, 1, 9999) / 10000;
}

/* Mostly a number between 0 and 1. */
static inline float odd(Dice *dice)
{
    static const float all[] = {NAN, -NAN,    INFINITY, -INFINITY, 0,       -0.0f, -1,
                                1,   FLT_MAX, -FLT_MAX, 1e-42f,    FLT_MIN, 1e30f, 3};
    return one_in(dice, 3) ? all[range(dice, 0, sizeof all / sizeof *all - 1)] : unit(dice);
}

static inline void add_to_hash(Dice *dice, const void *from, size_t size)
{
    for (size_t i = 0; i < size; i++)
        dice->hash = (dice->hash ^ ((const unsigned char *)from)[i]) * 0x100000001b3u;
}

static inline void *take(int count, size_t size)
{
    void *memory = malloc((size_t)(count > 0 ? count : 0) * size);
    HOLD(memory);
    return memory;
}

/* tree_plans.c */
void plan_trees(Dice *dice);
void draw_tokens(Dice *dice);

#endif
