#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/log.h"

static int log_fd;

/* What has been logged, NUL-terminated; empties the file. */
static size_t take(char *out, size_t out_size)
{
    ssize_t n = pread(log_fd, out, out_size - 1, 0);
    assert_true(n >= 0);
    out[n] = '\0';
    assert_int_equal(ftruncate(log_fd, 0), 0);
    assert_int_equal(lseek(log_fd, 0, SEEK_SET), 0);
    return (size_t)n;
}

static void one_line_with_level_and_tag(void **state)
{
    (void)state;
    char line[4096];
    const struct bg_log log = {.fd = log_fd, .level = BG_LOG_INFO, .tag = "vm=web"};
    bg_log(&log, BG_LOG_WARN, "qmp: %d bytes", 3);
    size_t size = take(line, sizeof line);
    int year, end = 0;
    assert_int_equal(
        sscanf(line, "%4d-%*2d-%*2dT%*2d:%*2d:%*2d.%*3dZ warn vm=web: %n", &year, &end), 1);
    assert_true(year >= 2024);
    assert_true(end > 0);
    assert_string_equal(line + end, "qmp: 3 bytes\n");
    assert_int_equal(line[size - 1], '\n');
}

static void levels_above_the_loggers_are_dropped(void **state)
{
    (void)state;
    char line[64];
    const struct bg_log log = {.fd = log_fd, .level = BG_LOG_WARN, .tag = "t"};
    bg_log(&log, BG_LOG_INFO, "no");
    bg_log(&log, BG_LOG_DEBUG, "no");
    assert_int_equal(take(line, sizeof line), 0);
}

static void foreign_bytes_stay_on_their_line(void **state)
{
    (void)state;
    char line[4096];
    const struct bg_log log = {.fd = log_fd, .level = BG_LOG_INFO, .tag = "t"};
    bg_log(&log, BG_LOG_INFO, "guest says %s", "\x1b]0;x\x07\nerror t: forged");
    size_t size = take(line, sizeof line);
    assert_ptr_equal(memchr(line, '\n', size), line + size - 1);
    assert_null(strchr(line, '\x1b'));
    assert_null(strchr(line, '\x07'));
}

static void long_lines_are_cut_and_end_in_a_newline(void **state)
{
    (void)state;
    char line[8192], text[4000];
    memset(text, '\x01', sizeof text - 1); /* four printable bytes each */
    text[sizeof text - 1] = '\0';
    const struct bg_log log = {.fd = log_fd, .level = BG_LOG_INFO, .tag = "t"};
    bg_log(&log, BG_LOG_INFO, "%s", text);
    size_t size = take(line, sizeof line);
    assert_true(size > 900 && size < 1300);
    assert_int_equal(line[size - 1], '\n');
}

static void no_logger_and_no_fd_are_fine(void **state)
{
    (void)state;
    bg_log(NULL, BG_LOG_ERROR, "x");
    const struct bg_log none = {.fd = -1, .level = BG_LOG_DEBUG, .tag = "t"};
    bg_log(&none, BG_LOG_ERROR, "x");
    const struct bg_log untagged = {.fd = log_fd, .level = BG_LOG_DEBUG};
    bg_log(&untagged, BG_LOG_ERROR, "x");
    char line[128];
    (void)take(line, sizeof line);
    assert_non_null(strstr(line, " error -: x\n"));
}

int main(void)
{
    log_fd = memfd_create("log", MFD_CLOEXEC);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_line_with_level_and_tag),
        cmocka_unit_test(levels_above_the_loggers_are_dropped),
        cmocka_unit_test(foreign_bytes_stay_on_their_line),
        cmocka_unit_test(long_lines_are_cut_and_end_in_a_newline),
        cmocka_unit_test(no_logger_and_no_fd_are_fine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
