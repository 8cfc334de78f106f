/* Pools: what is claimed is as any other new sandbox, nobody gets what another has, and whoever is
 * killed leaves nothing. */
#include "tests/lib/vm.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "common/io.h"

/* ---- what there is ---- */

static json_t *only_pool(struct vm *vm)
{
    json_t *list = vm_json(vm, "pool", "ls", "--json", NULL);
    json_t *pool = json_incref(json_array_get(list, 0));
    assert_true(json_array_size(list) <= 1);
    json_decref(list);
    return pool;
}

static int number_of(struct vm *vm, const char *field)
{
    json_t *pool = only_pool(vm);
    int number = pool ? (int)json_integer_value(json_object_get(pool, field)) : -1;
    json_decref(pool);
    return number;
}

/* Its keeper may not know yet of those that have gone. */
static bool is_full(void *arg)
{
    struct vm *vm = arg;
    return number_of(vm, "ready") == 2 &&
           strtol(vm_host(vm, "ls -d %s/state/sandboxes/.pool-*/claim 2>/dev/null | wc -l || true",
                          vm->home),
                  NULL, 10) >= 2;
}

static bool has_no_member(void *arg)
{
    struct vm *vm = arg;
    return strcmp(vm_host(vm, "ls -A %s/state/sandboxes | grep -c '^\\.' || true", vm->home),
                  "0\n") == 0;
}

static bool has_no_sandbox(void *arg)
{
    return vm_ok(arg, "ls", "-q", NULL)[0] == '\0';
}

/* A pool of two for the test, which the next one has not. */
static void keep_two(struct vm *vm)
{
    (void)vm_ok(vm, "pool", "2", NULL);
    assert_int_equal(number_of(vm, "ready"), 2);
}

static void end_pool(struct vm *vm)
{
    (void)vm_ok(vm, "pool", "rm", NULL);
    assert_null(only_pool(vm));
    vm_wait("no member is left", has_no_member, vm);
}

/* Its QEMU was there before it was asked for. */
static bool was_ready(struct vm *vm, const char *sandbox)
{
    json_t *shown = vm_json(vm, "inspect", sandbox, NULL);
    const json_t *timings = json_object_get(json_object_get(shown, "status"), "timings");
    assert_non_null(json_object_get(timings, "monitor_ms"));
    bool ready = json_integer_value(json_object_get(timings, "monitor_ms")) == 0;
    json_decref(shown);
    return ready;
}

static const char *id_of(struct vm *vm, const char *sandbox)
{
    json_t *shown = vm_json(vm, "inspect", sandbox, NULL);
    const char *id = vm_text(vm, "%s", json_string_value(json_object_get(shown, "id")));
    json_decref(shown);
    return id;
}

/* ---- claims ---- */

static void a_member_is_seen_by_nobody_who_lists_sandboxes(void **state)
{
    struct vm *vm = *state;
    keep_two(vm);
    json_t *list = vm_json(vm, "ls", "--json", NULL);
    assert_int_equal(json_array_size(list), 0);
    json_decref(list);
    assert_string_equal(vm_ok(vm, "ls", "-q", NULL), "");
    assert_non_null(strstr(vm_ok(vm, "pool", NULL), "debian"));
    /* Nor does anybody take it for something that was left behind. */
    const char *doctor = vm_ok(vm, "doctor", "--fix", NULL);
    assert_null(strstr(doctor, "dead sockets"));
    (void)vm_ok(vm, "prune", "--yes", NULL);
    const char *s = vm_sandbox(vm);
    assert_true(was_ready(vm, s));
    end_pool(vm);
}

