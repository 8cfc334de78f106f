#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "host/cli/offline.h"

static void knows_the_sockets_of_helpers(void **state)
{
    (void)state;
    char id[32] = "";
    assert_true(offline_socket_id("sbx_0123456789abcdefghij.0a1b2c.sock", id));
    assert_string_equal(id, "sbx_0123456789abcdefghij.0a1b2c");
    assert_true(offline_socket_id("image.ffffff.sock", id));
    assert_string_equal(id, "image.ffffff");
    static const char *const others[] = {"",
                                         ".",
                                         "..",
                                         ".sock",
                                         "sbx_0123456789abcdefghij.sock",
                                         ".0a1b2c.sock",
                                         "image.0a1b2.sock",
                                         "image.0a1b2g.sock",
                                         "image.0a1b2c.sock.",
                                         "image.0a1b2c.sockx",
                                         "image-0a1b2c.sock",
                                         "image.0A1B2C.sock",
                                         "sbx_0123456789abcdefghijk.0a1b2c.sock"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (offline_socket_id(others[i], id))
            fail_msg("'%s' was taken for a helper's", others[i]);
}

static int parse(const char *line, enum offline_line *ret, char text[BG_ERR_TEXT_SIZE],
                 struct bg_err *err)
{
    return offline_parse_line(line, strlen(line), ret, text, err);
}

static void reads_the_lines_of_a_helper(void **state)
{
    (void)state;
    enum offline_line kind;
    char text[BG_ERR_TEXT_SIZE];
    struct bg_err err;
    assert_int_equal(parse("{\"progress\":\"making\"}", &kind, text, &err), 0);
    assert_int_equal(kind, OFFLINE_PROGRESS);
    assert_string_equal(text, "making");
    assert_int_equal(parse("{\"ready\":true,\"id\":\"image.ffffff\"}", &kind, text, &err), 0);
    assert_int_equal(kind, OFFLINE_READY);
    assert_string_equal(text, "image.ffffff");
    assert_int_equal(parse("{\"ended\":true}", &kind, text, &err), 0);
    assert_int_equal(kind, OFFLINE_ENDED);
    assert_int_equal(parse("{\"error\":\"no \\u001b disk\",\"errno\":2}", &kind, text, &err),
                     -ENOENT);
    assert_null(strchr(err.text, '\x1b'));
    assert_int_equal(parse("{\"error\":\"odd\",\"errno\":-2}", &kind, text, &err), -EREMOTEIO);
    static const char *const bad[] = {"", "{}", "[]", "{\"ended\":false}", "{\"id\":7}", "x"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(parse(bad[i], &kind, text, &err), -EPROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(knows_the_sockets_of_helpers),
        cmocka_unit_test(reads_the_lines_of_a_helper),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
