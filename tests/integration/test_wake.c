/* Sandboxes that are suspended and woken by whoever needs them; ports of theirs here; those that
 * fall asleep by themselves, and those whose time is over. */
#include "tests/lib/vm.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void suspend(struct vm *vm, const char *s)
{
    (void)vm_ok(vm, "suspend", s, NULL);
    assert_string_equal(vm_state(vm, s), "suspended");
}

/* What only the guest's memory knows. */
static void leave_a_mark(struct vm *vm, const char *s)
{
    (void)vm_guest(vm, s, "sudo sh -c 'echo memory >/dev/shm/mark'");
}

static void look_for_the_mark(struct vm *vm, const char *s)
{
    assert_string_equal(vm_guest(vm, s, "cat /dev/shm/mark"), "memory\n");
}

static void commands_wake_it(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    leave_a_mark(vm, s);
    suspend(vm, s);
    look_for_the_mark(vm, s);
    assert_string_equal(vm_state(vm, s), "running");
    /* In and out of it. */
    const char *from = vm_path(vm, "from"), *to = vm_path(vm, "to");
    vm_write(from, "copied", 6);
    suspend(vm, s);
    (void)vm_ok(vm, "cp", from, vm_text(vm, "%s:/home/app/copied", s), NULL);
    suspend(vm, s);
    (void)vm_ok(vm, "cp", vm_text(vm, "%s:/home/app/copied", s), to, NULL);
    assert_string_equal(vm_read(vm, to, NULL), "copied");
    look_for_the_mark(vm, s);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

static void one_wakes_it_for_all_who_come_at_once(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    leave_a_mark(vm, s);
    for (int round = 0; round < 2; round++) {
        struct vm_process *processes[6];
        const char *const argv[] = {"exec", s, "--", "cat", "/dev/shm/mark", NULL};
        suspend(vm, s);
        for (size_t i = 0; i < sizeof processes / sizeof *processes; i++)
            processes[i] = vm_start(vm, argv);
        for (size_t i = 0; i < sizeof processes / sizeof *processes; i++) {
            vm_expect(processes[i], "memory");
            assert_int_equal(vm_finish(processes[i]), 0);
        }
    }
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

static void a_command_that_is_killed_meanwhile_leaves_it_whole(void **state)
{
    struct vm *vm = *state;
    const char *share = vm_path(vm, "shared");
    (void)vm_host(vm, "mkdir -p %s && echo here >%s/file", share, share);
    const char *s = vm_sandbox_with(vm, "--mount", vm_text(vm, "%s:/shared", share), NULL);
    leave_a_mark(vm, s);
    suspend(vm, s);
    const char *const argv[] = {"exec", s, "--", "true", NULL};
    struct vm_process *first = vm_start(vm, argv);
    (void)vm_stop(first, SIGKILL);
    /* Whether that one had got anywhere or not. */
    assert_string_equal(vm_guest(vm, s, "cat /shared/file"), "here\n");
    look_for_the_mark(vm, s);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

static void it_sleeps_on_where_that_is_wanted(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    suspend(vm, s);
    assert_int_equal(setenv("BELLGLASS_WAKE", "0", 1), 0);
    vm_refused(vm, "suspended|resume", "exec", s, "--", "true", NULL);
    assert_int_equal(unsetenv("BELLGLASS_WAKE"), 0);
    assert_string_equal(vm_state(vm, s), "suspended");
    /* What does not need it to run leaves it alone. */
    (void)vm_ok(vm, "inspect", s, NULL);
    (void)vm_ok(vm, "logs", s, NULL);
    assert_string_equal(vm_state(vm, s), "suspended");
    (void)vm_ok(vm, "start", "--cold", s, NULL);
    (void)vm_ok(vm, "stop", s, NULL);
    vm_refused(vm, "not running|start", "exec", s, "--", "true", NULL); /* and stopped is stopped */
    (void)vm_ok(vm, "rm", s, NULL);
}

static void a_mount_stays_and_wakes_it(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm), *folder = vm_path(vm, "mounted-%s", s);
    (void)vm_guest(vm, s, "echo old >file; mkdir sub; echo deep >sub/file");
    (void)vm_host(vm, "mkdir -p %s", folder);
    (void)vm_ok(vm, "mount", vm_text(vm, "%s:/home/app", s), folder, NULL);
    assert_string_equal(vm_host(vm, "cat %s/sub/file", folder), "deep\n");
    for (int round = 0; round < 2; round++) {
        suspend(vm, s);
        assert_non_null(strstr(vm_ok(vm, "ls", NULL), folder));
        (void)vm_host(vm, "stat -f %s >/dev/null", folder); /* df does not need it */
        assert_string_equal(vm_state(vm, s), "suspended");
        assert_string_equal(vm_host(vm, "cat %s/file", folder), "old\n");
        assert_string_equal(vm_state(vm, s), "running");
        (void)vm_host(vm, "echo new%d >%s/sub/new", round, folder);
        assert_string_equal(vm_guest(vm, s, "cat sub/new"), vm_text(vm, "new%d\n", round));
    }
    /* Woken by somebody else, it shows what happened then. */
    suspend(vm, s);
    (void)vm_guest(vm, s, "echo since >file");
    assert_string_equal(vm_host(vm, "cat %s/file", folder), "since\n");
    suspend(vm, s);
    (void)vm_ok(vm, "umount", folder, NULL);
    assert_string_equal(vm_state(vm, s), "suspended");
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

/* ---- forward ---- */

/* A server in the guest that sends back what it gets, in upper case, when that has ended. The file
 * `reading` is there when something has come. */
static void start_server(struct vm *vm, const char *s)
{
    static const char server[] =
        "import socketserver\n"
        "class Echo(socketserver.StreamRequestHandler):\n"
        "    def handle(self):\n"
        "        first = self.rfile.read(1)\n"
        "        open('reading', 'w').close()\n"
        "        self.wfile.write((first + self.rfile.read()).upper())\n"
        "socketserver.ThreadingTCPServer.allow_reuse_address = True\n"
        "server = socketserver.ThreadingTCPServer(('127.0.0.1', 8000), Echo)\n"
        "open('listening', 'w').close()\n"
        "server.serve_forever()\n";
    const char *at = vm_path(vm, "server.py");
    vm_write(at, server, sizeof server - 1);
    (void)vm_ok(vm, "cp", at, vm_text(vm, "%s:/home/app/server.py", s), NULL);
    (void)vm_guest(vm, s,
                   "setsid python3 server.py >log 2>&1 </dev/null & "
                   "until [ -e listening ]; do sleep 0.1; done");
}

/* Starts it for a port of its choice. *ret_port: that one. */
static struct vm_process *start_forward(struct vm *vm, const char *s, uint16_t *ret_port)
{
    const char *const argv[] = {"forward", "--json", s, "0:8000", NULL};
    struct vm_process *process = vm_start(vm, argv);
    vm_expect(process, "\"sandbox_port\":8000");
    const char *at = strstr(process->text, "\"port\":");
    assert_non_null(at);
    *ret_port = (uint16_t)strtoul(at + strlen("\"port\":"), NULL, 10);
    return process;
}

static int connect_to(uint16_t port)
{
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&at, sizeof at), 0);
    return fd;
}

/* What the other side sends until its end; -1: it was reset. */
static ssize_t read_all(int fd, char *out, size_t size)
{
    size_t used = 0;
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        assert_int_equal(poll(&p, 1, VM_DEADLINE_MS), 1);
        ssize_t n = recv(fd, out + used, size - used, 0);
        if (n <= 0)
            return n < 0 ? -1 : (ssize_t)used;
        used += (size_t)n;
        assert_true(used < size);
    }
}

