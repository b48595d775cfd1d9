/* chunk4 of products.h without byte dot products: the pairs that maddubs makes are added in 16
 * bits over a chunk, 8 * 2 * 15 * 127 = 30480 at most, and widened once at its end.
 */
#ifndef ED_PRODUCTS_AVX2_H
#define ED_PRODUCTS_AVX2_H

ED_INLINE Vi add_pairs(Vi sum, Vb w, Vi x)
{
    return (Vi){now(_mm256_add_epi16(sum.a, _mm256_maddubs_epi16(w.a, x.a))),
                now(_mm256_add_epi16(sum.b, _mm256_maddubs_epi16(w.b, x.b)))};
}

ED_INLINE void chunk4(Vi (*sum)[LANES_TILES], const uint8_t **w, const int8_t *x, size_t stride,
                      const int R, const int T, size_t ahead)
{
    for (int t = 0; t < T; t++) {
        Vi pairs[LANES_ROWS];
        for (int r = 0; r < R; r++)
            pairs[r] = vi_set1(0);
        for (int pair = 0; pair < 4; pair++, w[t] += 64) {
            const int8_t *here = x + 8 * pair;
            Vb both = vb_load(w[t]), low = vb_low(both), high = vb_high(both);
            ask_ahead(w[t], ahead);
            for (int r = 0; r < R; r++) {
                const int8_t *row = here + (size_t)r * stride;
                pairs[r] = add_pairs(pairs[r], low, four_bytes(row));
                pairs[r] = add_pairs(pairs[r], high, four_bytes(row + 4));
            }
        }
        for (int r = 0; r < R; r++)
            sum[r][t] =
                (Vi){add_widened(sum[r][t].a, pairs[r].a), add_widened(sum[r][t].b, pairs[r].b)};
    }
}

#endif
