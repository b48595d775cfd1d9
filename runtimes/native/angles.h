/* Cosines and sines of rotary positions (2104.09864), the same bits on every machine: doubles that
 * are added and multiplied as it stands here. A compiler may do several pairs at once.
 */
#ifndef ED_ANGLES_H
#define ED_ANGLES_H

/* pi / 2 in two pieces, for products with up to 2^30 quarter turns. */
#define QUARTER 1.57079632679489661923
#define QUARTER_REST 6.12323399573676603587e-17

/* sin(x) / x and cos(x) for |x| <= pi / 4 as Taylor series in x * x, to 1e-17. */
static inline double sine_of(double x)
{
    double y = x * x, sum = 1.0 / 355687428096000.0;
    sum = fma(sum, y, -1.0 / 1307674368000.0);
    sum = fma(sum, y, 1.0 / 6227020800.0);
    sum = fma(sum, y, -1.0 / 39916800.0);
    sum = fma(sum, y, 1.0 / 362880.0);
    sum = fma(sum, y, -1.0 / 5040.0);
    sum = fma(sum, y, 1.0 / 120.0);
    sum = fma(sum, y, -1.0 / 6.0);
    return fma(sum * y, x, x);
}

static inline double cosine_of(double x)
{
    double y = x * x, sum = 1.0 / 20922789888000.0;
    sum = fma(sum, y, -1.0 / 87178291200.0);
    sum = fma(sum, y, 1.0 / 479001600.0);
    sum = fma(sum, y, -1.0 / 3628800.0);
    sum = fma(sum, y, 1.0 / 40320.0);
    sum = fma(sum, y, -1.0 / 720.0);
    sum = fma(sum, y, 1.0 / 24.0);
    sum = fma(sum, y, -0.5);
    return fma(sum, y, 1.0);
}

/* In quarter turns and a rest, so that no pair takes another way than its neighbours. */
static void turn(const double *frequencies, int position, double magnitude, int pairs,
                 float *cosines, float *sines)
{
    for (int i = 0; i < pairs; i++) {
        double angle = position * frequencies[i], quarters, x, s, c, sine, cosine;
        int turns;
        angle = fabs(angle) < 1e9 ? angle : 0.0;
        quarters = rint(angle * (1.0 / QUARTER));
        turns = (int)quarters;
        x = fma(-quarters, QUARTER_REST, fma(-quarters, QUARTER, angle));
        s = sine_of(x);
        c = cosine_of(x);
        sine = turns & 1 ? c : s;
        cosine = turns & 1 ? s : c;
        sine = turns & 2 ? -sine : sine;
        cosine = (turns + 1) & 2 ? -cosine : cosine;
        cosines[i] = (float)(cosine * magnitude);
        sines[i] = (float)(sine * magnitude);
    }
}

#endif
