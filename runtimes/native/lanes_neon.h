/* Sixteen virtual lanes as four NEON registers; see lanes_portable.h for what each one means. */
#ifndef ED_LANES_H
#define ED_LANES_H

#include <arm_neon.h>
#include <stdint.h>

#define LANES_QUERIES 6
#define LANES_VECTORS 1
#define LANES_ROWS 4
#define LANES_TILES 1

/* Lanes 0..3, 4..7, ... */
typedef struct {
    float32x4_t a, b, c, d;
} Vf;

typedef struct {
    int32x4_t a, b, c, d;
} Vi;

typedef struct {
    int8x16_t a, b, c, d;
} Vb;

#define ED_BY_4(operation, x, y)                                                \
    {operation((x).a, (y).a), operation((x).b, (y).b), operation((x).c, (y).c), \
     operation((x).d, (y).d)}

static inline Vf vf_load(const float *from)
{
    return (Vf){vld1q_f32(from), vld1q_f32(from + 4), vld1q_f32(from + 8), vld1q_f32(from + 12)};
}

static inline void vf_store(float *to, Vf v)
{
    vst1q_f32(to, v.a);
    vst1q_f32(to + 4, v.b);
    vst1q_f32(to + 8, v.c);
    vst1q_f32(to + 12, v.d);
}

static inline Vf vf_set1(float x)
{
    float32x4_t all = vdupq_n_f32(x);
    return (Vf){all, all, all, all};
}

static inline Vf vf_add(Vf a, Vf b)
{
    return (Vf)ED_BY_4(vaddq_f32, a, b);
}

static inline Vf vf_sub(Vf a, Vf b)
{
    return (Vf)ED_BY_4(vsubq_f32, a, b);
}

static inline Vf vf_mul(Vf a, Vf b)
{
    return (Vf)ED_BY_4(vmulq_f32, a, b);
}

static inline Vf vf_div(Vf a, Vf b)
{
    return (Vf)ED_BY_4(vdivq_f32, a, b);
}

static inline Vf vf_fma(Vf a, Vf b, Vf c)
{
    return (Vf){vfmaq_f32(c.a, a.a, b.a), vfmaq_f32(c.b, a.b, b.b), vfmaq_f32(c.c, a.c, b.c),
                vfmaq_f32(c.d, a.d, b.d)};
}

/* fmax and fmin take other zeros and another of two numbers beside a NaN: so compare and choose. */
static inline float32x4_t larger(float32x4_t a, float32x4_t b)
{
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}

static inline float32x4_t smaller(float32x4_t a, float32x4_t b)
{
    return vbslq_f32(vcltq_f32(a, b), a, b);
}

static inline Vf vf_max(Vf a, Vf b)
{
    return (Vf)ED_BY_4(larger, a, b);
}

static inline Vf vf_min(Vf a, Vf b)
{
    return (Vf)ED_BY_4(smaller, a, b);
}

static inline Vf vf_abs(Vf v)
{
    return (Vf){vabsq_f32(v.a), vabsq_f32(v.b), vabsq_f32(v.c), vabsq_f32(v.d)};
}

static inline Vf vf_less(Vf a, Vf b, Vf x, Vf y)
{
    return (Vf){vbslq_f32(vcltq_f32(a.a, b.a), x.a, y.a), vbslq_f32(vcltq_f32(a.b, b.b), x.b, y.b),
                vbslq_f32(vcltq_f32(a.c, b.c), x.c, y.c), vbslq_f32(vcltq_f32(a.d, b.d), x.d, y.d)};
}

static inline float vf_sum(Vf v)
{
    float32x4_t four = vaddq_f32(vaddq_f32(v.a, v.c), vaddq_f32(v.b, v.d));
    return vpadds_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)));
}

static inline float vf_largest(Vf v)
{
    float32x4_t four = larger(larger(v.a, v.c), larger(v.b, v.d));
    float32x4_t two = larger(four, vextq_f32(four, four, 2));
    return vgetq_lane_f32(larger(two, vdupq_laneq_f32(two, 1)), 0);
}

static inline Vi vi_load(const int32_t *from)
{
    return (Vi){vld1q_s32(from), vld1q_s32(from + 4), vld1q_s32(from + 8), vld1q_s32(from + 12)};
}

static inline void vi_store(int32_t *to, Vi v)
{
    vst1q_s32(to, v.a);
    vst1q_s32(to + 4, v.b);
    vst1q_s32(to + 8, v.c);
    vst1q_s32(to + 12, v.d);
}

