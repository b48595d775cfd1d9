/* Sixteen virtual lanes in plain C: the meaning of every lane operation, on any machine.
 *
 * The other lanes_*.h give the same bits with vector registers. Floats are IEEE single precision,
 * rounded to nearest even after each operation; `fma` rounds once.
 */
#ifndef ED_LANES_H
#define ED_LANES_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "half.h"

/* How many queries and vectors of keys or values an attention product holds in registers. */
#define LANES_QUERIES 2
#define LANES_VECTORS 1
/* How many rows and tiles a matrix product holds. */
#define LANES_ROWS 4
#define LANES_TILES 1

typedef struct {
    float lane[16];
} Vf;

typedef struct {
    int32_t lane[16];
} Vi;

/* 64 bytes: 4 for each lane. */
typedef struct {
    uint8_t byte[64];
} Vb;

#define ED_EACH for (int i = 0; i < 16; i++)

static inline Vf vf_load(const float *from)
{
    Vf v;
    memcpy(v.lane, from, sizeof v.lane);
    return v;
}

static inline void vf_store(float *to, Vf v)
{
    memcpy(to, v.lane, sizeof v.lane);
}

static inline Vf vf_set1(float x)
{
    Vf v;
    ED_EACH v.lane[i] = x;
    return v;
}

static inline Vf vf_add(Vf a, Vf b)
{
    ED_EACH a.lane[i] += b.lane[i];
    return a;
}

static inline Vf vf_sub(Vf a, Vf b)
{
    ED_EACH a.lane[i] -= b.lane[i];
    return a;
}

static inline Vf vf_mul(Vf a, Vf b)
{
    ED_EACH a.lane[i] *= b.lane[i];
    return a;
}

static inline Vf vf_div(Vf a, Vf b)
{
    ED_EACH a.lane[i] /= b.lane[i];
    return a;
}

/* a * b + c */
static inline Vf vf_fma(Vf a, Vf b, Vf c)
{
    ED_EACH a.lane[i] = fmaf(a.lane[i], b.lane[i], c.lane[i]);
    return a;
}

/* Of a NaN and a number, b. */
static inline Vf vf_max(Vf a, Vf b)
{
    ED_EACH a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
}

static inline Vf vf_min(Vf a, Vf b)
{
    ED_EACH a.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
}

static inline Vf vf_abs(Vf a)
{
    ED_EACH a.lane[i] = fabsf(a.lane[i]);
    return a;
}

/* Lane by lane: a < b ? x : y */
static inline Vf vf_less(Vf a, Vf b, Vf x, Vf y)
{
    ED_EACH x.lane[i] = a.lane[i] < b.lane[i] ? x.lane[i] : y.lane[i];
    return x;
}

/* (i, i + 8), then (i, i + 4), (i, i + 2), (0, 1). */
static inline float vf_sum(Vf v)
{
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++)
            v.lane[i] += v.lane[i + half];
    return v.lane[0];
}

/* In the same order, as vf_max. */
static inline float vf_largest(Vf v)
{
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++)
            v.lane[i] = v.lane[i] > v.lane[i + half] ? v.lane[i] : v.lane[i + half];
    return v.lane[0];
}

static inline Vi vi_load(const int32_t *from)
{
    Vi v;
    memcpy(v.lane, from, sizeof v.lane);
    return v;
}

static inline void vi_store(int32_t *to, Vi v)
{
    memcpy(to, v.lane, sizeof v.lane);
}

static inline Vi vi_set1(int32_t x)
{
    Vi v;
    ED_EACH v.lane[i] = x;
    return v;
}

static inline Vi vi_add(Vi a, Vi b)
{
    ED_EACH a.lane[i] += b.lane[i];
    return a;
}

static inline int32_t vi_sum(Vi v)
{
    int32_t sum = 0;
    ED_EACH sum += v.lane[i];
    return sum;
}

static inline Vf vf_from_vi(Vi v)
{
    Vf f;
    ED_EACH f.lane[i] = (float)v.lane[i];
    return f;
}

/* To the nearest integer, halves to even; for values that fit. */
static inline Vi vi_from_vf(Vf v)
{
    Vi n;
    ED_EACH n.lane[i] = (int32_t)lrintf(v.lane[i]);
    return n;
}

/* x * 2^n for a normal x and result, n being the lowest bits of `shifted` (see vf_exp). */
static inline Vf vf_times_power(Vf x, Vf shifted)
{
    ED_EACH
    {
        uint32_t bits, power;
        memcpy(&bits, &x.lane[i], 4);
        memcpy(&power, &shifted.lane[i], 4);
        bits += power << 23;
        memcpy(&x.lane[i], &bits, 4);
    }
    return x;
}

static inline Vf vf_load_half(const uint16_t *from)
{
    Vf v;
    ED_EACH v.lane[i] = ed_half_to_float(from[i]);
    return v;
}

static inline void vf_store_half(uint16_t *to, Vf v)
{
    ED_EACH to[i] = ed_half_from_float(v.lane[i]);
}

/* The lowest byte of each lane. */
static inline void vi_store_bytes(int8_t *to, Vi v)
{
    ED_EACH to[i] = (int8_t)v.lane[i];
}

static inline Vb vb_load(const void *from)
{
    Vb v;
    memcpy(v.byte, from, sizeof v.byte);
    return v;
}

static inline Vb vb_low(Vb v)
{
    for (int i = 0; i < 64; i++)
        v.byte[i] &= 15;
    return v;
}

static inline Vb vb_high(Vb v)
{
    for (int i = 0; i < 64; i++)
        v.byte[i] >>= 4;
    return v;
}

/* Bytes -127..127 as vi_dot_signed takes them. */
static inline Vb vb_signed(Vb v)
{
    return v;
}

/* What vi_dot_signed must begin with, the sum of all its second factors being -sum8 / 8. */
static inline int32_t vi_signed_start(int32_t sum8)
{
    (void)sum8;
    return 0;
}

/* sum += 4 bytes of each lane of w (0..15) times the 4 signed bytes that each lane of x repeats. */
static inline Vi vi_dot_nibbles(Vi sum, Vb w, Vi x)
{
    ED_EACH for (int j = 0; j < 4; j++) sum.lane[i] +=
        w.byte[4 * i + j] * (int8_t)(x.lane[i] >> 8 * j);
    return sum;
}

/* The same with signed bytes. */
static inline Vi vi_dot_signed(Vi sum, Vb w, Vi x)
{
    ED_EACH for (int j = 0; j < 4; j++) sum.lane[i] +=
        (int8_t)w.byte[4 * i + j] * (int8_t)(x.lane[i] >> 8 * j);
    return sum;
}

/* The same where the bytes of x are not negative. */
static inline Vi vi_dot_weights(Vi sum, Vb w, Vi x)
{
    return vi_dot_signed(sum, w, x);
}

#undef ED_EACH
#endif
