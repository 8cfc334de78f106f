/* Lines: a key, a pattern for its value, a header field's name, a pattern for it, and then a
 * request's target and the field's value. A query that has one reading keeps it when it is written
 * anew with every byte escaped; and nothing is covered by conditions on a query that has several.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "net/request_match.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void put_escaped(struct buffer *out, const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        buffer_printf(out, "%%%02x", (unsigned)(uint8_t)text[i]);
}

static void check_again(const struct request_query *query)
{
    struct request_query again;
    struct buffer out = buffer_init(1 << 20);
    buffer_put_text(&out, "/?");
    for (size_t i = 0; i < query->count; i++) {
        put_escaped(&out, query->text + query->pairs[i].key, query->pairs[i].key_size);
        buffer_put_text(&out, "=");
        put_escaped(&out, query->text + query->pairs[i].value, query->pairs[i].value_size);
        buffer_put_text(&out, "&");
    }
    const struct slice target = {(const char *)buffer_bytes(&out), buffer_size(&out)};
    if (request_query_parse(target, &again) == 0) { /* else it is too long now */
        assert(again.count == query->count && !again.plus);
        for (size_t i = 0; i < again.count; i++) {
            assert(again.pairs[i].value_size == query->pairs[i].value_size);
            assert(memcmp(again.text + again.pairs[i].key, query->text + query->pairs[i].key,
                          again.pairs[i].key_size + again.pairs[i].value_size) == 0);
        }
        request_query_done(&again);
    } else {
        assert(target.size > 8192);
    }
    buffer_reset(&out);
}

static void check(const struct request_match *match, const struct request_text *text)
{
    struct request_view view;
    request_view_init(&view, text, (unsigned)REQUEST_PATH | REQUEST_QUERY);
    bool covers = request_match_covers(match, &view);
    if (view.clear & REQUEST_QUERY)
        check_again(&view.query);
    if (request_match_query_unclear(match, &view))
        assert(!covers);
    if (!(view.clear & REQUEST_QUERY) && request_match_asks_query(match))
        assert(request_match_query_unclear(match, &view));
    request_view_done(&view);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char *text = malloc(size + 1), *rest = text, *lines[6];
    if (!text)
        abort();
    if (size > 0)
        memcpy(text, bytes, size);
    text[size] = '\0';
    for (size_t i = 0; i < 6; i++) {
        lines[i] = rest ? strsep(&rest, "\n") : NULL;
        if (!lines[i])
            lines[i] = text + size;
    }
    struct request_match match = {.only_keys = size % 2 == 0, .any_field = size % 3 == 0};
    const struct http_field fields[] = {
        {{lines[2], strlen(lines[2])}, {lines[5], strlen(lines[5])}},
        {{lines[2], strlen(lines[2])}, {"x", 1}}};
    const struct request_text request = {
        {"GET", 3}, {lines[4], strlen(lines[4])}, fields, 1 + size % 2};
    if (request_match_add_query(&match, lines[0], lines[1], NULL) == 0 &&
        request_match_add_header(&match, lines[2], lines[3], NULL) == 0)
        check(&match, &request);
    request_match_done(&match);
    free(text);
    return 0;
}
