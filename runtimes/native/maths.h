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

/* e^x to 3 units in the last place: 2^n * e^r with |r| <= ln 2 / 2. Adding 1.5 * 2^23 leaves n, as
 * an integer, in the lowest bits. */
ED_INLINE Vf exp_inside(Vf inside)
{
    Vf shift = vf_set1(12582912.0f), shifted = vf_fma(inside, vf_set1(1.44269504f), shift);
    Vf whole = vf_sub(shifted, shift), r, p;
    r = vf_fma(whole, vf_set1(-0.693359375f), inside);
    r = vf_fma(whole, vf_set1(2.12194440e-4f), r);
    p = vf_fma(vf_set1(1.38888889e-3f), r, vf_set1(8.33345191e-3f));
    p = vf_fma(p, r, vf_set1(4.16664568e-2f));
    p = vf_fma(p, r, vf_set1(1.66666655e-1f));
    p = vf_fma(p, r, vf_set1(0.5f));
    p = vf_add(vf_fma(p, vf_mul(r, r), r), vf_set1(1.0f));
    return vf_times_power(p, shifted);
}

static inline Vf vf_exp(Vf x)
{
    Vf low = vf_set1(ED_EXP_LOW), inside = vf_max(vf_min(x, vf_set1(ED_EXP_HIGH)), low);
    return vf_less(x, low, vf_set1(0.0f), exp_inside(inside));
}

/* The same for x <= 0; of what is not a number, 0. */
static inline Vf vf_exp_fall(Vf x)
{
    return vf_less(vf_set1(ED_EXP_BELOW), x, exp_inside(x), vf_set1(0.0f));
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
