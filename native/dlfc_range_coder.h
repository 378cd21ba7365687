/* dlfc_range_coder.h - range coder for integer frequency tables of 16 bits.
 *
 * SURPRISES
 *
 * - The stream has no length, no symbol count and no end mark. Whoever decodes knows how many symbols there are and
 *   which table each one uses. Bytes past the end read as zero, and zero bytes at the end are never written: a stream
 *   of any number of symbols may be 0 bytes long.
 * - Symbols come out in the order in which they went in (a queue; rANS is a stack).
 * - A carry can walk back through bytes that were written long ago, so the whole output stays in one buffer until
 *   dlfc_encoder_finish.
 * - Tables are stored as "last scaled value of each slot", which fits 16 bits (65535) where the end of the
 *   cumulative counts (65536) does not.
 * - The decoder trusts tables and never the stream; the tables come from the program, and the Python wrapper has
 *   checked them.
 * - dlfc_decoder_finish accepts a stream if, and only if, encoding the decoded symbols gives the same bytes. Nothing
 *   more can be had from the bytes alone: a stream that was cut is the stream of other symbols. Lengths and checks
 *   stand outside.
 *
 * INVARIANTS
 *
 * - Encoder: the final number lies in [low, low + range), where low counts in units of the 64th bit after the bytes
 *   already written. 2^32 <= range < 2^64 before and after every step, so range >> 16 is at least 2^16 and no slot
 *   is ever empty.
 * - One step shrinks the range by at most 2^17, so at most one 32-bit word leaves per step.
 * - Decoder: code is the stream's number minus low, so code < range; anything else is a malformed stream.
 * - No function reads outside [bytes, bytes + size) or writes outside [bytes, bytes + capacity).
 *
 * README.md in this folder describes the same arithmetic step by step, with an example.
 */
#ifndef DLFC_RANGE_CODER_H
#define DLFC_RANGE_CODER_H

#include <stddef.h>
#include <stdint.h>

enum {
    DLFC_OK = 0,
    DLFC_FULL = 1,      /* the output buffer has no room for another symbol; give more and go on */
    DLFC_MALFORMED = 2, /* no encoder writes this stream */
    DLFC_BAD_INDEX = 3, /* a table index is outside the tables */
    DLFC_BAD_VALUE = 4  /* a uniform value has more bits than were announced */
};

enum {
    DLFC_TABLE_BITS = 16,      /* every table row sums to 2^16 */
    DLFC_MAX_UNIFORM_BITS = 16,
    DLFC_MAX_ESCAPE_BITS = 32, /* magnitudes reach 2^32, the largest distance between two int32 values plus 1 */
    DLFC_MAX_LOOKUP_BITS = 10, /* 2 KiB per row at most: larger tables leave the first-level cache */
    DLFC_TABLE_PADDING = 2,    /* entries of 0xFFFF after each row, so that four entries can be read from any slot */
    /* An escape takes 16 bits of slot, 1 of sign, 32 + 1 of prefix, 32 of magnitude: 82 bits, so 3 words and what
     * the range held back before. */
    DLFC_MAX_SYMBOL_BYTES = 16
};

/* One row of a table: where its entries lie, and which symbols they stand for. */
typedef struct {
    int32_t offset;        /* symbol of slot 0 */
    uint32_t escape;       /* slot of the escape, the last one; slots below it are symbols offset + slot */
    uint32_t first;        /* index of the row's first entry in dlfc_tables.last */
    uint32_t lookup;       /* index of the row's first entry in dlfc_tables.lookup */
    uint32_t lookup_shift; /* scaled value >> lookup_shift = bucket */
} dlfc_row;

/* last[row.first + i] is cumulative[i] - 1 modulo 2^16: 0xFFFF first, then the last scaled value of slots 0, 1, ... */
typedef struct {
    const dlfc_row *rows;
    int32_t row_count;
    const uint16_t *last;
    const uint16_t *lookup; /* per row and bucket, the slot that holds the bucket's first scaled value */
} dlfc_tables;

typedef struct {
    uint64_t low;
    uint64_t range;
    uint8_t *bytes;
    size_t size;
    size_t capacity;
} dlfc_encoder;

