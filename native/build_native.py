"""Build recipe of `dlfc._native`: the range coder as a cffi extension in API mode.

setuptools finds `ffi` through `cffi_modules` in setup.py. There are no machine flags, so a wheel runs on any
processor of its architecture.
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