/* Asks the server, whose answer comes when the question's end has come. */
static void ask_server(uint16_t port, const char *question, const char *answer)
{
    char got[256];
    int fd = connect_to(port);
    assert_int_equal(send(fd, question, strlen(question), 0), strlen(question));
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    ssize_t n = read_all(fd, got, sizeof got);
    assert_true(n >= 0);
    got[n] = '\0';
    assert_string_equal(got, answer);
    (void)close(fd);
}

static void a_connection_wakes_it(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    uint16_t port;
    char byte;
    start_server(vm, s);
    suspend(vm, s);
    struct vm_process *forward = start_forward(vm, s, &port);
    assert_string_equal(vm_state(vm, s), "suspended"); /* to listen needs nobody */
    ask_server(port, "wake up", "WAKE UP");
    assert_string_equal(vm_state(vm, s), "running");
    /* One that is open is reset, as it would be by a machine that goes away; the next one works. */
    (void)vm_guest(vm, s, "rm reading");
    int open = connect_to(port);
    assert_int_equal(send(open, "half a", 6, 0), 6);
    /* Connections have processes of their own, of which the second one may be the faster. */
    (void)vm_guest(vm, s, "until [ -e reading ]; do sleep 0.1; done");
    ask_server(port, "meanwhile", "MEANWHILE");
    suspend(vm, s);
    assert_int_equal(read_all(open, &byte, 1), -1);
    (void)close(open);
    ask_server(port, "again", "AGAIN");
    /* While it is stopped nobody is there. */
    (void)vm_ok(vm, "stop", "-t", "0", s, NULL);
    int refused = connect_to(port);
    assert_int_equal(read_all(refused, &byte, 1), -1);
    (void)close(refused);
    assert_string_equal(vm_state(vm, s), "stopped");
    assert_int_equal(vm_stop(forward, SIGTERM), 0);
    (void)vm_ok(vm, "rm", s, NULL);
}

