/* Products of a few rows with packed matrices, written once over the lanes.
 *
 * Weights are unpacked into registers once and used for all rows of a group. Sums are exact
 * integers within a block; then sum * (weight scale * row scale) is added, block after block.
 */
#ifndef ED_PRODUCTS_H
#define ED_PRODUCTS_H

/* Weights that will be read next are asked for while these are used; how near they should stay
 * after that, as compilers count it: 0 is nowhere, 3 everywhere. */
#ifndef ED_STAYS
#define ED_STAYS 2
#endif
#define ED_ASK_FOR(address) __builtin_prefetch((const void *)(address), 0, ED_STAYS)
/* Where that leaves them far away: how many bytes ahead they are brought near. */
#ifndef ED_NEAR
#define ED_NEAR 0
#endif

ED_INLINE void ask_ahead(const uint8_t *weights, size_t ahead)
{
    ED_ASK_FOR((uintptr_t)weights + ahead);
    if (ED_NEAR)
        __builtin_prefetch((const void *)((uintptr_t)weights + ED_NEAR), 0, 3);
}

ED_INLINE Vi four_bytes(const int8_t *from)
{
    int32_t x;
    memcpy(&x, from, 4);
    return vi_set1(x);
}

#ifdef ED_OWN_CHUNK4
#include ED_OWN_CHUNK4
#else
/* 32 inputs of R rows, `stride` bytes apart, times T tiles of 4 bits. */
ED_INLINE void chunk4(Vi (*sum)[LANES_TILES], const uint8_t **w, const int8_t *x, size_t stride,
                      const int R, const int T, size_t ahead)
{
    for (int pair = 0; pair < 4; pair++, x += 8) {
        Vb low[LANES_TILES], high[LANES_TILES];
        for (int t = 0; t < T; t++) {
            Vb both = vb_load(w[t]);
            ask_ahead(w[t], ahead);
            low[t] = vb_low(both);
            high[t] = vb_high(both);
            w[t] += 64;
        }
        for (int r = 0; r < R; r++) {
            const int8_t *row = x + (size_t)r * stride;
            Vi even = four_bytes(row), odd = four_bytes(row + 4);
            for (int t = 0; t < T; t++) {
                sum[r][t] = vi_dot_nibbles(sum[r][t], low[t], even);
                sum[r][t] = vi_dot_nibbles(sum[r][t], high[t], odd);
            }
        }
    }
}
#endif

/* The same with 8 bits. */
ED_INLINE void chunk8(Vi (*sum)[LANES_TILES], const uint8_t **w, const int8_t *x, size_t stride,
                      const int R, const int T, size_t ahead)
{
    for (int group = 0; group < 8; group++, x += 4) {
        Vb weights[LANES_TILES];
        for (int t = 0; t < T; t++) {
            weights[t] = vb_signed(vb_load(w[t]));
            ask_ahead(w[t], ahead);
            w[t] += 64;
        }
        for (int r = 0; r < R; r++) {
            Vi bytes = four_bytes(x + (size_t)r * stride);
            for (int t = 0; t < T; t++)
                sum[r][t] = vi_dot_signed(sum[r][t], weights[t], bytes);
        }
    }
}

/* Some rows of a group of n. */
typedef struct {
    const EdRows *rows;
    int n, first, blocks, chunks;
} Part;

/* The first R of them times T tiles. */
ED_INLINE void product_part(const EdTile *tiles, const Part *part, float *out, const int bits,
                            const int R, const int T)
{
    const uint8_t *w[LANES_TILES];
    size_t ahead = tiles->ahead, stride = 32 * (size_t)part->chunks;
    /* Of a block, scales take 32 bytes and weights 64 * chunks * bits. */
    size_t scales_ahead = ahead / (size_t)(2 * part->chunks * bits);
    Vf total[LANES_ROWS][LANES_TILES];
    for (int t = 0; t < T; t++)
        w[t] = tiles[t].weights;
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++)
            total[r][t] = vf_set1(0.0f);
    for (int b = 0; b < part->blocks; b++) {
        int at = b * part->n + part->first;
        const int8_t *x = part->rows->values + (size_t)at * stride;
        const float *scale = part->rows->scales + at;
        const int32_t *start = part->rows->sums + at;
        Vi sum[LANES_ROWS][LANES_TILES];
        for (int r = 0; r < R; r++)
            for (int t = 0; t < T; t++)
                sum[r][t] = vi_set1(bits == 4 ? start[r] : vi_signed_start(start[r]));
        for (int c = 0; c < part->chunks; c++, x += 32) {
            if (bits == 4)
                chunk4(sum, w, x, stride, R, T, ahead);
            else
                chunk8(sum, w, x, stride, R, T, ahead);
        }
        for (int t = 0; t < T; t++) {
            Vf weight_scale = vf_load_half(tiles[t].scales + 16 * b);
            ED_ASK_FOR((uintptr_t)(tiles[t].scales + 16 * b) + scales_ahead);
            for (int r = 0; r < R; r++) {
                Vf both = vf_mul(weight_scale, vf_set1(scale[r]));
                total[r][t] = vf_fma(vf_from_vi(sum[r][t]), both, total[r][t]);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++)
            vf_store(out + r * ED_PAIR + 16 * t, total[r][t]);
}

#ifdef ED_OWN_PRODUCT
#include ED_OWN_PRODUCT
#else
#define ED_FEWER(R)                                           \
    case R:                                                   \
        product_part(tiles, part, out, bits, R, LANES_TILES); \
        break;

/* Fewer rows than the registers hold. */
ED_INLINE void product_fewer(const EdTile *tiles, const Part *part, float *out, const int bits,
                             int rows)
{
    switch (rows) {
        ED_FEWER(1)
        ED_FEWER(2)
        ED_FEWER(3)
#if LANES_ROWS > 4
        ED_FEWER(4)
        ED_FEWER(5)
        ED_FEWER(6)
        ED_FEWER(7)
#endif
    }
}

/* As many rows at a time as registers hold; what is left goes in halves, since one or two rows
 * alone wait for themselves. */
ED_INLINE void product(const EdTile *pair, const Part *group, float *out, const int bits)
{
    for (int t = 0; t < 2; t += LANES_TILES) {
        Part part = *group;
        float *to = out + 16 * t;
        for (int left, rows; (left = part.n - part.first); part.first += rows) {
            rows = left < LANES_ROWS ? left : LANES_ROWS;
            if (left > LANES_ROWS && left < 2 * LANES_ROWS - 1)
                rows = (left + 1) / 2;
            if (rows == LANES_ROWS)
                product_part(pair + t, &part, to, bits, LANES_ROWS, LANES_TILES);
            else
                product_fewer(pair + t, &part, to, bits, rows);
            to += rows * ED_PAIR;
        }
    }
}
#endif

#ifdef ED_MANY_ROWS
#include ED_MANY_ROWS
#define ED_BEGIN begin
#define ED_END end
#else
#define ED_AT_ONCE ED_GROUP
#define ED_BEGIN NULL
#define ED_END NULL

#define ED_PRODUCT(bits)                                                                    \
    static void product##bits(const EdTile *pair, const EdRows *groups, int rows, int blocks, \
                              int chunks, float *out)                                       \
    {                                                                                       \
        product(pair, &(Part){groups, rows, 0, blocks, chunks}, out, bits);                 \
    }

ED_PRODUCT(4)
ED_PRODUCT(8)
#endif

#endif
