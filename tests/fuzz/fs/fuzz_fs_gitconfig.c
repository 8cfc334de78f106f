/* Files of git's as a hostile guest writes them: the first byte says which kind. What is shown is
 * shown unchanged when it is what the guest has. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fs/relay/view.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const enum guard_class classes[] = {GUARD_CONFIG, GUARD_GIT, GUARD_POINTER,
                                               GUARD_POINTERS};
    uint8_t *once, *twice;
    size_t once_size, twice_size, dropped;
    struct bg_err err;
    if (size == 0)
        return 0;
    struct fs_view_opts opts = {
        .class = classes[bytes[0] & 3], .depth = bytes[0] >> 4, .whole = bytes[0] & 4};
    if (fs_view_make(&opts, bytes + 1, size - 1, &once, &once_size, &dropped, &err) < 0)
        return 0;
    if (fs_view_make(&opts, once, once_size, &twice, &twice_size, &dropped, &err) < 0)
        abort();
    if (dropped > 0 || once_size != twice_size ||
        (once_size > 0 && memcmp(once, twice, once_size) != 0))
        abort();
    free(once);
    free(twice);
    return 0;
}