static void a_claimed_one_is_its_own(void **state)
{
    struct vm *vm = *state;
    const char *seen[2], *names[2];
    keep_two(vm);
    for (size_t i = 0; i < 2; i++) {
        names[i] = vm_sandbox_with(vm, "-e", "COLOUR=blue", NULL);
        assert_true(was_ready(vm, names[i]));
        assert_string_equal(
            vm_guest(vm, names[i],
                     "hostname; cat /etc/hostname; echo $COLOUR; echo $BELLGLASS_SANDBOX"),
            vm_text(vm, "%s\n%s\nblue\n%s\n", names[i], names[i], id_of(vm, names[i])));
        /* The clock of who waited is that of the host, and nothing has the name of a pool. */
        (void)vm_guest(vm, names[i],
                       "a=$(date +%%s); b=%s; test $((a - b)) -ge 0 -a $((a - b)) -lt 120",
                       vm_host(vm, "printf %%s $(date +%%s)"));
        (void)vm_guest(vm, names[i], "! sudo grep -rqs 'pool-sbx' /etc /run /var/lib /home");
        seen[i] =
            vm_guest(vm, names[i], "cat /etc/machine-id; head -c 16 /dev/urandom | od -An -tx1");
    }
    for (size_t i = 0; i < 2; i++) {
        assert_int_not_equal(strlen(seen[i]), 0);
        assert_string_equal(vm_state(vm, names[i]), "running");
    }
    assert_int_not_equal(strncmp(seen[0], seen[1], 32), 0);
    assert_string_not_equal(seen[0] + 33, seen[1] + 33);
    assert_int_equal(strcmp(id_of(vm, names[0]), id_of(vm, names[1])) == 0, 0);
    end_pool(vm);
    assert_string_equal(vm_guest(vm, names[0], "hostname"), vm_text(vm, "%s\n", names[0]));
}

static void what_it_may_reach_and_its_secrets_are_those_of_the_claim(void **state)
{
    struct vm *vm = *state;
    int https;
    char ca[4096];
    static const char secret[] = "bgtest-pool-3f9a1c77d2";
    const char *bin =
        vm_text(vm, "%.*s", (int)(strrchr(vm->bellglass, '/') - vm->bellglass), vm->bellglass);
    const char *const argv[] = {vm_text(vm, "%s/../libexec/bellglass/bellglass-echo", bin),
                                "--dir",
                                vm->folder,
                                "--host",
                                "echo.test",
                                "--log",
                                vm_path(vm, "echo-log"),
                                NULL};
    struct vm_process *echo = vm_start_program(vm, argv);
    vm_expect(echo, "\nca ");
    vm_expect(echo, "\n");
    /* Its own three lines, in a fixed form. NOLINTNEXTLINE(cert-err34-c) */
    assert_int_equal(sscanf(echo->text, "https %d\nhttp %*d\nca %4095s", &https, ca), 2);
    const char *const set[] = {"secret", "set", "TOKEN", NULL};
    assert_int_equal(vm_call_with(vm, set, secret, strlen(secret))->status, 0);
    keep_two(vm);
    const char *placeholders[2];
    for (size_t i = 0; i < 2; i++) {
        const char *s = vm_sandbox_with(vm, "--upstream-ca", ca, "--allow",
                                        vm_text(vm, "echo.test:%d=127.0.0.1", https), "--secret",
                                        "TOKEN@echo.test", NULL);
        assert_true(was_ready(vm, s));
        placeholders[i] = vm_guest(vm, s, "printf %%s \"$TOKEN\"");
        assert_memory_equal(placeholders[i], "BELLGLASS_SECRET_", 17);
        const char *answer =
            vm_guest(vm, s, "curl -sSi -H \"X-Key: $TOKEN\" https://echo.test:%d/", https);
        assert_non_null(strstr(answer, vm_text(vm, "x-key: %s\r\n", placeholders[i])));
        assert_null(strstr(answer, secret));
        (void)vm_guest(vm, s, "! curl -sf https://example.com/");
    }
    assert_string_not_equal(placeholders[0], placeholders[1]);
    assert_non_null(
        strstr(vm_read(vm, vm_path(vm, "echo-log"), NULL), vm_text(vm, "x-key: %s\r\n", secret)));
    end_pool(vm);
    (void)vm_stop(echo, SIGKILL);
}

static void run_takes_one_and_removes_it(void **state)
{
    struct vm *vm = *state;
    keep_two(vm);
    const char *const argv[] = {"run", "--", "sh", "-c", "echo $BELLGLASS_SANDBOX; cat", NULL};
    const char *ids = vm_host(vm, "ls -A %s/state/sandboxes", vm->home);
    struct vm_process *run = vm_start(vm, argv);
    vm_expect(run, "sbx_");
    vm_expect(run, "\n");
    const char *id = strstr(run->text, "sbx_");
    assert_non_null(strstr(ids, vm_text(vm, "%.24s", id)));
    assert_int_equal(vm_finish(run), 0);
    vm_wait("another one is ready", is_full, vm);
    /* Its command's exit status passes through, and killed it takes the sandbox along. */
    assert_int_equal(vm_call(vm, "run", "--", "sh", "-c", "exit 7", NULL)->status, 7);
    run = vm_start(vm, argv);
    vm_expect(run, "sbx_");
    assert_int_equal(vm_stop(run, SIGKILL), 128 + SIGKILL);
    end_pool(vm);
    vm_wait("no sandbox is left", has_no_sandbox, vm);
}

