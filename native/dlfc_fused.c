#include "dlfc_fused.h"

#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 9 : defined(__GNUC__) && __GNUC__ >= 10)

#include <float.h>
#include <immintrin.h>

/* For these functions alone, so that the rest of the program runs on every processor. */
#define WIDE __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define LANES 16u
#define LOG2_E 1.44269504f
#define BLOCK 4u         /* vectors of channels whose sums are held in registers */
#define FEW_ROWS 256u    /* whose sums in 32 bits lose nothing that matters */

int dlfc_fused_works(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bf16");
}

static inline WIDE __mmask16 lanes(size_t left)
{
    return left >= LANES ? (__mmask16)0xFFFF : (__mmask16)((1u << left) - 1u);
}

static inline WIDE __m512 load32(const float *x, __mmask16 mask)
{
    return _mm512_maskz_loadu_ps(mask, x);
}

static inline WIDE __m512 load16(const uint16_t *x, __mmask16 mask)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, x)), 16));
}

static inline WIDE void store16(uint16_t *out, __mmask16 mask, __m512 x)
{
    _mm256_mask_storeu_epi16(out, mask, (__m256i)_mm512_cvtneps_pbh(x));
}

/* 2^t, as a power of 2 times a polynomial on [-1/2, 1/2] */
static inline WIDE __m512 power_of_2(__m512 t)
{
    const __m512 round = _mm512_set1_ps(12582912.0f); /* 1.5 * 2^23: adding it drops what is behind the point */
    t = _mm512_min_ps(_mm512_max_ps(t, _mm512_set1_ps(-200.0f)), _mm512_set1_ps(200.0f)); /* 0 and infinity */
    __m512 whole = _mm512_sub_ps(_mm512_add_ps(t, round), round);
    __m512 part = _mm512_sub_ps(t, whole);
    __m512 power = _mm512_set1_ps(9.6181291e-3f);
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(5.5504109e-2f));
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(2.4022651e-1f));
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(6.9314718e-1f));
    power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(power, whole);
}

static inline WIDE __m512 silu(__m512 x)
{
    __m512 power = power_of_2(_mm512_mul_ps(x, _mm512_set1_ps(-LOG2_E)));
    return _mm512_mul_ps(x, _mm512_rcp14_ps(_mm512_add_ps(power, _mm512_set1_ps(1.0f))));
}

#define SILU(NAME, TYPE, LOAD)                                                                                        \
    WIDE void NAME(const TYPE *x, const float *scale, const float *shift, uint16_t *out, size_t rows, size_t channels) \
    {                                                                                                                 \
        if (scale == NULL) {                                                                                          \
            channels *= rows;                                                                                         \
            rows = 1;                                                                                                 \
        }                                                                                                             \
        for (size_t row = 0; row < rows; row++, x += channels, out += channels) {                                     \
            for (size_t at = 0; at < channels; at += LANES) {                                                         \
                __mmask16 mask = lanes(channels - at);                                                                \
                __m512 value = LOAD(x + at, mask);                                                                    \
                if (scale != NULL)                                                                                    \
                    value = _mm512_fmadd_ps(value, load32(scale + at, mask), load32(shift + at, mask));               \
                store16(out + at, mask, silu(value));                                                                 \
            }                                                                                                         \
        }                                                                                                             \
    }

SILU(dlfc_silu, float, load32)
SILU(dlfc_silu16, uint16_t, load16)

static inline WIDE void add_to(double *totals, __mmask16 mask, __m512 sums)
{
    __mmask8 low = (__mmask8)mask, high = (__mmask8)(mask >> 8);
    __m512d a = _mm512_cvtps_pd(_mm512_castps512_ps256(sums)), b = _mm512_cvtps_pd(_mm512_extractf32x8_ps(sums, 1));
    _mm512_mask_storeu_pd(totals, low, _mm512_add_pd(_mm512_maskz_loadu_pd(low, totals), a));
    _mm512_mask_storeu_pd(totals + 8, high, _mm512_add_pd(_mm512_maskz_loadu_pd(high, totals + 8), b));
}

#define MOMENTS(NAME, TYPE, LOAD)                                                                     \
    WIDE void NAME(const TYPE *x, double *sums, double *squares, size_t rows, size_t channels)        \
    {                                                                                                 \
        for (size_t first = 0; first < rows; first += FEW_ROWS) {                                     \
            size_t end = rows - first < FEW_ROWS ? rows : first + FEW_ROWS;                           \
            for (size_t at = 0; at < channels; at += BLOCK * LANES) {                                 \
                __m512 sum[BLOCK], square[BLOCK];                                                     \
                __mmask16 mask[BLOCK];                                                                \
                for (size_t i = 0; i < BLOCK; i++) {                                                  \
                    size_t begin = at + i * LANES;                                                    \
                    sum[i] = square[i] = _mm512_setzero_ps();                                         \
                    mask[i] = begin < channels ? lanes(channels - begin) : (__mmask16)0;              \
                }                                                                                     \
                for (size_t row = first; row < end; row++) {                                          \
                    for (size_t i = 0; i < BLOCK; i++) {                                              \
                        __m512 value = LOAD(x + row * channels + at + i * LANES, mask[i]);            \
                        sum[i] = _mm512_add_ps(sum[i], value);                                        \
                        square[i] = _mm512_fmadd_ps(value, value, square[i]);                         \
                    }                                                                                 \
                }                                                                                     \
                for (size_t i = 0; i < BLOCK && mask[i]; i++) {                                       \
                    add_to(sums + at + i * LANES, mask[i], sum[i]);                                   \
                    add_to(squares + at + i * LANES, mask[i], square[i]);                             \
                }                                                                                     \
            }                                                                                         \
        }                                                                                             \
    }

