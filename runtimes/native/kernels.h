/* What one instruction set brings: a table of functions, the same for all.
 *
 * Every function gives the same bits on every instruction set, and for a row the same bits whatever
 * rows stand beside it. Vectors are padded with zeros to a multiple of 16.
 */
#ifndef ED_KERNELS_H
#define ED_KERNELS_H

#include "edgedec.h"

/* Rows that are packed together. */
#define ED_GROUP 16
/* Rows that one call of a product takes, at most; a multiple of ED_GROUP. */
#define ED_MOST_AT_ONCE 64
/* Keys that are reduced together; chunk c of a path is its rows 64 c .. 64 c + 63. */
#define ED_CHUNK 64
/* Chunks that are joined before they join the others. */
#define ED_SPAN 4
/* Queries that one piece of attention works on. */
#define ED_QUERIES 48
/* Output vectors of one tile pair. */
#define ED_PAIR 32
/* Inputs of a block, at most. */
#define ED_MOST_BLOCK 128
/* Numbers of a head, at most; a multiple of 16. */
#define ED_MOST_HEAD_DIM 1024

/* n <= ED_GROUP rows as 8-bit integers: values [blocks][n][block], and per block of inputs and row
 * the scale [blocks][n] and -8 times the sum of the integers [blocks][n]. */
typedef struct {
    int8_t *values;
    float *scales;
    int32_t *sums;
} EdRows;

/* One tile of a packed matrix. `ahead`: how many bytes behind it what will be read next lies. */
typedef struct {
    const uint8_t *weights;
    const uint16_t *scales;
    size_t ahead;
} EdTile;

/* y = (x - centre) * factor */
typedef struct {
    float centre, factor;
} EdSpread;

/* out [rows][32]: the products of at most `at_once` rows with two tiles; all groups but the last
 * are full. `chunks` is the block size / 32. */
typedef void EdProduct(const EdTile *pair, const EdRows *groups, int rows, int blocks, int chunks,
                       float *out);

/* What attention multiplies: out[q][j] = sum over i < inner of a[q][i] * b[i][j], in the order of
 * i, for j < columns (a multiple of 16). Lines of a have `stride` numbers, those of b and out
 * `width`. The next b lies 64 * head numbers behind this one. */
typedef struct {
    int stride, queries, inner, width, columns, head;
} EdMixShape;

/* How what one part of the keys gave joins what others gave before: by what each is multiplied, for
 * each query. */
typedef struct {
    float before[ED_QUERIES], here[ED_QUERIES];
} EdShares;

/* b is fp16; inner is 1 to ED_MOST_HEAD_DIM. With shares: out = out * before + products * here.
 */
typedef void EdMix(const EdMixShape *shape, const float *a, const uint16_t *b,
                   const EdShares *shares, float *out);

/* What becomes of integers: numbers, times factors[q] and, unless it is NULL, by[j]; then as EdMix.
 */
typedef struct {
    const float *factors, *by;
    const EdShares *shares;
} EdScaling;

/* The same in integers -127..127: b is [inner / 4][width][4], inner a multiple of 4. sums[q]: -8
 * times the sum of a[q]; NULL: nothing in a is negative. out is int32 or, with a scaling, float. */
typedef void EdMixBytes(const EdMixShape *shape, const int8_t *a, const int32_t *sums,
                        const int8_t *b, const EdScaling *scaling, void *out);

/* What attention has of some keys, for some queries: the weights' sums, the largest scores and the
 * values mixed. The former two have room for a multiple of 16 queries. */
typedef struct {
    float *sums, *largest, *mixed;
} EdParts;