typedef struct {
    uint64_t code;
    uint64_t range;
    const uint8_t *bytes;
    size_t size;
    size_t position; /* bytes fetched so far, implied zeros included */
    int status;      /* DLFC_OK, or DLFC_MALFORMED from the first error on */
} dlfc_decoder;

/* Batch calls, dlfc_range_coder.c. `done` receives how many symbols were coded; a call that returns DLFC_FULL goes on
 * from there. Indices and values are checked before the first symbol is coded. */
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

/* ---- encoder steps ---- */

/* Adds one to the number that the written bytes stand for. It cannot run off the front: the first interval has no
 * room for a carry. */
static inline void dlfc_carry(dlfc_encoder *encoder)
{
    size_t i = encoder->size;
    while (i > 0 && ++encoder->bytes[--i] == 0) {
    }
}

static inline void dlfc_shift_out(dlfc_encoder *encoder)
{
    uint8_t *out = encoder->bytes + encoder->size;
    out[0] = (uint8_t)(encoder->low >> 56);
    out[1] = (uint8_t)(encoder->low >> 48);
    out[2] = (uint8_t)(encoder->low >> 40);
    out[3] = (uint8_t)(encoder->low >> 32);
    encoder->size += 4;
    encoder->low <<= 32;
    encoder->range <<= 32;
}

/* Keeps the part [start, start + width) of 2^bits equal parts of the interval. */
static inline void dlfc_narrow(dlfc_encoder *encoder, uint32_t start, uint32_t width, unsigned bits)
{
    uint64_t part = encoder->range >> bits;
    uint64_t step = part * start;
    encoder->low += step;
    encoder->range = part * width;
    if (encoder->low < step)
        dlfc_carry(encoder);
    if (encoder->range >> 32 == 0)
        dlfc_shift_out(encoder);
}

static inline void dlfc_put_slot(dlfc_encoder *encoder, const uint16_t *last, uint32_t slot)
{
    uint32_t start = (uint16_t)(last[slot] + 1u);
    dlfc_narrow(encoder, start, last[slot + 1] - start + 1u, DLFC_TABLE_BITS);
}

static inline void dlfc_put_bits(dlfc_encoder *encoder, uint32_t value, unsigned bits)
{
    dlfc_narrow(encoder, value, 1, bits);
}

/* Exp-Golomb code, order 0, of a symbol outside its table: sign, as many zeros as the magnitude has bits after its
 * leading one, a one, those bits. */
static inline void dlfc_put_excess(dlfc_encoder *encoder, const dlfc_row *row, int32_t symbol)
{
    int below = symbol < row->offset;
    int64_t end = below ? (int64_t)row->offset - 1 : (int64_t)row->offset + row->escape;
    uint64_t magnitude = (uint64_t)(below ? end - symbol : symbol - end) + 1;
    unsigned bits = 0;
    while (magnitude >> bits > 1)
        bits++;
    dlfc_put_bits(encoder, (uint32_t)below, 1);
    for (unsigned i = 0; i < bits; i++)
        dlfc_put_bits(encoder, 0, 1);
    dlfc_put_bits(encoder, 1, 1);
    if (bits > 16)
        dlfc_put_bits(encoder, (uint32_t)(magnitude >> 16) & ((1u << (bits - 16)) - 1), bits - 16);
    if (bits > 0)
        dlfc_put_bits(encoder, (uint32_t)magnitude & ((1u << (bits < 16 ? bits : 16)) - 1), bits < 16 ? bits : 16);
}

/* How far above low the number with the most zero bytes at its end lies, of those in [low, low + range). */
static inline uint64_t dlfc_ending(uint64_t low, uint64_t range)
{
    uint64_t mask = UINT64_MAX;
    while (((0 - low) & mask) >= range)
        mask >>= 8;
    return (0 - low) & mask;
}

/* ---- decoder steps ---- */

/* Next 32 bits of the stream; bytes past the end are zero. */
static inline uint32_t dlfc_fetch(const uint8_t *bytes, size_t size, size_t position)
{
    uint32_t word = 0;
    if (size >= 4 && position <= size - 4) {
        const uint8_t *in = bytes + position;
        return (uint32_t)in[0] << 24 | (uint32_t)in[1] << 16 | (uint32_t)in[2] << 8 | in[3];
    }
    for (size_t i = 0; i < 4; i++)
        word = word << 8 | (position < size && i < size - position ? bytes[position + i] : 0u);
    return word;
}

