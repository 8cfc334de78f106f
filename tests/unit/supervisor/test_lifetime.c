/* The end of a sandbox's life, as its settings say, and as they say it anew while it runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "host/supervisor/lifetime.h"

#define DIGEST  "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define WAIT_MS 20000

struct fixture {
    char folder[64];
    struct bg_paths paths;
    struct bg_sandbox sandbox;
    struct lifetime lifetime;
};

static uint64_t wall_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static char *copy(const char *text)
{
    char *made = strdup(text);
    assert_non_null(made);
    return made;
}

static int setup(void **state)
{
    struct bg_err err;
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    (void)snprintf(f->folder, sizeof f->folder, "/tmp/bg-lifetime-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    f->paths.state = copy(f->folder);
    f->sandbox = (struct bg_sandbox){.name = copy("web"),
                                     .image_name = copy("debian"),
                                     .image_digest = copy(DIGEST),
                                     .cpus = 1,
                                     .memory_bytes = 512u << 20,
                                     .ttl_s = 1000};
    uint64_t before = wall_ms();
    assert_int_equal(bg_sandbox_create(&f->paths, &f->sandbox, &err), 0);
    assert_true(f->sandbox.expires_ms >= before + 1000 * 1000);
    assert_int_equal(lifetime_open(&f->paths, &f->sandbox, &f->lifetime, &err), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    char path[128];
    lifetime_close(&f->lifetime);
    assert_int_equal(bg_sandbox_remove(&f->sandbox, NULL), 0);
    bg_sandbox_done(&f->sandbox);
    (void)snprintf(path, sizeof path, "%s/sandboxes", f->folder);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rmdir(f->folder), 0);
    free(f->paths.state);
    free(f);
    return 0;
}

static bool is_readable(int fd, int timeout_ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, timeout_ms) == 1;
}

static void set(struct fixture *f, uint64_t expires_ms, uint64_t idle_s)
{
    struct bg_err err;
    f->sandbox.expires_ms = expires_ms;
    f->sandbox.idle_suspend_s = idle_s;
    assert_int_equal(bg_sandbox_save(&f->sandbox, &err), 0);
}

static void it_is_over_when_the_settings_say(void **state)
{
    struct fixture *f = *state;
    assert_false(lifetime_is_over(&f->lifetime));
    assert_false(is_readable(f->lifetime.timer_fd, 0));
    set(f, wall_ms() + 50, 0);
    assert_true(is_readable(f->lifetime.watch_fd, WAIT_MS));
    assert_true(lifetime_changed(&f->lifetime));
    assert_true(is_readable(f->lifetime.timer_fd, WAIT_MS));
    assert_true(lifetime_is_over(&f->lifetime));
    /* More of it. */
    set(f, wall_ms() + 1000 * 1000, 0);
    assert_true(is_readable(f->lifetime.watch_fd, WAIT_MS));
    assert_true(lifetime_changed(&f->lifetime));
    assert_false(lifetime_is_over(&f->lifetime));
    assert_false(is_readable(f->lifetime.timer_fd, 0));
    /* Time without end. */
    set(f, 0, 0);
    assert_true(is_readable(f->lifetime.watch_fd, WAIT_MS));
    assert_true(lifetime_changed(&f->lifetime));
    assert_false(lifetime_is_over(&f->lifetime));
    assert_false(is_readable(f->lifetime.timer_fd, 0));
}

static void only_what_changes_it_is_told(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    assert_false(lifetime_changed(&f->lifetime));
    assert_int_equal(bg_sandbox_set_state(&f->sandbox, BG_SANDBOX_STOPPED, "", &err), 0);
    assert_true(is_readable(f->lifetime.watch_fd, WAIT_MS));
    assert_false(lifetime_changed(&f->lifetime));
    set(f, f->sandbox.expires_ms, 0); /* the same again */
    assert_true(is_readable(f->lifetime.watch_fd, WAIT_MS));
    assert_false(lifetime_changed(&f->lifetime));
    set(f, f->sandbox.expires_ms, 60);
    assert_true(is_readable(f->lifetime.watch_fd, WAIT_MS));
    assert_true(lifetime_changed(&f->lifetime));
    assert_int_equal(f->lifetime.idle_suspend_s, 60);
    assert_false(is_readable(f->lifetime.watch_fd, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(it_is_over_when_the_settings_say, setup, teardown),
        cmocka_unit_test_setup_teardown(only_what_changes_it_is_told, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
