/* What a guest sends on a copy stream. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/io.h"
#include "host/cli/copy_stream.h"

#define INPUT_MAX 65536 /* fits a socket's buffer, so that one process can be both sides */

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    int ends[2];
    struct bg_err err = {0};
    if (size > INPUT_MAX || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return 0;
    int r = bg_write_full(ends[1], bytes, size);
    assert(r == 0);
    (void)close(ends[1]);
    struct copy_stream *stream = copy_stream_new(ends[0]);
    assert(stream);
    const void *data;
    ssize_t n;
    size_t total = 0;
    while ((n = copy_stream_read(stream, &data)) > 0)
        total += (size_t)n;
    assert(total < size || size == 0);
    assert(n < 0 || (stream->ended && stream->status == 0));
    r = copy_stream_finish_read(stream, &err);
    assert((r < 0) == (n < 0));
    for (const char *p = err.text; *p != '\0'; p++)
        assert((unsigned char)*p >= 0x20 && *p != 0x7f);
    free(stream);
    (void)close(ends[0]);
    return 0;
}
