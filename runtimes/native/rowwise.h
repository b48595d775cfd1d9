/* What happens to one row at a time, written once over the lanes; see EdKernels. */
#ifndef ED_ROWWISE_H
#define ED_ROWWISE_H

/* Below this a row is as good as zero, and 127 / x would overflow. */
#define ED_TINY 1e-30f

static float largest_size(const float *x, int count)
{
    Vf most = vf_set1(0.0f);
    for (int i = 0; i < count; i += 16)
        most = vf_max(vf_abs(vf_load(x + i)), most);
    return vf_largest(most);
}

/* To -127..127; of what is not a number, anything that is. */
static inline Vi to_range(Vf x)
{
    return vi_from_vf(vf_max(vf_min(x, vf_set1(127.0f)), vf_set1(-127.0f)));
}

/* What x is multiplied by to span -127..127, and the scale that takes it back. */
static float block_scale(const float *x, int count, float *scale)
{
    float most = count > 0 ? largest_size(x, count) : 0.0f;
    *scale = most > ED_TINY ? most / 127.0f : 0.0f;
    return most > ED_TINY ? 127.0f / most : 0.0f;
}

/* One block of one row. */
ED_INLINE void quantise_block(const float *x, int count, int block, int8_t *values, float *scale,
                              int32_t *sums)
{
    Vf factor = vf_set1(block_scale(x, count, scale));
    Vi sum = vi_set1(0);
    for (int i = 0; i < block; i += 16) {
        Vi whole = i < count ? to_range(vf_mul(vf_load(x + i), factor)) : vi_set1(0);
        vi_store_bytes(values + i, whole);
        sum = vi_add(sum, whole);
    }
    *sums = -8 * vi_sum(sum);
}

static void quantise(const float *x, int count, int inputs, int block, int row, int rows,
                     const EdRows *to)
{
    for (int b = 0; b * block < inputs; b++) {
        int here = count - b * block < block ? count - b * block : block;
        int at = b * rows + row;
        quantise_block(x + b * block, here, block, to->values + at * block, &to->scales[at],
                       &to->sums[at]);
    }
}

static void quantise_rows(const float *x, size_t stride, int count, int block, int rows,
                          const EdRows *to)
{
    for (int r = 0; r < rows; r++)
        quantise_block(x + (size_t)r * stride, count, block, to->values + r * block,
                       &to->scales[r], &to->sums[r]);
}

/* Four chains of sums, so that one addition need not wait for the last. */
static float sum_of(const float *x, int count, float centre, int squared)
{
    Vf sum[4], middle = vf_set1(centre);
    for (int i = 0; i < 4; i++)
        sum[i] = vf_set1(0.0f);
    for (int i = 0; 16 * i < count; i++) {
        Vf v = vf_sub(vf_load(x + 16 * i), middle);
        sum[i & 3] = squared ? vf_fma(v, v, sum[i & 3]) : vf_add(sum[i & 3], v);
    }
    return vf_sum(vf_add(vf_add(sum[0], sum[1]), vf_add(sum[2], sum[3])));
}

static EdSpread spread(const float *x, int count, int kind, float eps)
{
    float mean = kind == ED_NORM_LAYER ? sum_of(x, count, 0.0f, 0) / (float)count : 0.0f;
    float square = sum_of(x, count, mean, 1) / (float)count;
    return (EdSpread){mean, 1.0f / sqrtf(square + eps)};
}

static void normalise(const float *x, int count, EdSpread spread, const float *weight,
                      const float *bias, float *y)
{
    Vf centre = vf_set1(spread.centre), factor = vf_set1(spread.factor);
    for (int i = 0; i < count; i += 16) {
        Vf v = vf_mul(vf_sub(vf_load(x + i), centre), factor), w = vf_load(weight + i);
        vf_store(y + i, bias ? vf_fma(v, w, vf_load(bias + i)) : vf_mul(v, w));
    }
}

static void norm(const float *x, int count, int kind, float eps, const float *weight,
                 const float *bias, float *y)
{
    normalise(x, count, spread(x, count, kind, eps), weight, bias, y);
}

static void add(const float *a, const float *b, int count, float *y)
{
    for (int i = 0; i < count; i += 16)
        vf_store(y + i, vf_add(vf_load(a + i), vf_load(b + i)));
}

static void scale(const float *x, float factor, int count, float *y)
{
    for (int i = 0; i < count; i += 16)
        vf_store(y + i, vf_mul(vf_load(x + i), vf_set1(factor)));
}

static void from_sums(const int32_t *sums, float factor, const float *by, int count, float *y)
{
    for (int i = 0; i < count; i += 16) {
        Vf v = vf_mul(vf_from_vi(vi_load(sums + i)), vf_set1(factor));
        vf_store(y + i, by ? vf_mul(v, vf_load(by + i)) : v);
    }
}

