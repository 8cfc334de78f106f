/* Guests that break their word (tests/lib/hostile_agent.c): the host ends what it must with a clear
 * error in bounded time, and the honest sandbox beside it does not notice. */
#include "tests/lib/vm.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io.h"

/* A sandbox made before any test and never touched by a hostile one. */
static const char *honest(struct vm *vm)
{
    const char *s = vm_shared(vm);
    assert_string_equal(vm_guest(vm, s, "echo fine"), "fine\n");
    return s;
}

/* From here on new guests run the hostile agent with the boot mode. */
static void use_hostile_agent(struct vm *vm, const char *mode)
{
    const char *agent = getenv("BG_TEST_HOSTILE_AGENT");
    if (!agent)
        fail_msg("BG_TEST_HOSTILE_AGENT is not set");
    const char *copy = vm_path(vm, "agent-%s", mode);
    char tail[32] = {0};
    (void)snprintf(tail, sizeof tail, "%s", mode);
    /* A snapshot's key has the agent's size and time: one size for each, as times can be equal. */
    size_t size, gap = 64 * (size_t)++vm->names;
    const char *bytes = vm_read(vm, agent, &size);
    char *all = vm_keep(vm, calloc(1, size + gap + sizeof tail));
    memcpy(all, bytes, size);
    memcpy(all + size + gap, tail, sizeof tail);
    vm_write(copy, all, size + gap + sizeof tail);
    assert_int_equal(chmod(copy, 0755), 0);
    assert_int_equal(setenv("BELLGLASS_AGENT", copy, 1), 0);
}

static void use_real_agent(void)
{
    assert_int_equal(unsetenv("BELLGLASS_AGENT"), 0);
}

/* A sandbox of a hostile guest that keeps to the protocol until it is told not to. All tests share
 * one agent file, so that they share its golden snapshot. */
static const char *hostile(struct vm *vm)
{
    const char *copy = vm_text(vm, "%s/agent-orderly", vm->folder);
    if (access(copy, F_OK) < 0)
        use_hostile_agent(vm, "orderly");
    assert_int_equal(setenv("BELLGLASS_AGENT", copy, 1), 0);
    const char *s = vm_sandbox_with(vm, "--memory", "160M", NULL);
    use_real_agent();
    return s;
}

/* ---- before the guest is ready ---- */

static void a_guest_that_never_gets_ready_is_given_up(void **state)
{
    struct vm *vm = *state;
    (void)honest(vm);
    static const char *const modes[] = {"exit",       "close",       "garbage", "huge-reply",
                                        "huge-hello", "many-hellos", "refuses"};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        use_hostile_agent(vm, modes[i]);
        const char *name = vm_name(vm);
        const struct vm_result *r = vm_call(vm, "create", "--memory", "160M", name, NULL);
        use_real_agent();
        if (r->status != 125 || !strchr(r->err, '\n'))
            fail_msg("%s: status %d: %s", modes[i], r->status, r->err);
        assert_null(strchr(r->err, '\x1b'));
        assert_string_not_equal(vm_state(vm, name), "running");
        (void)honest(vm);
    }
}

static void a_silent_guest_is_given_up_at_the_deadline(void **state)
{
    struct vm *vm = *state;
    (void)honest(vm);
    static const char *const modes[] = {"no-driver", "no-listener", "half-reply", "no-hello",
                                        "not-ready"};
    /* They wait for the same deadline, so they wait together. */
    enum { COUNT = sizeof modes / sizeof *modes };
    struct vm_process *starts[COUNT];
    assert_int_equal(setenv("BELLGLASS_READY_TIMEOUT_MS", "20000", 1), 0);
    for (size_t i = 0; i < COUNT; i++) {
        use_hostile_agent(vm, modes[i]);
        const char *const argv[] = {"create", "--memory", "160M", vm_name(vm), NULL};
        starts[i] = vm_start(vm, argv);
    }
    use_real_agent();
    assert_int_equal(unsetenv("BELLGLASS_READY_TIMEOUT_MS"), 0);
    for (size_t i = 0; i < COUNT; i++)
        assert_int_equal(vm_finish(starts[i]), 125);
}

/* ---- streams that the host opens ---- */

