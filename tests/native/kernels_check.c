/* Compares every instruction set of this machine with the portable one, bit by bit, and the
 * portable one with plain loops in double precision. Prints the first difference and exits with 1;
 * otherwise prints the names of the instruction sets. Arguments: names that must be among them.
 */
#include "kernels_check.h"
#include "kernels_products.h"
#include "kernels_softmax.h"
#include "maths.h"

/* ---- Functions of one row ---- */

typedef void Change(const EdKernels *k, float *x, const float *by, int count, int choice);

/* One function of `kernels` on the same numbers, in place, by both. */
static void check_change(const char *name, Change *change, int choice)
{
    int count = 16 * between(1, 40);
    size_t size = sizeof(float) * (size_t)count;
    float *by = numbers(count), *want = numbers(count), *got = copy(want, size);
    change(plain, want, by, count, choice);
    change(under_test, got, by, count, choice);
    same(name, got, want, size);
    free(by);
    free(want);
    free(got);
}

static void add_it(const EdKernels *k, float *x, const float *by, int count, int choice)
{
    (void)choice;
    k->add(x, by, count, x);
}

static void scale_it(const EdKernels *k, float *x, const float *by, int count, int choice)
{
    (void)choice;
    k->scale(x, by[0], count, x);
}

static void soften_it(const EdKernels *k, float *x, const float *by, int count, int choice)
{
    (void)by;
    k->soften(x, choice ? 30.0f : 0.5f, count);
}

static void activate_it(const EdKernels *k, float *x, const float *by, int count, int choice)
{
    (void)by;
    k->activate(x, choice, count);
}

static void from_sums_it(const EdKernels *k, float *x, const float *by, int count, int choice)
{
    int32_t *sums = room(sizeof(int32_t) * (size_t)count);
    for (int i = 0; i < count; i++)
        sums[i] = (int32_t)(by[i] * 1e5f);
    k->from_sums(sums, 0.013f, choice ? by : NULL, count, x);
    free(sums);
}

static void check_changes(void)
{
    check_change("add", add_it, 0);
    check_change("scale", scale_it, 0);
    for (int choice = 0; choice < 2; choice++) {
        check_change("soften", soften_it, choice);
        check_change("from_sums", from_sums_it, choice);
    }
    for (int activation = ED_SILU; activation <= ED_RELU; activation++)
        check_change("activate", activate_it, activation);
}

/* What becomes of a product: ways 0 and 1 put and add it, the others are gates. */
static void carry_on(const EdKernels *k, const float *x, int way, int rows, float *to, int stride)
{
    if (way > 1)
        k->gate_rows(x, way - 2, rows, to, (size_t)stride);
    else
        (way ? k->add_rows : k->put_rows)(x, stride >= ED_PAIR ? ED_PAIR : 16, rows, to,
                                          (size_t)stride);
}

static void check_rows(int way)
{
    int rows = between(1, ED_GROUP), width = way < 2 ? 16 * between(1, 2) : 16;
    int stride = width + between(0, 15), count = stride * (rows - 1) + width;
    float *x = numbers(ED_PAIR * rows), *want = numbers(count);
    float *got = copy(want, sizeof(float) * (size_t)count);
    carry_on(under_test, x, way, rows, got, stride);
    for (int r = 0; r < rows; r++) {
        float acted[16], *to = want + r * stride, *from = x + r * ED_PAIR;
        memcpy(acted, from, sizeof acted);
        if (way > 1)
            plain->activate(acted, way - 2, 16);
        for (int i = 0; i < width; i++)
            to[i] = way > 1 ? acted[i] * from[16 + i] : way ? to[i] + from[i] : from[i];
    }
    same(way > 1 ? "gate_rows"
         : way   ? "add_rows"
                 : "put_rows",
         got, want, sizeof(float) * (size_t)count);
    free(x);
    free(want);
    free(got);
}

static EdSpread spread_of(const float *x, int count, int kind, float eps)
{
    double mean = 0.0, square = 0.0;
    for (int i = 0; i < count && kind == ED_NORM_LAYER; i++)
        mean += (double)x[i] / count;
    for (int i = 0; i < count; i++)
        square += (x[i] - mean) * (x[i] - mean) / count;
    return (EdSpread){(float)mean, (float)(1.0 / sqrt(square + (double)eps))};
}

