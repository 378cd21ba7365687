/* Round trips and garbage for the range coder, meant to run under the address and undefined-behaviour sanitizers:
 *     check_coder [ROUNDS] [SEED]
 */
#include "check_support.h"

/* A value that its batch can hold: near the table, anywhere in int32, or of the batch's bits. */
static int32_t draw(check_random *random, const check_tables *owner, const check_batch *batch, size_t i)
{
    const dlfc_row *row = owner->rows + batch->indices[i];
    uint32_t any = check_next(random);
    if (batch->bits)
        return (int32_t)(any & ((1u << batch->bits) - 1));
    switch (check_next(random) % 8) {
    case 0:
        return any % 2 ? INT32_MAX - (int32_t)(any >> 30) : INT32_MIN + (int32_t)(any >> 30);
    case 1: {
        int64_t near = (int64_t)row->offset + (int64_t)(any % (row->escape + 20)) - 10;
        return near < INT32_MIN ? INT32_MIN : near > INT32_MAX ? INT32_MAX : (int32_t)near;
    }
    case 2:
        return any > INT32_MAX ? (int32_t)(-(int64_t)(any - INT32_MAX)) : (int32_t)any;
    default:
        return row->escape ? (int32_t)((int64_t)row->offset + any % row->escape) : (int32_t)(any % 5);
    }
}

static void check_round_trip(const check_tables *owner, check_random *random)
{
    uint64_t seed = check_next(random);
    size_t count = check_next(random) % CHECK_MAX_COUNT, size;
    int32_t *values = check_alloc(count * sizeof *values);
    check_random script = check_seed(seed);
    uint8_t *bytes;
    for (size_t at = 0; at < count;) {
        check_batch batch = check_next_batch(&script, count - at);
        for (size_t i = 0; i < batch.count; i++)
            values[at + i] = draw(random, owner, &batch, i);
        at += batch.count;
    }
    bytes = check_there_and_back(owner, seed, values, count, &size);
    CHECK(check_cut(owner, seed, bytes, size, size, count) <= count);
    for (int i = 0; i < 4 && size > 0; i++) {
        size_t left = check_next(random) % size;
        (void)check_garbage(owner, seed, bytes, left, count);
        (void)check_cut(owner, seed, bytes, size, left, count);
    }
    for (int i = 0; i < 4 && size > 0; i++) {
        size_t at = check_next(random) % size;
        bytes[at] ^= (uint8_t)(1u << check_next(random) % 8);
        (void)check_garbage(owner, seed, bytes, size, count);
    }
    free(bytes);
    free(values);
}

static void check_bad_calls(const check_tables *owner)
{
    const int32_t indices[2] = {0, CHECK_ROWS}, negative[1] = {-1}, values[2] = {0, 8};
    uint8_t room[64];
    int32_t out[2];
    size_t done;
    dlfc_encoder encoder = {0, 0, room, 0, sizeof room};
    dlfc_decoder decoder;
    dlfc_encoder_init(&encoder);
    dlfc_decoder_init(&decoder, NULL, 0);
    CHECK(dlfc_encode(&encoder, &owner->tables, values, indices, 2, &done) == DLFC_BAD_INDEX && done == 0);
    CHECK(dlfc_encode(&encoder, &owner->tables, values, negative, 1, &done) == DLFC_BAD_INDEX && done == 0);
    CHECK(dlfc_encode_uniform(&encoder, values, 3, 2, &done) == DLFC_BAD_VALUE && done == 0);
    CHECK(dlfc_encode_uniform(&encoder, negative, 16, 1, &done) == DLFC_BAD_VALUE && done == 0);
    CHECK(dlfc_encode_uniform(&encoder, values, 17, 1, &done) == DLFC_BAD_VALUE && done == 0);
    CHECK(dlfc_decode(&decoder, &owner->tables, out, indices, 2) == DLFC_BAD_INDEX);
    CHECK(dlfc_decode_uniform(&decoder, out, 0, 1) == DLFC_BAD_VALUE);
    CHECK(dlfc_encoder_finish(&encoder) == DLFC_OK && encoder.size == 0);
    CHECK(dlfc_decoder_finish(&decoder) == DLFC_OK);
}

int main(int argc, char **argv)
{
    long rounds = argc > 1 ? strtol(argv[1], NULL, 10) : 2000;
    check_random random = check_seed(argc > 2 ? strtoull(argv[2], NULL, 10) : 1);
    check_tables owner;
    long accepted = 0;
    check_tables_init(&owner);
    check_bad_calls(&owner);
    for (long round = 0; round < rounds; round++) {
        uint8_t garbage[64];
        size_t size = check_next(&random) % 8, count;
        check_round_trip(&owner, &random);
        for (size_t i = 0; i < sizeof garbage; i++)
            garbage[i] = (uint8_t)check_next(&random);
        if (round % 4 == 0)
            size = check_next(&random) % sizeof garbage;
        count = check_next(&random) % (round % 2 ? 12 : CHECK_MAX_COUNT);
        accepted += check_garbage(&owner, check_next(&random), garbage, size, count);
    }
    check_tables_free(&owner);
    printf("%ld round trips; %ld random streams, of which %ld are what the encoder writes\n", rounds, rounds, accepted);
    return 0;
}
