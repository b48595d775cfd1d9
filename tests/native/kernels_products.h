/* Checks of the matrix products and the products of attention, for kernels_check.c. */
#ifndef KERNELS_PRODUCTS_H
#define KERNELS_PRODUCTS_H

#include "kernels_check.h"

/* ---- Products with packed matrices ---- */

typedef struct {
    int bits, block, blocks, rows;
} Shape;

static EdRows rows_of(Shape s)
{
    size_t scales = sizeof(float) * (size_t)(s.blocks * s.rows);
    return (EdRows){room((size_t)(s.block * s.blocks * s.rows)), room(scales), room(scales)};
}

static int value_at(Shape s, int row, int input)
{
    return (input / s.block * s.rows + row) * s.block + input % s.block;
}

static void free_rows(EdRows rows)
{
    free(rows.values);
    free(rows.scales);
    free(rows.sums);
}

static void same_rows(Shape s, const EdRows *got, const EdRows *want)
{
    size_t scales = sizeof(float) * (size_t)(s.blocks * s.rows);
    same("quantise: values", got->values, want->values, (size_t)(s.block * s.blocks * s.rows));
    same("quantise: scales", got->scales, want->scales, scales);
    same("quantise: sums", got->sums, want->sums, scales);
}

/* Each row once by every instruction set. */
static EdRows quantised(Shape s)
{
    EdRows want = rows_of(s), got = rows_of(s);
    int inputs = s.block * s.blocks;
    for (int row = 0; row < s.rows; row++) {
        int count = 16 * between(1, inputs / 16);
        float *x = numbers(count);
        plain->quantise(x, count, inputs, s.block, row, s.rows, &want);
        under_test->quantise(x, count, inputs, s.block, row, s.rows, &got);
        for (int i = 0; i < count; i++) {
            float unit = want.scales[i / s.block * s.rows + row];
            int whole = want.values[value_at(s, row, i)];
            near("quantise", (double)unit * whole, x[i], 0.50002 * unit + 1e-30);
        }
        free(x);
    }
    same_rows(s, &got, &want);
    free_rows(got);
    return want;
}

/* One block of all rows at once. */
static void check_quantise_rows(void)
{
    Shape s = {.block = 32 << between(0, 2), .blocks = 1, .rows = between(1, ED_GROUP)};
    int count = 16 * between(0, s.block / 16), stride = count + between(0, 5);
    float *x = numbers(stride * (s.rows - 1) + count);
    EdRows want = rows_of(s), got = rows_of(s);
    for (int row = 0; row < s.rows; row++)
        plain->quantise(x + row * stride, count, s.block, s.block, row, s.rows, &want);
    under_test->quantise_rows(x, (size_t)stride, count, s.block, s.rows, &got);
    same_rows(s, &got, &want);
    free_rows(want);
    free_rows(got);
    free(x);
}

/* All integers at their limits. */
static EdRows extreme(Shape s)
{
    EdRows rows = rows_of(s);
    int sign = between(0, 1) ? 127 : -127;
    for (int i = 0; i < s.block * s.blocks * s.rows; i++) {
        rows.values[i] = (int8_t)(between(0, 9) ? sign : -sign);
        rows.sums[i / s.block] -= 8 * rows.values[i];
    }
    for (int i = 0; i < s.blocks * s.rows; i++)
        rows.scales[i] = 0.01f + fabsf(even());
    return rows;
}

static uint8_t *packed(size_t size, int bits)
{
    uint8_t *weights = room(size);
    int sort = between(0, 3);
    for (size_t i = 0; i < size; i++) {
        int ends = between(0, 1);
        if (sort == 0)
            weights[i] = bits == 4 ? 0xff : 127;
        else if (sort == 1)
            weights[i] = bits == 4 ? (ends ? 0xf0 : 0x0f) : (uint8_t)(ends ? 127 : -127);
        else
            weights[i] = (uint8_t)(bits == 4 ? between(0, 255) : between(-127, 127));
    }
    return weights;
}