/* At once, and in two parts as the threads share a row out. */
static void check_norm(int choice)
{
    int count = 16 * between(1, 40), kind = choice / 2, middle = 16 * between(0, count / 16);
    size_t size = sizeof(float) * (size_t)count;
    float *x = numbers(count), *weight = numbers(count), *bias = choice % 2 ? weight : NULL;
    float *want = copy(x, size), *got = copy(x, size), *parts = copy(x, size);
    float eps = choice % 3 ? 1e-5f : 1e-12f, most = plain->largest(x, count);
    EdSpread exact = spread_of(x, count, kind, eps), a = plain->spread(x, count, kind, eps);
    EdSpread b = under_test->spread(x, count, kind, eps);
    plain->norm(x, count, kind, eps, weight, bias, want);
    under_test->norm(got, count, kind, eps, weight, bias, got);
    under_test->normalise(parts, middle, b, weight, bias, parts);
    under_test->normalise(parts + middle, count - middle, b, weight + middle,
                          bias ? bias + middle : NULL, parts + middle);
    same("spread", &b, &a, sizeof a);
    same("norm", got, want, size);
    same("normalise", parts, want, size);
    near("spread: centre", a.centre, exact.centre, 1e-6 * fabs((double)most) + 1e-44);
    near("spread: factor", a.factor, exact.factor, 2e-6 * (double)exact.factor);
    for (int i = 0; i < count; i++) {
        double y = ((double)x[i] - (double)a.centre) * (double)a.factor * weight[i];
        double plus = bias ? (double)bias[i] : 0.0;
        near("norm", want[i], y + plus, 1e-6 * (fabs(y) + fabs(plus)) + 1e-36);
    }
    free(x);
    free(weight);
    free(want);
    free(got);
    free(parts);
}

static void check_turn(void)
{
    int pairs = between(1, 64), position = between(0, 1 << 20);
    size_t size = sizeof(float) * (size_t)pairs;
    double *frequencies = room(sizeof(double) * (size_t)pairs), magnitude = 1.0 + even();
    float *cosine[2] = {floats(pairs), floats(pairs)}, *sine[2] = {floats(pairs), floats(pairs)};
    for (int i = 0; i < pairs; i++)
        frequencies[i] = even();
    plain->turn(frequencies, position, magnitude, pairs, cosine[0], sine[0]);
    under_test->turn(frequencies, position, magnitude, pairs, cosine[1], sine[1]);
    same("turn, cosines", cosine[1], cosine[0], size);
    same("turn, sines", sine[1], sine[0], size);
    for (int i = 0; i < pairs; i++) {
        double angle = position * frequencies[i];
        near("turn", cosine[0][i], magnitude * cos(angle), 2e-7);
        near("turn", sine[0][i], magnitude * sin(angle), 2e-7);
    }
    free(frequencies);
    for (int i = 0; i < 2; i++) {
        free(cosine[i]);
        free(sine[i]);
    }
}

static void check_rotate(int interleaved)
{
    int pairs = between(1, 64);
    size_t size = sizeof(float) * (size_t)(2 * pairs);
    float *cosine = floats(pairs), *sine = floats(pairs);
    float *x = numbers(2 * pairs), *want = copy(x, size), *got = copy(x, size);
    for (int i = 0; i < pairs; i++) {
        double angle = 1000.0 * even();
        cosine[i] = (float)cos(angle);
        sine[i] = (float)sin(angle);
    }
    plain->rotate(want, cosine, sine, pairs, interleaved);
    under_test->rotate(got, cosine, sine, pairs, interleaved);
    same("rotate", got, want, size);
    for (int i = 0; i < pairs; i++) {
        int first = interleaved ? 2 * i : i, second = interleaved ? first + 1 : i + pairs;
        double a = x[first], b = x[second], most = 1e-6 * (fabs(a) + fabs(b)) + 1e-44;
        near("rotate", want[first], a * cosine[i] - b * sine[i], most);
        near("rotate", want[second], b * cosine[i] + a * sine[i], most);
    }
    free(cosine);
    free(sine);
    free(x);
    free(want);
    free(got);
}

static void check_narrow(void)
{
    int count = 16 * between(1, 16), ties = between(0, 3) == 0;
    float *x = numbers(count), unit[2];
    uint16_t *half[2] = {room(2 * (size_t)count), room(2 * (size_t)count)};
    int8_t *bytes[2] = {room((size_t)count), room((size_t)count)};
    for (int i = 0; i < 8; i++) /* between two halves, small, and beyond the largest */
        x[i] = i < 5 ? ldexpf((float)(2 * between(0, 2047) + 1), between(-28, 4)) : 1e6f * even();
    for (int i = 0; ties && i < count; i++) /* with 127 the scale is 1: halves go to even */
        x[i] = i ? (float)between(-126, 125) + 0.5f : 127.0f;
    for (int i = 0; i < 2; i++) {
        const EdKernels *k = i ? under_test : plain;
        k->to_half(x, count, half[i]);
        unit[i] = k->to_bytes(x, count, bytes[i]);
    }
    same("to_half", half[1], half[0], 2 * (size_t)count);
    same("to_bytes", bytes[1], bytes[0], (size_t)count);
    same("to_bytes scale", unit + 1, unit, sizeof *unit);
    for (int i = 0; i < count; i++) {
        double size = fabs((double)x[i]);
        if (size <= 65504)
            near("to_half", (double)ed_half_to_float(half[0][i]), x[i], size / 2048 + 0x1p-25);
        near("to_bytes", (double)unit[0] * bytes[0][i], x[i], 0.50002 * (double)unit[0] + 1e-30);
    }
    for (int i = 0; i < 2; i++) {
        free(half[i]);
        free(bytes[i]);
    }
    free(x);
}