static void of_those_who_come_at_once_nobody_gets_anothers(void **state)
{
    struct vm *vm = *state;
    struct vm_process *process[4];
    const char *names[4];
    keep_two(vm);
    for (size_t i = 0; i < 4; i++) {
        names[i] = vm_name(vm);
        const char *const argv[] = {"create", names[i], NULL};
        process[i] = vm_start(vm, argv);
    }
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(vm_finish(process[i]), 0);
    for (size_t i = 0; i < 4; i++) {
        assert_string_equal(vm_guest(vm, names[i], "hostname"), vm_text(vm, "%s\n", names[i]));
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(id_of(vm, names[i]), id_of(vm, names[j]));
    }
    /* And a name is taken once, whatever is ready. */
    vm_wait("others are ready", is_full, vm);
    vm_refused(vm, "in use", "create", names[0], NULL);
    assert_int_equal(number_of(vm, "ready"), 2);
    for (size_t i = 0; i < 4; i++)
        (void)vm_ok(vm, "rm", "-f", names[i], NULL);
    end_pool(vm);
}

static void a_claimed_one_sleeps_and_forks_as_any_other(void **state)
{
    struct vm *vm = *state;
    keep_two(vm);
    const char *s = vm_sandbox(vm);
    assert_true(was_ready(vm, s));
    end_pool(vm);
    (void)vm_guest(vm, s, "echo kept >/home/app/file");
    (void)vm_ok(vm, "suspend", s, NULL);
    (void)vm_ok(vm, "resume", s, NULL);
    const char *fork = vm_name(vm);
    (void)vm_ok(vm, "fork", s, fork, NULL);
    assert_string_equal(vm_guest(vm, fork, "cat /home/app/file; hostname"),
                        vm_text(vm, "kept\n%s\n", fork));
    (void)vm_ok(vm, "stop", s, NULL);
    (void)vm_ok(vm, "start", s, NULL);
    assert_string_equal(vm_guest(vm, s, "cat /home/app/file; hostname"),
                        vm_text(vm, "kept\n%s\n", s));
    (void)vm_ok(vm, "rm", "-f", fork, NULL);
}

/* ---- what does not fit ---- */

static void what_does_not_fit_is_not_used(void **state)
{
    struct vm *vm = *state;
    keep_two(vm);
    assert_false(was_ready(vm, vm_sandbox_with(vm, "--memory", "384M", NULL)));
    assert_false(was_ready(vm, vm_sandbox_with(vm, "--no-pool", NULL)));
    assert_int_equal(number_of(vm, "ready"), 2);
    /* Nor what was made for another CA. */
    (void)vm_ok(vm, "ca", "rotate", NULL);
    const char *s = vm_sandbox(vm);
    assert_false(was_ready(vm, s));
    vm_wait("others are ready", is_full, vm);
    assert_true(was_ready(vm, vm_sandbox(vm)));
    end_pool(vm);
    vm_refused(vm, "0 to", "pool", "1000", NULL);
    vm_refused(vm, "no-such-image", "pool", "--image", "no-such-image", "2", NULL);
    vm_refused(vm, "memory", "pool", "--memory", "1M", "2", NULL);
}

/* ---- those who are killed ---- */

static void a_keepers_end_takes_its_members_along(void **state)
{
    struct vm *vm = *state;
    keep_two(vm);
    const char *s = vm_sandbox(vm);
    int keeper = number_of(vm, "keeper_pid");
    assert_int_equal(kill(keeper, SIGKILL), 0);
    vm_wait_gone(keeper);
    vm_wait("no member is left", has_no_member, vm);
    assert_null(only_pool(vm));
    assert_string_equal(vm_guest(vm, s, "echo lives"), "lives\n");
    assert_string_equal(vm_host(vm, "ls -A %s/state/pools", vm->home), "");
    /* Nothing is in the way of the next. */
    keep_two(vm);
    end_pool(vm);
}