static int weight_at(const uint8_t *weights, int bits, int output, int input)
{
    int group = input / 4, at = output * 4 + input % 4;
    if (bits == 8)
        return (int8_t)weights[group * 64 + at];
    return (weights[group / 2 * 64 + at] >> 4 * (group % 2) & 15) - 8;
}

static double sum_of_products(Shape s, const EdTile *tile, const EdRows *rows, int row, int output)
{
    double sum = 0.0;
    for (int i = 0; i < s.block * s.blocks; i++) {
        int b = i / s.block, x = rows->values[value_at(s, row, i)];
        double scale = (double)rows->scales[b * s.rows + row] *
                       (double)ed_half_to_float(tile->scales[16 * b + output]);
        sum += scale * x * weight_at(tile->weights, s.bits, output, i);
    }
    return sum;
}

/* What rounding may do: each block's part is at most its inputs times 127 * 127 scales. */
static double rounding(Shape s, const EdTile *tile, const EdRows *rows, int row, int output)
{
    double most = 1e-35;
    for (int b = 0; b < s.blocks; b++)
        most += 1e-6 * s.block * 127 * 127 * (double)rows->scales[b * s.rows + row] *
                fabs((double)ed_half_to_float(tile->scales[16 * b + output]));
    return most;
}

/* Rows in groups as a step has them. */
typedef struct {
    EdRows of[ED_MOST_AT_ONCE / ED_GROUP];
} Groups;

static Shape group_shape(Shape s, int group)
{
    int left = s.rows - group * ED_GROUP;
    s.rows = left < ED_GROUP ? left : ED_GROUP;
    return s;
}

static Groups groups_of(Shape s)
{
    Groups all = {0};
    for (int i = 0; i * ED_GROUP < s.rows; i++)
        all.of[i] = between(0, 2) ? quantised(group_shape(s, i)) : extreme(group_shape(s, i));
    return all;
}

static float *multiplied(const EdKernels *k, Shape s, const EdTile *pair, const Groups *groups)
{
    float *out = floats(ED_PAIR * s.rows);
    EdProduct *product = s.bits == 4 ? k->product4 : k->product8;
    if (k->begin)
        k->begin(s.rows, s.block);
    for (int row = 0; row < s.rows; row += k->at_once) {
        int here = s.rows - row < k->at_once ? s.rows - row : k->at_once;
        product(pair, groups->of + row / ED_GROUP, here, s.blocks, s.block / 32,
                out + ED_PAIR * row);
    }
    if (k->end)
        k->end(s.rows);
    return out;
}

static void check_product_at(Shape s, const EdTile *pair, const Groups *groups, const float *out)
{
    int row = between(0, s.rows - 1), output = between(0, ED_PAIR - 1), group = row / ED_GROUP;
    const EdTile *tile = pair + output / 16;
    const EdRows *rows = groups->of + group;
    Shape here = group_shape(s, group);
    near("product", out[row * ED_PAIR + output],
         sum_of_products(here, tile, rows, row % ED_GROUP, output % 16),
         rounding(here, tile, rows, row % ED_GROUP, output % 16));
}

static void check_product(Shape s)
{
    Groups groups = groups_of(s);
    size_t bytes = (size_t)(s.block * s.blocks * 16 * s.bits / 8);
    float scale = between(0, 3) ? 0.1f : 1e-6f, *want, *got;
    EdTile pair[2];
    for (int t = 0; t < 2; t++)
        pair[t] =
            (EdTile){.weights = packed(bytes, s.bits), .scales = halves(16 * s.blocks, scale)};
    want = multiplied(plain, s, pair, &groups);
    got = multiplied(under_test, s, pair, &groups);
    same(s.bits == 4 ? "product4" : "product8", got, want,
         sizeof(float) * (size_t)(ED_PAIR * s.rows));
    for (int time = 0; time < 8; time++)
        check_product_at(s, pair, &groups, want);
    for (int t = 0; t < 2; t++) {
        free((void *)pair[t].weights);
        free((void *)pair[t].scales);
    }
    for (int i = 0; i * ED_GROUP < s.rows; i++)
        free_rows(groups.of[i]);
    free(want);
    free(got);
}

