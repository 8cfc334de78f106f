/* A header's value, in a field chosen by the first byte, towards the approved host and towards
 * another: the secret comes out only at the former, and only where the placeholder stood. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/base64.h"
#include "net/locked.h"
#include "net/secrets.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static const char placeholder[] =
    SECRET_PREFIX "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
static const char inherited[] =
    SECRET_PREFIX "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
static const char value[] = "\x01THE-SECRET\x02"; /* bytes that no header has */

static bool holds(const void *bytes, size_t size, const char *text)
{
    return size > 0 && memmem(bytes, size, text, strlen(text));
}

/* In the clear or inside of Basic credentials. */
static bool holds_secret(const uint8_t *bytes, size_t size)
{
    bool found = holds(bytes, size, value);
    if (size > 6) {
        uint8_t *plain = malloc(size);
        if (!plain)
            abort();
        ssize_t n = bg_base64_decode((const char *)bytes + 6, size - 6, plain);
        found |= n > 0 && holds(plain, (size_t)n, value);
        free(plain);
    }
    return found;
}

static void put(const struct secrets *secrets, const char *host, bool verified,
                const struct http_field *field)
{
    struct destination to;
    struct secrets_use use = {0};
    assert(destination_parse(host, strlen(host), 443, &to, NULL) == 0);
    const struct secrets_scope scope = {.secrets = secrets, .to = &to, .verified = verified};
    struct buffer out = buffer_init(16 << 20);
    secrets_put_field(&scope, field, &out, &use);
    assert(buffer_ok(&out));
    bool approved = verified && strcmp(host, "a.org") == 0;
    bool found = holds_secret(buffer_bytes(&out), buffer_size(&out));
    if (!holds_secret((const uint8_t *)field->value.at, field->value.size))
        assert(found == (use.used != 0));
    assert(approved || use.used == 0);
    if (!use.used)
        assert(buffer_size(&out) == field->value.size &&
               (field->value.size == 0 ||
                memcmp(buffer_bytes(&out), field->value.at, field->value.size) == 0));
    buffer_reset(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const char *const names[] = {"Authorization", "X-Key", "Host", "Cookie"};
    static const char *const hosts[] = {"a.org"};
    struct secrets secrets = {0};
    if (size == 0)
        return 0;
    void *copy = locked_new(sizeof value - 1, NULL);
    if (!copy)
        abort();
    memcpy(copy, value, sizeof value - 1);
    if (secrets_add(&secrets, "KEY", placeholder, hosts, 1, copy, sizeof value - 1, NULL) < 0 ||
        secrets_add_inherited(&secrets, "KEY", inherited, NULL) < 0)
        abort();
    const char *name = names[bytes[0] & 3];
    const struct http_field field = {{name, strlen(name)}, {(const char *)bytes + 1, size - 1}};
    put(&secrets, "a.org", true, &field);
    put(&secrets, "a.org", false, &field);
    put(&secrets, "b.org", true, &field);
    secrets_done(&secrets);
    return 0;
}
