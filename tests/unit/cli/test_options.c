/* sandbox_options: from a command line to what a sandbox is made of. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io.h"
#include "host/cli/commands.h"
#include "host/cli/sandbox_options.h"

struct fixture {
    char home[64];
    struct app app;
};

static void put_file(const char *folder, const char *name, const char *text)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(bg_write_full(fd, text, strlen(text)), 0);
    (void)close(fd);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    char secrets[256];
    struct bg_err err;
    (void)snprintf(f->home, sizeof f->home, "/tmp/bg-test-XXXXXX");
    assert_non_null(mkdtemp(f->home));
    assert_int_equal(setenv("BELLGLASS_HOME", f->home, 1), 0);
    assert_int_equal(app_paths(&f->app, &err), 0);
    (void)snprintf(secrets, sizeof secrets, "%s/secrets", f->app.paths.data);
    assert_int_equal(mkdir(secrets, 0700), 0);
    put_file(secrets, "TOKEN", "x");
    put_file(f->home, "ca.pem", "x");
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    static const char *const names[] = {
        "data/secrets/TOKEN", "data/secrets", "data", "state", "run", "ca.pem", ""};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[512];
        (void)snprintf(path, sizeof path, "%s/%s", f->home, names[i]);
        assert_true(unlink(path) == 0 || rmdir(path) == 0);
    }
    app_done(&f->app);
    free(f);
    return 0;
}

/* There is no image here, so the best that comes of options is -ENOENT for it: everything else is
 * checked before. */
static int read_options(struct fixture *f, const char *line, struct bg_err *err)
{
    char text[512], *argv[32], *rest = text;
    int argc = 0;
    (void)snprintf(text, sizeof text, "%s", line);
    for (char *word; (word = strsep(&rest, " "));)
        argv[argc++] = word;
    struct args args;
    struct bg_sandbox s = {0};
    int r = args_parse(&cmd_create, argc, argv, &args, err);
    assert_int_equal(r, 0);
    r = sandbox_options_read(&f->app, &args, NULL, &s, err);
    args_done(&args);
    if (r == 0)
        bg_sandbox_done(&s);
    return r;
}

static void refuses_bad_values_by_name(void **state)
{
    static const char *const cases[][2] = {
        {"--cpus 0", "--cpus '0': want a number from 1 to 64"},
        {"--cpus 65", "--cpus '65'"},
        {"--cpus two", "--cpus 'two'"},
        {"--memory 12x", "--memory '12x': want whole MiB from 128M to 1024G"},
        {"--memory 127M", "--memory '127M'"},
        {"--memory 2048G", "--memory '2048G'"},
        {"--memory 134217729", "--memory '134217729'"},
        {"-e UNSET_HERE", "-e 'UNSET_HERE': it is not set here"},
        {"--allow http://x", "--allow 'http://x'"},
        {"--secret TOKEN", "want NAME@HOST"},
        {"--secret OTHER@x.org", "no secret 'OTHER': store it first: bellglass secret set OTHER"},
        {"--secret TOKEN@x.org -e TOKEN=1", "TOKEN is both -e and --secret"},
        {"--learn --policy x.yaml", "put 'default: learn' into the policy"},
        {"--upstream-ca /no/such", "--upstream-ca '/no/such': No such file"},
        {"--upstream-ca /tmp", "--upstream-ca '/tmp': want a file"},
        {"--volume cache", "--volume: 'cache': want NAME:PATH"},
        {"--volume :/x", "--volume: ':/x': want NAME:PATH"},
        {"--volume cache:", "--volume: 'cache:': want NAME:PATH"},
        {"--volume cache:x", "--volume: 'cache:x': "},
        {"--volume cache:/a/../b", "--volume: 'cache:/a/../b': "},
        {"--volume cache:/proc/x", "--volume: 'cache:/proc/x': "},
        {"--image nope", "nope"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bg_err err = {0};
        assert_true(read_options(*state, cases[i][0], &err) < 0);
        if (!strstr(err.text, cases[i][1]))
            fail_msg("%s: %s", cases[i][0], err.text);
    }
}

static void takes_good_ones_up_to_the_image(void **state)
{
    const struct fixture *f = *state;
    char line[512];
    struct bg_err err;
    (void)snprintf(
        line, sizeof line,
        "--cpus 64 --memory 128M -e A=b -e HOME --allow a.org --allow *.b.org:1 --secret "
        "TOKEN@a.org --secret TOKEN@b.org,c.org --upstream-ca %s/ca.pem",
        f->home);
    assert_int_equal(setenv("HOME", "/home/x", 1), 0);
    assert_int_equal(read_options(*state, line, &err), -ENOENT);
    assert_non_null(strstr(err.text, "debian"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(refuses_bad_values_by_name, setup, teardown),
        cmocka_unit_test_setup_teardown(takes_good_ones_up_to_the_image, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
