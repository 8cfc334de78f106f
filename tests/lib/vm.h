/* vm: drives the installed `bellglass` for the integration tests. A test program has one struct vm:
 * a BELLGLASS_HOME of its own below a temporary folder, which shares nothing with other programs
 * but the cached image. Every wait has a deadline, and a missed one fails the test that waits,
 * after the child that it waits for has been ended by its pid. Leaving a process, a mount or a
 * sanitizer's report behind fails the program (vm_main).
 *
 * The test process is the subreaper of all that it starts, so a helper that outlives its command
 * comes back to it and is seen at the end.
 *
 * Environment: BG_TEST_BELLGLASS the program; BG_TEST_IMAGES a DATA/images folder with the image
 * `debian`; BG_TEST_REQUIRE=vm,fuse,root needs whose absence fails instead of skipping;
 * BG_TEST_ONLY a substring of the test functions to run; BG_TEST_KEEP=1 leaves the folder. */
#pragma once

/* cmocka wants these before it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <cmocka.h>
#include <jansson.h>

/* How long any single wait may take. TCG on a loaded machine is slow; nothing waits for this time
 * unless it has gone wrong. */
#define VM_DEADLINE_MS 240000

/* For `stop -t`, where what the guest has not synced is to be on its disk: one that is killed,
 * since it was slow to power off, has lost that. Below VM_DEADLINE_MS. */
#define VM_POWER_OFF_S "200"

struct vm {
    char *folder;         /* temporary; HOME and more are below it */
    char *home;           /* BELLGLASS_HOME */
    char *bellglass;      /* the program under test */
    struct vm_kept *kept; /* what lives as long as the test */
    unsigned names;
};

/* The name of the sandbox that vm_shared() makes. */
#define VM_SHARED "shared"

/* Of one command's output or one file; more fails the test. */
#define VM_CAPTURE_MAX (64u << 20)

struct vm_kept {
    void *memory;
    struct vm_kept *next;
};

/* Frees memory when the test ends; returns it. */
void *vm_keep(struct vm *vm, void *memory);

/* What one command did. Freed with the test that ran it. */
struct vm_result {
    int status;      /* exit status, or 128+N when signal N ended bellglass itself */
    char *out, *err; /* with a NUL after the end */
    size_t out_size, err_size;
};

/* Bytes in and out of a command. */
struct vm_io {
    /* Puts at most size bytes of stdin into buffer; 0: the end. NULL: stdin is at its end at once.
     */
    size_t (*produce)(void *arg, uint8_t *buffer, size_t size);
    /* fd: 1 or 2. NULL: dropped. */
    void (*consume)(void *arg, int fd, const uint8_t *bytes, size_t size);
    void *arg;
};

/* What a program needs, for vm_main. */
#define VM_NEEDS_VM   1u
#define VM_NEEDS_FUSE 2u
#define VM_NEEDS_ROOT 4u /* network namespaces, tmpfs mounts */

/* Runs the tests, each with *state = struct vm *, and cleans up. Returns main's status: 77 when a
 * need is missing. */
int vm_main(const char *program, unsigned needs, const struct CMUnitTest *tests, size_t count);
#define VM_MAIN(needs, ...)                                                                        \
    int main(void)                                                                                 \
    {                                                                                              \
        const struct CMUnitTest tests[] = {__VA_ARGS__};                                           \
        return vm_main(__FILE__, needs, tests, sizeof tests / sizeof *tests);                      \
    }

#define VM_ARGS_MAX 64

/* Collects arg and what follows it into argv, NULL-terminated. */
#define VM_COLLECT(argv, arg)                                                                      \
    do {                                                                                           \
        va_list args_;                                                                             \
        size_t count_ = 0;                                                                         \
        va_start(args_, arg);                                                                      \
        for (const char *a_ = (arg); a_; a_ = va_arg(args_, const char *)) {                       \
            assert_true(count_ < VM_ARGS_MAX);                                                     \
            (argv)[count_++] = a_;                                                                 \
        }                                                                                          \
        (argv)[count_] = NULL;                                                                     \
        va_end(args_);                                                                             \
    } while (0)

/* Runs `bellglass ARG...` to its end, stdin empty. Arguments end with NULL. */
struct vm_result *vm_call(struct vm *vm, const char *arg, ...) __attribute__((sentinel));
/* The same with stdin. argv: without "bellglass", NULL-terminated. */
struct vm_result *vm_call_with(struct vm *vm, const char *const *argv, const void *input,
                               size_t input_size);
/* The same with streams of any size; returns the status. */
int vm_stream(struct vm *vm, const char *const *argv, const struct vm_io *io);

/* Fails the test with a text of any size, which cmocka would cut. */
void vm_fail(const char *text) __attribute__((noreturn));

