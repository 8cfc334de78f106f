/* The line that a guest sends before its sshd speaks. byte 0: how finely the rest is cut (0: not at
 * all). However it is cut, the same must come of it, and a key is printable and of its one form. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "host/cli/ssh_greeting.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* Returns how many bytes the greeting was, 0 if it was none or had no end. */
static size_t run(const uint8_t *bytes, size_t size, size_t piece, struct ssh_greeting *g)
{
    size_t at = 0;
    while (at < size && !g->done) {
        size_t here = size - at < piece ? size - at : piece;
        ssize_t n = ssh_greeting_feed(g, bytes + at, here, NULL);
        if (n < 0)
            return 0;
        assert((size_t)n == here || g->done);
        at += (size_t)n;
    }
    return g->done ? at : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct ssh_greeting whole = {0}, cut = {0};
    if (size < 2)
        return 0;
    size_t used = run(bytes + 1, size - 1, size - 1, &whole);
    assert(run(bytes + 1, size - 1, bytes[0] ? bytes[0] : size, &cut) == used);
    assert(whole.done == cut.done && strcmp(whole.key, cut.key) == 0);
    if (whole.done) {
        assert(strlen(whole.key) == SSH_KEY_SIZE - 1 && bytes[used] == '\n');
        for (const char *p = whole.key; *p != '\0'; p++)
            assert(*p > ' ' && *p < 0x7f);
    }
    return 0;
}
