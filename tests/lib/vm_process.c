#include "tests/lib/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/io.h"

/* ---- processes ---- */

int vm_left_ms(uint64_t since_ms)
{
    uint64_t gone = bg_now_ms() - since_ms;
    return gone >= VM_DEADLINE_MS ? 0 : (int)(VM_DEADLINE_MS - gone);
}

static void set_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    assert_true(flags >= 0);
    assert_int_equal(fcntl(fd, F_SETFL, flags | O_NONBLOCK), 0);
}

/* What a program said, ahead of the failure's own line: cmocka cuts that at 1 KiB. */
static void show(const char *text)
{
    enum { SHOWN_MAX = 20000 };
    size_t size = strlen(text);
    (void)fprintf(stderr, "%s\n", text + (size > SHOWN_MAX ? size - SHOWN_MAX : 0));
}

static const char *command_text(struct vm *vm, const char *const *argv)
{
    const char *text = "bellglass";
    for (size_t i = 0; argv[i]; i++)
        text = vm_text(vm, "%s %s", text, argv[i]);
    return text;
}

static void exec_child(const char *program, const char *const *argv, bool with_name)
{
    char *all[VM_ARGS_MAX + 2];
    size_t count = 0;
    /* execv takes char *const[] for history's sake and writes to none of them. */
    if (with_name)
        memcpy(&all[count++], &program, sizeof program);
    for (size_t i = 0; argv[i] && count < VM_ARGS_MAX; i++)
        memcpy(&all[count++], &argv[i], sizeof argv[i]);
    all[count] = NULL;
    (void)execv(program, all);
    _exit(126);
}

/* Starts program with three pipes; ret: our ends of stdin, stdout, stderr (err NULL: with stdout).
 */
