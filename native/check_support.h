/* What the checker and the fuzzer share: odd tables, a script of calls made from a seed, and the same script run
 * forwards (encode) and backwards (decode) on buffers of exact size, so that a sanitizer sees any byte too far. */
#ifndef DLFC_CHECK_SUPPORT_H
#define DLFC_CHECK_SUPPORT_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dlfc_range_coder.h"

#define CHECK(condition)                                                                     \
    do {                                                                                     \
        if (!(condition)) {                                                                  \
            fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);          \
            abort();                                                                         \
        }                                                                                    \
    } while (0)

enum { CHECK_ROWS = 8, CHECK_MAX_COUNT = 512 };

typedef struct {
    uint64_t state;
} check_random;

/* xorshift64*, Vigna 2016 */
static inline uint32_t check_next(check_random *random)
{
    random->state ^= random->state >> 12;
    random->state ^= random->state << 25;
    random->state ^= random->state >> 27;
    return (uint32_t)((random->state * 0x2545F4914F6CDD1Du) >> 32);
}

static inline check_random check_seed(uint64_t seed)
{
    check_random random = {seed * 2 + 1};
    for (int i = 0; i < 8; i++)
        (void)check_next(&random);
    return random;
}

static inline void *check_alloc(size_t size)
{
    void *memory = malloc(size ? size : 1);
    CHECK(memory != NULL);
    return memory;
}

typedef struct {
    dlfc_row rows[CHECK_ROWS];
    uint16_t *last;
    uint16_t *lookup;
    dlfc_tables tables;
} check_tables;

/* Rows from one slot (nothing but escapes) to 65536 slots (every count 1), offsets at both ends of int32. */
static inline void check_tables_init(check_tables *owner)
{
    static const uint32_t slots[CHECK_ROWS] = {1, 2, 3, 7, 100, 800, 65536, 2};
    static const int32_t offsets[CHECK_ROWS] = {0, 0, INT32_MIN, -3, INT32_MAX - 98, -400, -32768, INT32_MAX};
    check_random random = check_seed(1);
    size_t total = 0, used;
    for (int i = 0; i < CHECK_ROWS; i++)
        total += slots[i] + 1 + DLFC_TABLE_PADDING;
    owner->last = check_alloc(total * sizeof *owner->last);
    memset(owner->last, 0xFF, total * sizeof *owner->last);
    total = 0;
    for (int i = 0; i < CHECK_ROWS; i++) {
        dlfc_row row = {offsets[i], slots[i] - 1, (uint32_t)total, 0, 0};
        uint32_t end = 0;
        for (uint32_t slot = 1; slot < slots[i]; slot++) {
            uint32_t after = slots[i] - slot, spare = 65535 - end - after, fair = 2 * spare / after;
            end += 1 + check_next(&random) % ((fair < spare ? fair : spare) + 1);
            owner->last[total + slot] = (uint16_t)(end - 1);
        }
        owner->rows[i] = row;
        total += slots[i] + 1 + DLFC_TABLE_PADDING;
    }
    owner->lookup = check_alloc((CHECK_ROWS << DLFC_MAX_LOOKUP_BITS) * sizeof *owner->lookup);
    used = dlfc_index_tables(owner->rows, CHECK_ROWS, owner->last, owner->lookup);
    owner->lookup = realloc(owner->lookup, used * sizeof *owner->lookup);
    CHECK(owner->lookup != NULL);
    owner->tables.rows = owner->rows;
    owner->tables.row_count = CHECK_ROWS;
    owner->tables.last = owner->last;
    owner->tables.lookup = owner->lookup;
}

static inline void check_tables_free(check_tables *owner)
{
    free(owner->last);
    free(owner->lookup);
}

/* One batch: table symbols if bits is 0, else values of that many bits. */
typedef struct {
    unsigned bits;
    size_t count;
    int32_t indices[64];
} check_batch;

static inline check_batch check_next_batch(check_random *random, size_t left)
{
    check_batch batch = {0, 0, {0}};
    batch.bits = check_next(random) % 4 == 0 ? 1 + check_next(random) % DLFC_MAX_UNIFORM_BITS : 0;
    batch.count = 1 + check_next(random) % 64;
    if (batch.count > left)
        batch.count = left;
    for (size_t i = 0; i < batch.count; i++)
        batch.indices[i] = (int32_t)(check_next(random) % CHECK_ROWS);
    return batch;
}

static inline void check_grow(dlfc_encoder *encoder, check_random *random)
{
    size_t capacity = encoder->capacity + 1 + check_next(random) % 32;
    uint8_t *bytes = check_alloc(capacity);
    if (encoder->size > 0)
        memcpy(bytes, encoder->bytes, encoder->size);
    encoder->capacity = capacity;
    free(encoder->bytes);
    encoder->bytes = bytes;
}

