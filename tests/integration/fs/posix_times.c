/* utimensat, and what moves times by itself. */
#include "tests/integration/fs/posix_check.h"

#include <stdbool.h>
#include <time.h>

static struct timespec at(time_t seconds, long nanoseconds)
{
    return (struct timespec){.tv_sec = seconds, .tv_nsec = nanoseconds};
}

static void set_times(const char *name, struct timespec atime, struct timespec mtime)
{
    const struct timespec times[2] = {atime, mtime};
    assert_ok(utimensat(AT_FDCWD, name, times, AT_SYMLINK_NOFOLLOW));
}

static void times_are_kept_to_the_nanosecond(void)
{
    static const struct timespec table[] = {{0, 0},
                                            {1, 1},
                                            {1700000000, 999999999},
                                            {-1, 500000000}, /* before 1970 */
                                            {-2000000000, 7},
                                            {2147483648, 1}, /* beyond 32 bits */
                                            {4102444800, 123456789}};
    make_file("f", "x");
    assert_ok(mkdir("d", 0755));
    assert_ok(symlink("f", "l"));
    static const char *const names[] = {"f", "d", "l"};
    for (size_t n = 0; n < 3; n++)
        for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
            set_times(names[n], table[i], table[(i + 1) % 7]);
            struct stat st = stat_of(names[n]);
            assert_int_equal(st.st_atim.tv_sec, table[i].tv_sec);
            assert_int_equal(st.st_atim.tv_nsec, table[i].tv_nsec);
            assert_int_equal(st.st_mtim.tv_sec, table[(i + 1) % 7].tv_sec);
            assert_int_equal(st.st_mtim.tv_nsec, table[(i + 1) % 7].tv_nsec);
        }
}

static void now_and_omit_are_what_they_say(void)
{
    make_file("f", "x");
    set_times("f", at(100, 1), at(200, 2));
    set_times("f", at(0, UTIME_OMIT), at(0, UTIME_OMIT));
    struct stat st = stat_of("f");
    assert_int_equal(st.st_atim.tv_sec, 100);
    assert_int_equal(st.st_mtim.tv_sec, 200);
    set_times("f", at(0, UTIME_OMIT), at(300, 3));
    st = stat_of("f");
    assert_int_equal(st.st_atim.tv_nsec, 1);
    assert_int_equal(st.st_mtim.tv_sec, 300);
    set_times("f", at(0, UTIME_NOW), at(0, UTIME_OMIT));
    st = stat_of("f");
    assert_true(st.st_atim.tv_sec > 1000000000);
    assert_int_equal(st.st_mtim.tv_sec, 300);
    set_times("f", at(0, UTIME_NOW), at(0, UTIME_NOW));
    st = stat_of("f");
    assert_int_equal(st.st_atim.tv_sec, st.st_mtim.tv_sec);
    assert_int_equal(st.st_atim.tv_nsec, st.st_mtim.tv_nsec);
    const struct timespec wrong[2] = {{.tv_nsec = 1000000000}, {0}};
    assert_errno(utimensat(AT_FDCWD, "f", wrong, 0), EINVAL);
    assert_ok(utimensat(AT_FDCWD, "f", NULL, 0));
    int fd = open("f", O_RDONLY | O_CLOEXEC);
    assert_ok(fd);
    const struct timespec times[2] = {{.tv_sec = 7}, {.tv_sec = 8}};
    assert_ok(futimens(fd, times));
    assert_int_equal(stat_of("f").st_mtim.tv_sec, 8);
    assert_ok(close(fd));
}

/* Which of the times of a file an operation has moved, from a state in which atime and mtime are
 * old. ctime cannot be set: it counts as moved when it is another. */
static void expect_moved(const char *name, void (*operation)(void), bool mtime)
{
    set_times(name, at(1000, 0), at(1000, 0));
    struct stat before = stat_of(name);
    operation();
    struct stat after = stat_of(name);
    if ((after.st_mtim.tv_sec != 1000) != mtime)
        fail_msg("%s: mtime %s", name, mtime ? "stayed" : "moved");
    bool ctime = before.st_ctim.tv_sec != after.st_ctim.tv_sec ||
                 before.st_ctim.tv_nsec != after.st_ctim.tv_nsec;
    if (!ctime)
        fail_msg("%s: ctime stayed", name);
}