static pid_t spawn(const char *program, const char *const *argv, bool with_name, int *ret_in,
                   int *ret_out, int *ret_err)
{
    int in[2], out[2], err[2] = {-1, -1};
    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    if (ret_err)
        assert_int_equal(pipe2(err, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (dup2(in[0], 0) < 0 || dup2(out[1], 1) < 0 || dup2(ret_err ? err[1] : out[1], 2) < 0)
            _exit(126);
        exec_child(program, argv, with_name);
    }
    (void)close(in[0]);
    (void)close(out[1]);
    *ret_in = in[1];
    *ret_out = out[0];
    if (ret_err) {
        (void)close(err[1]);
        *ret_err = err[0];
    }
    return pid;
}

int vm_status_of(int wait_status)
{
    return WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

/* Waits for our own child; kills it at the deadline. */
static int wait_child(pid_t pid, const char *what)
{
    int pidfd = pidfd_open(pid, 0);
    assert_true(pidfd >= 0);
    struct pollfd ended = {.fd = pidfd, .events = POLLIN};
    int n;
    do {
        n = poll(&ended, 1, VM_DEADLINE_MS);
    } while (n < 0 && errno == EINTR);
    (void)close(pidfd);
    if (n == 0)
        (void)kill(pid, SIGKILL);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (n == 0)
        fail_msg("%s: did not end within %d s of its output's end", what, VM_DEADLINE_MS / 1000);
    return vm_status_of(status);
}

static int stream(struct vm *vm, const char *program, const char *const *argv, bool with_name,
                  const struct vm_io *io)
{
    enum { CHUNK = 65536 };
    static uint8_t in_chunk[CHUNK], out_chunk[CHUNK];
    size_t in_size = 0, in_at = 0;
    int fds[3];
    pid_t pid = spawn(program, argv, with_name, &fds[0], &fds[1], &fds[2]);
    if (io->produce) {
        set_nonblocking(fds[0]);
    } else {
        (void)close(fds[0]);
        fds[0] = -1;
    }
    uint64_t progress_ms = bg_now_ms();
    while (fds[1] >= 0 || fds[2] >= 0) {
        struct pollfd polls[3] = {{fds[0], POLLOUT, 0}, {fds[1], POLLIN, 0}, {fds[2], POLLIN, 0}};
        int n = poll(polls, 3, vm_left_ms(progress_ms));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            (void)kill(pid, SIGKILL);
            (void)waitpid(pid, NULL, 0);
            fail_msg("%s: no progress for %d s", command_text(vm, argv), VM_DEADLINE_MS / 1000);
        }
        progress_ms = bg_now_ms();
        for (int i = 1; i < 3; i++) {
            if (fds[i] < 0 || polls[i].revents == 0)
                continue;
            ssize_t got = read(fds[i], out_chunk, CHUNK);
            if (got > 0 && io->consume)
                io->consume(io->arg, i, out_chunk, (size_t)got);
            if (got <= 0 && errno != EINTR) {
                (void)close(fds[i]);
                fds[i] = -1;
            }
        }
        if (fds[0] < 0 || polls[0].revents == 0)
            continue;
        if (in_at == in_size) {
            in_at = 0;
            in_size = io->produce(io->arg, in_chunk, CHUNK);
        }
        ssize_t put = in_size ? write(fds[0], in_chunk + in_at, in_size - in_at) : 0;
        if (put > 0)
            in_at += (size_t)put;
        /* EPIPE: the command has read all that it wants. */
        if (in_size == 0 || (put < 0 && errno != EAGAIN && errno != EINTR)) {
            (void)close(fds[0]);
            fds[0] = -1;
        }
    }
    if (fds[0] >= 0)
        (void)close(fds[0]);
    return wait_child(pid, program);
}

int vm_stream(struct vm *vm, const char *const *argv, const struct vm_io *io)
{
    return stream(vm, vm->bellglass, argv, /* with_name= */ true, io);
}

/* ---- commands to their end ---- */

struct capture {
    const uint8_t *input;
    size_t input_left;
    char *bytes[3];
    size_t size[3], room[3];
};

static size_t give_input(void *arg, uint8_t *buffer, size_t size)
{
    struct capture *c = arg;
    size_t n = c->input_left < size ? c->input_left : size;
    if (n > 0)
        memcpy(buffer, c->input, n);
    c->input += n;
    c->input_left -= n;
    return n;
}

static void append(char **bytes, size_t *size, size_t *room, const void *more, size_t more_size)
{
    if (*size + more_size + 1 > *room) {
        *room = 2 * (*size + more_size + 1);
        *bytes = realloc(*bytes, *room);
        assert_non_null(*bytes);
        assert_true(*room < VM_CAPTURE_MAX);
    }
    memcpy(*bytes + *size, more, more_size);
    *size += more_size;
    (*bytes)[*size] = '\0';
}

static void take_output(void *arg, int fd, const uint8_t *bytes, size_t size)
{
    struct capture *c = arg;
    append(&c->bytes[fd], &c->size[fd], &c->room[fd], bytes, size);
}

static struct vm_result *call(struct vm *vm, const char *program, const char *const *argv,
                              bool with_name, const void *input, size_t input_size)
{
    struct capture c = {.input = input, .input_left = input_size};
    take_output(&c, 1, (const uint8_t *)"", 0);
    take_output(&c, 2, (const uint8_t *)"", 0);
    const struct vm_io io = {
        .produce = input ? give_input : NULL, .consume = take_output, .arg = &c};
    int status = stream(vm, program, argv, with_name, &io);
    struct vm_result *r = vm_keep(vm, malloc(sizeof *r));
    *r = (struct vm_result){.status = status,
                            .out = vm_keep(vm, c.bytes[1]),
                            .err = vm_keep(vm, c.bytes[2]),
                            .out_size = c.size[1],
                            .err_size = c.size[2]};
    return r;
}

struct vm_result *vm_call_with(struct vm *vm, const char *const *argv, const void *input,
                               size_t input_size)
{
    return call(vm, vm->bellglass, argv, /* with_name= */ true, input, input_size);
}

const char *vm_host(struct vm *vm, const char *format, ...)
{
    char *script;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&script, format, args);
    va_end(args);
    assert_true(n >= 0);
    (void)vm_keep(vm, script);
    const char *const argv[] = {"/bin/bash", "-euo", "pipefail", "-c", script, NULL};
    const struct vm_result *r = call(vm, argv[0], argv, /* with_name= */ false, NULL, 0);
    if (r->status != 0) {
        show(r->out);
        show(r->err);
        fail_msg("%s\nstatus %d", script, r->status);
    }
    return r->out;
}

struct vm_result *vm_call(struct vm *vm, const char *arg, ...)
{
    const char *argv[VM_ARGS_MAX + 1];
    VM_COLLECT(argv, arg);
    return vm_call_with(vm, argv, NULL, 0);
}

const char *vm_ok_with(struct vm *vm, const char *const *argv)
{
    const struct vm_result *r = vm_call_with(vm, argv, NULL, 0);
    if (r->status != 0) {
        show(r->out);
        show(r->err);
        fail_msg("%s: status %d", command_text(vm, argv), r->status);
    }
    return r->out;
}

void vm_fail(const char *text)
{
    (void)fprintf(stderr, "%s\n", text);
    fail();
    abort(); /* fail() does not return */
}

const char *vm_ok(struct vm *vm, const char *arg, ...)
{
    const char *argv[VM_ARGS_MAX + 1];
    VM_COLLECT(argv, arg);
    return vm_ok_with(vm, argv);
}

const char *vm_guest(struct vm *vm, const char *sandbox, const char *format, ...)
{
    char *script;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&script, format, args);
    va_end(args);
    assert_true(n >= 0);
    (void)vm_keep(vm, script);
    return vm_ok(vm, "exec", sandbox, "--", "sh", "-ec", script, NULL);
}

