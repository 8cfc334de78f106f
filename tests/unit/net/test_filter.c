#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>

#include "net/filter.h"
#include "net/locked.h"

#define PLACEHOLDER SECRET_PREFIX "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define VALUE       "s3cret/Key+Of=z"

/* What becomes of a body under the field lines; static memory. want: of filter_start. */
static const char *filtered(const char *value, const char *fields, const char *body, int want)
{
    static const char *const hosts[] = {"a.org"};
    static char shown[4096];
    struct secrets secrets = {0};
    struct bg_err err = {0};
    struct http_head head;
    char text[512];
    void *copy = locked_new(strlen(value), NULL);
    assert_non_null(copy);
    memcpy(copy, value, strlen(value));
    assert_int_equal(secrets_add(&secrets, "KEY", PLACEHOLDER, hosts, 1, copy, strlen(value), &err),
                     0);
    (void)snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\n%s\r\n", fields);
    assert_int_equal(
        http_head_parse_response(text, strlen(text), (struct slice){"GET", 3}, &head, &err), 0);
    struct filter filter;
    filter_init(&filter, &secrets, ~UINT64_C(0));
    int r = filter_start(&filter, &head, &err);
    assert_int_equal(r, want);
    shown[0] = '\0';
    if (r == 0) {
        filter_put(&filter, (const uint8_t *)body, strlen(body));
        filter_end(&filter);
        while (filter_ready(&filter))
            assert_int_equal(filter_step(&filter, &err), 0);
        (void)snprintf(shown, sizeof shown, "%.*s", (int)buffer_size(&filter.out),
                       (const char *)buffer_bytes(&filter.out));
        /* A trailer is a text, and has no size that counts. */
        struct buffer out = buffer_init(4096);
        scrub_text(&filter.scrub, value, strlen(value), &out);
        assert_int_equal(buffer_size(&out), SECRET_PLACEHOLDER_SIZE);
        assert_memory_equal(buffer_bytes(&out), PLACEHOLDER, SECRET_PLACEHOLDER_SIZE);
        buffer_reset(&out);
    }
    filter_done(&filter);
    http_head_done(&head);
    secrets_done(&secrets);
    return shown;
}

static void keeps_sizes_where_they_count(void **state)
{
    (void)state;
    static const char *const counting[] = {"application/grpc",     "Application/GRPC+proto; x=y",
                                           "application/grpc-web", "application/connect+json",
                                           "application/protobuf", "application/x-protobuf",
                                           "application/proto"};
    static const char *const others[] = {"application/json", "text/plain", "application/gr",
                                         "x-application/grpc"};
    char fields[128];
    for (size_t i = 0; i < sizeof counting / sizeof *counting; i++) {
        (void)snprintf(fields, sizeof fields, "content-type: %s\r\n", counting[i]);
        assert_string_equal(filtered(VALUE, fields, "a" VALUE "b", 0), "aBELLGLASS_SECREb");
    }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        (void)snprintf(fields, sizeof fields, "Content-Type: %s\r\n", others[i]);
        assert_string_equal(filtered(VALUE, fields, "a" VALUE "b", 0), "a" PLACEHOLDER "b");
    }
    assert_string_equal(filtered(VALUE, "", VALUE, 0), PLACEHOLDER);
}

static void fills_what_is_longer_than_a_placeholder(void **state)
{
    (void)state;
    char value[SECRET_PLACEHOLDER_SIZE + 4], want[SECRET_PLACEHOLDER_SIZE + 4];
    for (size_t size = SECRET_PLACEHOLDER_SIZE - 1; size < sizeof value; size++) {
        for (size_t i = 0; i < size; i++)
            value[i] = (char)('a' + i * 7 % 26);
        value[size] = '\0';
        (void)snprintf(want, sizeof want, "%.*s", (int)size, PLACEHOLDER "***");
        assert_string_equal(filtered(value, "Content-Type: application/grpc\r\n", value, 0), want);
    }
}

/* Two messages, one byte at a time: what is in out when the first has come. */
static void holds_no_message_back(void **state)
{
    (void)state;
    static const char *const hosts[] = {"a.org"};
    static const char head_text[] = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\n\r\n";
    static const uint8_t beginnings[] = "s=Fz"; /* of the secret, reversed, rot13, hex ... */
    for (size_t i = 0; i < sizeof beginnings - 1; i++) {
        struct secrets secrets = {0};
        struct bg_err err = {0};
        struct http_head head;
        void *copy = locked_new(strlen(VALUE), NULL);
        assert_non_null(copy);
        memcpy(copy, VALUE, strlen(VALUE));
        assert_int_equal(
            secrets_add(&secrets, "KEY", PLACEHOLDER, hosts, 1, copy, strlen(VALUE), &err), 0);
        assert_int_equal(http_head_parse_response(head_text, strlen(head_text),
                                                  (struct slice){"GET", 3}, &head, &err),
                         0);
        struct filter filter;
        filter_init(&filter, &secrets, ~UINT64_C(0));
        assert_int_equal(filter_start(&filter, &head, &err), 0);
        uint8_t message[] = "\0\0\0\0\3ab?"; /* and a NUL, which begins the next one */
        message[7] = beginnings[i];
        for (size_t at = 0; at < sizeof message; at++) {
            filter_put(&filter, message + at, 1);
            while (filter_ready(&filter))
                assert_int_equal(filter_step(&filter, &err), 0);
            assert_int_equal(buffer_size(&filter.out), at + 1);
        }
        assert_memory_equal(buffer_bytes(&filter.out), message, sizeof message);
        filter_done(&filter);
        http_head_done(&head);
        secrets_done(&secrets);
    }
}

static void refuses_compressed_messages(void **state)
{
    (void)state;
    static const char *const bad[] = {"grpc-encoding: gzip\r\n", "Grpc-Encoding: x\r\n",
                                      "grpc-encoding: identity\r\ngrpc-encoding: gzip\r\n",
                                      "grpc-encoding:\r\n", "connect-content-encoding: br\r\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        (void)filtered(VALUE, bad[i], "", -ENOTSUP);
    assert_string_equal(filtered(VALUE, "grpc-encoding: Identity\r\n", "x", 0), "x");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_sizes_where_they_count),
        cmocka_unit_test(fills_what_is_longer_than_a_placeholder),
        cmocka_unit_test(holds_no_message_back),
        cmocka_unit_test(refuses_compressed_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
