/* `product` of products.h with smmla, which multiplies 2 outputs by 2 rows over 8 inputs.
 *
 * The packed layout has 4 inputs of an output side by side: two groups are zipped in registers, and
 * at a block's end the sums are unzipped into rows. A single row gains nothing and takes sdot.
 */
#ifndef ED_PRODUCTS_I8MM_H
#define ED_PRODUCTS_I8MM_H

/* 16 outputs in twos, by 8 inputs, and their sums: output 0 by two rows, output 1 by two rows. */
typedef struct {
    int8x16_t two[8];
} Outputs;

typedef struct {
    int32x4_t two[8];
} Squares;

ED_INLINE void zip_inputs(int8x16_t even, int8x16_t odd, int8x16_t *to)
{
    int32x4_t a = vreinterpretq_s32_s8(even), b = vreinterpretq_s32_s8(odd);
    to[0] = vreinterpretq_s8_s32(vzip1q_s32(a, b));
    to[1] = vreinterpretq_s8_s32(vzip2q_s32(a, b));
}

ED_INLINE Outputs zip_outputs(Vb even, Vb odd)
{
    Outputs all;
    zip_inputs(even.a, odd.a, all.two);
    zip_inputs(even.b, odd.b, all.two + 2);
    zip_inputs(even.c, odd.c, all.two + 4);
    zip_inputs(even.d, odd.d, all.two + 6);
    return all;
}

/* 8 inputs of two rows, or of one and zeros. */
ED_INLINE int8x16_t zip_rows(const int8_t *x, const int n, const int both)
{
    int32_t even[2] = {0, 0}, odd[2] = {0, 0};
    int32x2_t a, b;
    memcpy(even, x, both ? 8 : 4);
    memcpy(odd, x + 4 * n, both ? 8 : 4);
    a = vld1_s32(even);
    b = vld1_s32(odd);
    return vreinterpretq_s8_s32(vcombine_s32(vzip1_s32(a, b), vzip2_s32(a, b)));
}

/* 32 inputs of R rows (of n) times a tile. */
ED_INLINE void chunk_squares(Squares *sum, const uint8_t **w, const int8_t *x, const int bits,
                             const int n, const int R, size_t ahead)
{
    for (int pair = 0; pair < 4; pair++, x += 8 * n) {
        Vb first = vb_load(*w), even = bits == 4 ? vb_low(first) : first;
        Vb odd = bits == 4 ? vb_high(first) : vb_load(*w + 64);
        Outputs outputs = zip_outputs(even, odd);
        ED_ASK_FOR((uintptr_t)*w + ahead);
        if (bits == 8)
            ED_ASK_FOR((uintptr_t)*w + 64 + ahead);
        for (int r = 0; r < R; r += 2) {
            int8x16_t rows = zip_rows(x + 4 * r, n, r + 1 < R);
            int32x4_t *to = sum[r / 2].two;
            for (int i = 0; i < 8; i++)
                to[i] = now(vmmlaq_s32(to[i], outputs.two[i], rows));
        }
        *w += 16 * bits;
    }
}

ED_INLINE Vi row_of_squares(const Squares *sum, const int second, int32_t start)
{
    int32x4_t four[4];
    for (int i = 0; i < 4; i++) {
        int32x4_t a = sum->two[2 * i], b = sum->two[2 * i + 1];
        four[i] = vaddq_s32(second ? vuzp2q_s32(a, b) : vuzp1q_s32(a, b), vdupq_n_s32(start));
    }
    return (Vi){four[0], four[1], four[2], four[3]};
}

/* Rows [first, first + R) of n, times one tile. */
ED_INLINE void squares_part(const EdTile *tile, const EdRows *rows, int blocks, int chunks,
                            float *out, const int bits, const int n, const int first, const int R)
{
    const uint8_t *w = tile->weights;
    const int8_t *x = rows->values + 4 * first;
    Vf total[4];
    for (int r = 0; r < R; r++)
        total[r] = vf_set1(0.0f);
    for (int b = 0; b < blocks; b++) {
        Vf weight_scale = vf_load_half(tile->scales + 16 * b);
        Squares sum[2];
        for (int i = 0; i < 8; i++)
            sum[0].two[i] = sum[1].two[i] = vdupq_n_s32(0);
        for (int c = 0; c < chunks; c++, x += 32 * n)
            chunk_squares(sum, &w, x, bits, n, R, tile->ahead);
        for (int r = 0; r < R; r++) {
            int at = b * n + first + r;
            Vi whole = row_of_squares(sum + r / 2, r & 1, bits == 4 ? rows->sums[at] : 0);
            Vf both = vf_mul(weight_scale, vf_set1(rows->scales[at]));
            total[r] = vf_fma(vf_from_vi(whole), both, total[r]);
        }
    }
    for (int r = 0; r < R; r++)
        vf_store(out + (first + r) * ED_PAIR, total[r]);
}

ED_INLINE void product(const EdTile *pair, const EdRows *rows, int blocks, int chunks, float *out,
                       const int bits, const int n)
{
    for (int t = 0; t < 2; t++) {
        const EdTile *tile = pair + t;
        float *to = out + 16 * t;
        int first = 0;
        for (; first + 4 <= n; first += 4)
            squares_part(tile, rows, blocks, chunks, to, bits, n, first, 4);
        if (n % 4 == 1)
            product_part(tile, rows, blocks, chunks, to, bits, n, first, 1, 1);
        else if (n % 4)
            squares_part(tile, rows, blocks, chunks, to, bits, n, first, n % 4);
    }
}

#endif
