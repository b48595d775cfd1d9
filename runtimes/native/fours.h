/* Four vectors at once: what is left of their lanes, and lanes as bytes. Written once over the lanes,
 * for those that have no better way (LANES_FOUR).
 */
#ifndef ED_FOURS_H
#define ED_FOURS_H

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

#endif