static void check_products(void)
{
    for (int bits = 4; bits <= 8; bits += 4)
        for (int block = 32; block <= 128; block *= 2) {
            for (int rows = 1; rows <= ED_GROUP; rows++)
                for (int time = 0; time < 4; time++)
                    check_product((Shape){bits, block, between(1, 512 / block), rows});
            for (int time = 0; time < 12; time++)
                check_product((Shape){bits, block, between(1, 512 / block),
                                      between(ED_GROUP + 1, ED_MOST_AT_ONCE)});
        }
}

/* ---- Products of attention ---- */

/* Some columns or all of lines that are wider. */
static EdMixShape mix_shape(int queries, int inner, int stride)
{
    EdMixShape s = {.stride = stride, .queries = queries, .inner = inner, .head = 1};
    s.width = 16 * between(1, 16);
    s.columns = between(0, 1) ? s.width : 16 * between(1, s.width / 16);
    return s;
}

/* Where queries and columns end in the middle, buffers end there too. */
static size_t out_size(const EdMixShape *s)
{
    return sizeof(float) * (size_t)((s->queries - 1) * s->width + s->columns);
}

/* Columns that were not asked for keep what was there. */
static void check_rest(const char *function, const EdMixShape *s, const void *out,
                       const void *before)
{
    const char *a = out, *b = before;
    size_t line = sizeof(float) * (size_t)s->width, used = sizeof(float) * (size_t)s->columns;
    for (int q = 0; q + 1 < s->queries; q++)
        same(function, a + line * (size_t)q + used, b + line * (size_t)q + used, line - used);
}

static EdShares shares_of(int queries)
{
    EdShares shares = {.here = {0.0f}};
    for (int q = 0; q < queries; q++) {
        shares.before[q] = even() + 1.0f;
        shares.here[q] = between(0, 3) ? even() + 1.0f : 0.0f;
    }
    return shares;
}

/* What is mixed joins what was there, by the rule that the plain set follows. */
static void check_joined(const char *function, const EdMixShape *s, const EdShares *shares,
                         const float *before, const float *mixed, const float *got)
{
    for (int q = 0; q < s->queries; q++)
        for (int w = 0; w < s->columns; w++) {
            int i = q * s->width + w;
            float want = fmaf(before[i], shares->before[q], mixed[i] * shares->here[q]);
            near(function, got[i] == want, 1, 0.0);
        }
    check_rest(function, s, got, before);
}

static void check_mix_joined(const EdMixShape *s, const float *a, const uint16_t *b,
                             const float *before)
{
    EdShares shares = shares_of(s->queries);
    float *mixed = copy(before, out_size(s)), *got = copy(before, out_size(s));
    plain->mix(s, a, b, NULL, mixed);
    under_test->mix(s, a, b, &shares, got);
    check_joined("mix: joined", s, &shares, before, mixed, got);
    free(mixed);
    free(got);
}

static void check_mix(int queries, int inner)
{
    EdMixShape s = mix_shape(queries, inner, inner + between(0, 5));
    float *a = numbers(s.stride * (queries - 1) + inner);
    float *before = numbers(queries * s.width), *want, *got;
    uint16_t *b = halves((inner - 1) * s.width + s.columns, between(0, 3) ? 2.0f : 1e-6f);
    want = copy(before, out_size(&s));
    got = copy(before, out_size(&s));
    plain->mix(&s, a, b, NULL, want);
    under_test->mix(&s, a, b, NULL, got);
    same("mix", got, want, out_size(&s));
    check_rest("mix: other columns", &s, got, before);
    check_mix_joined(&s, a, b, before);
    for (int time = 0; time < 4; time++) {
        int q = between(0, queries - 1), w = between(0, s.columns - 1);
        double sum = 0.0, most = 1e-35;
        for (int i = 0; i < inner; i++) {
            double x = a[q * s.stride + i], part = x * (double)ed_half_to_float(b[i * s.width + w]);
            sum += part;
            most += fabs(part);
        }
        near("mix", want[q * s.width + w], sum, 1e-5 * most);
    }
    free(a);
    free(b);
    free(before);
    free(want);
    free(got);
}

