/* Counter-based Gumbel noise and the draw. */
#include "tree.h"

#include <math.h>

#define GAMMA 0x9E3779B97F4A7C15ull

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

uint64_t noise_key(uint64_t seed, uint64_t index)
{
    return mix(mix(seed + GAMMA) ^ (index * 0xD1342543DE82EF95ull));
}

static uint64_t bits(uint64_t key, int32_t token)
{
    return mix(key + ((uint64_t)token + 1) * GAMMA) >> 11 | 1;
}

static double noise_of(uint64_t bits)
{
    return -log(-log((double)bits * 0x1p-53));
}

double noise(uint64_t key, int32_t token)
{
    return noise_of(bits(key, token));
}

/* Loops over the vocabulary are compiled for several instruction sets: the same integers and the
 * same IEEE arithmetic on each. (The loader chooses before the thread sanitizer is there.) */
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_THREAD__)
#define WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDE
#endif

enum { BLOCK = 64, LANES = 16 };

/* The largest logit; 1 in `bad` where there is one that is no number. */
WIDE static float peak_of(const float *logits, int vocab, int *bad)
{
    float most[LANES];
    int odd[LANES] = {0}, i = 0, found = 0;
    float peak = -INFINITY;
    for (int j = 0; j < LANES; j++)
        most[j] = -INFINITY;
    for (; i + LANES <= vocab; i += LANES)
        for (int j = 0; j < LANES; j++) {
            most[j] = logits[i + j] > most[j] ? logits[i + j] : most[j];
            odd[j] |= logits[i + j] != logits[i + j];
        }
    for (int j = 0; j < LANES; j++) {
        peak = most[j] > peak ? most[j] : peak;
        found |= odd[j];
    }
    for (; i < vocab; i++) {
        peak = logits[i] > peak ? logits[i] : peak;
        found |= logits[i] != logits[i];
    }
    *bad = found;
    return peak;
}

/* What a block of tokens draws, and which of them may come above `base` + `lead` (two numbers,
 * since the sum may be too large for single precision to tell it from its neighbours). Noise
 * exceeds a need only if 1 - u < exp(-need), since -log(u) >= 1 - u; the exponential is bounded
 * from above by a power of two, so that hardly any token needs a logarithm. */
WIDE static int64_t may_exceed(const float *x, int count, uint64_t start, float base, float lead,
                               uint64_t *drawn, int64_t *may)
{
    int32_t shift[BLOCK];
    int64_t any = 0;
    for (int j = 0; j < count; j++) {
        uint64_t z = start + (uint64_t)j * GAMMA;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
        drawn[j] = (z ^ (z >> 31)) >> 11 | 1;
    }
    for (int j = 0; j < count; j++) {
        /* A little less than is needed: what single precision rounds away. */
        float need = (lead + (base - x[j])) * 1.442695f - 1e-3f;
        need = need < 54 ? need : 54;
        need = need > 0 ? need : 0;
        shift[j] = (int32_t)need;
    }
    for (int j = 0; j < count; j++) {
        int64_t bound = (int64_t)((1ull << 54) >> shift[j] >> 1);
        may[j] = (int64_t)((1ull << 53) - drawn[j]) <= bound;
        any |= may[j];
    }
    return any;
}

static void scale(const float *logits, int count, float peak, float divisor, int scaled, float *x)
{
    for (int j = 0; j < count; j++)
        x[j] = scaled ? (logits[j] - peak) / divisor : logits[j];
}

int noise_draw(const float *logits, int vocab, double temperature, uint64_t seed, uint64_t index)
{
    uint64_t key = noise_key(seed, index), drawn[BLOCK];
    int64_t may[BLOCK];
    float divisor = (float)fmax(temperature, 1e-30), x[BLOCK];
    int bad, best = 0, scaled = temperature != 1;
    float peak = peak_of(logits, vocab, &bad), base = scaled ? 0 : peak;
    double most;
    if (bad || !isfinite(peak))
        return -1;
    /* The likeliest token first: its sum rules most others out at once. */
    while (logits[best] != peak)
        best++;
    most = noise(key, best) + base;
    for (int i = 0; i < vocab; i += BLOCK) {
        int count = vocab - i < BLOCK ? vocab - i : BLOCK;
        scale(logits + i, count, peak, divisor, scaled, x);
        if (!may_exceed(x, count, key + ((uint64_t)i + 1) * GAMMA, base, (float)(most - base),
                        drawn, may))
            continue;
        for (int j = 0; j < count; j++) {
            double sum = may[j] && isfinite(x[j]) ? noise_of(drawn[j]) + x[j] : -INFINITY;
            if (sum > most || (sum == most && i + j < best))
                most = sum, best = i + j;
        }
    }
    return best;
}