static void a_broken_exec_is_an_error_of_that_exec(void **state)
{
    struct vm *vm = *state;
    const char *beside = honest(vm), *s = hostile(vm);
    static const char *const deeds[] = {
        "bad-reply",  "no-pid",     "close",    "bad-type",   "padding", "long-frame",
        "half-frame", "short-exit", "bad-exit", "bad-signal", "refuse",
    };
    for (size_t i = 0; i < sizeof deeds / sizeof *deeds; i++) {
        const struct vm_result *r = vm_call(vm, "exec", s, "--", deeds[i], NULL);
        if (r->status < 125 || r->status > 127)
            fail_msg("%s: status %d: %s", deeds[i], r->status, r->err);
        assert_memory_equal(r->err, "bellglass:", 10);
        assert_null(
            strchr(r->err, '\x1b')); /* nothing of the guest's text reaches the terminal raw */
        assert_string_equal(vm_guest(vm, beside, "echo fine"), "fine\n");
    }
    assert_int_equal(vm_call(vm, "exec", s, "--", "true", NULL)->status, 0);
}

static void an_odd_but_right_exec_works(void **state)
{
    struct vm *vm = *state;
    const char *s = hostile(vm);
    const struct vm_result *r = vm_call(vm, "exec", s, "--", "trickle", NULL);
    assert_int_equal(r->status, 7);
    assert_string_equal(r->out, "trickle\n");
}