/* Waits until one is being made: it has a folder, and nobody in the background yet. */
static void await_beginning(int watch_fd)
{
    _Alignas(struct inotify_event) char events[4096];
    uint64_t start_ms = bg_now_ms();
    for (;;) {
        struct pollfd ready = {.fd = watch_fd, .events = POLLIN};
        assert_int_equal(poll(&ready, 1, vm_left_ms(start_ms)), 1);
        ssize_t size = read(watch_fd, events, sizeof events);
        for (ssize_t at = 0; at < size;) {
            const struct inotify_event *event = (const void *)(events + at);
            if (strncmp(event->name, ".pool-", 6) == 0)
                return;
            at += (ssize_t)(sizeof *event + event->len);
        }
    }
}

static void a_keeper_that_ends_leaves_none_that_begins(void **state)
{
    struct vm *vm = *state;
    const char *const argv[] = {"run", "--", "true", NULL};
    for (int round = 0; round < 3; round++) {
        keep_two(vm);
        int keeper = number_of(vm, "keeper_pid"), watch_fd = inotify_init1(IN_CLOEXEC);
        assert_true(inotify_add_watch(watch_fd, vm_text(vm, "%s/state/sandboxes", vm->home),
                                      IN_MOVED_TO) >= 0);
        struct vm_process *run = vm_start(vm, argv);
        await_beginning(watch_fd);
        (void)close(watch_fd);
        assert_int_equal(kill(keeper, SIGTERM), 0);
        vm_wait_gone(keeper);
        assert_int_equal(vm_finish(run), 0);
        vm_wait("no member is left", has_no_member, vm);
    }
}

static int a_launcher(struct vm *vm)
{
    const char *pid = vm_host(
        vm,
        "for f in %s/state/sandboxes/.pool-*/state.json; do sed 's/.*launcher_pid\":\\([0-9]*\\).*/"
        "\\1/' $f; break; done",
        vm->home);
    int launcher = 0;
    /* A number of ours. NOLINTNEXTLINE(cert-err34-c) */
    assert_int_equal(sscanf(pid, "%d", &launcher), 1);
    return launcher;
}

/* A disk that is busy for seconds. */
static void a_member_that_is_slow_to_answer_is_waited_for(void **state)
{
    struct vm *vm = *state;
    const char *name = vm_name(vm);
    const char *const argv[] = {"create", name, NULL};
    (void)vm_ok(vm, "pool", "1", NULL);
    int launcher = a_launcher(vm);
    assert_int_equal(kill(launcher, SIGSTOP), 0);
    struct vm_process *create = vm_start(vm, argv);
    struct pollfd output = {.fd = create->out, .events = POLLIN};
    (void)poll(&output, 1, 8000); /* nothing to wait for: that it waits is looked at */
    assert_int_equal(kill(launcher, SIGCONT), 0);
    vm_expect(create, vm_text(vm, "%s\n", name));
    assert_int_equal(vm_finish(create), 0);
    assert_true(was_ready(vm, name));
    (void)vm_ok(vm, "rm", "-f", name, NULL);
    end_pool(vm);
}

static void a_member_that_dies_is_replaced(void **state)
{
    struct vm *vm = *state;
    keep_two(vm);
    int launcher = a_launcher(vm);
    assert_int_equal(kill(launcher, SIGKILL), 0);
    vm_wait_gone(launcher);
    /* What it left is nobody's, and is not taken. */
    for (size_t i = 0; i < 2; i++)
        assert_string_equal(vm_ok(vm, "run", "--", "echo", "runs", NULL), "runs\n");
    vm_wait("others are ready", is_full, vm);
    (void)vm_ok(vm, "pool", "0", NULL);
    (void)vm_host(vm, "touch -c -d '2 minutes ago' %s/state/sandboxes/.pool-* 2>/dev/null || true",
                  vm->home);
    (void)vm_ok(vm, "doctor", "--fix", NULL);
    vm_wait("no member is left", has_no_member, vm);
}

