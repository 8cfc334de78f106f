/* SHA-256 and cpio: formats with published examples. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/cpio.h"
#include "common/sha256.h"

/* FIPS 180-4 examples and NIST's long message. */
static void sha256_gives_the_published_digests(void **state)
{
    (void)state;
    static const struct {
        const char *text, *digest;
    } cases[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    char digest[65];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bg_sha256_hex(cases[i].text, strlen(cases[i].text), digest);
        assert_string_equal(digest, cases[i].digest);
    }
    char *million = malloc(1000000);
    assert_non_null(million);
    memset(million, 'a', 1000000);
    bg_sha256_hex(million, 1000000, digest);
    assert_string_equal(digest, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    free(million);
}

static void sha256_does_not_care_how_the_bytes_come(void **state)
{
    (void)state;
    uint8_t bytes[300], whole[BG_SHA256_SIZE], parts[BG_SHA256_SIZE];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 7);
    for (size_t size = 0; size <= sizeof bytes; size += 13) {
        struct bg_sha256 hash;
        bg_sha256_init(&hash);
        bg_sha256_update(&hash, bytes, size);
        bg_sha256_final(&hash, whole);
        for (size_t step = 1; step < 130; step += 9) {
            bg_sha256_init(&hash);
            for (size_t at = 0; at < size; at += step)
                bg_sha256_update(&hash, bytes + at, size - at < step ? size - at : step);
            bg_sha256_final(&hash, parts);
            assert_memory_equal(whole, parts, sizeof whole);
        }
    }
}

static void sha256_reads_files(void **state)
{
    (void)state;
    char digest[65];
    uint64_t size;
    struct bg_err err = {0};
    assert_int_equal(bg_sha256_file(AT_FDCWD, "/dev/null", digest, &size, NULL), 0);
    assert_int_equal(size, 0);
    assert_string_equal(digest, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_int_equal(bg_sha256_file(AT_FDCWD, "/no/such", digest, &size, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/no/such"));
    assert_int_equal(bg_sha256_file(AT_FDCWD, "/", digest, &size, &err), -EISDIR);
}

struct archive {
    int fd;
    uint8_t bytes[8192];
    size_t size;
};

static void finish(struct archive *archive)
{
    ssize_t n = pread(archive->fd, archive->bytes, sizeof archive->bytes, 0);
    assert_true(n >= 0);
    archive->size = (size_t)n;
    assert_int_equal(close(archive->fd), 0);
}

/* The number in field index of the header at offset. */
static unsigned long field(const struct archive *archive, size_t offset, size_t index)
{
    char digits[9] = "";
    memcpy(digits, archive->bytes + offset + 6 + index * 8, 8);
    char *end;
    unsigned long value = strtoul(digits, &end, 16);
    assert_ptr_equal(end, digits + 8);
    return value;
}

/* Checks the entry at offset and returns the offset of the next. */
static size_t check(const struct archive *archive, size_t offset, const char *path,
                    unsigned long mode, const char *content)
{
    enum { MODE = 1, SIZE = 6, NAME_SIZE = 11 };
    assert_true(offset % 4 == 0 && offset + 110 <= archive->size);
    assert_memory_equal(archive->bytes + offset, "070701", 6);
    assert_int_equal(field(archive, offset, MODE), mode);
    assert_int_equal(field(archive, offset, NAME_SIZE), strlen(path) + 1);
    assert_int_equal(field(archive, offset, SIZE), strlen(content));
    assert_string_equal((const char *)archive->bytes + offset + 110, path);
    size_t at = (offset + 110 + strlen(path) + 1 + 3) & ~(size_t)3;
    assert_memory_equal(archive->bytes + at, content, strlen(content));
    return (at + strlen(content) + 3) & ~(size_t)3;
}

static void cpio_has_the_entries_in_order(void **state)
{
    (void)state;
    struct archive archive = {.fd = memfd_create("cpio", MFD_CLOEXEC)};
    struct bg_cpio cpio = bg_cpio_init(archive.fd);
    assert_int_equal(bg_cpio_folder(&cpio, "dev", 0755), 0);
    assert_int_equal(bg_cpio_char_device(&cpio, "dev/console", 0600, 5, 1), 0);
    assert_int_equal(bg_cpio_file(&cpio, "init", 0755, "12345", 5), 0);
    assert_int_equal(bg_cpio_file(&cpio, "empty", 0644, NULL, 0), 0);
    assert_int_equal(bg_cpio_end(&cpio), 0);
    finish(&archive);
    assert_int_equal(archive.size, 1024); /* 624 bytes and the padding */
    assert_int_equal(cpio.offset, archive.size);
    size_t at = check(&archive, 0, "dev", S_IFDIR | 0755, "");
    assert_int_equal(field(&archive, at, 9), 5);
    assert_int_equal(field(&archive, at, 10), 1);
    at = check(&archive, at, "dev/console", S_IFCHR | 0600, "");
    at = check(&archive, at, "init", S_IFREG | 0755, "12345");
    at = check(&archive, at, "empty", S_IFREG | 0644, "");
    at = check(&archive, at, "TRAILER!!!", 0, "");
    for (; at < archive.size; at++)
        assert_int_equal(archive.bytes[at], 0);
}

static void cpio_reports_a_failed_write(void **state)
{
    (void)state;
    int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    struct bg_cpio cpio = bg_cpio_init(fd);
    assert_int_equal(bg_cpio_folder(&cpio, "dev", 0755), -ENOSPC);
    assert_int_equal(close(fd), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sha256_gives_the_published_digests),
        cmocka_unit_test(sha256_does_not_care_how_the_bytes_come),
        cmocka_unit_test(sha256_reads_files),
        cmocka_unit_test(cpio_has_the_entries_in_order),
        cmocka_unit_test(cpio_reports_a_failed_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