static inline Vi vi_set1(int32_t x)
{
    int32x4_t all = vdupq_n_s32(x);
    return (Vi){all, all, all, all};
}

static inline Vi vi_add(Vi a, Vi b)
{
    return (Vi)ED_BY_4(vaddq_s32, a, b);
}

static inline int32_t vi_sum(Vi v)
{
    return vaddvq_s32(vaddq_s32(vaddq_s32(v.a, v.b), vaddq_s32(v.c, v.d)));
}

static inline Vf vf_from_vi(Vi v)
{
    return (Vf){vcvtq_f32_s32(v.a), vcvtq_f32_s32(v.b), vcvtq_f32_s32(v.c), vcvtq_f32_s32(v.d)};
}

static inline Vi vi_from_vf(Vf v)
{
    return (Vi){vcvtnq_s32_f32(v.a), vcvtnq_s32_f32(v.b), vcvtnq_s32_f32(v.c), vcvtnq_s32_f32(v.d)};
}

static inline float32x4_t times_power_4(float32x4_t x, float32x4_t shifted)
{
    int32x4_t power = vshlq_n_s32(vreinterpretq_s32_f32(shifted), 23);
    return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x), power));
}

static inline Vf vf_times_power(Vf x, Vf shifted)
{
    return (Vf){times_power_4(x.a, shifted.a), times_power_4(x.b, shifted.b),
                times_power_4(x.c, shifted.c), times_power_4(x.d, shifted.d)};
}

static inline float32x4_t load_half_4(const uint16_t *from)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
}

static inline Vf vf_load_half(const uint16_t *from)
{
    return (Vf){load_half_4(from), load_half_4(from + 4), load_half_4(from + 8),
                load_half_4(from + 12)};
}

static inline void store_half_4(uint16_t *to, float32x4_t v)
{
    vst1_u16(to, vreinterpret_u16_f16(vcvt_f16_f32(v)));
}

static inline void vf_store_half(uint16_t *to, Vf v)
{
    store_half_4(to, v.a);
    store_half_4(to + 4, v.b);
    store_half_4(to + 8, v.c);
    store_half_4(to + 12, v.d);
}

static inline void vi_store_bytes(int8_t *to, Vi v)
{
    int16x8_t low = vcombine_s16(vmovn_s32(v.a), vmovn_s32(v.b));
    int16x8_t high = vcombine_s16(vmovn_s32(v.c), vmovn_s32(v.d));
    vst1q_s8(to, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}

static inline Vb vb_load(const void *from)
{
    const int8_t *bytes = from;
    return (Vb){vld1q_s8(bytes), vld1q_s8(bytes + 16), vld1q_s8(bytes + 32), vld1q_s8(bytes + 48)};
}

static inline Vb vb_low(Vb v)
{
    int8x16_t low = vdupq_n_s8(15);
    return (Vb){vandq_s8(v.a, low), vandq_s8(v.b, low), vandq_s8(v.c, low), vandq_s8(v.d, low)};
}

static inline int8x16_t high_16(int8x16_t v)
{
    return vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(v), 4));
}

static inline Vb vb_high(Vb v)
{
    return (Vb){high_16(v.a), high_16(v.b), high_16(v.c), high_16(v.d)};
}

static inline Vb vb_signed(Vb v)
{
    return v;
}

static inline int32_t vi_signed_start(int32_t sum8)
{
    (void)sum8;
    return 0;
}

/* gcc moves loads far ahead of their use and then lacks registers for the sums: this says that a
 * sum is needed now. It costs no instruction. */
static inline int32x4_t now(int32x4_t sum)
{
    __asm__ volatile("" : "+w"(sum));
    return sum;
}

static inline int32x4_t dot_4(int32x4_t sum, int8x16_t w, int32x4_t x)
{
    return now(vdotq_s32(sum, w, vreinterpretq_s8_s32(x)));
}

static inline Vi vi_dot_signed(Vi sum, Vb w, Vi x)
{
    return (Vi){dot_4(sum.a, w.a, x.a), dot_4(sum.b, w.b, x.b), dot_4(sum.c, w.c, x.c),
                dot_4(sum.d, w.d, x.d)};
}

/* 0..15 are the same signed. */
static inline Vi vi_dot_nibbles(Vi sum, Vb w, Vi x)
{
    return vi_dot_signed(sum, w, x);
}

#undef ED_BY_4
static inline Vi vi_dot_weights(Vi sum, Vb w, Vi x)
{
    return vi_dot_signed(sum, w, x);
}

#endif
