/* Cosines and sines of rotary positions (2104.09864), the same bits on every machine. */
#include <math.h>

#include "model.h"

/* pi / 2 in two pieces, for products with up to 2^30 quarter turns. */
#define QUARTER 1.57079632679489661923
#define QUARTER_REST 6.12323399573676603587e-17

/* sin(x) / x and cos(x) for |x| <= pi / 4 as Taylor series in x * x, to 1e-17. */
static double sine_of(double x)
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

static double cosine_of(double x)
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

static void turn(double angle, double magnitude, float *cosine, float *sine)
{
    if (!(fabs(angle) < 1e9))
        angle = 0.0;
    double quarters = rint(angle * (1.0 / QUARTER));
    double x = fma(-quarters, QUARTER_REST, fma(-quarters, QUARTER, angle));
    double s = sine_of(x), c = cosine_of(x);
    switch ((long long)quarters & 3) {
    case 0: break;
    case 1: x = s, s = c, c = -x; break;
    case 2: s = -s, c = -c; break;
    default: x = s, s = -c, c = x;
    }
    *cosine = (float)(c * magnitude);
    *sine = (float)(s * magnitude);
}

static void turn_row(const EdRun *run, int row)
{
    const EdModel *model = run->model;
    for (int i = 0; i < model->spec.ropes; i++) {
        const EdRope *rope = &model->ropes[i];
        const double *frequencies = (const double *)(model->data + rope->frequencies);
        size_t at =
            ((size_t)i * (size_t)run->rows + (size_t)row) * (size_t)run->session->widths.pairs;
        for (int pair = 0; pair < rope->pairs; pair++)
            turn(run->input->positions[row] * frequencies[pair], rope->magnitude,
                 run->buffers->cosines + at + pair, run->buffers->sines + at + pair);
    }
}

void ed_rotary(EdRun *run, EdWorker *me)
{
    while (ed_team_take(me, 1, run->rows))
        for (int row = me->next; row < me->end; row++)
            turn_row(run, row);
}