static void forward_ends_with_its_sandbox(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox(vm);
    uint16_t port;
    char byte;
    vm_refused(vm, "want PORT", "forward", s, "http", NULL);
    vm_refused(vm, "--address", "forward", "--address", "here", s, "80", NULL);
    struct vm_process *forward = start_forward(vm, s, &port);
    int refused = connect_to(port); /* nothing listens in there */
    assert_int_equal(read_all(refused, &byte, 1), -1);
    (void)close(refused);
    vm_expect(forward, "port 8000 in the sandbox");
    vm_refused(vm, "cannot listen|HOSTPORT", "forward", s, vm_text(vm, "%u:80", port), NULL);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
    int late = connect_to(port);
    assert_int_equal(read_all(late, &byte, 1), -1);
    (void)close(late);
    vm_expect(forward, "was removed");
    assert_int_equal(vm_finish(forward), 125);
    vm_refused(vm, "no sandbox", "forward", s, "80", NULL);
}

/* ---- lifetimes ---- */

static void one_that_does_nothing_is_suspended_and_one_that_works_is_not(void **state)
{
    struct vm *vm = *state;
    const char *busy = vm_sandbox_with(vm, "--idle-suspend", "3s", NULL);
    (void)vm_guest(vm, busy, "setsid sh -c 'while :; do :; done' >/dev/null 2>&1 </dev/null &");
    const char *idle = vm_sandbox_with(vm, "--idle-suspend", "3s", NULL);
    leave_a_mark(vm, idle);
    vm_wait_state(vm, idle, "suspended");
    json_t *json = vm_json(vm, "inspect", idle, NULL);
    assert_string_equal(json_string_value(json_object_get(json, "reason")), "idle for 3 s");
    assert_int_equal(json_integer_value(json_object_get(json, "idle_suspend_s")), 3);
    json_decref(json);
    assert_non_null(strstr(vm_ok(vm, "ls", NULL), "idle 3s"));
    look_for_the_mark(vm, idle);
    vm_wait_state(vm, idle, "suspended"); /* the settings stay with it */
    /* The other one has had at least as long. */
    assert_string_equal(vm_state(vm, busy), "running");
    (void)vm_guest(vm, busy, "pkill -f '[w]hile :'");
    vm_wait_state(vm, busy, "suspended");
    /* While it runs, too. */
    (void)vm_ok(vm, "start", "--idle-suspend", "none", busy, NULL);
    (void)vm_ok(vm, "start", "--idle-suspend", "1s", busy, NULL);
    vm_wait_state(vm, busy, "suspended");
    (void)vm_ok(vm, "rm", "--force", idle, busy, NULL);
}