static void a_stalled_exec_can_be_left(void **state)
{
    struct vm *vm = *state;
    const char *beside = honest(vm), *s = hostile(vm);
    static const char *const deeds[] = {"no-reply", "half-reply", "stall"};
    struct vm_process *execs[3];
    for (size_t i = 0; i < 3; i++) {
        const char *const argv[] = {"exec", s, "--", deeds[i], NULL};
        execs[i] = vm_start(vm, argv);
    }
    assert_string_equal(vm_guest(vm, beside, "echo fine"), "fine\n");
    assert_int_equal(vm_call(vm, "exec", s, "--", "true", NULL)->status, 0);
    for (size_t i = 0; i < 3; i++)
        (void)vm_stop(execs[i], SIGKILL);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

static void a_guest_that_reads_nothing_stops_only_its_writer(void **state)
{
    struct vm *vm = *state;
    const char *beside = honest(vm), *s = hostile(vm);
    const char *const argv[] = {"exec", s, "--", "deaf", NULL};
    struct vm_process *p = vm_start(vm, argv);
    static uint8_t chunk[65536];
    vm_send(p, chunk, sizeof chunk); /* fits in the buffers on the way; more would block us */
    assert_string_equal(vm_guest(vm, beside, "echo fine"), "fine\n");
    assert_int_equal(vm_call(vm, "exec", s, "--", "true", NULL)->status, 0);
    (void)vm_stop(p, SIGKILL);
}

static void a_window_that_lies_does_not_break_the_sender(void **state)
{
    struct vm *vm = *state;
    const char *beside = honest(vm), *s = hostile(vm);
    const char *const argv[] = {"exec", s, "--", "window", NULL};
    static uint8_t much[1 << 20];
    const struct vm_result *r = vm_call_with(vm, argv, much, sizeof much);
    assert_int_equal(r->status, 125);
    assert_string_equal(vm_guest(vm, beside, "echo fine"), "fine\n");
}

static void a_flood_is_read_as_fast_as_it_is_taken(void **state)
{
    struct vm *vm = *state;
    const char *beside = honest(vm), *s = hostile(vm);
    const char *const argv[] = {"exec", s, "--", "flood", NULL};
    struct vm_process *p = vm_start(vm, argv);
    vm_expect(p, "ffff"); /* and is not read any further */
    for (int i = 0; i < 5; i++)
        assert_string_equal(vm_guest(vm, beside, "echo fine"), "fine\n");
    /* What it could not deliver waits in the guest, not in the host's memory. */
    const char *status = vm_host(vm, "grep VmRSS /proc/%d/status", vm_pid(vm, s, "supervisor_pid"));
    long kib = strtol(status + 6, NULL, 10);
    if (kib > 256 * 1024)
        fail_msg("the supervisor holds %ld KiB", kib);
    (void)vm_stop(p, SIGKILL);
    assert_int_equal(vm_call(vm, "exec", s, "--", "true", NULL)->status, 0);
}

/* ---- copies ---- */

static void an_archive_stays_in_its_folder(void **state)
{
    struct vm *vm = *state;
    const char *s = hostile(vm);
    static const char *const deeds[] = {"up",        "absolute", "through", "hardlink", "device",
                                        "other-top", "setuid",   "short",   "garbage",  "close"};
    for (size_t i = 0; i < sizeof deeds / sizeof *deeds; i++) {
        const char *cage = vm_path(vm, "cage-%s", deeds[i]);
        assert_int_equal(mkdir(cage, 0755), 0);
        assert_int_equal(mkdir(vm_text(vm, "%s/inner", cage), 0755), 0);
        const struct vm_result *r = vm_call(vm, "cp", vm_text(vm, "%s:/x/%s", s, deeds[i]),
                                            vm_text(vm, "%s/inner", cage), NULL);
        if (r->status != 0)
            assert_memory_equal(r->err, "bellglass:", 10);
        /* Only what is below inner, nothing with set-id bits, no device, no file of the host. */
        assert_string_equal(vm_host(vm, "ls %s", cage), "inner\n");
        assert_string_equal(
            vm_host(vm, "find %s ! -type f ! -type d ! -type l -o -perm /6000", cage), "");
        assert_string_equal(vm_host(vm, "find %s -type f -links +1", cage), "");
        assert_int_equal(access("/tmp/bellglass-escaped", F_OK), -1);
    }
}

static void a_copy_that_stalls_can_be_left(void **state)
{
    struct vm *vm = *state;
    const char *beside = honest(vm), *s = hostile(vm);
    const char *const argv[] = {"cp", vm_text(vm, "%s:/x/stall", s), vm_path(vm, "stalled"), NULL};
    struct vm_process *p = vm_start(vm, argv);
    assert_string_equal(vm_guest(vm, beside, "echo fine"), "fine\n");
    (void)vm_stop(p, SIGTERM);
}

/* ---- mounts ---- */

static void a_mount_of_lies_is_io_errors_and_goes(void **state)
{
    struct vm *vm = *state;
    if (access("/dev/fuse", R_OK | W_OK) < 0)
        skip();
    const char *beside = honest(vm), *s = hostile(vm);
    static const char *const deeds[] = {"garbage",  "close",  "huge",  "tiny",
                                        "positive", "unique", "silent"};
    for (size_t i = 0; i < sizeof deeds / sizeof *deeds; i++) {
        const char *folder = vm_path(vm, "mnt-%s", deeds[i]);
        assert_int_equal(mkdir(folder, 0755), 0);
        const struct vm_result *r =
            vm_call(vm, "mount", vm_text(vm, "%s:/%s", s, deeds[i]), folder, NULL);
        if (r->status == 0) {
            (void)vm_host(vm, "! ls %s/. 2>/dev/null", folder);
            (void)vm_call(vm, "umount", folder, NULL);
        }
        assert_null(strstr(vm_read(vm, "/proc/self/mountinfo", NULL), folder));
        assert_string_equal(vm_guest(vm, beside, "echo fine"), "fine\n");
    }
}

/* ---- the session ---- */

static void a_broken_session_ends_its_sandbox_only(void **state)
{
    struct vm *vm = *state;
    const char *beside = honest(vm);
    static const char *const deeds[] = {"session-close", "session-garbage", "session-long",
                                        "session-unasked"};
    for (size_t i = 0; i < sizeof deeds / sizeof *deeds; i++) {
        const char *s = hostile(vm);
        (void)vm_call(vm, "exec", s, "--", deeds[i], NULL);
        vm_wait_state(vm, s, "crashed");
        assert_string_equal(vm_guest(vm, beside, "echo fine"), "fine\n");
        (void)vm_ok(vm, "rm", "--force", s, NULL);
    }
}

static void a_silent_or_flooding_session_does_not_hold_up_stop(void **state)
{
    struct vm *vm = *state;
    const char *beside = honest(vm);
    static const char *const deeds[] = {"session-silent", "session-half", "session-flood"};
    for (size_t i = 0; i < sizeof deeds / sizeof *deeds; i++) {
        const char *s = hostile(vm);
        (void)vm_call(vm, "exec", s, "--", deeds[i], NULL);
        assert_string_equal(vm_guest(vm, beside, "echo fine"), "fine\n");
        (void)vm_call(vm, "stop", "--time", "1", s, NULL);
        assert_string_not_equal(vm_state(vm, s), "running");
        /* What it logged is bounded. */
        const char *log = vm_text(vm, "%s/supervisor.log", vm_sandbox_dir(vm, s));
        struct stat st;
        assert_int_equal(stat(log, &st), 0);
        assert_true(st.st_size < 1 << 20);
        (void)vm_ok(vm, "rm", "--force", s, NULL);
    }
}

/* ---- the device and egress ---- */

static void a_flood_of_connections_is_bounded(void **state)
{
    struct vm *vm = *state;
    const char *beside = honest(vm);
    static const char *const deeds[] = {"connects", "half-connects"};
    for (size_t i = 0; i < 2; i++) {
        const char *s = hostile(vm);
        const char *const argv[] = {"exec", s, "--", deeds[i], NULL};
        struct vm_process *p = vm_start(vm, argv);
        (void)vm_host(vm,
                      "for i in $(seq 1800); do grep -aq 'flood: done' %s/console.log && exit; "
                      "sleep 0.1; done; exit 1",
                      vm_sandbox_dir(vm, s));
        assert_string_equal(vm_guest(vm, beside, "echo fine"), "fine\n");
        (void)vm_stop(p, SIGKILL);
        (void)vm_ok(vm, "rm", "--force", s, NULL);
    }
}

static void a_guest_that_takes_its_device_away_ends_alone(void **state)
{
    struct vm *vm = *state;
    const char *beside = honest(vm), *s = hostile(vm);
    const struct vm_result *r = vm_call(vm, "exec", s, "--", "unbind", NULL);
    assert_int_equal(r->status, 125);
    assert_string_equal(vm_guest(vm, beside, "echo fine"), "fine\n");
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

static void a_guest_that_powers_off_or_panics_is_seen(void **state)
{
    struct vm *vm = *state;
    const char *beside = honest(vm);
    static const struct {
        const char *deed, *state;
    } rows[] = {{"poweroff", "stopped"}, {"panic", "crashed"}};
    for (size_t i = 0; i < 2; i++) {
        const char *s = hostile(vm);
        int qemu = vm_pid(vm, s, "qemu_pid");
        assert_int_equal(vm_call(vm, "exec", s, "--", rows[i].deed, NULL)->status, 125);
        vm_wait_gone(qemu);
        vm_wait_state(vm, s, rows[i].state);
        assert_string_equal(vm_guest(vm, beside, "echo fine"), "fine\n");
    }
}

/* ---- layers of copy-on-write shares ---- */

static void a_layer_that_lies_costs_its_command(void **state)
{
    struct vm *vm = *state;
    const char *beside = honest(vm), *s = hostile(vm);
    const char *folder = vm_path(vm, "shared-%s", s);
    assert_int_equal(mkdir(folder, 0755), 0);
    static const char *const deeds[] = {"close", "garbage", "up",    "half", "refuse",
                                        "many",  "large",   "other", "grown"};
    for (size_t i = 0; i < sizeof deeds / sizeof *deeds; i++) {
        (void)vm_ok(vm, "share", s, vm_text(vm, "%s:/%s:cow", folder, deeds[i]), NULL);
        const struct vm_result *r = vm_call(vm, "diff", s, NULL);
        if (r->status != 125 || strncmp(r->err, "bellglass:", 10) != 0)
            fail_msg("%s: status %d: %s", deeds[i], r->status, r->err);
        assert_null(strchr(r->err, '\x1b'));
        assert_int_equal(vm_call(vm, "apply", "--yes", s, NULL)->status, 125);
        (void)vm_ok(vm, "unshare", "--force", s, vm_text(vm, "/%s", deeds[i]), NULL);
        assert_string_equal(vm_guest(vm, beside, "echo fine"), "fine\n");
    }
    assert_string_equal(vm_host(vm, "ls -A %s %s/..| grep -c escaped || true", folder, folder),
                        "0\n");
    assert_int_equal(vm_call(vm, "exec", s, "--", "true", NULL)->status, 0);
}

VM_MAIN(VM_NEEDS_VM, cmocka_unit_test(a_guest_that_never_gets_ready_is_given_up),
        cmocka_unit_test(a_silent_guest_is_given_up_at_the_deadline),
        cmocka_unit_test(a_broken_exec_is_an_error_of_that_exec),
        cmocka_unit_test(an_odd_but_right_exec_works), cmocka_unit_test(a_stalled_exec_can_be_left),
        cmocka_unit_test(a_guest_that_reads_nothing_stops_only_its_writer),
        cmocka_unit_test(a_window_that_lies_does_not_break_the_sender),
        cmocka_unit_test(a_flood_is_read_as_fast_as_it_is_taken),
        cmocka_unit_test(an_archive_stays_in_its_folder),
        cmocka_unit_test(a_copy_that_stalls_can_be_left),
        cmocka_unit_test(a_mount_of_lies_is_io_errors_and_goes),
        cmocka_unit_test(a_layer_that_lies_costs_its_command),
        cmocka_unit_test(a_broken_session_ends_its_sandbox_only),
        cmocka_unit_test(a_silent_or_flooding_session_does_not_hold_up_stop),
        cmocka_unit_test(a_flood_of_connections_is_bounded),
        cmocka_unit_test(a_guest_that_takes_its_device_away_ends_alone),
        cmocka_unit_test(a_guest_that_powers_off_or_panics_is_seen))