/* vm_call that must succeed; returns stdout. */
const char *vm_ok(struct vm *vm, const char *arg, ...) __attribute__((sentinel));
const char *vm_ok_with(struct vm *vm, const char *const *argv);
/* vm_call that must fail with status 125 and one line on stderr that has each of the words
 * (separated by '|'). */
void vm_refused(struct vm *vm, const char *words, const char *arg, ...) __attribute__((sentinel));
/* Runs a bash script on the host; it must succeed; returns its stdout. */
const char *vm_host(struct vm *vm, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Runs a script by the guest's `sh -ec`; it must succeed; returns its stdout. */
const char *vm_guest(struct vm *vm, const char *sandbox, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* vm_ok, parsed: a new reference. */
json_t *vm_json(struct vm *vm, const char *arg, ...) __attribute__((sentinel));

/* A command in the background. */
struct vm_process {
    pid_t pid; /* 0 when it has been waited for */
    int in,
        out; /* to and from it; the pty's master for both with a terminal; -1: a test closed it */
    char *text; /* all output read so far, NUL-terminated */
    size_t text_size;
    size_t matched; /* what vm_expect has gone past */
};

/* Starts `bellglass ARG...` with pipes (stderr goes to out too) or on a new terminal. */
struct vm_process *vm_start(struct vm *vm, const char *const *argv);
struct vm_process *vm_start_terminal(struct vm *vm, unsigned short rows, unsigned short columns,
                                     const char *const *argv);
/* Any other program, with pipes. */
struct vm_process *vm_start_program(struct vm *vm, const char *const *argv);
/* Sends bytes to its stdin. */
void vm_send(struct vm_process *process, const void *bytes, size_t size);
/* Reads until the output holds text (beyond what an earlier expect has matched). */
void vm_expect(struct vm_process *process, const char *text);
/* Ends its stdin, reads the rest, waits; returns the status. Frees process. */
int vm_finish(struct vm_process *process);
/* kill(2), then vm_finish. */
int vm_stop(struct vm_process *process, int signal_number);

/* A sandbox for one test, created and started; returns its name, which lives as long as the test.
 * Options for `bellglass create` end with NULL. */
const char *vm_sandbox(struct vm *vm);
const char *vm_sandbox_with(struct vm *vm, const char *option, ...) __attribute__((sentinel));
/* One sandbox for all tests of the program that do not disturb each other in it. */
const char *vm_shared(struct vm *vm);
/* A free name for one: "t1", "t2", ... */
const char *vm_name(struct vm *vm);
/* Its state folder. */
const char *vm_sandbox_dir(struct vm *vm, const char *sandbox);

/* "qemu_pid", "launcher_pid" or "proxy_pid" of the supervisor's status answer, or
 * "supervisor_pid"; fails the test when it does not answer. */
int vm_pid(struct vm *vm, const char *sandbox, const char *field);
/* The processes of the mount on folder: its keeper, and the relay, which has one of its own. */
void vm_mount_pids(struct vm *vm, const char *folder, int ret[2]);
/* The state that `bellglass ls` shows: "running", "crashed" ... */
const char *vm_state(struct vm *vm, const char *sandbox);
/* Polls until the sandbox is in the state. */
void vm_wait_state(struct vm *vm, const char *sandbox, const char *state);
/* Polls until the process is gone with all its threads (or is a zombie of another parent). */
void vm_wait_gone(int pid);

/* What is left of the deadline of a wait that began (or made progress) at since_ms. */
int vm_left_ms(uint64_t since_ms);

/* The exit status of waitpid's, 128+N for signal N. */
int vm_status_of(int wait_status);

/* Polls condition(arg) until it holds; fails the test with what after the deadline. */
void vm_wait(const char *what, bool (*condition)(void *arg), void *arg);
/* The same until something on the host has that name. */
void vm_wait_path(const char *what, const char *path);

/* A path below the test's folder; what it names need not exist. Lives as long as the test. */
const char *vm_path(struct vm *vm, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Text that lives as long as the test. */
const char *vm_text(struct vm *vm, const char *format, ...) __attribute__((format(printf, 2, 3)));
void vm_write(const char *path, const void *bytes, size_t size);
/* The whole file, with a NUL behind; lives as long as the test. */
char *vm_read(struct vm *vm, const char *path, size_t *ret_size);
/* True when some file below folder holds the bytes. */
bool vm_tree_holds(const char *folder, const void *bytes, size_t size, char *ret_path,
                   size_t ret_path_size);

/* A reproducible stream of bytes: seed chooses it. */
struct vm_noise {
    uint64_t state;
};
void vm_noise_fill(struct vm_noise *noise, void *bytes, size_t size);
