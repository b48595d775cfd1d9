/* Sixteen virtual lanes as two AVX registers; see lanes_portable.h for what each one means.
 *
 * With LANES_VNNI byte products are one instruction, else AVX2's maddubs. That one adds pairs in
 * 16 bits with saturation, so no pair may pass 32767: see vi_dot_nibbles and vi_dot_signed.
 */
#ifndef ED_LANES_H
#define ED_LANES_H

#include <immintrin.h>
#include <stdint.h>

#ifdef LANES_VNNI
#define LANES_QUERIES 6
#else
#define LANES_QUERIES 4
#endif
#define LANES_VECTORS 1
#define LANES_ROWS 4
#define LANES_TILES 1

/* Lanes 0..7 and 8..15. */
typedef struct {
    __m256 a, b;
} Vf;

typedef struct {
    __m256i a, b;
} Vi;

typedef Vi Vb;

static inline Vf vf_load(const float *from)
{
    return (Vf){_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
}

static inline void vf_store(float *to, Vf v)
{
    _mm256_storeu_ps(to, v.a);
    _mm256_storeu_ps(to + 8, v.b);
}

static inline Vf vf_set1(float x)
{
    __m256 all = _mm256_set1_ps(x);
    return (Vf){all, all};
}

static inline Vf vf_add(Vf a, Vf b)
{
    return (Vf){_mm256_add_ps(a.a, b.a), _mm256_add_ps(a.b, b.b)};
}

static inline Vf vf_sub(Vf a, Vf b)
{
    return (Vf){_mm256_sub_ps(a.a, b.a), _mm256_sub_ps(a.b, b.b)};
}

static inline Vf vf_mul(Vf a, Vf b)
{
    return (Vf){_mm256_mul_ps(a.a, b.a), _mm256_mul_ps(a.b, b.b)};
}

static inline Vf vf_div(Vf a, Vf b)
{
    return (Vf){_mm256_div_ps(a.a, b.a), _mm256_div_ps(a.b, b.b)};
}

static inline Vf vf_fma(Vf a, Vf b, Vf c)
{
    return (Vf){_mm256_fmadd_ps(a.a, b.a, c.a), _mm256_fmadd_ps(a.b, b.b, c.b)};
}

static inline Vf vf_max(Vf a, Vf b)
{
    return (Vf){_mm256_max_ps(a.a, b.a), _mm256_max_ps(a.b, b.b)};
}

static inline Vf vf_min(Vf a, Vf b)
{
    return (Vf){_mm256_min_ps(a.a, b.a), _mm256_min_ps(a.b, b.b)};
}

static inline Vf vf_abs(Vf v)
{
    __m256 sign = _mm256_set1_ps(-0.0f);
    return (Vf){_mm256_andnot_ps(sign, v.a), _mm256_andnot_ps(sign, v.b)};
}

static inline Vf vf_less(Vf a, Vf b, Vf x, Vf y)
{
    return (Vf){_mm256_blendv_ps(y.a, x.a, _mm256_cmp_ps(a.a, b.a, _CMP_LT_OQ)),
                _mm256_blendv_ps(y.b, x.b, _mm256_cmp_ps(a.b, b.b, _CMP_LT_OQ))};
}

static inline float vf_sum(Vf v)
{
    __m256 eight = _mm256_add_ps(v.a, v.b);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline float vf_largest(Vf v)
{
    __m256 eight = _mm256_max_ps(v.a, v.b);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

static inline Vi vi_load(const int32_t *from)
{
    return (Vi){_mm256_loadu_si256((const __m256i *)from),
                _mm256_loadu_si256((const __m256i *)(from + 8))};
}

static inline void vi_store(int32_t *to, Vi v)
{
    _mm256_storeu_si256((__m256i *)to, v.a);
    _mm256_storeu_si256((__m256i *)(to + 8), v.b);
}

static inline Vi vi_set1(int32_t x)
{
    __m256i all = _mm256_set1_epi32(x);
    return (Vi){all, all};
}

static inline Vi vi_add(Vi a, Vi b)
{
    return (Vi){_mm256_add_epi32(a.a, b.a), _mm256_add_epi32(a.b, b.b)};
}

static inline int32_t vi_sum(Vi v)
{
    __m256i eight = _mm256_add_epi32(v.a, v.b);
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

static inline Vf vf_from_vi(Vi v)
{
    return (Vf){_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)};
}

static inline Vi vi_from_vf(Vf v)
{
    return (Vi){_mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b)};
}

static inline __m256 times_power_8(__m256 x, __m256 shifted)
{
    __m256i power = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), power));
}