json_t *vm_json(struct vm *vm, const char *arg, ...)
{
    const char *argv[VM_ARGS_MAX + 1];
    VM_COLLECT(argv, arg);
    const char *text = vm_ok_with(vm, argv);
    json_error_t error;
    json_t *value = json_loads(text, JSON_REJECT_DUPLICATES, &error);
    if (!value)
        fail_msg("%s: not JSON: %s\n%s", command_text(vm, argv), error.text, text);
    return value;
}

void vm_refused(struct vm *vm, const char *words, const char *arg, ...)
{
    const char *argv[VM_ARGS_MAX + 1];
    VM_COLLECT(argv, arg);
    const struct vm_result *r = vm_call_with(vm, argv, NULL, 0);
    const char *command = command_text(vm, argv);
    if (r->status != 125)
        fail_msg("%s: status %d instead of 125\n%s\n%s", command, r->status, r->out, r->err);
    const char *newline = strchr(r->err, '\n');
    if (!newline || newline[1] != '\0')
        fail_msg("%s: not one line of error:\n%s", command, r->err);
    char *all = vm_keep(vm, strdup(words)), *rest = all;
    for (const char *word; (word = strsep(&rest, "|"));)
        if (!strstr(r->err, word))
            fail_msg("%s: no '%s' in: %s", command, word, r->err);
}

/* ---- commands in the background ---- */

static struct vm_process *new_process(pid_t pid, int in, int out)
{
    struct vm_process *p = calloc(1, sizeof *p);
    assert_non_null(p);
    *p = (struct vm_process){.pid = pid, .in = in, .out = out, .text = strdup("")};
    assert_non_null(p->text);
    return p;
}

struct vm_process *vm_start(struct vm *vm, const char *const *argv)
{
    int in, out;
    pid_t pid = spawn(vm->bellglass, argv, /* with_name= */ true, &in, &out, NULL);
    return new_process(pid, in, out);
}

struct vm_process *vm_start_program(struct vm *vm, const char *const *argv)
{
    (void)vm;
    int in, out;
    pid_t pid = spawn(argv[0], argv, /* with_name= */ false, &in, &out, NULL);
    return new_process(pid, in, out);
}

struct vm_process *vm_start_terminal(struct vm *vm, unsigned short rows, unsigned short columns,
                                     const char *const *argv)
{
    const struct winsize size = {.ws_row = rows, .ws_col = columns};
    int master;
    pid_t pid = forkpty(&master, NULL, NULL, &size);
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)setenv("TERM", "xterm", 1);
        exec_child(vm->bellglass, argv, /* with_name= */ true);
    }
    assert_int_equal(fcntl(master, F_SETFD, FD_CLOEXEC), 0);
    return new_process(pid, master, master);
}

void vm_send(struct vm_process *process, const void *bytes, size_t size)
{
    assert_int_equal(bg_write_full(process->in, bytes, size), 0);
}

/* Reads once; false at the end of the output. */
static bool read_more(struct vm_process *p, int timeout_ms, const char *what)
{
    struct pollfd ready = {.fd = p->out, .events = POLLIN};
    int n;
    do {
        n = poll(&ready, 1, timeout_ms);
    } while (n < 0 && errno == EINTR);
    if (n == 0) {
        (void)kill(p->pid, SIGKILL);
        (void)waitpid(p->pid, NULL, 0);
        show(p->text);
        fail_msg("no '%s' within %d s in the output", what, VM_DEADLINE_MS / 1000);
    }
    char chunk[4096];
    ssize_t got = read(p->out, chunk, sizeof chunk);
    if (got <= 0) /* EIO: the terminal's other side is closed */
        return false;
    size_t room = p->text_size + 1;
    append(&p->text, &p->text_size, &room, chunk, (size_t)got);
    return true;
}

void vm_expect(struct vm_process *process, const char *text)
{
    uint64_t start_ms = bg_now_ms();
    for (;;) {
        const char *found = memmem(process->text + process->matched,
                                   process->text_size - process->matched, text, strlen(text));
        if (found) {
            process->matched = (size_t)(found - process->text) + strlen(text);
            return;
        }
        if (!read_more(process, vm_left_ms(start_ms), text)) {
            show(process->text);
            fail_msg("no '%s' before the output's end", text);
        }
    }
}

int vm_finish(struct vm_process *process)
{
    uint64_t start_ms = bg_now_ms();
    if (process->in >= 0 && process->in != process->out)
        (void)close(process->in);
    while (process->out >= 0 && read_more(process, vm_left_ms(start_ms), "end of output")) {
    }
    int status = wait_child(process->pid, "bellglass");
    if (process->out >= 0)
        (void)close(process->out);
    free(process->text);
    free(process);
    return status;
}

int vm_stop(struct vm_process *process, int signal_number)
{
    (void)kill(process->pid, signal_number);
    return vm_finish(process);
}