/* A command whose output comes now and then keeps it awake; one that is open and silent does not.
 */
static void bytes_keep_it_awake(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox_with(vm, "--idle-suspend", "10s", NULL);
    const char *const argv[] = {"exec", s, "--", "cat", NULL};
    struct vm_process *process = vm_start(vm, argv);
    for (int i = 0; i < 14; i++) {
        vm_send(process, "x", 1);
        vm_expect(process, "x");
        assert_string_equal(vm_state(vm, s), "running");
        struct pollfd nothing = {.fd = -1};
        (void)poll(&nothing, 1, 1000); /* less than its time: it is the pause that is tested */
    }
    vm_wait_state(vm, s, "suspended");
    (void)vm_stop(process, SIGKILL);
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

static void its_time_is_over(void **state)
{
    struct vm *vm = *state;
    const char *s = vm_sandbox_with(vm, "--ttl", "1h", NULL);
    assert_non_null(strstr(vm_ok(vm, "ls", NULL), "ends "));
    (void)vm_ok(vm, "start", "--ttl", "1s", s, NULL);
    vm_wait_state(vm, s, "stopped");
    json_t *json = vm_json(vm, "inspect", s, NULL);
    assert_string_equal(json_string_value(json_object_get(json, "reason")),
                        "its lifetime of 1 s is over");
    json_decref(json);
    assert_non_null(strstr(vm_ok(vm, "ls", NULL), "over"));
    /* Who starts it wants more of it; who only needs it does not wake it any more. */
    (void)vm_ok(vm, "start", "--ttl", "1h", s, NULL);
    suspend(vm, s);
    (void)vm_host(
        vm,
        "f=%s/sandbox.json; sed 's/\"expires_ms\":[0-9]*/\"expires_ms\":1/' $f >$f.new && "
        "mv $f.new $f",
        vm_sandbox_dir(vm, s));
    vm_refused(vm, "lifetime|start --ttl", "exec", s, "--", "true", NULL);
    assert_string_equal(vm_state(vm, s), "suspended");
    (void)vm_ok(vm, "start", s, NULL);
    (void)vm_guest(vm, s, "true");
    (void)vm_ok(vm, "rm", "--force", s, NULL);
}

static void a_command_s_own_sandbox_is_gone_when_its_time_is_over(void **state)
{
    struct vm *vm = *state;
    const char *const argv[] = {"run", "--ttl", "1s", "--", "sleep", "1000", NULL};
    struct vm_process *process = vm_start(vm, argv);
    assert_true(vm_finish(process) != 0);
    assert_null(strstr(vm_ok(vm, "ls", NULL), "running"));
    vm_refused(vm, "--ttl", "run", "--ttl", "soon", "--", "true", NULL);
    vm_refused(vm, "--idle-suspend", "run", "--idle-suspend", "0s", "--", "true", NULL);
}

VM_MAIN(VM_NEEDS_VM | VM_NEEDS_FUSE, cmocka_unit_test(commands_wake_it),
        cmocka_unit_test(one_wakes_it_for_all_who_come_at_once),
        cmocka_unit_test(a_command_that_is_killed_meanwhile_leaves_it_whole),
        cmocka_unit_test(it_sleeps_on_where_that_is_wanted),
        cmocka_unit_test(a_mount_stays_and_wakes_it), cmocka_unit_test(a_connection_wakes_it),
        cmocka_unit_test(forward_ends_with_its_sandbox),
        cmocka_unit_test(one_that_does_nothing_is_suspended_and_one_that_works_is_not),
        cmocka_unit_test(bytes_keep_it_awake), cmocka_unit_test(its_time_is_over),
        cmocka_unit_test(a_command_s_own_sandbox_is_gone_when_its_time_is_over))
