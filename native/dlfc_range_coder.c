/* Batch calls of the range coder; the arithmetic is in the header. */
#include "dlfc_range_coder.h"

/* Scaled values whose slot lies 3 or more beyond the first slot of their bucket: those take the slow search. */
static uint32_t slow_values(const uint16_t *last, uint32_t slots, unsigned shift)
{
    uint32_t slow = 0, slot = 0;
    for (uint32_t bucket = 0; bucket < 1u << (DLFC_TABLE_BITS - shift); bucket++) {
        uint32_t begin = bucket << shift;
        uint32_t end = begin + (1u << shift) - 1;
        while (last[slot + 1] < begin)
            slot++;
        if (slot + 3 < slots && last[slot + 3] < end)
            slow += end - last[slot + 3];
    }
    return slow;
}

static unsigned choose_shift(const uint16_t *last, uint32_t slots)
{
    const uint32_t tolerated = 65536 / 16; /* measured: a larger lookup costs more in cache than it saves here */
    unsigned shift = DLFC_TABLE_BITS - 1;
    while (shift > DLFC_TABLE_BITS - DLFC_MAX_LOOKUP_BITS && slow_values(last, slots, shift) > tolerated)
        shift--;
    return shift;
}

/* Fills lookup, lookup_shift of each row and the lookup itself, which has room for 2^DLFC_MAX_LOOKUP_BITS entries per
 * row. Returns how many entries are in use. */
size_t dlfc_index_tables(dlfc_row *rows, int32_t row_count, const uint16_t *last, uint16_t *lookup)
{
    uint32_t used = 0;
    for (int32_t i = 0; i < row_count; i++) {
        const uint16_t *entries = last + rows[i].first;
        uint32_t slot = 0;
        rows[i].lookup = used;
        rows[i].lookup_shift = choose_shift(entries, rows[i].escape + 1);
        for (uint32_t begin = 0; begin < 1u << DLFC_TABLE_BITS; begin += 1u << rows[i].lookup_shift) {
            while (entries[slot + 1] < begin)
                slot++;
            lookup[used++] = (uint16_t)slot;
        }
    }
    return used;
}

/* 1 if every index names a row; written without an early exit so that compilers use vector instructions. */
static int all_below(const int32_t *values, size_t count, uint32_t limit)
{
    int outside = 0;
    for (size_t i = 0; i < count; i++)
        outside |= (uint32_t)values[i] >= limit;
    return !outside;
}

void dlfc_encoder_init(dlfc_encoder *encoder)
{
    encoder->low = 0;
    encoder->range = UINT64_MAX;
    encoder->size = 0;
}

int dlfc_encode(dlfc_encoder *encoder, const dlfc_tables *tables, const int32_t *symbols, const int32_t *indices,
                size_t count, size_t *done)
{
    dlfc_encoder local = *encoder; /* a copy whose address goes nowhere lives in registers */
    const dlfc_row *rows = tables->rows;
    const uint16_t *last = tables->last;
    size_t i;
    *done = 0;
    if (!all_below(indices, count, (uint32_t)tables->row_count))
        return DLFC_BAD_INDEX;
    for (i = 0; i < count && local.capacity - local.size >= DLFC_MAX_SYMBOL_BYTES; i++) {
        const dlfc_row *row = rows + indices[i];
        uint32_t slot = (uint32_t)symbols[i] - (uint32_t)row->offset;
        if (slot < row->escape) {
            dlfc_put_slot(&local, last + row->first, slot);
        } else {
            dlfc_put_slot(&local, last + row->first, row->escape);
            dlfc_put_excess(&local, row, symbols[i]);
        }
    }
    *encoder = local;
    *done = i;
    return i == count ? DLFC_OK : DLFC_FULL;
}

int dlfc_encode_uniform(dlfc_encoder *encoder, const int32_t *values, unsigned bits, size_t count, size_t *done)
{
    dlfc_encoder local = *encoder;
    size_t i;
    *done = 0;
    if (bits < 1 || bits > DLFC_MAX_UNIFORM_BITS || !all_below(values, count, 1u << bits))
        return DLFC_BAD_VALUE;
    for (i = 0; i < count && local.capacity - local.size >= DLFC_MAX_SYMBOL_BYTES; i++)
        dlfc_put_bits(&local, (uint32_t)values[i], bits);
    *encoder = local;
    *done = i;
    return i == count ? DLFC_OK : DLFC_FULL;
}

