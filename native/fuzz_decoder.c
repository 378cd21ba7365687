/* Fuzzer of the decoder. The first two bytes choose the script of calls and how many values it asks for, the rest is
 * the stream.
 *
 * libFuzzer:  clang -g -O1 -fsanitize=fuzzer,address,undefined -DDLFC_LIBFUZZER fuzz_decoder.c dlfc_range_coder.c
 * any other:  cc -g -O1 -fsanitize=address,undefined fuzz_decoder.c dlfc_range_coder.c
 *             fuzz_decoder FILE...   runs those inputs
 *             fuzz_decoder           runs a million random ones
 */
#include "check_support.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static check_tables owner;
    if (owner.last == NULL)
        check_tables_init(&owner);
    if (size >= 2)
        (void)check_garbage(&owner, data[0], data + 2, size - 2, (size_t)data[1] * 2);
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