MOMENTS(dlfc_moments, float, load32)
MOMENTS(dlfc_moments16, uint16_t, load16)

WIDE void dlfc_add16(const float *x, const uint16_t *y, float *out, size_t count)
{
    for (size_t at = 0; at < count; at += LANES) {
        __mmask16 mask = lanes(count - at);
        _mm512_mask_storeu_ps(out + at, mask, _mm512_add_ps(load32(x + at, mask), load16(y + at, mask)));
    }
}

WIDE void dlfc_place16(const uint16_t *x, float *out, size_t height, size_t width, size_t channels, size_t x_row,
                       size_t out_row, size_t out_pixel)
{
    for (size_t row = 0; row < height; row++, x += x_row, out += out_row) {
        for (size_t column = 0; column < width; column++) {
            for (size_t at = 0; at < channels; at += LANES) {
                __mmask16 mask = lanes(channels - at);
                __m512 value = load16(x + column * channels + at, mask);
                _mm512_mask_storeu_ps(out + column * out_pixel + at, mask, value);
            }
        }
    }
}

WIDE void dlfc_softmax16(uint16_t *x, const float *bias, size_t bias_rows, size_t rows, size_t columns)
{
    const __m512 least = _mm512_set1_ps(-FLT_MAX);
    for (size_t row = 0; row < rows; row++, x += columns) {
        const float *more = bias == NULL ? NULL : bias + row % bias_rows * columns;
        __m512 most = least, sum = _mm512_setzero_ps();
        for (size_t at = 0; at < columns; at += LANES) {
            __mmask16 mask = lanes(columns - at);
            __m512 score = load16(x + at, mask);
            if (more != NULL)
                score = _mm512_add_ps(score, load32(more + at, mask));
            most = _mm512_mask_max_ps(most, mask, most, score);
        }
        most = _mm512_set1_ps(_mm512_reduce_max_ps(most));
        for (size_t at = 0; at < columns; at += LANES) {
            __mmask16 mask = lanes(columns - at);
            __m512 score = load16(x + at, mask);
            if (more != NULL)
                score = _mm512_add_ps(score, load32(more + at, mask));
            __m512 power = power_of_2(_mm512_mul_ps(_mm512_sub_ps(score, most), _mm512_set1_ps(LOG2_E)));
            sum = _mm512_mask_add_ps(sum, mask, sum, power);
            store16(x + at, mask, power);
        }
        __m512 part = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(sum));
        for (size_t at = 0; at < columns; at += LANES) {
            __mmask16 mask = lanes(columns - at);
            store16(x + at, mask, _mm512_mul_ps(load16(x + at, mask), part));
        }
    }
}

WIDE void dlfc_layer_norm(const float *x, const float *weight, const float *bias, float epsilon, uint16_t *out,
                          size_t rows, size_t channels)
{
    for (size_t row = 0; row < rows; row++, x += channels, out += channels) {
        __m512 sum = _mm512_setzero_ps(), square = _mm512_setzero_ps();
        for (size_t at = 0; at < channels; at += LANES)
            sum = _mm512_add_ps(sum, load32(x + at, lanes(channels - at)));
        __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / (float)channels);
        for (size_t at = 0; at < channels; at += LANES) {
            __mmask16 mask = lanes(channels - at);
            __m512 rest = _mm512_maskz_sub_ps(mask, load32(x + at, mask), mean);
            square = _mm512_fmadd_ps(rest, rest, square);
        }
        float variance = _mm512_reduce_add_ps(square) / (float)channels;
        __m512 scale = _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_sqrt_ps(_mm512_set1_ps(variance + epsilon)));
        for (size_t at = 0; at < channels; at += LANES) {
            __mmask16 mask = lanes(channels - at);
            __m512 value = _mm512_mul_ps(_mm512_sub_ps(load32(x + at, mask), mean), scale);
            value = _mm512_fmadd_ps(value, load32(weight + at, mask), load32(bias + at, mask));
            store16(out + at, mask, value);
        }
    }
}

#else

int dlfc_fused_works(void)
{
    return 0;
}

void dlfc_silu(const float *x, const float *scale, const float *shift, uint16_t *out, size_t rows, size_t channels)
{
    (void)x, (void)scale, (void)shift, (void)out, (void)rows, (void)channels;
}

void dlfc_silu16(const uint16_t *x, const float *scale, const float *shift, uint16_t *out, size_t rows, size_t channels)
{
    (void)x, (void)scale, (void)shift, (void)out, (void)rows, (void)channels;
}

void dlfc_moments(const float *x, double *sums, double *squares, size_t rows, size_t channels)
{
    (void)x, (void)sums, (void)squares, (void)rows, (void)channels;
}

void dlfc_moments16(const uint16_t *x, double *sums, double *squares, size_t rows, size_t channels)
{
    (void)x, (void)sums, (void)squares, (void)rows, (void)channels;
}

void dlfc_add16(const float *x, const uint16_t *y, float *out, size_t count)
{
    (void)x, (void)y, (void)out, (void)count;
}

void dlfc_place16(const uint16_t *x, float *out, size_t height, size_t width, size_t channels, size_t x_row,
                  size_t out_row, size_t out_pixel)
{
    (void)x, (void)out, (void)height, (void)width, (void)channels, (void)x_row, (void)out_row, (void)out_pixel;
}

void dlfc_softmax16(uint16_t *x, const float *bias, size_t bias_rows, size_t rows, size_t columns)
{
    (void)x, (void)bias, (void)bias_rows, (void)rows, (void)columns;
}

void dlfc_layer_norm(const float *x, const float *weight, const float *bias, float epsilon, uint16_t *out, size_t rows,
                     size_t channels)
{
    (void)x, (void)weight, (void)bias, (void)epsilon, (void)out, (void)rows, (void)channels;
}

#endif
