#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/io.h"
#include "host/cli/follow.h"

struct seen {
    char text[512];
    size_t used, lines, long_lines;
    int idle_fd; /* told of each idle moment; -1: nobody is */
    int stop_after, stop_with;
};

static int on_line(void *owner, size_t index, const char *line, size_t size)
{
    struct seen *s = owner;
    s->lines++;
    s->long_lines += size == FOLLOW_LINE_MAX;
    if (size < 64)
        s->used += (size_t)snprintf(s->text + s->used, sizeof s->text - s->used, "%zu:%.*s|", index,
                                    (int)size, line);
    return s->stop_after && (int)s->lines >= s->stop_after ? s->stop_with : 0;
}

static void on_idle(void *owner)
{
    const struct seen *s = owner;
    if (s->idle_fd >= 0)
        (void)(bg_write_full(s->idle_fd, "i", 1) < 0); /* the writer has done its part */
}

static int setup(void **state)
{
    char *dir = strdup("/tmp/bg-test-XXXXXX");
    assert_non_null(mkdtemp(dir));
    *state = dir;
    return 0;
}

static void append(const char *dir, const char *name, const void *bytes, size_t size)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(bg_write_full(fd, bytes, size), 0);
    (void)close(fd);
}

static void drop(const char *dir, const char *name)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    (void)unlink(path);
}

static int teardown(void **state)
{
    static const char *const names[] = {"a", "b", "c"};
    for (size_t i = 0; i < 3; i++)
        drop(*state, names[i]);
    (void)rmdir(*state);
    free(*state);
    return 0;
}

static void reads_files_in_order_to_their_ends(void **state)
{
    struct seen seen = {.idle_fd = -1};
    struct bg_err err;
    append(*state, "a", "one\n\ntwo", 8);
    append(*state, "c", "three\n", 6);
    struct follow_opts opts = {.dir = *state,
                               .names = {"a", "b", "c"}, /* there is no b */
                               .count = 3,
                               .on_line = on_line,
                               .on_idle = on_idle,
                               .owner = &seen};
    assert_int_equal(follow_files(&opts, &err), 0);
    assert_string_equal(seen.text, "0:one|0:|2:three|0:two|");
}

static void cuts_lines_without_end(void **state)
{
    struct seen seen = {.idle_fd = -1};
    struct bg_err err;
    char *bytes = malloc(3 * FOLLOW_LINE_MAX);
    memset(bytes, 'x', 3 * FOLLOW_LINE_MAX);
    append(*state, "a", bytes, 3 * FOLLOW_LINE_MAX);
    append(*state, "a", "\nend\n", 5);
    free(bytes);
    struct follow_opts opts = {.dir = *state,
                               .names = {"a"},
                               .count = 1,
                               .on_line = on_line,
                               .on_idle = on_idle,
                               .owner = &seen};
    assert_int_equal(follow_files(&opts, &err), 0);
    assert_int_equal(seen.long_lines, 3);
    assert_string_equal(seen.text, "0:|0:end|");
}

static void ends_with_what_the_reader_says(void **state)
{
    struct seen seen = {.idle_fd = -1, .stop_after = 2, .stop_with = -ENOSPC};
    struct bg_err err;
    append(*state, "a", "1\n2\n3\n", 6);
    struct follow_opts opts = {.dir = *state,
                               .names = {"a"},
                               .count = 1,
                               .on_line = on_line,
                               .on_idle = on_idle,
                               .owner = &seen};
    assert_int_equal(follow_files(&opts, &err), -ENOSPC);
    assert_int_equal(seen.lines, 2);
}

static void refuses_a_missing_folder(void **state)
{
    (void)state;
    struct bg_err err;
    struct follow_opts opts = {.dir = "/nonexistent", .on_line = on_line, .on_idle = on_idle};
    assert_int_equal(follow_files(&opts, &err), -ENOENT);
}

/* A child writes one step whenever the reader is idle; the last one removes the folder. */
static void follows_until_the_folder_is_gone(void **state)
{
    int idle[2];
    assert_int_equal(pipe2(idle, O_CLOEXEC), 0);
    append(*state, "a", "first\n", 6);
    pid_t writer = fork();
    assert_true(writer >= 0);
    if (writer == 0) {
        char byte;
        (void)close(idle[1]);
        (void)alarm(60);
        for (int step = 0; read(idle[0], &byte, 1) == 1; step++) {
            if (step == 0)
                append(*state, "a", "sec", 3);
            else if (step == 1)
                append(*state, "a", "ond\n", 4);
            else if (step == 2)
                append(*state, "b", "third\n", 6);
            else if (step == 3) {
                char moved[128];
                (void)snprintf(moved, sizeof moved, "%s-old", (const char *)*state);
                append(*state, "b", "last\n", 5);
                if (rename(*state, moved) < 0)
                    _exit(1);
                drop(moved, "a");
                drop(moved, "b");
                _exit(rmdir(moved) < 0);
            }
        }
        _exit(1);
    }
    (void)close(idle[0]);
    struct seen seen = {.idle_fd = idle[1]};
    struct bg_err err;
    struct follow_opts opts = {.dir = *state,
                               .names = {"a", "b"},
                               .count = 2,
                               .on = true,
                               .on_line = on_line,
                               .on_idle = on_idle,
                               .owner = &seen};
    (void)signal(SIGPIPE, SIG_IGN);
    assert_int_equal(follow_files(&opts, &err), 0);
    assert_string_equal(seen.text, "0:first|0:second|1:third|1:last|");
    (void)close(idle[1]);
    int status;
    assert_int_equal(waitpid(writer, &status, 0), writer);
    assert_int_equal(status, 0);
}

