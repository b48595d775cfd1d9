/* Counter-based Gumbel noise and the draw. */
#include "tree.h"

#include <math.h>
#include <string.h>

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
 * same IEEE arithmetic on each. (The loader chooses before the thread sanitizer is there. 64-bit
 * products in one instruction, which is most of the work, come with x86-64-v4.) */
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_THREAD__)
#if __GNUC__ >= 12
#define WIDE __attribute__((target_clones("arch=x86-64-v4", "avx512f", "avx2", "default")))
#else
#define WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#else
#define WIDE
#endif

enum { BLOCK = 64 };

/* Numbers as integers in the same order (+0 stands above -0); what is no number lies outside of the
 * infinities. Largest integers are found many at a time. */
static int32_t place_of(float x)
{
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits ^ (bits >> 31 & INT32_MAX);
}

static float number_at(int32_t place)
{
    float x;
    place ^= place >> 31 & INT32_MAX;
    memcpy(&x, &place, sizeof x);
    return x;
}

/* The largest logit; NAN where there is one that is no number. */
WIDE static float peak_of(const float *logits, int vocab)
{
    int32_t most = INT32_MIN, least = INT32_MAX;
    for (int i = 0; i < vocab; i++) {
        int32_t place = place_of(logits[i]);
        most = place > most ? place : most;
        least = place < least ? place : least;
    }
    if (!vocab || most > place_of(INFINITY) || least < place_of(-INFINITY))
        return NAN;
    return number_at(most);
}

/* Where a number stands first, which is one of them. */
WIDE static int find(const float *x, int count, float wanted)
{
    int at = 0;
    for (int found = 0; at + BLOCK <= count; at += BLOCK) {
        for (int j = 0; j < BLOCK; j++)
            found |= x[at + j] == wanted;
        if (found)
            break;
    }
    while (x[at] != wanted)
        at++;
    return at;
}

/* What a block of tokens draws, and the most of it; returns the largest logit. */
WIDE static float draw_block(const float *logits, int count, uint64_t start, int64_t *drawn,
                             int64_t *luckiest)
{
    int64_t most = 0;
    int32_t top = INT32_MIN;
    for (int j = 0; j < BLOCK; j++) {
        uint64_t z = start + (uint64_t)j * GAMMA;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
        drawn[j] = (int64_t)((z ^ (z >> 31)) >> 11 | 1);
    }
    for (int j = 0; j < BLOCK; j++)
        most = drawn[j] > most ? drawn[j] : most;
    for (int j = 0; j < count; j++) {
        int32_t place = place_of(logits[j]);
        top = place > top ? place : top;
    }
    *luckiest = most;
    return number_at(top);
}

/* The least that a token with the score x must draw to come above `base` + `lead` (two numbers,
 * since the sum may be too large for single precision to tell it from its neighbours). Noise
 * exceeds a need only if 1 - u < exp(-need), since -log(u) >= 1 - u; the exponential is bounded
 * from above by a power of two, so that hardly any token needs a logarithm. */
static int64_t least_drawn(float x, float base, float lead)
{
    /* A little less than is needed: what single precision rounds away. */
    float need = (lead + (base - x)) * 1.442695f - 1e-3f;
    need = need < 54 ? need : 54;
    need = need > 0 ? need : 0;
    return (int64_t)(1ull << 53) - (int64_t)((1ull << 54) >> (int)need >> 1);
}

typedef struct {
    float peak, divisor, base;
    int scaled;
} Scale;

static float score(const Scale *scale, float logit)
{
    return scale->scaled ? (logit - scale->peak) / scale->divisor : logit;
}

int noise_draw(const float *logits, int vocab, double temperature, uint64_t seed, uint64_t index)
{
    uint64_t key = noise_key(seed, index);
    int64_t drawn[BLOCK], luckiest;
    float peak = peak_of(logits, vocab);
    Scale scale = {peak, (float)fmax(temperature, 1e-30), 0, temperature != 1};
    int best;
    double most;
    if (!isfinite(peak))
        return -1;
    scale.base = scale.scaled ? 0 : peak;
    /* The likeliest token first: its sum rules most others out at once. */
    best = find(logits, vocab, peak);
    most = noise(key, best) + scale.base;
    for (int i = 0; i < vocab; i += BLOCK) {
        int count = vocab - i < BLOCK ? vocab - i : BLOCK;
        float lead = (float)(most - scale.base);
        float top = draw_block(logits + i, count, key + ((uint64_t)i + 1) * GAMMA, drawn, &luckiest);
        /* No score of the block is above that of its largest logit. */
        int64_t least = least_drawn(score(&scale, top), scale.base, lead);
        for (int j = 0; luckiest >= least && j < count; j++) {
            float x;
            double sum;
            if (drawn[j] < least)
                continue;
            x = score(&scale, logits[i + j]);
            if (!isfinite(x) || drawn[j] < least_drawn(x, scale.base, lead))
                continue;
            sum = noise_of((uint64_t)drawn[j]) + x;
            if (sum > most || (sum == most && i + j < best))
                most = sum, best = i + j;
        }
    }
    return best;
}
