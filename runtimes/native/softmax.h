/* The softmax of attention, 64 keys at a time, written once over the lanes; see EdKernels. */
#ifndef ED_SOFTMAX_H
#define ED_SOFTMAX_H

/* Sums and largest of four vectors at once, and four as bytes, where lanes have no better way. */
#ifndef LANES_FOUR
ED_INLINE void vf_sum4(const Vf v[4], float *to)
{
    for (int i = 0; i < 4; i++)
        to[i] = vf_sum(v[i]);
}

ED_INLINE void vf_largest4(const Vf v[4], float *to)
{
    for (int i = 0; i < 4; i++)
        to[i] = vf_largest(v[i]);
}

ED_INLINE void vi_store_bytes4(int8_t *to, const Vi v[4])
{
    for (int i = 0; i < 4; i++)
        vi_store_bytes(to + 16 * i, v[i]);
}
#endif

/* Of each of `count` vectors the sum of its lanes. */
ED_INLINE void put_sums(const Vf *v, int count, float *to)
{
    int i = 0;
    for (; i + 4 <= count; i += 4)
        vf_sum4(v + i, to + i);
    for (; i < count; i++)
        to[i] = vf_sum(v[i]);
}

/* The largest. */
ED_INLINE void put_largest(const Vf *v, int count, float *to)
{
    int i = 0;
    for (; i + 4 <= count; i += 4)
        vf_largest4(v + i, to + i);
    for (; i < count; i++)
        to[i] = vf_largest(v[i]);
}

ED_INLINE void line_of(const float *x, Vf v[4])
{
    for (int i = 0; i < 4; i++)
        v[i] = vf_load(x + 16 * i);
}

ED_INLINE Vf largest_in(const Vf v[4])
{
    return vf_max(vf_max(v[0], v[1]), vf_max(v[2], v[3]));
}

/* All lines in steps, so that none waits for the end of the one before. With `by`, weights are
 * multiplied by that afterwards, and the largest of each line goes to `most`. */
ED_INLINE void soft_all(float *scores, int lines, const EdParts *part, const float *by, float *most)
{
    Vf v[4], all[ED_QUERIES], tops[ED_QUERIES], lowest = vf_set1(-FLT_MAX);
    for (int q = 0; q < lines; q++) {
        line_of(scores + 64 * q, v);
        all[q] = largest_in(v);
    }
    put_largest(all, lines, part->largest);
    for (int q = 0; q < lines; q++) {
        Vf top = vf_max(vf_set1(part->largest[q]), lowest);
        line_of(scores + 64 * q, v);
        for (int i = 0; i < 4; i++)
            v[i] = vf_sub(v[i], top);
        for (int i = 0; i < 4; i += LANES_CHAINS)
            exps_fall(v + i, LANES_CHAINS);
        all[q] = vf_add(vf_add(v[0], v[1]), vf_add(v[2], v[3]));
        for (int i = 0; by && i < 4; i++)
            v[i] = vf_mul(v[i], vf_load(by + 16 * i));
        if (by)
            tops[q] = largest_in(v);
        for (int i = 0; i < 4; i++)
            vf_store(scores + 64 * q + 16 * i, v[i]);
    }
    put_sums(all, lines, part->sums);
    if (by)
        put_largest(tops, lines, most);
}

static void soft(float *scores, int lines, const EdParts *part)
{
    float unused[ED_QUERIES];
    soft_all(scores, lines, part, NULL, unused);
}

/* As `weigh`. */
static void soft_bytes(float *scores, int lines, const float *by, const EdParts *part, int8_t *to,
                       float *factors)
{
    float most[ED_QUERIES] = {0.0f}, times[ED_QUERIES];
    soft_all(scores, lines, part, by, most);
    for (int q = 0; q < lines; q += 16) {
        Vf top = vf_load(most + q), tiny = vf_set1(ED_TINY), none = vf_set1(0.0f);
        Vf unit = vf_set1(127.0f);
        vf_store(times + q, vf_less(tiny, top, vf_div(unit, top), none));
        vf_store(factors + q, vf_less(tiny, top, vf_div(top, unit), none));
    }
    for (int q = 0; q < lines; q++) {
        Vf factor = vf_set1(times[q]);
        Vi bytes[4];
        for (int i = 0; i < 4; i++)
            bytes[i] = weight_byte(vf_load(scores + 64 * q + 16 * i), factor);
        vi_store_bytes4(to + 64 * q, bytes);
    }
}

/* Of a part in which a query sees nothing, nothing joins. */
static void meet(const EdParts *before, const EdParts *part, int lines, EdShares *shares)
{
    Vf none = vf_set1(0.0f), one = vf_set1(1.0f);
    for (int q = 0; q < lines; q += 16) {
        Vf a = vf_load(before->largest + q), b = vf_load(part->largest + q), most = vf_max(a, b);
        Vf sum = vf_load(part->sums + q), old = vf_exp_fall(vf_sub(a, most));
        Vf here = vf_less(none, sum, vf_exp_fall(vf_sub(b, most)), none);
        old = vf_less(none, sum, old, one);
        vf_store(before->largest + q, vf_less(none, sum, most, a));
        vf_store(before->sums + q, vf_fma(vf_load(before->sums + q), old, vf_mul(sum, here)));
        vf_store(shares->before + q, old);
        vf_store(shares->here + q, here);
    }
}

static void join(const EdParts *before, const EdParts *part, int lines, int width)
{
    EdShares shares;
    meet(before, part, lines, &shares);
    for (int q = 0; q < lines; q++) {
        Vf old = vf_set1(shares.before[q]), here = vf_set1(shares.here[q]);
        for (int i = q * width; i < (q + 1) * width; i += 16) {
            Vf v = vf_mul(vf_load(part->mixed + i), here);
            vf_store(before->mixed + i, vf_fma(vf_load(before->mixed + i), old, v));
        }
    }
}

static void add_value(float *mixed, float weight, const uint16_t *value, int width)
{
    for (int i = 0; i < width; i += 16) {
        Vf v = vf_fma(vf_set1(weight), vf_load_half(value + i), vf_load(mixed + i));
        vf_store(mixed + i, v);
    }
}

#endif
