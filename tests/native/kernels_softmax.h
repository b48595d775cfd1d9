/* Checks of the softmax of attention, for kernels_check.c. */
#ifndef KERNELS_SOFTMAX_H
#define KERNELS_SOFTMAX_H

#include "kernels_check.h"

/* ---- Softmax ---- */

/* Lines of 64, of which some are hidden wholly. */
static float *scores(int count)
{
    float *x = floats(count), size = between(0, 1) ? 3.0f : 60.0f;
    int hidden = 0, steps = between(0, 3) == 0; /* steps: -87 is where exp ends */
    for (int i = 0; i < count; i++) {
        if (i % ED_CHUNK == 0)
            hidden = between(0, 3);
        x[i] = steps ? -29.0f * (float)between(0, 5) : even() * size;
        if (hidden == 3 || (hidden && between(0, 2)))
            x[i] = -INFINITY;
    }
    return x;
}

/* What attention has of all keys, for each of LINES queries: some that go four at a time, and one
 * alone. */
#define LINES 5

typedef struct {
    float sums[16], largest[16], mixed[LINES][32];
} Mixed;

static Mixed nothing(void)
{
    Mixed none = {.sums = {0.0f}};
    for (int q = 0; q < 16; q++)
        none.largest[q] = -INFINITY;
    return none;
}

static EdParts parts_of(Mixed *all)
{
    return (EdParts){all->sums, all->largest, all->mixed[0]};
}

/* The same without a place of its own for what each chunk gives. */
static Mixed attend_at_once(const EdKernels *k, float *score, const uint16_t *values, int chunks)
{
    const EdMixShape shape = {ED_CHUNK, LINES, ED_CHUNK, 32, 32, 32};
    Mixed all = nothing(), here = nothing();
    EdParts before = parts_of(&all), part = parts_of(&here);
    for (int c = 0; c < chunks; c++, score += LINES * ED_CHUNK, values += ED_CHUNK * 32) {
        EdShares shares;
        k->soft(score, LINES, &part);
        k->meet(&before, &part, LINES, &shares);
        k->mix(&shape, score, values, &shares, all.mixed[0]);
    }
    return all;
}

/* Weights as bytes are those of `weigh`, one line after the other. */
static void check_soft_bytes(const float *score)
{
    size_t size = sizeof(float) * LINES * ED_CHUNK;
    float *line = copy(score, size), *weights = copy(score, size);
    float *by = numbers(ED_CHUNK), factors[16];
    int8_t want[ED_CHUNK], got[LINES][ED_CHUNK];
    Mixed one = nothing(), other = nothing();
    EdParts first = parts_of(&one), second = parts_of(&other);
    for (int i = 0; i < ED_CHUNK; i++)
        by[i] = fabsf(by[i]);
    plain->soft(weights, LINES, &first);
    under_test->soft_bytes(line, LINES, by, &second, got[0], factors);
    for (int q = 0; q < LINES; q++) {
        float factor = plain->weigh(weights + q * ED_CHUNK, by, want);
        same("soft_bytes", got[q], want, sizeof want);
        same("soft_bytes: factor", factors + q, &factor, sizeof factor);
    }
    same("soft_bytes: sums", other.sums, one.sums, sizeof *one.sums * LINES);
    same("soft_bytes: largest", other.largest, one.largest, sizeof *one.largest * LINES);
    free(line);
    free(weights);
    free(by);
}

/* The chunks of some paths: softmax, products with the values, and all of them joined. Lines of
 * scores go [chunk][query][64]. */
static Mixed attend(const EdKernels *k, float *score, const uint16_t *values, int chunks)
{
    const EdMixShape shape = {ED_CHUNK, LINES, ED_CHUNK, 32, 32, 32};
    Mixed all = nothing();
    for (int c = 0; c < chunks; c++, score += LINES * ED_CHUNK, values += ED_CHUNK * 32) {
        Mixed here = nothing();
        EdParts before = parts_of(&all), part = parts_of(&here);
        k->soft(score, LINES, &part);
        k->mix(&shape, score, values, NULL, here.mixed[0]);
        k->join(&before, &part, LINES, 32);
    }
    return all;
}

static void check_attended(const Mixed *all, const float *score, const uint16_t *values, int chunks,
                           int query)
{
    double sum = 0.0, mixed = 0.0, most = -INFINITY;
    for (int i = 0; i < ED_CHUNK * chunks; i++) {
        float s = score[(i / ED_CHUNK * LINES + query) * ED_CHUNK + i % ED_CHUNK];
        double weight = s == -INFINITY ? 0.0 : exp((double)s - (double)all->largest[query]);
        most = (double)s > most ? (double)s : most;
        sum += weight;
        mixed += weight * (double)ed_half_to_float(values[32 * i + 7]);
    }
    near("join: largest", (double)all->largest[query] == most, 1, 0.0);
    near("soft", all->sums[query], sum, 2e-6 * sum);
    near("join", all->mixed[query][7], mixed, 2e-6 * sum);
}

static void check_attention(void)
{
    int chunks = between(1, 4), count = ED_CHUNK * chunks;
    size_t size = sizeof(float) * (size_t)(LINES * count);
    float *score = scores(LINES * count), *want_soft = copy(score, size);
    float *got_soft = copy(score, size), *again = copy(score, size);
    uint16_t *values = halves(32 * count, 1.0f);
    Mixed want = attend(plain, want_soft, values, chunks);
    Mixed got = attend(under_test, got_soft, values, chunks);
    same("soft: weights", got_soft, want_soft, size);
    same("soft and join", &got, &want, sizeof got);
    got = attend_at_once(under_test, again, values, chunks);
    same("soft, meet and mix", &got, &want, sizeof got);
    check_soft_bytes(score);
    for (int query = 0; query < LINES; query++)
        check_attended(&want, score, values, chunks, query);
    plain->add_value(want.mixed[0], 0.3f, values, 32);
    under_test->add_value(got.mixed[0], 0.3f, values, 32);
    same("add_value", &got, &want, sizeof got);
    free(score);
    free(want_soft);
    free(got_soft);
    free(again);
    free(values);
}

#endif
