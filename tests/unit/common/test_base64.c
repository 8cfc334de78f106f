#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>

#include "common/base64.h"

static const struct {
    const char *plain, *encoded;
} rows[] = {
    /* RFC 4648 §10 */
    {"", ""},
    {"f", "Zg=="},
    {"fo", "Zm8="},
    {"foo", "Zm9v"},
    {"foob", "Zm9vYg=="},
    {"fooba", "Zm9vYmE="},
    {"foobar", "Zm9vYmFy"},
    {"\xff\xfe\xfd>?", "//79Pj8="},
};

static void encodes_and_decodes(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t size = strlen(rows[i].plain), encoded_size = strlen(rows[i].encoded);
        char encoded[64];
        uint8_t plain[64];
        assert_int_equal(BG_BASE64_SIZE(size), encoded_size);
        bg_base64_encode((const uint8_t *)rows[i].plain, size, encoded);
        assert_memory_equal(encoded, rows[i].encoded, encoded_size);
        assert_int_equal(bg_base64_decode(encoded, encoded_size, plain), size);
        assert_memory_equal(plain, rows[i].plain, size);
        while (encoded_size > 0 && encoded[encoded_size - 1] == '=')
            encoded_size--;
        assert_int_equal(bg_base64_decode(encoded, encoded_size, plain), size);
    }
}

static void refuses_what_no_encoder_makes(void **state)
{
    (void)state;
    static const char *const bad[] = {"A",    "AAAAA", "A===",  "AA=",      "AAA==",     "AA A",
                                      "AA-_", "A=AA",  "AAAA=", "AAAA====", "\xc3\xbc=="};
    uint8_t plain[64];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (bg_base64_decode(bad[i], strlen(bad[i]), plain) != -EINVAL)
            fail_msg("'%s'", bad[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(encodes_and_decodes),
        cmocka_unit_test(refuses_what_no_encoder_makes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