/* Goes to the part [start, start + width) of the interval; `part` is what the range was divided into. */
static inline void dlfc_enter(dlfc_decoder *decoder, uint64_t part, uint32_t start, uint32_t width)
{
    decoder->code -= part * start;
    decoder->range = part * width;
    if (decoder->range >> 32 == 0) {
        decoder->code = decoder->code << 32 | dlfc_fetch(decoder->bytes, decoder->size, decoder->position);
        decoder->range <<= 32;
        decoder->position += 4;
    }
}

/* The slot that holds a scaled value. Row entries and padding end in 0xFFFF, so the search ends. Four entries in one
 * word settle nearly every symbol without a branch: the lookup is built that way. */
static inline uint32_t dlfc_find_slot(const uint16_t *last, uint32_t slot, uint32_t value, uint32_t *start,
                                      uint32_t *width)
{
    const uint16_t *in = last + slot;
    uint64_t four = (uint64_t)in[0] | (uint64_t)in[1] << 16 | (uint64_t)in[2] << 32 | (uint64_t)in[3] << 48;
    if (value > four >> 48) {
        slot += 3;
        while (value > last[slot + 1])
            slot++;
        *start = last[slot] + 1u;
        *width = last[slot + 1] - *start + 1u;
        return slot;
    }
    uint32_t skip = (uint32_t)(value > (uint16_t)(four >> 16)) + (uint32_t)(value > (uint16_t)(four >> 32));
    four >>= 16 * skip;
    *start = (uint16_t)(four + 1);
    *width = (uint16_t)(four >> 16) - *start + 1u;
    return slot + skip;
}

/* DLFC_OK, or DLFC_MALFORMED when the number lies outside the parts. */
static inline int dlfc_get_slot(dlfc_decoder *decoder, const dlfc_tables *tables, const dlfc_row *row, uint32_t *slot)
{
    uint64_t part = decoder->range >> DLFC_TABLE_BITS;
    uint64_t value = decoder->code / part;
    uint32_t start, width;
    if (value >> DLFC_TABLE_BITS != 0)
        return DLFC_MALFORMED;
    *slot = tables->lookup[row->lookup + ((uint32_t)value >> row->lookup_shift)];
    *slot = dlfc_find_slot(tables->last + row->first, *slot, (uint32_t)value, &start, &width);
    dlfc_enter(decoder, part, start, width);
    return DLFC_OK;
}

static inline int dlfc_get_bits(dlfc_decoder *decoder, unsigned bits, uint32_t *value)
{
    uint64_t part = decoder->range >> bits;
    uint64_t scaled = decoder->code / part;
    if (scaled >> bits != 0)
        return DLFC_MALFORMED;
    *value = (uint32_t)scaled;
    dlfc_enter(decoder, part, *value, 1);
    return DLFC_OK;
}

/* Counterpart of dlfc_put_excess. */
static inline int dlfc_get_excess(dlfc_decoder *decoder, const dlfc_row *row, int32_t *symbol)
{
    uint32_t below, one = 0, part;
    unsigned bits = 0;
    uint64_t magnitude = 1;
    int64_t value;
    if (dlfc_get_bits(decoder, 1, &below) != DLFC_OK || dlfc_get_bits(decoder, 1, &one) != DLFC_OK)
        return DLFC_MALFORMED;
    for (; one == 0; bits++)
        if (bits == DLFC_MAX_ESCAPE_BITS || dlfc_get_bits(decoder, 1, &one) != DLFC_OK)
            return DLFC_MALFORMED;
    for (unsigned left = bits; left > 0;) {
        unsigned take = left > 16 ? left - 16 : left;
        if (dlfc_get_bits(decoder, take, &part) != DLFC_OK)
            return DLFC_MALFORMED;
        magnitude = magnitude << take | part;
        left -= take;
    }
    value = below ? (int64_t)row->offset - (int64_t)magnitude
                  : (int64_t)row->offset + row->escape + (int64_t)magnitude - 1;
    if (value < INT32_MIN || value > INT32_MAX)
        return DLFC_MALFORMED;
    *symbol = (int32_t)value;
    return DLFC_OK;
}

#endif
