/* A stream in pieces, their size the first byte: it comes out the same however it is cut and with
 * every place looked at closely, unchanged when nothing was found, and without the secret as
 * services write it. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/base64.h"
#include "net/locked.h"
#include "net/scrub.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

#define VALUE      "S3cret/KEY=9"
#define VALUE_SIZE (sizeof VALUE - 1)
#define TEXT_MAX   ((size_t)1 << 16)

static const char placeholder[] =
    SECRET_PREFIX "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

static void put(void *owner, const uint8_t *bytes, size_t size)
{
    buffer_put(owner, bytes, size);
}

static bool holds(const struct buffer *out, const char *text, size_t text_size, bool either_case)
{
    const char *at = (const char *)buffer_bytes(out);
    for (size_t left = buffer_size(out); left >= text_size; left--, at++)
        if (either_case ? strncasecmp(at, text, text_size) == 0 : memcmp(at, text, text_size) == 0)
            return true;
    return false;
}

/* The plain forms; escapes and the like are the unit test's. */
static bool holds_secret(const struct buffer *out)
{
    static const char digits[] = "0123456789abcdef";
    char reversed[VALUE_SIZE], hex[2 * VALUE_SIZE];
    for (size_t i = 0; i < VALUE_SIZE; i++) {
        reversed[i] = VALUE[VALUE_SIZE - 1 - i];
        hex[2 * i] = digits[VALUE[i] >> 4];
        hex[2 * i + 1] = digits[VALUE[i] & 15];
    }
    bool found = holds(out, VALUE, VALUE_SIZE, true) || holds(out, reversed, VALUE_SIZE, true) ||
                 holds(out, hex, sizeof hex, true);
    for (size_t before = 0; before < 3; before++) {
        uint8_t whole[VALUE_SIZE + 2] = {0};
        char encoded[BG_BASE64_SIZE(sizeof whole)];
        memcpy(whole + before, VALUE, VALUE_SIZE);
        bg_base64_encode(whole, before + VALUE_SIZE, encoded);
        size_t first = before ? before + 1 : 0, last = (before + VALUE_SIZE) * 8 / 6;
        found |= holds(out, encoded + first, last - first, false);
    }
    return found;
}

static struct buffer scrubbed(const struct secrets *secrets, const uint8_t *bytes, size_t size,
                              size_t piece, uint64_t *ret_found)
{
    struct buffer out = buffer_init(TEXT_MAX * SECRET_PLACEHOLDER_SIZE);
    struct scrub scrub;
    scrub_init(&scrub, secrets, 1, (struct sink){put, &out});
    for (size_t at = 0; at < size; at += piece)
        if (scrub_feed(&scrub, bytes + at, size - at < piece ? size - at : piece) < 0)
            abort();
    scrub_end(&scrub);
    *ret_found = scrub.found;
    scrub_done(&scrub);
    assert(buffer_ok(&out));
    return out;
}

static bool same(const struct buffer *a, const struct buffer *b)
{
    size_t size = buffer_size(a);
    return size == buffer_size(b) &&
           (size == 0 || memcmp(buffer_bytes(a), buffer_bytes(b), size) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const char *const hosts[] = {"a.org"};
    struct secrets secrets = {0};
    if (size == 0 || size > TEXT_MAX)
        return 0;
    void *copy = locked_new(VALUE_SIZE, NULL);
    if (!copy)
        abort();
    memcpy(copy, VALUE, VALUE_SIZE);
    if (secrets_add(&secrets, "KEY", placeholder, hosts, 1, copy, VALUE_SIZE, NULL) < 0)
        abort();
    uint64_t found, found_cut;
    struct buffer whole = scrubbed(&secrets, bytes + 1, size - 1, size, &found);
    struct buffer cut = scrubbed(&secrets, bytes + 1, size - 1, bytes[0] % 32u + 1, &found_cut);
    assert(found == found_cut && same(&whole, &cut));
    struct scrub_hint *hint = &secrets.hints->items[0]; /* made by now */
    memset(hint->may, 0xff, sizeof hint->may);
    memset(hint->nibbles, 0xff, sizeof hint->nibbles);
    struct buffer closely = scrubbed(&secrets, bytes + 1, size - 1, size, &found_cut);
    assert(found == found_cut && same(&whole, &closely));
    assert(!holds_secret(&whole));
    if (!found)
        assert(buffer_size(&whole) == size - 1 &&
               (size == 1 || memcmp(buffer_bytes(&whole), bytes + 1, size - 1) == 0));
    buffer_reset(&whole);
    buffer_reset(&cut);
    buffer_reset(&closely);
    secrets_done(&secrets);
    return 0;
}
