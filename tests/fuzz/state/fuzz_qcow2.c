/* The header of a disk that a guest may have written. */
#include <stdlib.h>

#include "common/state/qcow2.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct bg_err err = {0};
    int r = qcow2_check(bytes, size, &err);
    /* What is taken has no feature but the one that QEMU repairs. */
    for (size_t i = 72; r == 0 && i < 79; i++)
        if (bytes[i] != 0)
            abort();
    if (r == 0 && bytes[79] > 1)
        abort();
    return 0;
}
