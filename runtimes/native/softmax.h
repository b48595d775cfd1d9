/* The softmax of attention, 64 keys at a time, written once over the lanes; see EdKernels. */
#ifndef ED_SOFTMAX_H
#define ED_SOFTMAX_H

ED_INLINE void soft_line(float *scores, float *sum, float *largest)
{
    Vf v[4], most;
    for (int i = 0; i < 4; i++)
        v[i] = vf_load(scores + 16 * i);
    *largest = vf_largest(vf_max(vf_max(v[0], v[1]), vf_max(v[2], v[3])));
    most = vf_set1(*largest == -INFINITY ? 0.0f : *largest);
    for (int i = 0; i < 4; i++) {
        v[i] = vf_exp(vf_sub(v[i], most));
        vf_store(scores + 16 * i, v[i]);
    }
    *sum = vf_sum(vf_add(vf_add(v[0], v[1]), vf_add(v[2], v[3])));
}

static void soft(float *scores, int lines, float *sums, float *largest)
{
    for (int q = 0; q < lines; q++)
        soft_line(scores + 64 * q, &sums[q], &largest[q]);
}

static void join(const EdParts *before, const EdParts *part, int lines, int width)
{
    for (int q = 0; q < lines; q++) {
        float a = before->largest[q], b = part->largest[q], most = a > b ? a : b, sum[16];
        Vf old = vf_exp(vf_set1(a - most)), here = vf_exp(vf_set1(b - most));
        if (part->sums[q] == 0.0f)
            continue;
        vf_store(sum, vf_fma(vf_set1(before->sums[q]), old, vf_mul(vf_set1(part->sums[q]), here)));
        before->sums[q] = sum[0];
        before->largest[q] = most;
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
