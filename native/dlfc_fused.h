/* dlfc_fused.h - what stands between products of 16-bit numbers (bfloat16), in one pass each.
 *
 * SURPRISES
 *
 * - All of it needs a processor with AVX-512 BF16 and a compiler that knows it. Elsewhere dlfc_fused_works returns 0
 *   and the other functions do nothing; nobody may call them.
 * - Results are near those of the same steps in 32 bits, not equal: e^x is good to 20 bits, 1/x to 14, and what is
 *   stored has 8. No symbol of a file may depend on them.
 *
 * Arrays are rows of `channels` numbers without gaps: maps with channels last, or tokens. Numbers of 16 bits are
 * uint16_t, the upper half of a float.
 */
#ifndef DLFC_FUSED_H
#define DLFC_FUSED_H

#include <stddef.h>
#include <stdint.h>

/* Whether this processor can run what follows. */
int dlfc_fused_works(void);

/* out = silu(x * scale + shift), the latter two per channel; without them (NULL) out = silu(x). */
void dlfc_silu(const float *x, const float *scale, const float *shift, uint16_t *out, size_t rows, size_t channels);
void dlfc_silu16(const uint16_t *x, const float *scale, const float *shift, uint16_t *out, size_t rows,
                 size_t channels);

/* Adds to `sums` and `squares`, per channel, what the rows hold. */
void dlfc_moments(const float *x, double *sums, double *squares, size_t rows, size_t channels);
void dlfc_moments16(const uint16_t *x, double *sums, double *squares, size_t rows, size_t channels);

/* out = x + y; `out` may be `x`. */
void dlfc_add16(const float *x, const uint16_t *y, float *out, size_t count);

/* Writes the pixels of x, `height` rows of `width` with `x_row` numbers from row to row, to pixels of `out` that lie
 * `out_pixel` numbers apart, in rows that lie `out_row` apart. */
void dlfc_place16(const uint16_t *x, float *out, size_t height, size_t width, size_t channels, size_t x_row,
                  size_t out_row, size_t out_pixel);

/* Replaces each row of x, or of x + bias, by its softmax. Row r takes row r % bias_rows of `bias`, which may be NULL. */
void dlfc_softmax16(uint16_t *x, const float *bias, size_t bias_rows, size_t rows, size_t columns);

/* out = each row of x with mean 0 and variance 1, times weight, plus bias. */
void dlfc_layer_norm(const float *x, const float *weight, const float *bias, float epsilon, uint16_t *out, size_t rows,
                     size_t channels);

#endif