static void move(const char *dir, const char *from, const char *to)
{
    char old[512], new[512];
    (void)snprintf(old, sizeof old, "%s/%s", dir, from);
    (void)snprintf(new, sizeof new, "%s/%s", dir, to);
    assert_int_equal(rename(old, new), 0);
}

static void drop_audit(const char *dir)
{
    static const char *const names[] = {"audit.ndjson", "audit.ndjson.1", "audit.ndjson.2",
                                        "audit.ndjson.3"};
    for (size_t i = 0; i < 4; i++)
        drop(dir, names[i]);
}

static void reads_the_audit_from_its_oldest_file_on(void **state)
{
    struct seen seen = {.idle_fd = -1};
    struct bg_err err;
    append(*state, "audit.ndjson", "four\n", 5);
    append(*state, "audit.ndjson.1", "two\nthree\n", 10);
    append(*state, "audit.ndjson.3", "one\n", 4); /* there is no .2 */
    struct follow_opts opts = {
        .dir = *state, .audit = true, .on_line = on_line, .on_idle = on_idle, .owner = &seen};
    assert_int_equal(follow_files(&opts, &err), 0);
    assert_string_equal(seen.text, "0:one|0:two|0:three|0:four|");
    drop_audit(*state);
}

static int on_line_told(void *owner, size_t index, const char *line, size_t size)
{
    const struct seen *s = owner;
    int r = on_line(owner, index, line, size);
    return r < 0 ? r : bg_write_full(s->idle_fd, "l", 1);
}

static void stay_silent(void *owner)
{
    (void)owner;
}

static void wait_for_lines(int fd, size_t count)
{
    char bytes[8];
    if (bg_read_full(fd, bytes, count) < 0)
        _exit(1);
}

/* A child turns the files over as the launcher does, with a line of a replaced proxy in the old
 * one, whenever the lines before were seen; the last step removes the folder. */
static void follows_the_audit_through_its_files(void **state)
{
    int told[2];
    const char *dir = *state;
    assert_int_equal(pipe2(told, O_CLOEXEC), 0);
    append(dir, "audit.ndjson", "first\n", 6);
    pid_t writer = fork();
    assert_true(writer >= 0);
    if (writer == 0) {
        char moved[128];
        (void)close(told[1]);
        (void)alarm(60);
        wait_for_lines(told[0], 1);
        for (int turn = 0; turn < 6; turn++) {
            if (turn > 1)
                move(dir, "audit.ndjson.2", "audit.ndjson.3");
            if (turn > 0)
                move(dir, "audit.ndjson.1", "audit.ndjson.2");
            move(dir, "audit.ndjson", "audit.ndjson.1");
            append(dir, "audit.ndjson", "new\n", 4);
            append(dir, "audit.ndjson.1", "late\n", 5);
            wait_for_lines(told[0], 2);
        }
        (void)snprintf(moved, sizeof moved, "%s-old", dir);
        if (rename(dir, moved) < 0)
            _exit(1);
        drop_audit(moved);
        _exit(rmdir(moved) < 0);
    }
    (void)close(told[0]);
    struct seen seen = {.idle_fd = told[1]};
    struct bg_err err;
    struct follow_opts opts = {.dir = dir,
                               .audit = true,
                               .on = true,
                               .on_line = on_line_told,
                               .on_idle = stay_silent,
                               .owner = &seen};
    (void)signal(SIGPIPE, SIG_IGN);
    int r = follow_files(&opts, &err);
    (void)close(told[1]);
    int status;
    assert_int_equal(waitpid(writer, &status, 0), writer);
    assert_int_equal(status, 0);
    assert_int_equal(r, 0);
    assert_int_equal(seen.lines, 13); /* nothing is missed or comes twice */
    size_t late = 0;
    for (const char *p = seen.text; (p = strstr(p, "0:late|")) != NULL; p++)
        late++;
    assert_int_equal(late, 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reads_files_in_order_to_their_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(cuts_lines_without_end, setup, teardown),
        cmocka_unit_test_setup_teardown(ends_with_what_the_reader_says, setup, teardown),
        cmocka_unit_test(refuses_a_missing_folder),
        cmocka_unit_test_setup_teardown(follows_until_the_folder_is_gone, setup, teardown),
        cmocka_unit_test_setup_teardown(reads_the_audit_from_its_oldest_file_on, setup, teardown),
        cmocka_unit_test_setup_teardown(follows_the_audit_through_its_files, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
