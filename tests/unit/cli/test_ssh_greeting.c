#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "common/base64.h"
#include "common/bytes.h"
#include "host/cli/ssh_greeting.h"

/* A key of the right form with each field as given. */
static void make_key(uint32_t type_size, const char *type, uint32_t point_size, char *out)
{
    uint8_t blob[51], zero[32] = {0};
    struct bg_writer w = bg_writer_init(blob, sizeof blob);
    bg_writer_u32be(&w, type_size);
    bg_writer_bytes(&w, type, strlen(type));
    bg_writer_u32be(&w, point_size);
    bg_writer_bytes(&w, zero, sizeof zero);
    assert_true(bg_writer_ok(&w) && w.used == sizeof blob);
    bg_base64_encode(blob, sizeof blob, out);
    out[BG_BASE64_SIZE(sizeof blob)] = '\0';
}

static void reads_a_greeting_however_it_is_cut(void **state)
{
    (void)state;
    char key[SSH_KEY_SIZE], line[256];
    make_key(11, "ssh-ed25519", 32, key);
    int size = snprintf(line, sizeof line, "bellglass-ssh-1 ssh-ed25519 %s\nSSH-2.0-x\r\n", key);
    size_t line_size = strcspn(line, "\n") + 1;
    for (size_t piece = 1; piece <= (size_t)size; piece++) {
        struct ssh_greeting g = {0};
        size_t at = 0;
        while (!g.done) {
            size_t here = (size_t)size - at < piece ? (size_t)size - at : piece;
            ssize_t n = ssh_greeting_feed(&g, (const uint8_t *)line + at, here, NULL);
            assert_true(n > 0 && (size_t)n <= here);
            at += (size_t)n;
        }
        assert_int_equal(at, line_size); /* nothing of what follows */
        assert_string_equal(g.key, key);
    }
}

static void refuses_other_lines(void **state)
{
    (void)state;
    char key[SSH_KEY_SIZE], other[SSH_KEY_SIZE], text[8][256];
    struct ssh_greeting g;
    make_key(11, "ssh-ed25519", 32, key);
    (void)snprintf(text[0], sizeof text[0], "bellglass-ssh-2 ssh-ed25519 %s\n", key);
    (void)snprintf(text[1], sizeof text[1], "bellglass-ssh-1 ssh-rsa %s\n", key);
    (void)snprintf(text[2], sizeof text[2], "bellglass-ssh-1 ssh-ed25519 %sA\n", key);
    (void)snprintf(text[3], sizeof text[3], "bellglass-ssh-1 ssh-ed25519 %.*s\n", SSH_KEY_SIZE - 2,
                   key);
    make_key(12, "ssh-ed25519", 32, other);
    (void)snprintf(text[4], sizeof text[4], "bellglass-ssh-1 ssh-ed25519 %s\n", other);
    make_key(11, "ssh-ed25518", 32, other);
    (void)snprintf(text[5], sizeof text[5], "bellglass-ssh-1 ssh-ed25519 %s\n", other);
    make_key(11, "ssh-ed25519", 33, other);
    (void)snprintf(text[6], sizeof text[6], "bellglass-ssh-1 ssh-ed25519 %s\n", other);
    (void)snprintf(text[7], sizeof text[7], "\n");
    for (size_t i = 0; i < 8; i++) {
        g = (struct ssh_greeting){0};
        assert_int_equal(ssh_greeting_feed(&g, (const uint8_t *)text[i], strlen(text[i]), NULL),
                         -EPROTO);
        assert_false(g.done);
    }
    /* A line without end is refused at its maximum, however it comes. */
    uint8_t flood[SSH_GREETING_MAX];
    memset(flood, 'x', sizeof flood);
    g = (struct ssh_greeting){0};
    assert_int_equal(ssh_greeting_feed(&g, flood, sizeof flood, NULL), -EPROTO);
    for (size_t i = 0; i + 1 < sizeof flood; i++)
        assert_int_equal(ssh_greeting_feed(&g, flood, 1, NULL), 1);
    assert_int_equal(ssh_greeting_feed(&g, flood, 1, NULL), -EPROTO);
    /* A NUL does not end it early. */
    g = (struct ssh_greeting){0};
    int size = snprintf(text[0], sizeof text[0], "bellglass-ssh-1 ssh-ed25519 %s%cx\n", key, 0);
    assert_int_equal(ssh_greeting_feed(&g, (const uint8_t *)text[0], (size_t)size, NULL), -EPROTO);
}

static void a_public_key_file_has_a_comment(void **state)
{
    (void)state;
    char key[SSH_KEY_SIZE], out[SSH_KEY_SIZE], text[256];
    make_key(11, "ssh-ed25519", 32, key);
    (void)snprintf(text, sizeof text, "ssh-ed25519 %s me@host of mine", key);
    assert_int_equal(ssh_key_parse(text, out, NULL), 0);
    assert_string_equal(out, key);
    assert_int_equal(ssh_key_parse("", out, NULL), -EPROTO);
    assert_int_equal(ssh_key_parse("ssh-ed25519", out, NULL), -EPROTO);
    for (size_t cut = 0; cut < strlen("ssh-ed25519 ") + SSH_KEY_SIZE - 1; cut++) {
        char part[256];
        (void)snprintf(part, sizeof part, "%.*s", (int)cut, text);
        assert_int_equal(ssh_key_parse(part, out, NULL), -EPROTO);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_a_greeting_however_it_is_cut),
        cmocka_unit_test(refuses_other_lines),
        cmocka_unit_test(a_public_key_file_has_a_comment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
