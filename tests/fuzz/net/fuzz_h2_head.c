/* Fields of a block, each "name NUL value NUL"; the first byte says of what. A head that is made of
 * them is exactly one head, with no other fields and no other framing than the block had. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "net/h2_head.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* Returns false if a field was refused. */
static bool add_all(struct h2_fields *fields, const char *at, size_t size)
{
    while (size > 0) {
        struct slice parts[2];
        for (size_t i = 0; i < 2; i++) {
            const char *nul = size > 0 ? memchr(at, '\0', size) : NULL;
            size_t part = nul ? (size_t)(nul - at) : size;
            parts[i] = (struct slice){at, part};
            at += part + (nul != NULL);
            size -= part + (nul != NULL);
        }
        if (h2_fields_add(fields, parts[0], parts[1]) < 0)
            return false;
    }
    return true;
}

/* Lines of the text, its first and last ones aside. */
static size_t count_lines(const struct buffer *text)
{
    size_t count = 0;
    const uint8_t *at = buffer_bytes(text), *end = at + buffer_size(text);
    while ((at = memchr(at, '\n', (size_t)(end - at))) != NULL) {
        count++;
        if (++at == end)
            break;
    }
    return count - 2;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct h2_fields fields;
    struct http_head head;
    struct buffer out = buffer_init(1 << 20);
    enum http_wrap wrap;
    unsigned status;
    int answer;
    if (size == 0)
        return 0;
    h2_fields_init(&fields);
    bool request = bytes[0] & 1, no_body = bytes[0] & 2;
    bool ok = add_all(&fields, (const char *)bytes + 1, size - 1);
    if (ok && request)
        ok = h2_fields_put_request(&fields, no_body, &out, &wrap) == 0;
    else if (ok)
        ok = h2_fields_put_response(&fields, no_body ? H2_NO_BODY : H2_BODY, &out, &wrap,
                                    &status) == 0;
    if (ok && request)
        ok = http_head_parse_request((const char *)buffer_bytes(&out), buffer_size(&out), &head,
                                     &answer, NULL) == 0;
    else if (ok)
        ok = http_head_parse_response((const char *)buffer_bytes(&out), buffer_size(&out),
                                      (struct slice){"get", 3}, &head, NULL) == 0;
    if (ok) {
        assert(head.field_count == count_lines(&out));
        assert(head.field_count <= fields.count + 3u);
        assert(!head.upgrade_websocket);
        if (request && wrap == HTTP_WRAP_CHUNKED)
            assert(head.framing == HTTP_CHUNKED && !no_body && !fields.has_length);
        else if (request)
            assert(head.framing != HTTP_CHUNKED && (fields.has_length || head.length == 0));
        http_head_done(&head);
    }
    h2_fields_done(&fields);
    buffer_reset(&out);
    return 0;
}