/* Encodes `values` as the script of `seed` says; the caller frees the bytes. */
static inline uint8_t *check_encode(const check_tables *owner, uint64_t seed, const int32_t *values, size_t count,
                                    size_t *size)
{
    check_random script = check_seed(seed), growth = check_seed(seed);
    dlfc_encoder encoder = {0, 0, NULL, 0, 0};
    dlfc_encoder_init(&encoder);
    for (size_t at = 0; at < count;) {
        check_batch batch = check_next_batch(&script, count - at);
        for (size_t put = 0; put < batch.count;) {
            size_t done = 0, left = batch.count - put;
            int status = batch.bits ? dlfc_encode_uniform(&encoder, values + at + put, batch.bits, left, &done)
                                    : dlfc_encode(&encoder, &owner->tables, values + at + put, batch.indices + put,
                                                  left, &done);
            CHECK(status == DLFC_OK || status == DLFC_FULL);
            CHECK(status == DLFC_FULL || done == left);
            put += done;
            if (status == DLFC_FULL)
                check_grow(&encoder, &growth);
        }
        at += batch.count;
    }
    while (dlfc_encoder_finish(&encoder) == DLFC_FULL)
        check_grow(&encoder, &growth);
    *size = encoder.size;
    return encoder.bytes;
}

/* Decodes `count` values; the status is that of the first call that fails, or of dlfc_decoder_finish. */
static inline int check_decode(const check_tables *owner, uint64_t seed, const uint8_t *bytes, size_t size,
                               int32_t *values, size_t count)
{
    check_random script = check_seed(seed);
    dlfc_decoder decoder;
    dlfc_decoder_init(&decoder, bytes, size);
    for (size_t at = 0; at < count;) {
        check_batch batch = check_next_batch(&script, count - at);
        int status = batch.bits
                         ? dlfc_decode_uniform(&decoder, values + at, batch.bits, batch.count)
                         : dlfc_decode(&decoder, &owner->tables, values + at, batch.indices, batch.count);
        if (status != DLFC_OK) {
            CHECK(status == DLFC_MALFORMED);
            CHECK(dlfc_decode_uniform(&decoder, values, 1, 1) == DLFC_MALFORMED);
            CHECK(dlfc_decoder_finish(&decoder) == DLFC_MALFORMED);
            return status;
        }
        at += batch.count;
    }
    return dlfc_decoder_finish(&decoder);
}

/* Values come back as they went in. Returns their bytes, which the caller frees. */
static inline uint8_t *check_there_and_back(const check_tables *owner, uint64_t seed, const int32_t *values,
                                            size_t count, size_t *size)
{
    uint8_t *bytes = check_encode(owner, seed, values, count, size), *exact = check_alloc(*size);
    int32_t *decoded = check_alloc(count * sizeof *decoded);
    if (*size > 0)
        memcpy(exact, bytes, *size);
    CHECK(check_decode(owner, seed, exact, *size, decoded, count) == DLFC_OK);
    CHECK(count == 0 || memcmp(values, decoded, count * sizeof *values) == 0);
    free(bytes);
    free(decoded);
    return exact;
}

/* Cuts a stream to its first `left` bytes: what is certain then is what the whole stream says. Returns how many of
 * `count` values are. */
static inline size_t check_cut(const check_tables *owner, uint64_t seed, const uint8_t *bytes, size_t size,
                               size_t left, size_t count)
{
    check_random script = check_seed(seed);
    uint8_t *exact = check_alloc(left);
    dlfc_decoder whole, cut;
    size_t at = 0;
    if (left > 0)
        memcpy(exact, bytes, left);
    dlfc_decoder_init(&whole, bytes, size);
    dlfc_decoder_init(&cut, exact, left);
    while (at < count) {
        check_batch batch = check_next_batch(&script, count - at);
        size_t taken = 0;
        for (; taken < batch.count; taken++) {
            int32_t one = 0, other = 0;
            const int32_t *index = batch.indices + taken;
            int status = batch.bits ? dlfc_decode_uniform(&cut, &one, batch.bits, 1)
                                    : dlfc_decode(&cut, &owner->tables, &one, index, 1);
            if (status != DLFC_OK || dlfc_decoder_overrun(&cut))
                break;
            status = batch.bits ? dlfc_decode_uniform(&whole, &other, batch.bits, 1)
                                : dlfc_decode(&whole, &owner->tables, &other, index, 1);
            CHECK(status == DLFC_OK && one == other);
        }
        at += taken;
        if (taken < batch.count)
            break;
    }
    free(exact);
    return at;
}

/* Any bytes decode to an error or to values that encode to the same bytes. Returns 1 for the latter. */
static inline int check_garbage(const check_tables *owner, uint64_t seed, const uint8_t *bytes, size_t size,
                                size_t count)
{
    int32_t *values = check_alloc(count * sizeof *values);
    uint8_t *exact = check_alloc(size);
    int accepted;
    if (size > 0)
        memcpy(exact, bytes, size);
    accepted = check_decode(owner, seed, exact, size, values, count) == DLFC_OK;
    if (accepted) {
        size_t again_size;
        uint8_t *again = check_encode(owner, seed, values, count, &again_size);
        CHECK(again_size == size && (size == 0 || memcmp(again, bytes, size) == 0));
        free(again);
    }
    free(exact);
    free(values);
    return accepted;
}

#endif