static inline Vf vf_times_power(Vf x, Vf shifted)
{
    return (Vf){times_power_8(x.a, shifted.a), times_power_8(x.b, shifted.b)};
}

static inline Vf vf_load_half(const uint16_t *from)
{
    return (Vf){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from)),
                _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + 8)))};
}

static inline void vf_store_half(uint16_t *to, Vf v)
{
    _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph(v.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(to + 8), _mm256_cvtps_ph(v.b, _MM_FROUND_TO_NEAREST_INT));
}

/* The packs work on halves of a register: the last permutation puts 4 bytes each in order. */
static inline void vi_store_bytes(int8_t *to, Vi v)
{
    __m256i low = _mm256_set1_epi32(255);
    __m256i words = _mm256_packus_epi32(_mm256_and_si256(v.a, low), _mm256_and_si256(v.b, low));
    __m256i bytes = _mm256_packus_epi16(words, words);
    __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 0, 0, 0, 0);
    bytes = _mm256_permutevar8x32_epi32(bytes, order);
    _mm_storeu_si128((__m128i *)to, _mm256_castsi256_si128(bytes));
}

static inline Vb vb_load(const void *from)
{
    return vi_load(from);
}

static inline Vb vb_low(Vb v)
{
    __m256i low = _mm256_set1_epi8(15);
    return (Vb){_mm256_and_si256(v.a, low), _mm256_and_si256(v.b, low)};
}

static inline Vb vb_high(Vb v)
{
    return vb_low((Vb){_mm256_srli_epi16(v.a, 4), _mm256_srli_epi16(v.b, 4)});
}

#ifdef LANES_VNNI

/* VNNI multiplies unsigned by signed bytes, so 128 is added here and taken off at the start. */
static inline Vb vb_signed(Vb v)
{
    __m256i offset = _mm256_set1_epi8((char)128);
    return (Vb){_mm256_xor_si256(v.a, offset), _mm256_xor_si256(v.b, offset)};
}

static inline int32_t vi_signed_start(int32_t sum8)
{
    return 16 * sum8;
}

static inline Vi vi_dot_nibbles(Vi sum, Vb w, Vi x)
{
    return (Vi){_mm256_dpbusd_avx_epi32(sum.a, w.a, x.a), _mm256_dpbusd_avx_epi32(sum.b, w.b, x.b)};
}

static inline Vi vi_dot_signed(Vi sum, Vb w, Vi x)
{
    return vi_dot_nibbles(sum, w, x);
}

#else

static inline Vb vb_signed(Vb v)
{
    return v;
}

static inline int32_t vi_signed_start(int32_t sum8)
{
    (void)sum8;
    return 0;
}

/* gcc may add in another order and then keeps all products, in memory: this says that the sum is
 * needed now. It costs no instruction. */
static inline __m256i now(__m256i sum)
{
    __asm__("" : "+x"(sum));
    return sum;
}

static inline __m256i add_widened(__m256i sum, __m256i pairs)
{
    return now(_mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))));
}

/* A pair is at most 2 * 15 * 127. */
static inline Vi vi_dot_nibbles(Vi sum, Vb w, Vi x)
{
    return (Vi){add_widened(sum.a, _mm256_maddubs_epi16(w.a, x.a)),
                add_widened(sum.b, _mm256_maddubs_epi16(w.b, x.b))};
}

/* The sign goes from w to x, so a pair is at most 2 * 128 * 127; an offset would saturate. */
static inline __m256i dot_signed(__m256i sum, __m256i w, __m256i x)
{
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return add_widened(sum, pairs);
}

static inline Vi vi_dot_signed(Vi sum, Vb w, Vi x)
{
    return (Vi){dot_signed(sum.a, w.a, x.a), dot_signed(sum.b, w.b, x.b)};
}

#endif
/* Neither side of a pair passes 127 * 127, so maddubs does not saturate here either. */
static inline Vi vi_dot_weights(Vi sum, Vb w, Vi x)
{
    return vi_dot_nibbles(sum, x, w);
}

#endif