/* So that even a clock of 4 ms steps has moved on. */
static void let_the_clock_tick(void)
{
    struct timespec start, now;
    assert_ok(clock_gettime(CLOCK_REALTIME_COARSE, &start));
    do {
        assert_ok(clock_gettime(CLOCK_REALTIME_COARSE, &now));
    } while (start.tv_nsec == now.tv_nsec);
}

static void do_write(void)
{
    let_the_clock_tick();
    int fd = open("d/f", O_WRONLY | O_CLOEXEC);
    assert_ok(fd);
    assert_int_equal(write(fd, "y", 1), 1);
    assert_ok(close(fd));
}

static void do_truncate(void)
{
    let_the_clock_tick();
    assert_ok(truncate("d/f", 100));
}

static void do_open_truncated(void)
{
    let_the_clock_tick();
    int fd = open("d/f", O_WRONLY | O_TRUNC | O_CLOEXEC);
    assert_ok(fd);
    assert_ok(close(fd));
}

static void do_chmod(void)
{
    let_the_clock_tick();
    assert_ok(chmod("d/f", stat_of("d/f").st_mode == (S_IFREG | 0600) ? 0644 : 0600));
}

static void do_link(void)
{
    let_the_clock_tick();
    assert_ok(link("d/f", "linked"));
}

static void do_unlink_other(void)
{
    let_the_clock_tick();
    assert_ok(unlink("linked"));
}

static void do_make(void)
{
    let_the_clock_tick();
    make_file("d/new", "x");
}

static void do_remove(void)
{
    let_the_clock_tick();
    assert_ok(unlink("d/new"));
}

static void do_make_folder(void)
{
    let_the_clock_tick();
    assert_ok(mkdir("d/e", 0755));
}

static void do_rename_in(void)
{
    let_the_clock_tick();
    assert_ok(rename("d/e", "d/g"));
}

static void do_remove_folder(void)
{
    let_the_clock_tick();
    assert_ok(rmdir("d/g"));
}

static void changes_move_the_right_times(void)
{
    assert_ok(mkdir("d", 0755));
    make_file("d/f", "x");
    expect_moved("d/f", do_write, true);
    expect_moved("d/f", do_truncate, true);
    expect_moved("d/f", do_open_truncated, true);
    expect_moved("d/f", do_chmod, false);
    expect_moved("d/f", do_link, false);
    expect_moved("d/f", do_unlink_other, false);
    expect_moved("d", do_make, true);
    expect_moved("d", do_remove, true);
    expect_moved("d", do_make_folder, true);
    expect_moved("d", do_rename_in, true);
    expect_moved("d", do_remove_folder, true);
}

static void failing_calls_move_no_times(void)
{
    assert_ok(mkdir("d", 0755));
    make_file("d/f", "x");
    set_times("d", at(1000, 0), at(1000, 0));
    set_times("d/f", at(1000, 0), at(1000, 0));
    assert_errno(mkdir("d/f", 0755), EEXIST);
    assert_errno(unlink("d/none"), ENOENT);
    assert_errno(link("d/f", "d/f"), EEXIST);
    assert_errno(truncate("d/f", -1), EINVAL);
    assert_errno(rename("d/f", "d/none/x"), ENOENT);
    assert_int_equal(stat_of("d").st_mtim.tv_sec, 1000);
    assert_int_equal(stat_of("d/f").st_mtim.tv_sec, 1000);
}

static void only_owners_set_times(void)
{
    if (geteuid() == 0)
        return;
    const struct timespec times[2] = {{.tv_sec = 5}, {.tv_sec = 6}};
    make_file("f", "x");
    assert_ok(chmod("f", 0));
    assert_ok(utimensat(AT_FDCWD, "f", times, 0)); /* rights do not matter to the owner */
    assert_int_equal(stat_of("f").st_mtim.tv_sec, 6);
}

static const struct posix_case cases[] = {
    {"times_are_kept_to_the_nanosecond", times_are_kept_to_the_nanosecond, NULL},
    {"now_and_omit_are_what_they_say", now_and_omit_are_what_they_say, NULL},
    {"changes_move_the_right_times", changes_move_the_right_times, NULL},
    {"failing_calls_move_no_times", failing_calls_move_no_times, NULL},
    {"only_owners_set_times", only_owners_set_times, NULL},
};
const struct posix_table posix_times = {cases, sizeof cases / sizeof *cases};
