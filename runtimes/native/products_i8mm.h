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
ED_INLINE int8x16_t zip_rows(const int8_t *x, size_t stride, const int both)
{
    return vcombine_s8(vld1_s8(x), both ? vld1_s8(x + stride) : vdup_n_s8(0));
}

/* 32 inputs of R rows, `stride` bytes apart, times a tile. */
ED_INLINE void chunk_squares(Squares *sum, const uint8_t **w, const int8_t *x, size_t stride,
                             const int bits, const int R, size_t ahead)
{
    for (int pair = 0; pair < 4; pair++, x += 8) {
        Vb first = vb_load(*w), even = bits == 4 ? vb_low(first) : first;
        Vb odd = bits == 4 ? vb_high(first) : vb_load(*w + 64);
        Outputs outputs = zip_outputs(even, odd);
        ask_ahead(*w, ahead);
        if (bits == 8)
            ask_ahead(*w + 64, ahead);
        for (int r = 0; r < R; r += 2) {
            int8x16_t rows = zip_rows(x + (size_t)r * stride, stride, r + 1 < R);
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

/* The first R rows of a part times one tile. */
ED_INLINE void squares_part(const EdTile *tile, const Part *part, float *out, const int bits,
                            const int R)
{
    const uint8_t *w = tile->weights;
    size_t stride = 32 * (size_t)part->chunks;
    Vf total[4];
    for (int r = 0; r < R; r++)
        total[r] = vf_set1(0.0f);
    for (int b = 0; b < part->blocks; b++) {
        int at = b * part->n + part->first;
        const int8_t *x = part->rows->values + (size_t)at * stride;
        Vf weight_scale = vf_load_half(tile->scales + 16 * b);
        Squares sum[2];
        for (int i = 0; i < 8; i++)
            sum[0].two[i] = sum[1].two[i] = vdupq_n_s32(0);
        for (int c = 0; c < part->chunks; c++, x += 32)
            chunk_squares(sum, &w, x, stride, bits, R, tile->ahead);
        for (int r = 0; r < R; r++) {
            Vi whole =
                row_of_squares(sum + r / 2, r & 1, bits == 4 ? part->rows->sums[at + r] : 0);
            Vf both = vf_mul(weight_scale, vf_set1(part->rows->scales[at + r]));
            total[r] = vf_fma(vf_from_vi(whole), both, total[r]);
        }
    }
    for (int r = 0; r < R; r++)
        vf_store(out + r * ED_PAIR, total[r]);
}

ED_INLINE void product(const EdTile *pair, const Part *group, float *out, const int bits)
{
    for (int t = 0; t < 2; t++) {
        Part part = *group;
        float *to = out + 16 * t;
        for (; part.first + 4 <= part.n; part.first += 4, to += 4 * ED_PAIR)
            squares_part(pair + t, &part, to, bits, 4);
        if (part.n - part.first == 3)
            squares_part(pair + t, &part, to, bits, 3);
        else if (part.n - part.first == 2)
            squares_part(pair + t, &part, to, bits, 2);
        else if (part.n > part.first)
            product_part(pair + t, &part, to, bits, 1, 1);
    }
}

#endif