static void check_weigh(void)
{
    float *x = numbers(64), *by = numbers(64), scale[2];
    int8_t bytes[2][64];
    for (int i = 0; i < 64; i++) {
        x[i] = fabsf(x[i]);
        by[i] = fabsf(by[i]);
    }
    scale[0] = plain->weigh(x, by, bytes[0]);
    scale[1] = under_test->weigh(x, by, bytes[1]);
    same("weigh", bytes[1], bytes[0], sizeof bytes[0]);
    same("weigh: scale", scale + 1, scale, sizeof *scale);
    for (int i = 0; i < 64; i++) {
        double unit = scale[0];
        near("weigh: sign", bytes[0][i] >= 0, 1, 0.0);
        near("weigh", unit * bytes[0][i], (double)x[i] * (double)by[i], 0.50002 * unit + 1e-30);
    }
    free(x);
    free(by);
}

static void check_largest(void)
{
    int count = between(1, 3000), at = 0;
    float *x = numbers(count), best = -INFINITY;
    for (int i = between(0, 5); i < count; i += between(1, 300))
        x[i] = between(0, 1) ? -INFINITY : 1.0f; /* equal numbers: the first counts */
    for (int i = 0; i < count; i++)
        if (x[i] > best) {
            best = x[i];
            at = i;
        }
    near("largest", under_test->largest(x, count) == best, 1, 0.0);
    near("argmax", under_test->argmax(x, count), at, 0.0);
    free(x);
}

/* ---- The polynomials ---- */

static void maths(const float *x, float *to)
{
    Vf v = vf_load(x);
    vf_store(to, vf_exp(v));
    vf_store(to + 16, vf_tanh(v));
    vf_store(to + 32, vf_erf(v));
    for (int activation = ED_SILU; activation <= ED_GELU_TANH; activation++)
        vf_store(to + 48 + 16 * activation, vf_activate(v, activation));
}

static void check_maths_at(float at, const float *got)
{
    double x = at, size = fabs(x), cube = 0.7978845608028654 * (x + 0.044715 * x * x * x);
    if (at >= ED_EXP_LOW && at <= ED_EXP_HIGH)
        near("exp", got[0], exp(x), 2.4e-7 * exp(x));
    else if (at < ED_EXP_LOW)
        near("exp", got[0], 0.0, 0.0);
    near("tanh", got[16], tanh(x), 2.1e-7);
    near("erf", got[32], erf(x), 7e-7);
    near("silu", got[48], x / (1 + exp(-x)), 4e-7 * size + 1e-35);
    near("gelu", got[64], x / 2 * (1 + erf(x * 0.7071067811865476)), 4e-7 * size + 1e-35);
    near("gelu_tanh", got[80], x / 2 * (1 + tanh(cube)), 3e-7 * size + 1e-35);
}

/* An even sweep, and every size of number; all sets do the same, so activations come along. */
static void check_maths(int points)
{
    float x[16], got[96], other[16], want[16];
    for (int i = 0; i < points; i += 16) {
        for (int j = 0; j < 16; j++) {
            float place = (float)(2 * (i + j)) / (float)points - 1.0f;
            x[j] = i / 16 % 4 ? 100.0f * place : ldexpf(even(), between(-120, 7));
        }
        if (under_test == plain) {
            maths(x, got);
            for (int j = 0; j < 16; j++)
                check_maths_at(x[j], got + j);
        }
        memcpy(other, x, sizeof x);
        memcpy(want, x, sizeof x);
        plain->activate(want, i / 16 % 3, 16);
        under_test->activate(other, i / 16 % 3, 16);
        same("activate", other, want, sizeof want);
    }
}

static void check_all(void)
{
    state = 1;
    check_products();
    check_mixes();
    for (int time = 0; time < 100; time++) {
        check_attention();
        check_changes();
        for (int choice = 0; choice < 4; choice++)
            check_norm(choice);
        check_weigh();
        check_quantise_rows();
        for (int way = 0; way < 2 + 1 + ED_RELU; way++)
            check_rows(way);
        check_turn();
        check_rotate(time % 2);
        check_narrow();
        check_largest();
    }
    check_maths(1 << 16);
}

int main(int count, char **names)
{
    const char *const *here = ed_isas();
    plain = ed_kernels_named("portable");
    for (int i = 1; i < count; i++)
        if (!ed_kernels_named(names[i])) {
            printf("%s: this machine lacks it\n", names[i]);
            return 1;
        }
    for (int i = 0; here[i]; i++) {
        under_test = ed_kernels_named(here[i]);
        check_all();
        puts(here[i]);
    }
    return 0;
}