typedef struct {
    const char *name;
    int at_once; /* rows that a call of a product takes; at least ED_GROUP */
    /* What a thread does before and behind products of `rows` rows in all; NULL: nothing. */
    void (*begin)(int rows, int block);
    void (*end)(int rows);
    EdProduct *product4, *product8;
    EdMix *mix;
    EdMixBytes *mix_bytes;

    /* Row `row` of `rows` of a group: x [inputs] in blocks of `block`; inputs beyond `count` (a
     * multiple of 16) are 0. */
    void (*quantise)(const float *x, int count, int inputs, int block, int row, int rows,
                     const EdRows *to);
    /* One block of all rows of a group, lines of x being `stride` numbers long. */
    void (*quantise_rows)(const float *x, size_t stride, int count, int block, int rows,
                          const EdRows *to);
    /* y = norm(x) * weight + bias over `count` numbers. bias may be NULL. */
    void (*norm)(const float *x, int count, int kind, float eps, const float *weight,
                 const float *bias, float *y);
    /* Its two halves: what it takes of the whole row, and any part of the row. */
    EdSpread (*spread)(const float *x, int count, int kind, float eps);
    void (*normalise)(const float *x, int count, EdSpread spread, const float *weight,
                      const float *bias, float *y);
    void (*add)(const float *a, const float *b, int count, float *y);
    void (*scale)(const float *x, float factor, int count, float *y);
    /* x = cap * tanh(x / cap) */
    void (*soften)(float *x, float cap, int count);
    void (*activate)(float *x, int activation, int count);
    /* What a product leaves, [rows][32], goes on: act(first 16) * last 16, to lines of `stride`. */
    void (*gate_rows)(const float *x, int activation, int rows, float *to, size_t stride);
    /* to = x, or to += x, over `width` (16 or 32) of the 32. */
    void (*put_rows)(const float *x, int width, int rows, float *to, size_t stride);
    void (*add_rows)(const float *x, int width, int rows, float *to, size_t stride);
    /* Cosines and sines [pairs] of position * frequencies [pairs], times a magnitude. */
    void (*turn)(const double *frequencies, int position, double magnitude, int pairs,
                 float *cosines, float *sines);
    /* Turn the pairs of one head; cos and sin [pairs]. */
    void (*rotate)(float *x, const float *cosine, const float *sine, int pairs, int interleaved);
    /* y = sums * factor * by; by may be NULL. */
    void (*from_sums)(const int32_t *sums, float factor, const float *by, int count, float *y);
    void (*to_half)(const float *x, int count, uint16_t *to);
    /* To -127..127 with one scale, which is returned. */
    float (*to_bytes)(const float *x, int count, int8_t *to);
    /* x * by as bytes, for 64 numbers of which none is negative. */
    float (*weigh)(const float *x, const float *by, int8_t *to);

    /* exp(s - largest) of lines of 64 scores, in place; the sum and the largest of each are put
     * out. All -inf: all 0. */
    void (*soft)(float *scores, int lines, const EdParts *to);
    /* The same, and `weigh` of each line: bytes [lines][64]. factors has room for a multiple of 16
     * lines; scores are lost. */
    void (*soft_bytes)(float *scores, int lines, const float *by, const EdParts *to, int8_t *bytes,
                       float *factors);
    /* Sums and largest of a part of the keys join those of the parts before; with what shares the
     * mixed values do. Lines up to the next multiple of 16 are read and written. */
    void (*meet)(const EdParts *before, const EdParts *part, int lines, EdShares *shares);
    /* The same, and the mixed values [lines][width] join. */
    void (*join)(const EdParts *before, const EdParts *part, int lines, int width);
    /* mixed += weight * value */
    void (*add_value)(float *mixed, float weight, const uint16_t *value, int width);
    float (*largest)(const float *x, int count);
    /* The index of the largest of `count` numbers, the first of equals. */
    int32_t (*argmax)(const float *x, int count);
} EdKernels;

extern const EdKernels ed_kernels_portable;
extern const EdKernels ed_kernels_avx2, ed_kernels_avxvnni, ed_kernels_avx512;
extern const EdKernels ed_kernels_zen4, ed_kernels_zen5;
extern const EdKernels ed_kernels_amx;
extern const EdKernels ed_kernels_neon, ed_kernels_i8mm;

#endif
