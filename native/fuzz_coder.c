/* Fuzzer of the coder. The first two bytes choose the script of calls and how many values it asks for. The rest is
 * taken as a stream, as a stream that was cut, and as values to encode.
 *
 * libFuzzer:  clang -g -O1 -fsanitize=fuzzer,address,undefined -DDLFC_LIBFUZZER fuzz_coder.c dlfc_range_coder.c
 * any other:  cc -g -O1 -fsanitize=address,undefined fuzz_coder.c dlfc_range_coder.c
 *             fuzz_coder FILE...   runs those inputs
 *             fuzz_coder           runs a million random ones
 */
#include "check_support.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Each four bytes as a value, of which a batch of few bits takes the lowest. */
static void encode_bytes(const check_tables *owner, uint64_t seed, const uint8_t *data, size_t size)
{
    size_t count = size / sizeof(int32_t), length;
    int32_t *values = check_alloc(count * sizeof *values);
    check_random script = check_seed(seed);
    if (count > 0)
        memcpy(values, data, count * sizeof *values);
    for (size_t at = 0; at < count;) {
        check_batch batch = check_next_batch(&script, count - at);
        for (size_t i = 0; batch.bits > 0 && i < batch.count; i++)
            values[at + i] &= (int32_t)((1u << batch.bits) - 1);
        at += batch.count;
    }
    free(check_there_and_back(owner, seed, values, count, &length));
    free(values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static check_tables owner;
    size_t count;
    if (owner.last == NULL)
        check_tables_init(&owner);
    if (size < 2)
        return 0;
    count = (size_t)data[1] * 2;
    (void)check_garbage(&owner, data[0], data + 2, size - 2, count);
    (void)check_cut(&owner, data[0], data + 2, size - 2, (size - 2) * data[0] / 256, count);
    encode_bytes(&owner, data[0], data + 2, size - 2);
    return 0;
}

#ifndef DLFC_LIBFUZZER
static void run_file(const char *path)
{
    uint8_t data[65536];
    FILE *file = fopen(path, "rb");
    CHECK(file != NULL);
    (void)LLVMFuzzerTestOneInput(data, fread(data, 1, sizeof data, file));
    fclose(file);
}

int main(int argc, char **argv)
{
    check_random random = check_seed(1);
    for (int i = 1; i < argc; i++)
        run_file(argv[i]);
    for (long round = 0; argc == 1 && round < 1000000; round++) {
        uint8_t data[40];
        size_t size = 2 + check_next(&random) % (sizeof data - 2);
        for (size_t i = 0; i < size; i++)
            data[i] = (uint8_t)check_next(&random);
        (void)LLVMFuzzerTestOneInput(data, size);
    }
    return 0;
}
#endif
