#include "tests/lib/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/state/sandbox.h"

/* ---- sandboxes ---- */

const char *vm_name(struct vm *vm)
{
    return vm_text(vm, "t%u", ++vm->names);
}

static const char *create(struct vm *vm, const char *const *options)
{
    const char *name = vm_name(vm), *argv[VM_ARGS_MAX + 1];
    size_t count = 0;
    argv[count++] = "create";
    for (size_t i = 0; options[i]; i++)
        argv[count++] = options[i];
    argv[count++] = name;
    argv[count] = NULL;
    assert_string_equal(vm_ok_with(vm, argv), vm_text(vm, "%s\n", name));
    return name;
}

const char *vm_sandbox(struct vm *vm)
{
    return create(vm, (const char *const[]){NULL});
}

const char *vm_sandbox_with(struct vm *vm, const char *option, ...)
{
    const char *options[VM_ARGS_MAX + 1];
    VM_COLLECT(options, option);
    return create(vm, options);
}

const char *vm_shared(struct vm *vm)
{
    if (access(vm_sandbox_dir(vm, VM_SHARED), F_OK) < 0)
        (void)vm_ok(vm, "create", VM_SHARED, NULL);
    return VM_SHARED;
}

const char *vm_sandbox_dir(struct vm *vm, const char *sandbox)
{
    return vm_text(vm, "%s/state/sandboxes/%s", vm->home, sandbox);
}

/* Asks the supervisor for its status; NULL when it does not answer. */
static json_t *ask_status(const char *sandbox)
{
    struct bg_paths paths;
    struct bg_sandbox s;
    struct bg_err err;
    int fd = -1;
    if (bg_paths_init(&paths, &err) < 0)
        return NULL;
    json_t *answer = NULL;
    if (bg_sandbox_load(&paths, sandbox, &s, &err) == 0) {
        static const char request[] = "{\"op\":\"status\"}\n";
        if (bg_sandbox_connect(&paths, &s, &fd, &err) == 0 &&
            bg_write_full(fd, request, sizeof request - 1) == 0)
            answer = json_loadfd(fd, JSON_DISABLE_EOF_CHECK, NULL);
        bg_sandbox_done(&s);
    }
    if (fd >= 0)
        (void)close(fd);
    bg_paths_done(&paths);
    return answer;
}

/* Field 4 of proc(5)'s stat; the name in field 2 may hold anything. */
static int parent_of(struct vm *vm, int pid)
{
    const char *stat = vm_read(vm, vm_text(vm, "/proc/%d/stat", pid), NULL);
    const char *paren = strrchr(stat, ')');
    assert_non_null(paren);
    return (int)strtol(paren + 3, NULL, 10);
}

/* Keeper, relay and echoer have one command line; the keeper is the one whose parent is none of
 * them. The oldest would not do: two of them can have one start time, and numbers begin anew. One
 * that has ended meanwhile has no parent. */
void vm_mount_pids(struct vm *vm, const char *folder, int ret[2])
{
    const char *text = vm_host(
        vm,
        "all=$(pgrep -d ' ' -f -- '^([^ ]*/)?bellglass-mount .*--mountpoint %s( |$)'); for p in "
        "$all; do "
        "parent=$(ps -o ppid= -p $p | tr -d ' '); [ -n \"$parent\" ] || continue; case \" $all \" "
        "in *\" $parent \"*) ;; "
        "*) echo $p; pgrep -P $p;; esac; done",
        folder);
    char *rest;
    ret[0] = (int)strtol(text, &rest, 10);
    ret[1] = (int)strtol(rest, NULL, 10);
    assert_true(ret[0] > 1 && ret[1] > 1);
}

int vm_pid(struct vm *vm, const char *sandbox, const char *field)
{
    if (strcmp(field, "supervisor_pid") == 0) /* it has started QEMU */
        return parent_of(vm, vm_pid(vm, sandbox, "qemu_pid"));
    json_t *status = ask_status(sandbox);
    if (!status)
        fail_msg("%s: its supervisor does not answer", sandbox);
    json_int_t pid = json_integer_value(json_object_get(status, field));
    json_decref(status);
    if (pid <= 1)
        fail_msg("%s: no %s in its status", sandbox, field);
    return (int)pid;
}

const char *vm_state(struct vm *vm, const char *sandbox)
{
    struct bg_paths paths;
    struct bg_sandbox s;
    struct bg_err err;
    enum bg_sandbox_state state = BG_SANDBOX_STOPPED;
    assert_int_equal(bg_paths_init(&paths, &err), 0);
    int r = bg_sandbox_load(&paths, sandbox, &s, &err);
    bg_paths_done(&paths);
    if (r == -ENOENT)
        return "gone";
    if (r == 0) {
        r = bg_sandbox_state(&s, &state, NULL, &err);
        bg_sandbox_done(&s);
    }
    if (r < 0)
        fail_msg("%s: %s", sandbox, err.text);
    return vm_text(vm, "%s", bg_sandbox_state_name(state));
}

void vm_wait(const char *what, bool (*condition)(void *arg), void *arg)
{
    uint64_t start_ms = bg_now_ms();
    while (!condition(arg)) {
        if (vm_left_ms(start_ms) == 0)
            fail_msg("not within %d s: %s", VM_DEADLINE_MS / 1000, what);
        (void)poll(NULL, 0, 50); /* between two looks; the deadline is what counts */
    }
}

struct wanted_state {
    struct vm *vm;
    const char *sandbox, *state;
};

static bool state_is(void *arg)
{
    const struct wanted_state *w = arg;
    return strcmp(vm_state(w->vm, w->sandbox), w->state) == 0;
}

void vm_wait_state(struct vm *vm, const char *sandbox, const char *state)
{
    struct wanted_state wanted = {vm, sandbox, state};
    vm_wait(vm_text(vm, "%s is %s", sandbox, state), state_is, &wanted);
}

/* A process is a zombie when its first thread has ended; the others may have its files yet. */
static bool gone(void *arg)
{
    const int *pid = arg;
    char path[64], state = '?';
    long threads = 0; /* field 20 of proc(5)'s stat; the name in field 2 may hold anything */
    (void)snprintf(path, sizeof path, "/proc/%d/stat", *pid);
    char *text;
    if (bg_read_file(AT_FDCWD, path, 4096, &text, NULL, NULL) < 0)
        return true;
    const char *paren = strrchr(text, ')');
    bool read = paren && sscanf(paren + 1,
                                " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d "
                                "%*d %ld",
                                &state, &threads) == 2;
    free(text);
    return read && state == 'Z' && threads <= 1;
}

static bool exists(void *arg)
{
    return access(arg, F_OK) == 0;
}

void vm_wait_path(const char *what, const char *path)
{
    char copy[BG_PATH_MAX];
    (void)snprintf(copy, sizeof copy, "%s", path);
    vm_wait(what, exists, copy);
}

void vm_wait_gone(int pid)
{
    char what[64];
    (void)snprintf(what, sizeof what, "process %d is gone", pid);
    vm_wait(what, gone, &pid);
}
