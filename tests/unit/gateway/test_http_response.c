#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/limits.h"
#include "host/gateway/http_response.h"

/* Feeds in pieces of step bytes. Returns what is left of text behind the head, or NULL. */
static const char *feed(struct http_response *h, const char *text, size_t step, int want)
{
    size_t size = strlen(text), at = 0;
    struct bg_err err;
    int r = 0;
    while (r == 0 && !h->done && at < size) {
        size_t used = 0;
        r = http_response_feed(h, (const uint8_t *)text + at, size - at < step ? size - at : step,
                               &used, &err);
        at += used;
    }
    assert_int_equal(r, want);
    return h->done ? text + at : NULL;
}

static const char *field(const struct http_response *h, size_t index, size_t part)
{
    return json_string_value(json_array_get(json_array_get(h->fields, index), part));
}

static void a_head_is_read_in_any_pieces(void **state)
{
    (void)state;
    static const char text[] = "HTTP/1.1 404 Not Found\r\nA: b \r\nno field\r\nSet-Cookie:x\r\n"
                               "set-cookie: \xff\r\nE:\r\n\r\nbody\r\n\r\n";
    for (size_t step = 1; step <= sizeof text; step++) {
        struct http_response h = http_response(true);
        assert_string_equal(feed(&h, text, step, 0), "body\r\n\r\n");
        assert_int_equal(h.status, 404);
        assert_string_equal(json_string_value(h.status_text), "Not Found");
        assert_int_equal(json_array_size(h.fields), 4);
        assert_string_equal(field(&h, 0, 0), "A");
        assert_string_equal(field(&h, 0, 1), "b");
        assert_string_equal(field(&h, 2, 1), "\xef\xbf\xbd");
        assert_string_equal(field(&h, 3, 1), "");
        http_response_done(&h);
    }
}

static void heads_before_the_answer_are_passed_over(void **state)
{
    (void)state;
    static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n"
                               "HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n"
                               "HTTP/1.0 200\nA: b\n\nbody";
    struct http_response h = http_response(true);
    assert_string_equal(feed(&h, text, 7, 0), "body");
    assert_int_equal(h.status, 200);
    assert_string_equal(json_string_value(h.status_text), "");
    http_response_done(&h);
    h = http_response(false);
    assert_memory_equal(feed(&h, text, 7, 0), "HTTP/1.0 200", 12);
    assert_int_equal(h.status, 302);
    http_response_done(&h);
    h = http_response(true); /* leads nowhere: it is the answer */
    assert_string_equal(feed(&h, "HTTP/1.1 304 Not Modified\r\n\r\n", 9, 0), "");
    http_response_done(&h);
}

static void what_is_no_head_is_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {"\n\n",
                                        "\r\n\r\n",
                                        "hello\r\n\r\n",
                                        "HTTP/1.1\r\n\r\n",
                                        "HTTP/1.1 2x0 OK\r\n\r\n",
                                        "HTTP/1.1 20\r\n\r\n",
                                        "HTTP/1.1 2000 OK\r\n\r\n",
                                        "HTTP/1.1 099 OK\r\n\r\n"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct http_response h = http_response(true);
        assert_null(feed(&h, wrong[i], 99, -EPROTO));
        http_response_done(&h);
    }
    char *large = malloc(BG_GATEWAY_HEAD_MAX + 2);
    assert_non_null(large);
    memset(large, 'a', BG_GATEWAY_HEAD_MAX + 1);
    large[BG_GATEWAY_HEAD_MAX + 1] = '\0';
    struct http_response h = http_response(true);
    assert_null(feed(&h, large, 4096, -EMSGSIZE));
    http_response_done(&h);
    free(large);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_head_is_read_in_any_pieces),
        cmocka_unit_test(heads_before_the_answer_are_passed_over),
        cmocka_unit_test(what_is_no_head_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
