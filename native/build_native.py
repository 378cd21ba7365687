"""Build recipes of `dlfc._native`, the range coder, and `dlfc._fused`, steps of the network: cffi in API mode.

setuptools finds `ffi` and `fused` through `cffi_modules` in setup.py. There are no machine flags, so a wheel runs on
any processor of its architecture; what needs more than that asks for it while it runs.
"""

from __future__ import annotations

from cffi import FFI

ffi = FFI()

ffi.cdef(
    """
    enum { DLFC_OK, DLFC_FULL, DLFC_MALFORMED, DLFC_BAD_INDEX, DLFC_BAD_VALUE, ... };
    enum { DLFC_TABLE_BITS, DLFC_MAX_UNIFORM_BITS, DLFC_MAX_LOOKUP_BITS, DLFC_TABLE_PADDING, DLFC_MAX_SYMBOL_BYTES,
           ... };

    typedef struct { int32_t offset; uint32_t escape, first, lookup, lookup_shift; } dlfc_row;
    typedef struct {
        const dlfc_row *rows; int32_t row_count; const uint16_t *last; const uint16_t *lookup;
    } dlfc_tables;
    typedef struct { uint8_t *bytes; size_t size, capacity; ...; } dlfc_encoder;
    typedef struct { ...; } dlfc_decoder;

    size_t dlfc_index_tables(dlfc_row *rows, int32_t row_count, const uint16_t *last, uint16_t *lookup);

    void dlfc_encoder_init(dlfc_encoder *encoder);
    int dlfc_encode(dlfc_encoder *encoder, const dlfc_tables *tables, const int32_t *symbols, const int32_t *indices,
                    size_t count, size_t *done);
    int dlfc_encode_uniform(dlfc_encoder *encoder, const int32_t *values, unsigned bits, size_t count, size_t *done);
    int dlfc_encoder_finish(dlfc_encoder *encoder);

    void dlfc_decoder_init(dlfc_decoder *decoder, const uint8_t *bytes, size_t size);
    int dlfc_decode(dlfc_decoder *decoder, const dlfc_tables *tables, int32_t *symbols, const int32_t *indices,
                    size_t count);
    int dlfc_decode_uniform(dlfc_decoder *decoder, int32_t *values, unsigned bits, size_t count);
    int dlfc_decoder_overrun(const dlfc_decoder *decoder);
    int dlfc_decoder_finish(dlfc_decoder *decoder);
    """
)

ffi.set_source(
    "dlfc._native",
    '#include "dlfc_range_coder.h"',
    sources=["native/dlfc_range_coder.c"],
    depends=["native/dlfc_range_coder.h"],
    include_dirs=["native"],
    extra_compile_args=["-O3"],
)

fused = FFI()

fused.cdef(
    """
    int dlfc_fused_works(void);
    void dlfc_silu(const float *x, const float *scale, const float *shift, uint16_t *out, size_t rows, size_t channels);
    void dlfc_silu16(const uint16_t *x, const float *scale, const float *shift, uint16_t *out, size_t rows,
                     size_t channels);
    void dlfc_moments(const float *x, double *sums, double *squares, size_t rows, size_t channels);
    void dlfc_moments16(const uint16_t *x, double *sums, double *squares, size_t rows, size_t channels);
    void dlfc_add16(const float *x, const uint16_t *y, float *out, size_t count);
    void dlfc_place16(const uint16_t *x, float *out, size_t height, size_t width, size_t channels, size_t x_row,
                      size_t out_row, size_t out_pixel);
    void dlfc_softmax16(uint16_t *x, const float *bias, size_t bias_rows, size_t rows, size_t columns);
    void dlfc_layer_norm(const float *x, const float *weight, const float *bias, float epsilon, uint16_t *out,
                         size_t rows, size_t channels);
    """
)

fused.set_source(
    "dlfc._fused",
    '#include "dlfc_fused.h"',
    sources=["native/dlfc_fused.c"],
    depends=["native/dlfc_fused.h"],
    include_dirs=["native"],
    extra_compile_args=["-O3"],
)
