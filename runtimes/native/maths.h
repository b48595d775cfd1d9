/* exp, tanh and the activations on sixteen lanes: the same bits on every machine.
 *
 * Polynomials of our own, since each C library's functions round differently.
 */
#ifndef ED_MATHS_H
#define ED_MATHS_H

#define ED_INLINE static inline __attribute__((always_inline))

/* Smaller arguments give 0, so that a score of -inf weighs nothing. */
#define ED_EXP_LOW -87.0f
#define ED_EXP_BELOW -87.0000076f /* the next number */
#define ED_EXP_HIGH 88.0f

/* Vectors of which functions are found side by side, 1, 2 or 4: each waits long for itself, and
 * processors look only so far ahead for others. Lanes of several registers need no company. */
#ifndef LANES_CHAINS
#define LANES_CHAINS 1
#endif

/* e^x to 3 units in the last place: 2^n * e^r with |r| <= ln 2 / 2. Adding 1.5 * 2^23 leaves n, as
 * an integer, in the lowest bits. N vectors, at most LANES_CHAINS, step by step. */
ED_INLINE void exps_inside(Vf *x, const int N)
{
    static const float more[] = {8.33345191e-3f, 4.16664568e-2f, 1.66666655e-1f, 0.5f};
    Vf shift = vf_set1(12582912.0f), shifted[LANES_CHAINS], r[LANES_CHAINS], p[LANES_CHAINS];
    for (int i = 0; i < N; i++)
        shifted[i] = vf_fma(x[i], vf_set1(1.44269504f), shift);
    for (int i = 0; i < N; i++)
        p[i] = vf_sub(shifted[i], shift);
    for (int i = 0; i < N; i++)
        r[i] = vf_fma(p[i], vf_set1(-0.693359375f), x[i]);
    for (int i = 0; i < N; i++)
        r[i] = vf_fma(p[i], vf_set1(2.12194440e-4f), r[i]);
    for (int i = 0; i < N; i++)
        p[i] = vf_set1(1.38888889e-3f);
    for (int power = 0; power < 4; power++)
        for (int i = 0; i < N; i++)
            p[i] = vf_fma(p[i], r[i], vf_set1(more[power]));
    for (int i = 0; i < N; i++)
        p[i] = vf_fma(p[i], vf_mul(r[i], r[i]), r[i]);
    for (int i = 0; i < N; i++)
        x[i] = vf_times_power(vf_add(p[i], vf_set1(1.0f)), shifted[i]);
}

static inline Vf vf_exp(Vf x)
{
    Vf low = vf_set1(ED_EXP_LOW), inside = vf_max(vf_min(x, vf_set1(ED_EXP_HIGH)), low);
    exps_inside(&inside, 1);
    return vf_less(x, low, vf_set1(0.0f), inside);
}

/* The same for x <= 0; of what is not a number, 0. */
ED_INLINE void exps_fall(Vf *x, const int N)
{
    Vf inside[LANES_CHAINS];
    for (int i = 0; i < N; i++)
        inside[i] = x[i];
    exps_inside(inside, N);
    for (int i = 0; i < N; i++)
        x[i] = vf_less(vf_set1(ED_EXP_BELOW), x[i], inside[i], vf_set1(0.0f));
}

static inline Vf vf_exp_fall(Vf x)
{
    exps_fall(&x, 1);
    return x;
}

/* 1 - 2 / (e^2x + 1), to 2e-7. */
static inline Vf vf_tanh(Vf x)
{
    Vf one = vf_set1(1.0f), two = vf_set1(2.0f);
    return vf_sub(one, vf_div(two, vf_add(vf_exp(vf_add(x, x)), one)));
}

/* The error function to 6e-7 (Abramowitz and Stegun 7.1.26). */
static inline Vf vf_erf(Vf x)
{
    Vf one = vf_set1(1.0f), zero = vf_set1(0.0f), size = vf_abs(x), t, p, positive;
    t = vf_div(one, vf_fma(vf_set1(0.3275911f), size, one));
    p = vf_fma(vf_set1(1.061405429f), t, vf_set1(-1.453152027f));
    p = vf_fma(p, t, vf_set1(1.421413741f));
    p = vf_fma(p, t, vf_set1(-0.284496736f));
    p = vf_fma(p, t, vf_set1(0.254829592f));
    positive = vf_sub(one, vf_mul(vf_mul(p, t), vf_exp(vf_sub(zero, vf_mul(size, size)))));
    return vf_less(x, zero, vf_sub(zero, positive), positive);
}

static inline Vf vf_activate(Vf x, int activation)
{
    Vf one = vf_set1(1.0f), half = vf_mul(x, vf_set1(0.5f)), cube;
    switch (activation) {
    case ED_SILU: return vf_div(x, vf_add(one, vf_exp(vf_sub(vf_set1(0.0f), x))));
    case ED_GELU: return vf_mul(half, vf_add(one, vf_erf(vf_mul(x, vf_set1(0.70710678f)))));
    case ED_GELU_TANH:
        cube = vf_mul(vf_mul(x, x), x);
        cube = vf_mul(vf_fma(cube, vf_set1(0.044715f), x), vf_set1(0.79788456f));
        return vf_mul(half, vf_add(one, vf_tanh(cube)));
    default: return vf_max(x, vf_set1(0.0f));
    }
}

#endif
