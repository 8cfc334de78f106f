/* A coded body through the filter: the first byte chooses the codings and whether it is of
 * messages, the second how it is cut. Never more out than the ratio allows; the same however it is
 * cut, as far as it is good (but for what goes ahead at the end of a message); no secret in it. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "net/filter.h"
#include "net/locked.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

#define VALUE   "S3cret/KEY=9"
#define OUT_MAX ((size_t)8 * 1024 * 1024)

static const char placeholder[] =
    SECRET_PREFIX "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/* Returns 0 or the error. */
static int run(const struct secrets *secrets, const char *coding, bool messages,
               const uint8_t *bytes, size_t size, size_t piece, struct buffer *out)
{
    struct http_field fields[] = {{{"content-encoding", 16}, {coding, strlen(coding)}},
                                  {{"content-type", 12}, {"application/grpc", 16}}};
    const struct http_head head = {.fields = fields, .field_count = messages ? 2 : 1};
    struct filter filter;
    filter_init(&filter, secrets, 1);
    int r = filter_start(&filter, &head, NULL);
    for (size_t at = 0; r == 0 && buffer_ok(out);) {
        size_t part = size - at < piece ? size - at : piece;
        if (part > 0)
            filter_put(&filter, bytes + at, part);
        at += part;
        if (at == size)
            filter_end(&filter);
        while (r == 0 && filter_ready(&filter) && buffer_ok(out)) {
            r = filter_step(&filter, NULL);
            buffer_put(out, buffer_bytes(&filter.out), buffer_size(&filter.out));
            buffer_reset(&filter.out);
        }
        if (filter.ended)
            break;
    }
    filter_done(&filter);
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const char *const codings[] = {"",     "gzip",     "deflate",    "br",
                                          "zstd", "gzip, br", "zstd, gzip", "deflate, zstd"};
    static const char *const hosts[] = {"a.org"};
    struct secrets secrets = {0};
    if (size < 2)
        return 0;
    void *copy = locked_new(sizeof VALUE - 1, NULL);
    if (!copy)
        abort();
    memcpy(copy, VALUE, sizeof VALUE - 1);
    if (secrets_add(&secrets, "KEY", placeholder, hosts, 1, copy, sizeof VALUE - 1, NULL) < 0)
        abort();
    const char *coding = codings[bytes[0] % 8];
    bool messages = bytes[0] & 8;
    struct buffer whole = buffer_init(OUT_MAX), cut = buffer_init(OUT_MAX);
    int r = run(&secrets, coding, messages, bytes + 2, size - 2, size, &whole);
    int r_cut = run(&secrets, coding, messages, bytes + 2, size - 2, bytes[1] % 32u + 1, &cut);
    if (buffer_ok(&whole) && buffer_ok(&cut) && r == 0) {
        assert(r_cut == 0 && buffer_size(&whole) == buffer_size(&cut));
        assert(messages || buffer_size(&whole) == 0 ||
               memcmp(buffer_bytes(&whole), buffer_bytes(&cut), buffer_size(&whole)) == 0);
    }
    assert(buffer_size(&whole) == 0 ||
           !memmem(buffer_bytes(&whole), buffer_size(&whole), VALUE, sizeof VALUE - 1));
    assert(buffer_size(&cut) == 0 ||
           !memmem(buffer_bytes(&cut), buffer_size(&cut), VALUE, sizeof VALUE - 1));
    buffer_reset(&whole);
    buffer_reset(&cut);
    secrets_done(&secrets);
    return 0;
}
