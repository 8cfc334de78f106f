#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "net/multipart.h"

#define SEVENTY "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

static void reads_boundaries(void **state)
{
    (void)state;
    static const struct {
        const char *parameters, *mark; /* mark NULL: refused */
    } rows[] = {
        {"boundary=x", "--x"},
        {" BOUNDARY=x ; charset=y", "--x"},
        {"charset=\"a;b=c\";boundary=\"x y'()+_,-./:=?\"", "--x y'()+_,-./:=?"},
        {"boundary=\"\\x\\y\"", "--xy"},
        {"boundary=x;", "--x"},
        {"boundary=" SEVENTY, "--" SEVENTY},
        {"boundary=" SEVENTY "b", NULL},
        {"", NULL},
        {"boundary", NULL},
        {"boundary=", NULL},
        {"boundary=\"\"", NULL},
        {"boundary=\"x", NULL},
        {"boundary=\"x\\", NULL},
        {"boundary=\"x \"", NULL},
        {"boundary=\"x\"y", NULL},
        {"boundary=\"a\\\"b\"", NULL},
        {"boundary=x y", NULL},
        {"boundary=x;;", NULL},
        {"boundary =x", NULL},
        {"boundary=x;boundary=x", NULL},
        {"boundary*=x", NULL},
        {"boundary=x;boundary*0=y", NULL},
        {"boundary=x, boundary=y", NULL},
        {"=x;boundary=x", NULL},
        {"a;boundary=x", NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct multipart_mark mark;
        int r = multipart_mark_read((struct slice){rows[i].parameters, strlen(rows[i].parameters)},
                                    &mark);
        if (r != (rows[i].mark ? 0 : -EPROTO) ||
            (r == 0 && (mark.size != strlen(rows[i].mark) ||
                        memcmp(mark.bytes, rows[i].mark, mark.size) != 0)))
            fail_msg("%s", rows[i].parameters);
    }
}

/* Writes the parts to out as type:content|, with ! before those that are sealed; all that is told
 * must be all that came. */
static int parts(const char *text, size_t size, char *out, size_t out_size)
{
    static const struct multipart_mark mark = {.bytes = "--b", .size = 3};
    struct multipart m;
    struct multipart_part part;
    size_t used = 0, told = 0;
    int r;
    out[0] = '\0';
    multipart_init(&m, (struct slice){text, size}, &mark);
    while ((r = multipart_next(&m, &part)) > 0) {
        assert_ptr_equal(part.before.at, text + told);
        assert_ptr_equal(part.content.at, part.before.at + part.before.size);
        told += part.before.size + part.content.size;
        int n =
            snprintf(out + used, out_size - used, "%s%.*s:%.*s|", part.sealed ? "!" : "",
                     (int)part.type.size, part.type.at, (int)part.content.size, part.content.at);
        used += (size_t)n;
        assert_true(used < out_size);
    }
    if (r == 0)
        assert_int_equal(told + multipart_rest(&m).size, size);
    return r;
}

static void takes_parts_apart(void **state)
{
    (void)state;
    static const struct {
        const char *text, *parts;
    } rows[] = {
        {"--b--", ""},
        {"x--b\r\n\r\nx\r\n--b--", ""},
        {"--b-- \t\r\n--b", ""},
        {"before\r\n--b \r\n\r\nx\r\n--b--", ":x|"},
        {"--b\r\n\r\n\r\n--b\r\nA: b\r\nContent-Type: a/b;c\r\n\r\nx\r\ny--b\r\n--b--\r\nafter",
         ":|a/b;c:x\r\ny--b|"},
        {"--b\r\ncontent-TRANSFER-encoding: 7Bit\r\n\r\nx\r\n--b--", ":x|"},
        {"--b\r\nContent-Transfer-Encoding: base64\r\n\r\nx\r\n--b--", "!:x|"},
        {"--b\r\nContent-Encoding: gzip\r\n\r\nx\r\n--b--", "!:x|"},
        {"--b\r\nContent-Type: a\r\nContent-Type: b\r\n\r\nx\r\n--b--", "!b:x|"},
        {"--b\r\nA: b\r\n c: d\r\n\r\nx\r\n--b--", "!:x|"},
        {"--b\r\nA b: c\r\n\r\nx\r\n--b--", "!:x|"},
        {"--b\r\nA\r\n\r\nx\r\n--b--", ":x|"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char got[256];
        if (parts(rows[i].text, strlen(rows[i].text), got, sizeof got) != 0 ||
            strcmp(got, rows[i].parts) != 0)
            fail_msg("row %zu: %s", i, got);
    }
}

static void refuses_what_has_two_readings(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        "x",
        "--c\r\n\r\nx\r\n--c--",
        "\n--b\r\n\r\nx\r\n--b--",
        "\r--b\r\n\r\nx\r\n--b--",
        "--b\n\r\nx\r\n--b--",
        "--b\r\n\r\nx\n--b--",
        "--b\r\n\r\nx\r--b--",
        "--b\r\n\r\nx\r\n--bc\r\n--b--",
        "--b\r\n\r\nx\r\n--b-\r\n--b--",
        "--b\r\n\r\nx\r\n--b--c",
        "--b\r\n\r\n--b--",
        "--b\r\n--b--",
        "--b\r\nA: b\r\n--b--",
        "--b\r\nA: b\n\r\nx\r\n--b--",
        "--b\r\nA: b\rC: d\r\n\r\nx\r\n--b--",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char got[256];
        if (parts(texts[i], strlen(texts[i]), got, sizeof got) != -EPROTO)
            fail_msg("row %zu: %s", i, got);
    }
}

static void refuses_every_truncation(void **state)
{
    (void)state;
    static const char text[] = "x\r\n--b\r\nA: b\r\n\r\nx\r\n--b\r\n\r\ny\r\n--b--";
    char got[256];
    for (size_t size = 1; size < sizeof text - 1; size++) {
        char *copy = test_malloc(size);
        memcpy(copy, text, size);
        assert_int_equal(parts(copy, size, got, sizeof got), -EPROTO);
        test_free(copy);
    }
    assert_int_equal(parts(text, sizeof text - 1, got, sizeof got), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_boundaries),
        cmocka_unit_test(takes_parts_apart),
        cmocka_unit_test(refuses_what_has_two_readings),
        cmocka_unit_test(refuses_every_truncation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
