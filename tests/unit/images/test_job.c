#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

#include "common/io.h"
#include "images/job.h"

struct fixture {
    struct jobs jobs;
    char log[32];
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    (void)snprintf(f->log, sizeof f->log, "/tmp/bg-job-XXXXXX");
    int fd = mkstemp(f->log);
    assert_true(fd >= 0);
    assert_int_equal(close(fd), 0);
    assert_int_equal(jobs_init(&f->jobs, NULL), 0);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    jobs_done(&f->jobs);
    (void)unlink(f->log);
    free(f);
    return 0;
}

static int run_shell(struct fixture *f, const char *script, struct bg_err *err)
{
    BG_AUTOFREE char *copy = strdup(script);
    char *const argv[] = {(char[]){"sh"}, (char[]){"-c"}, copy, NULL};
    return job_run(&f->jobs, &(struct job){.name = "shell", .argv = argv, .log = f->log}, err);
}

static char *read_log(const struct fixture *f)
{
    char *text;
    size_t size;
    assert_int_equal(bg_read_file(AT_FDCWD, f->log, 65536, &text, &size, NULL), 0);
    return text;
}

static void runs_programs_and_keeps_their_output(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(run_shell(f, "echo out; echo err >&2", NULL), 0);
    assert_int_equal(run_shell(f, "cat; echo more", NULL), 0); /* stdin is empty */
    BG_AUTOFREE char *log = read_log(f);
    assert_string_equal(log, "out\nerr\nmore\n");
}

static void says_how_a_program_ended(void **state)
{
    struct fixture *f = *state;
    struct bg_err err = {0};
    assert_int_equal(run_shell(f, "exit 3", &err), -EREMOTEIO);
    assert_string_equal(err.text, "sh ended with status 3");
    assert_int_equal(run_shell(f, "kill -9 $$", &err), -EREMOTEIO);
    assert_string_equal(err.text, "sh was ended by signal 9");
    char *const argv[] = {(char[]){"bg-no-such-program"}, NULL};
    struct job job = {.name = "x", .argv = argv, .log = f->log};
    assert_int_equal(job_run(&f->jobs, &job, &err), -ENOENT);
    assert_non_null(strstr(err.text, "bg-no-such-program"));
}

static int fail_with_text(void *arg, struct bg_err *err)
{
    return bg_err_set(err, -EXDEV, "%s, as told", (const char *)arg);
}

static int change_nothing(void *arg, struct bg_err *err)
{
    (void)err;
    *(int *)arg = 2; /* in the child's copy */
    return 0;
}

static void hands_over_the_errors_of_functions(void **state)
{
    struct fixture *f = *state;
    struct bg_err err = {0};
    char text[] = "wrong";
    struct job job = {.name = "f", .call = fail_with_text, .arg = text, .log = f->log};
    assert_int_equal(job_run(&f->jobs, &job, &err), -EXDEV);
    assert_string_equal(err.text, "wrong, as told");
    int value = 1;
    job = (struct job){.name = "g", .call = change_nothing, .arg = &value, .log = f->log};
    assert_int_equal(job_run(&f->jobs, &job, &err), 0);
    assert_int_equal(value, 1);
}

static void sets_limits_and_environment(void **state)
{
    struct fixture *f = *state;
    char *const argv[] = {(char[]){"sh"}, (char[]){"-c"},
                          (char[]){"ulimit -v; ulimit -t; echo $BG_X"}, NULL};
    char *const env[] = {(char[]){"BG_X=y z"}, NULL};
    struct job job = {.name = "limits",
                      .argv = argv,
                      .env = env,
                      .log = f->log,
                      .memory_max = UINT64_C(1) << 30,
                      .cpu_s_max = 7};
    assert_int_equal(job_run(&f->jobs, &job, NULL), 0);
    BG_AUTOFREE char *log = read_log(f);
    assert_string_equal(log, "1048576\n7\ny z\n");
}

/* The shell tells the parent by a signal that it is up, so that nothing depends on time. */
static void ends_the_whole_group_when_a_signal_comes(void **state)
{
    struct fixture *f = *state;
    struct bg_err err = {0};
    char script[128];
    (void)snprintf(script, sizeof script, "sleep 1000 & echo $!; kill -INT %d; wait", getpid());
    assert_int_equal(run_shell(f, script, &err), -ECANCELED);
    assert_int_equal(f->jobs.signal, SIGINT);
    BG_AUTOFREE char *log = read_log(f);
    char *end;
    long pid = strtol(log, &end, 10);
    assert_true(pid > 1);
    assert_int_equal(*end, '\n');
    /* It is gone, or a zombie that its new parent has not fetched yet. */
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    for (bool gone = false; !gone;) {
        BG_AUTOFREE char *stat = NULL;
        size_t size;
        gone = bg_read_file(AT_FDCWD, path, 4096, &stat, &size, NULL) < 0 || strstr(stat, ") Z");
    }
    /* And nothing more is begun. */
    assert_int_equal(run_shell(f, "exit 0", &err), -ECANCELED);
}

static void gives_a_job_time_to_clean_up(void **state)
{
    struct fixture *f = *state;
    char script[160];
    (void)snprintf(script, sizeof script,
                   "trap 'echo cleaned; exit 1' TERM; kill -TERM %d; while :; do sleep 0.01; done",
                   getpid());
    assert_int_equal(run_shell(f, script, NULL), -ECANCELED);
    assert_int_equal(f->jobs.signal, SIGTERM);
    BG_AUTOFREE char *log = read_log(f);
    assert_non_null(strstr(log, "cleaned\n"));
}

#define JOB_TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        JOB_TEST(runs_programs_and_keeps_their_output),     JOB_TEST(says_how_a_program_ended),
        JOB_TEST(hands_over_the_errors_of_functions),       JOB_TEST(sets_limits_and_environment),
        JOB_TEST(ends_the_whole_group_when_a_signal_comes), JOB_TEST(gives_a_job_time_to_clean_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
