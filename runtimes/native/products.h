/* Products of a few rows with packed matrices, written once over the lanes.
 *
 * Weights are unpacked into registers once and used for all rows of a group. Sums are exact
 * integers within a block; then sum * (weight scale * row scale) is added, block after block.
 */
#ifndef ED_PRODUCTS_H
#define ED_PRODUCTS_H

/* Weights that will be read next are asked for while these are used. */
#define ED_ASK_FOR(address) __builtin_prefetch((const void *)(address), 0, 2)

ED_INLINE Vi four_bytes(const int8_t *from)
{
    int32_t x;
    memcpy(&x, from, 4);
    return vi_set1(x);
}

#ifdef ED_OWN_CHUNK4
#include ED_OWN_CHUNK4
#else
/* 32 inputs of R rows (of n) times T tiles of 4 bits. */
ED_INLINE void chunk4(Vi (*sum)[LANES_TILES], const uint8_t **w, const int8_t *x, const int n,
                      const int R, const int T, size_t ahead)
{
    for (int pair = 0; pair < 4; pair++, x += 8 * n) {
        Vb low[LANES_TILES], high[LANES_TILES];
        for (int t = 0; t < T; t++) {
            Vb both = vb_load(w[t]);
            ED_ASK_FOR((uintptr_t)w[t] + ahead);
            low[t] = vb_low(both);
            high[t] = vb_high(both);
            w[t] += 64;
        }
        for (int r = 0; r < R; r++) {
            Vi even = four_bytes(x + 4 * r), odd = four_bytes(x + 4 * n + 4 * r);
            for (int t = 0; t < T; t++) {
                sum[r][t] = vi_dot_nibbles(sum[r][t], low[t], even);
                sum[r][t] = vi_dot_nibbles(sum[r][t], high[t], odd);
            }
        }
    }
}
#endif

/* The same with 8 bits. */
ED_INLINE void chunk8(Vi (*sum)[LANES_TILES], const uint8_t **w, const int8_t *x, const int n,
                      const int R, const int T, size_t ahead)
{
    for (int group = 0; group < 8; group++, x += 4 * n) {
        Vb weights[LANES_TILES];
        for (int t = 0; t < T; t++) {
            weights[t] = vb_signed(vb_load(w[t]));
            ED_ASK_FOR((uintptr_t)w[t] + ahead);
            w[t] += 64;
        }
        for (int r = 0; r < R; r++) {
            Vi bytes = four_bytes(x + 4 * r);
            for (int t = 0; t < T; t++)
                sum[r][t] = vi_dot_signed(sum[r][t], weights[t], bytes);
        }
    }
}

/* Rows [first, first + R) of n, times T tiles. */
ED_INLINE void product_part(const EdTile *tiles, const EdRows *rows, int blocks, int chunks,
                            float *out, const int bits, const int n, const int first, const int R,
                            const int T)
{
    const uint8_t *w[LANES_TILES];
    const int8_t *x = rows->values + 4 * first;
    size_t ahead = tiles->ahead;
    Vf total[LANES_ROWS][LANES_TILES];
    for (int t = 0; t < T; t++)
        w[t] = tiles[t].weights;
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++)
            total[r][t] = vf_set1(0.0f);
    for (int b = 0; b < blocks; b++) {
        const float *scale = rows->scales + b * n + first;
        const int32_t *start = rows->sums + b * n + first;
        Vi sum[LANES_ROWS][LANES_TILES];
        for (int r = 0; r < R; r++)
            for (int t = 0; t < T; t++)
                sum[r][t] = vi_set1(bits == 4 ? start[r] : vi_signed_start(start[r]));
        for (int c = 0; c < chunks; c++, x += 32 * n) {
            if (bits == 4)
                chunk4(sum, w, x, n, R, T, ahead);
            else
                chunk8(sum, w, x, n, R, T, ahead);
        }
        for (int t = 0; t < T; t++) {
            Vf weight_scale = vf_load_half(tiles[t].scales + 16 * b);
            for (int r = 0; r < R; r++) {
                Vf both = vf_mul(weight_scale, vf_set1(scale[r]));
                total[r][t] = vf_fma(vf_from_vi(sum[r][t]), both, total[r][t]);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++)
            vf_store(out + (first + r) * ED_PAIR + 16 * t, total[r][t]);
}

#ifdef ED_OWN_PRODUCT
#include ED_OWN_PRODUCT
#else
ED_INLINE void product(const EdTile *pair, const EdRows *rows, int blocks, int chunks, float *out,
                       const int bits, const int n)
{
    for (int t = 0; t < 2; t += LANES_TILES) {
        int first = 0;
        for (; first + LANES_ROWS <= n; first += LANES_ROWS)
            product_part(pair + t, rows, blocks, chunks, out + 16 * t, bits, n, first, LANES_ROWS,
                         LANES_TILES);
        if (n % LANES_ROWS)
            product_part(pair + t, rows, blocks, chunks, out + 16 * t, bits, n, first,
                         n % LANES_ROWS, LANES_TILES);
    }
}
#endif

#define ED_PRODUCT(bits, n)                                                             \
    static void product##bits##_##n(const EdTile *pair, const EdRows *rows, int blocks, \
                                    int chunks, float *out)                             \
    {                                                                                   \
        product(pair, rows, blocks, chunks, out, bits, n);                              \
    }
#define ED_PRODUCTS(bits) \
    ED_PRODUCT(bits, 1)   \
    ED_PRODUCT(bits, 2)   \
    ED_PRODUCT(bits, 3)   \
    ED_PRODUCT(bits, 4)   \
    ED_PRODUCT(bits, 5)   \
    ED_PRODUCT(bits, 6)   \
    ED_PRODUCT(bits, 7)   \
    ED_PRODUCT(bits, 8)
#define ED_PRODUCT_TABLE(bits)                                                   \
    {product##bits##_1, product##bits##_2, product##bits##_3, product##bits##_4, \
     product##bits##_5, product##bits##_6, product##bits##_7, product##bits##_8}

ED_PRODUCTS(4)
ED_PRODUCTS(8)

#endif
