/* Sixteen virtual lanes as one AVX-512 register; see lanes_portable.h for what each one means. */
#ifndef ED_LANES_H
#define ED_LANES_H

#include <immintrin.h>
#include <stdint.h>

#define LANES_QUERIES 6
#define LANES_VECTORS 4
#define LANES_ROWS 8
#define LANES_TILES 2
#define LANES_CHAINS 4

typedef __m512 Vf;
typedef __m512i Vi;
typedef __m512i Vb;

static inline Vf vf_load(const float *from)
{
    return _mm512_loadu_ps(from);
}

static inline void vf_store(float *to, Vf v)
{
    _mm512_storeu_ps(to, v);
}

static inline Vf vf_set1(float x)
{
    return _mm512_set1_ps(x);
}

static inline Vf vf_add(Vf a, Vf b)
{
    return _mm512_add_ps(a, b);
}

static inline Vf vf_sub(Vf a, Vf b)
{
    return _mm512_sub_ps(a, b);
}

static inline Vf vf_mul(Vf a, Vf b)
{
    return _mm512_mul_ps(a, b);
}

static inline Vf vf_div(Vf a, Vf b)
{
    return _mm512_div_ps(a, b);
}

static inline Vf vf_fma(Vf a, Vf b, Vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

static inline Vf vf_max(Vf a, Vf b)
{
    return _mm512_max_ps(a, b);
}

static inline Vf vf_min(Vf a, Vf b)
{
    return _mm512_min_ps(a, b);
}

static inline Vf vf_abs(Vf a)
{
    return _mm512_abs_ps(a);
}

static inline Vf vf_less(Vf a, Vf b, Vf x, Vf y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}

static inline float vf_sum(Vf v)
{
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline float vf_largest(Vf v)
{
    __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

#define LANES_FOUR

/* As vf_sum and vf_largest, lanes of four vectors side by side in one. */
#define ED_HALVES(op, a, b) \
    op(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee))
#define ED_QUARTERS(op, a, b) \
    op(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd))

static inline void vf_store_firsts(float *to, Vf v)
{
    _mm_storeu_ps(to, _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, v)));
}

static inline void vf_sum4(const Vf v[4], float *to)
{
    Vf ab = ED_HALVES(_mm512_add_ps, v[0], v[1]), cd = ED_HALVES(_mm512_add_ps, v[2], v[3]);
    Vf four = ED_QUARTERS(_mm512_add_ps, ab, cd);
    Vf two = _mm512_add_ps(four, _mm512_permute_ps(four, 0x4e));
    vf_store_firsts(to, _mm512_add_ps(two, _mm512_permute_ps(two, 0xb1)));
}

static inline void vf_largest4(const Vf v[4], float *to)
{
    Vf ab = ED_HALVES(_mm512_max_ps, v[0], v[1]), cd = ED_HALVES(_mm512_max_ps, v[2], v[3]);
    Vf four = ED_QUARTERS(_mm512_max_ps, ab, cd);
    Vf two = _mm512_max_ps(four, _mm512_permute_ps(four, 0x4e));
    vf_store_firsts(to, _mm512_max_ps(two, _mm512_permute_ps(two, 0xb1)));
}

static inline Vi vi_load(const int32_t *from)
{
    return _mm512_loadu_si512(from);
}

static inline void vi_store(int32_t *to, Vi v)
{
    _mm512_storeu_si512(to, v);
}

static inline Vi vi_set1(int32_t x)
{
    return _mm512_set1_epi32(x);
}

static inline Vi vi_add(Vi a, Vi b)
{
    return _mm512_add_epi32(a, b);
}

static inline int32_t vi_sum(Vi v)
{
    return _mm512_reduce_add_epi32(v);
}

static inline Vf vf_from_vi(Vi v)
{
    return _mm512_cvtepi32_ps(v);
}

static inline Vi vi_from_vf(Vf v)
{
    return _mm512_cvtps_epi32(v);
}

static inline Vf vf_times_power(Vf x, Vf shifted)
{
    __m512i power = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), power));
}

static inline Vf vf_load_half(const uint16_t *from)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}

static inline void vf_store_half(uint16_t *to, Vf v)
{
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

static inline void vi_store_bytes(int8_t *to, Vi v)
{
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8(v));
}

static inline void vi_store_bytes4(int8_t *to, const Vi v[4])
{
    const Vi order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    Vi all = _mm512_packs_epi16(_mm512_packs_epi32(v[0], v[1]), _mm512_packs_epi32(v[2], v[3]));
    _mm512_storeu_si512(to, _mm512_permutexvar_epi32(order, all));
}

static inline Vb vb_load(const void *from)
{
    return _mm512_loadu_si512(from);
}

static inline Vb vb_low(Vb v)
{
    return _mm512_and_si512(v, _mm512_set1_epi8(15));
}

static inline Vb vb_high(Vb v)
{
#ifdef ED_GFNI /* as a matrix over bits, highest byte first: one instruction instead of two */
    return _mm512_gf2p8affine_epi64_epi8(v, _mm512_set1_epi64(0x1020408000000000), 0);
#else
    return _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15));
#endif
}

/* VNNI multiplies unsigned by signed bytes, so 128 is added here and taken off at the start. */
static inline Vb vb_signed(Vb v)
{
    return _mm512_xor_si512(v, _mm512_set1_epi8((char)128));
}

static inline int32_t vi_signed_start(int32_t sum8)
{
    return 16 * sum8;
}

/* As assembly, since gcc 12 copies each sum before it adds to it. */
static inline Vi vi_dot_nibbles(Vi sum, Vb w, Vi x)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
    return sum;
}

static inline Vi vi_dot_signed(Vi sum, Vb w, Vi x)
{
    return vi_dot_nibbles(sum, w, x);
}

static inline Vi vi_dot_weights(Vi sum, Vb w, Vi x)
{
    return vi_dot_nibbles(sum, x, w);
}

#endif