static void a_killed_claimer_leaves_nothing(void **state)
{
    struct vm *vm = *state;
    keep_two(vm);
    const char *name = vm_name(vm);
    assert_int_equal(setenv("BELLGLASS_FAULT", "pool-claimed", 1), 0);
    struct vm_result *killed = vm_call(vm, "create", name, NULL);
    assert_int_equal(unsetenv("BELLGLASS_FAULT"), 0);
    assert_int_not_equal(killed->status, 0);
    vm_wait_state(vm, name, "gone");
    assert_string_equal(vm_ok(vm, "create", name, NULL), vm_text(vm, "%s\n", name));
    assert_string_equal(vm_guest(vm, name, "hostname"), vm_text(vm, "%s\n", name));
    (void)vm_ok(vm, "rm", "-f", name, NULL);
    end_pool(vm);
}

static void a_launcher_killed_on_the_way_is_no_obstacle(void **state)
{
    struct vm *vm = *state;
    assert_int_equal(setenv("BELLGLASS_FAULT", "pool-named", 1), 0);
    (void)vm_ok(vm, "pool", "1", NULL);
    assert_int_equal(unsetenv("BELLGLASS_FAULT"), 0);
    assert_string_equal(vm_ok(vm, "run", "--", "echo", "runs", NULL), "runs\n");
    (void)vm_ok(vm, "pool", "0", NULL);
    vm_wait("no member is left", has_no_member, vm);
    /* What it left has a name, and is told as a crash. */
    const char *left = vm_ok(vm, "ls", "-q", NULL);
    assert_int_not_equal(strlen(left), 0);
    const char *name = vm_text(vm, "%.*s", (int)strcspn(left, "\n"), left);
    assert_string_equal(vm_state(vm, name), "crashed");
    (void)vm_ok(vm, "rm", name, NULL);
}

static bool has_a_pool(void *arg)
{
    json_t *pool = only_pool(arg);
    bool there = pool != NULL;
    json_decref(pool);
    return there;
}

static void one_that_is_stopped_while_it_fills_leaves_nothing(void **state)
{
    struct vm *vm = *state;
    const char *const argv[] = {"pool", "16", NULL};
    struct vm_process *pool = vm_start(vm, argv);
    vm_wait("its keeper is there", has_a_pool, vm);
    assert_int_equal(vm_stop(pool, SIGINT), 128 + SIGINT);
    assert_null(only_pool(vm));
    vm_wait("no member is left", has_no_member, vm);
}

static void a_pools_end_fails_nobody(void **state)
{
    struct vm *vm = *state;
    for (int round = 0; round < 3; round++) {
        keep_two(vm);
        const char *const run[] = {"run", "--", "true", NULL}, *const end[] = {"pool", "0", NULL};
        struct vm_process *first = vm_start(vm, run), *ending = vm_start(vm, end),
                          *second = vm_start(vm, run);
        assert_int_equal(vm_finish(first), 0);
        assert_int_equal(vm_finish(second), 0);
        assert_int_equal(vm_finish(ending), 0);
        vm_wait("no member is left", has_no_member, vm);
    }
}

VM_MAIN(VM_NEEDS_VM, cmocka_unit_test(a_member_is_seen_by_nobody_who_lists_sandboxes),
        cmocka_unit_test(a_claimed_one_is_its_own),
        cmocka_unit_test(what_it_may_reach_and_its_secrets_are_those_of_the_claim),
        cmocka_unit_test(run_takes_one_and_removes_it),
        cmocka_unit_test(of_those_who_come_at_once_nobody_gets_anothers),
        cmocka_unit_test(a_claimed_one_sleeps_and_forks_as_any_other),
        cmocka_unit_test(what_does_not_fit_is_not_used),
        cmocka_unit_test(a_keepers_end_takes_its_members_along),
        cmocka_unit_test(one_that_is_stopped_while_it_fills_leaves_nothing),
        cmocka_unit_test(a_keeper_that_ends_leaves_none_that_begins),
        cmocka_unit_test(a_member_that_is_slow_to_answer_is_waited_for),
        cmocka_unit_test(a_pools_end_fails_nobody),
        cmocka_unit_test(a_member_that_dies_is_replaced),
        cmocka_unit_test(a_killed_claimer_leaves_nothing),
        cmocka_unit_test(a_launcher_killed_on_the_way_is_no_obstacle))