/* Writes the shortest ending, at most 4 bytes, and drops the zero bytes at the end. */
int dlfc_encoder_finish(dlfc_encoder *encoder)
{
    uint64_t distance = dlfc_ending(encoder->low, encoder->range);
    if (encoder->capacity - encoder->size < DLFC_MAX_SYMBOL_BYTES)
        return DLFC_FULL;
    encoder->low += distance;
    if (encoder->low < distance)
        dlfc_carry(encoder);
    dlfc_shift_out(encoder); /* range >= 2^32, so the lower half of low is zero now */
    while (encoder->size > 0 && encoder->bytes[encoder->size - 1] == 0)
        encoder->size--;
    return DLFC_OK;
}

void dlfc_decoder_init(dlfc_decoder *decoder, const uint8_t *bytes, size_t size)
{
    decoder->code = (uint64_t)dlfc_fetch(bytes, size, 0) << 32 | dlfc_fetch(bytes, size, 4);
    decoder->range = UINT64_MAX;
    decoder->bytes = bytes;
    decoder->size = size;
    decoder->position = 8;
    decoder->status = DLFC_OK;
}

int dlfc_decode(dlfc_decoder *decoder, const dlfc_tables *tables, int32_t *symbols, const int32_t *indices,
                size_t count)
{
    dlfc_decoder local = *decoder;
    dlfc_tables own = *tables;
    if (local.status != DLFC_OK)
        return local.status;
    if (!all_below(indices, count, (uint32_t)own.row_count))
        return DLFC_BAD_INDEX;
    for (size_t i = 0; i < count; i++) {
        const dlfc_row *row = own.rows + indices[i];
        uint32_t slot;
        if (dlfc_get_slot(&local, &own, row, &slot) != DLFC_OK)
            return decoder->status = DLFC_MALFORMED;
        if (slot < row->escape)
            symbols[i] = (int32_t)((uint32_t)row->offset + slot);
        else if (dlfc_get_excess(&local, row, symbols + i) != DLFC_OK)
            return decoder->status = DLFC_MALFORMED;
    }
    *decoder = local;
    return DLFC_OK;
}

int dlfc_decode_uniform(dlfc_decoder *decoder, int32_t *values, unsigned bits, size_t count)
{
    dlfc_decoder local = *decoder;
    uint32_t value;
    if (local.status != DLFC_OK)
        return local.status;
    if (bits < 1 || bits > DLFC_MAX_UNIFORM_BITS)
        return DLFC_BAD_VALUE;
    for (size_t i = 0; i < count; i++) {
        if (dlfc_get_bits(&local, bits, &value) != DLFC_OK)
            return decoder->status = DLFC_MALFORMED;
        values[i] = (int32_t)value;
    }
    *decoder = local;
    return DLFC_OK;
}

/* 1 if other bytes after the end, in place of zeros, could have given other symbols than those taken so far. */
int dlfc_decoder_overrun(const dlfc_decoder *decoder)
{
    size_t missing = decoder->position > decoder->size ? decoder->position - decoder->size : 0;
    if (decoder->status != DLFC_OK || missing >= 8)
        return 1;
    return missing > 0 && UINT64_C(1) << 8 * missing > decoder->range - decoder->code;
}

/* DLFC_OK if the encoder, given the decoded symbols, writes exactly these bytes. The last 8 bytes fetched minus code
 * are the encoder's low, from which follows how it ends. */
int dlfc_decoder_finish(dlfc_decoder *decoder)
{
    size_t window = decoder->position - 8;
    uint64_t number = (uint64_t)dlfc_fetch(decoder->bytes, decoder->size, window) << 32 |
                      dlfc_fetch(decoder->bytes, decoder->size, window + 4);
    if (decoder->status != DLFC_OK)
        return decoder->status;
    if (decoder->size > decoder->position || (decoder->size > 0 && decoder->bytes[decoder->size - 1] == 0) ||
        decoder->code != dlfc_ending(number - decoder->code, decoder->range))
        return decoder->status = DLFC_MALFORMED;
    return DLFC_OK;
}