static void soften(float *x, float cap, int count)
{
    Vf most = vf_set1(cap);
    for (int i = 0; i < count; i += 16)
        vf_store(x + i, vf_mul(most, vf_tanh(vf_div(vf_load(x + i), most))));
}

static void activate(float *x, int activation, int count)
{
    for (int i = 0; i < count; i += 16)
        vf_store(x + i, vf_activate(vf_load(x + i), activation));
}

static void gate_rows(const float *x, int activation, int rows, float *to, size_t stride)
{
    for (int r = 0; r < rows; r++, x += ED_PAIR, to += stride)
        vf_store(to, vf_mul(vf_activate(vf_load(x), activation), vf_load(x + 16)));
}

static void put_rows(const float *x, int width, int rows, float *to, size_t stride)
{
    for (int r = 0; r < rows; r++, x += ED_PAIR, to += stride)
        for (int i = 0; i < width; i += 16)
            vf_store(to + i, vf_load(x + i));
}

static void add_rows(const float *x, int width, int rows, float *to, size_t stride)
{
    for (int r = 0; r < rows; r++, x += ED_PAIR, to += stride)
        for (int i = 0; i < width; i += 16)
            vf_store(to + i, vf_add(vf_load(to + i), vf_load(x + i)));
}

static void rotate_pair(float *first, float *second, float cosine, float sine)
{
    float a = *first, b = *second;
    *first = fmaf(a, cosine, 0.0f - b * sine);
    *second = fmaf(b, cosine, a * sine);
}

static void rotate(float *x, const float *cosine, const float *sine, int pairs, int interleaved)
{
    int i = 0;
    for (; !interleaved && i + 16 <= pairs; i += 16) {
        Vf a = vf_load(x + i), b = vf_load(x + pairs + i);
        Vf c = vf_load(cosine + i), s = vf_load(sine + i);
        vf_store(x + i, vf_fma(a, c, vf_sub(vf_set1(0.0f), vf_mul(b, s))));
        vf_store(x + pairs + i, vf_fma(b, c, vf_mul(a, s)));
    }
    for (; i < pairs; i++) {
        float *first = interleaved ? x + 2 * i : x + i;
        rotate_pair(first, interleaved ? first + 1 : first + pairs, cosine[i], sine[i]);
    }
}

static void to_half(const float *x, int count, uint16_t *to)
{
    Vf most = vf_set1(65504.0f), least = vf_set1(-65504.0f);
    for (int i = 0; i < count; i += 16)
        vf_store_half(to + i, vf_max(vf_min(vf_load(x + i), most), least));
}

static float to_bytes(const float *x, int count, int8_t *to)
{
    float scale;
    Vf factor = vf_set1(block_scale(x, count, &scale));
    for (int i = 0; i < count; i += 16)
        vi_store_bytes(to + i, to_range(vf_mul(vf_load(x + i), factor)));
    return scale;
}

/* Of numbers that are not negative, the largest times factor being 127. */
ED_INLINE Vi weight_byte(Vf x, Vf factor)
{
    return vi_from_vf(vf_min(vf_mul(x, factor), vf_set1(127.0f)));
}

static float weigh(const float *x, const float *by, int8_t *to)
{
    Vf v[4], factor;
    float most;
    for (int i = 0; i < 4; i++)
        v[i] = vf_mul(vf_load(x + 16 * i), vf_load(by + 16 * i));
    most = vf_largest(vf_max(vf_max(v[0], v[1]), vf_max(v[2], v[3])));
    factor = vf_set1(most > ED_TINY ? 127.0f / most : 0.0f);
    for (int i = 0; i < 4; i++)
        vi_store_bytes(to + 16 * i, weight_byte(v[i], factor));
    return most > ED_TINY ? most / 127.0f : 0.0f;
}

static float largest_of(const float *x, int count)
{
    Vf most = vf_set1(-INFINITY);
    float best;
    int i = 0;
    for (; i + 16 <= count; i += 16)
        most = vf_max(vf_load(x + i), most);
    best = vf_largest(most);
    for (; i < count; i++)
        best = x[i] > best ? x[i] : best;
    return best;
}

#define ED_SCAN 1024

static int32_t argmax(const float *x, int count)
{
    float best = -INFINITY;
    int from = 0;
    for (int i = 0; i < count; i += ED_SCAN) {
        float here = largest_of(x + i, count - i < ED_SCAN ? count - i : ED_SCAN);
        if (here > best) {
            best = here;
            from = i;
        }
    }
    for (int i = from; i < count; i++)
        if (x[i] == best)
            return i;
    return 0;
}

#endif