/* -8 times the sum of each query's integers; NULL where none of them is negative. */
static int32_t *sums_of(const EdMixShape *s, int8_t *a, int positive)
{
    int32_t *sums = positive ? NULL : room(sizeof *sums * (size_t)s->queries);
    for (int q = 0; q < s->queries; q++)
        for (int i = 0; i < s->inner; i++) {
            int8_t *x = a + q * s->stride + i;
            if (positive)
                *x = (int8_t)(*x < 0 ? -*x : *x);
            else
                sums[q] -= 8 * *x;
        }
    return sums;
}

/* The integers as numbers, and these joined to what was there. */
static void check_scaled(const EdMixShape *s, const int8_t *a, const int32_t *sums, const int8_t *b,
                         const float *before, const int32_t *integers)
{
    EdShares shares = shares_of(s->queries);
    float *factors = numbers(s->queries), *by = numbers(s->width);
    float *want = copy(before, out_size(s)), *got = copy(before, out_size(s));
    under_test->mix_bytes(s, a, sums, b, &(EdScaling){factors, by, NULL}, got);
    for (int q = 0; q < s->queries; q++)
        plain->from_sums(integers + q * s->width, factors[q], by, s->columns, want + q * s->width);
    same("mix_bytes: scaled", got, want, out_size(s));
    for (int q = 0; q < s->queries; q++)
        plain->from_sums(integers + q * s->width, factors[q], NULL, s->columns,
                         want + q * s->width);
    memcpy(got, before, out_size(s));
    under_test->mix_bytes(s, a, sums, b, &(EdScaling){factors, NULL, &shares}, got);
    check_joined("mix_bytes: joined", s, &shares, before, want, got);
    free(factors);
    free(by);
    free(want);
    free(got);
}

static void check_mix_bytes(int queries, int inner, int positive)
{
    EdMixShape s = mix_shape(queries, inner, inner + 4 * between(0, 2));
    int8_t *a = small(s.stride * (queries - 1) + inner);
    int8_t *b = small((inner / 4 - 1) * 4 * s.width + 4 * s.columns);
    int32_t *sums = sums_of(&s, a, positive), *want, *got;
    float *before = numbers(queries * s.width);
    want = copy(before, out_size(&s));
    got = copy(before, out_size(&s));
    plain->mix_bytes(&s, a, sums, b, NULL, want);
    under_test->mix_bytes(&s, a, sums, b, NULL, got);
    same("mix_bytes", got, want, out_size(&s));
    check_rest("mix_bytes: other columns", &s, got, before);
    check_scaled(&s, a, sums, b, before, want);
    for (int time = 0; time < 4; time++) {
        int q = between(0, queries - 1), w = between(0, s.columns - 1), sum = 0;
        for (int i = 0; i < inner; i++)
            sum += a[q * s.stride + i] * b[(i / 4 * s.width + w) * 4 + i % 4];
        near("mix_bytes", want[q * s.width + w], sum, 0.0);
    }
    free(a);
    free(b);
    free(sums);
    free(before);
    free(want);
    free(got);
}

static void check_mixes(void)
{
    for (int queries = 1; queries <= ED_QUERIES; queries++) {
        check_mix(queries, between(1, 80));
        for (int positive = 0; positive < 2; positive++)
            check_mix_bytes(queries, 4 * between(1, 32), positive);
    }
    check_mix(1, ED_MOST_HEAD_DIM);
    check_mix(ED_QUERIES, ED_MOST_HEAD_DIM);
    check_mix_bytes(ED_QUERIES, ED_MOST_HEAD_DIM, 0);
}

#endif
