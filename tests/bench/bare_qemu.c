#include "tests/bench/bare_qemu.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "common/io.h"
#include "host/supervisor/golden.h"
#include "host/supervisor/parts.h"
#include "tests/bench/measure.h"

static int open_in(const char *dir, const char *file)
{
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/%s", dir, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        bench_fail("%s: cannot be opened", path);
    return fd;
}

json_t *bare_qemu_ask(const struct bare_qemu *qemu, const char *command, json_t *arguments, int fd)
{
    json_t *request = json_pack("{s:s, s:o*}", "execute", command, "arguments", arguments);
    BG_AUTOFREE char *text = json_dumps(request, JSON_COMPACT);
    json_decref(request);
    if (!text || bg_send_fd(qemu->monitor_fd, text, strlen(text), fd) < 0)
        bench_fail("QEMU's monitor has gone");
    for (;;) { /* events come in between */
        json_error_t why;
        json_t *answer = json_loadfd(qemu->monitor_fd, JSON_DISABLE_EOF_CHECK, &why);
        if (!answer || json_object_get(answer, "error")) {
            BG_AUTOFREE char *said = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
            bench_fail("QEMU: %s: %s", command, said ? said : why.text);
        }
        json_t *value = json_incref(json_object_get(answer, "return"));
        json_decref(answer);
        if (value)
            return value;
    }
}

void bare_qemu_say(const struct bare_qemu *qemu, const char *line)
{
    json_t *value =
        bare_qemu_ask(qemu, "human-monitor-command", json_pack("{s:s}", "command-line", line), -1);
    if (*json_string_value(value))
        bench_fail("QEMU: %s: %s", line, json_string_value(value));
    json_decref(value);
}

/* Until the state that it was started with is loaded; then its CPUs run. */
static void let_run(const struct bare_qemu *qemu)
{
    json_decref(json_loadfd(qemu->monitor_fd, JSON_DISABLE_EOF_CHECK, NULL)); /* its greeting */
    json_decref(bare_qemu_ask(qemu, "qmp_capabilities", NULL, -1));
    for (bool loading = true; loading;) {
        json_t *value = bare_qemu_ask(qemu, "query-status", NULL, -1);
        const char *status = json_string_value(json_object_get(value, "status"));
        loading = strcmp(status, "inmigrate") == 0;
        json_decref(value);
        if (loading)
            (void)poll(NULL, 0, 2); /* nothing tells us */
    }
    json_decref(bare_qemu_ask(qemu, "cont", NULL, -1));
}

static void pair(int *ret_ours, int *ret_its)
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        bench_fail("socketpair failed");
    *ret_ours = fds[0];
    *ret_its = fds[1];
}

static int make_top(const struct golden *golden, const char *path, unsigned uid)
{
    struct bg_err err;
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || parts_write_overlay(golden, fd, &err) < 0 ||
        (geteuid() == 0 && fchown(fd, uid, (gid_t)-1) < 0))
        bench_fail("%s: cannot be made", path);
    return fd;
}

static void add_memory(struct qemu_opts *opts, const struct bg_snapshot *snapshot, int incoming_fd)
{
    char file[BG_LAYER_FILE_SIZE];
    opts->state_fd = incoming_fd;
    if (incoming_fd >= 0) {
        opts->memory_fd = memfd_create("ram", MFD_CLOEXEC);
        opts->memory_base_none = true;
        if (opts->memory_fd < 0 || ftruncate(opts->memory_fd, (off_t)opts->memory_bytes) < 0)
            bench_fail("no memory file");
        return;
    }
    opts->state_fd = open_in(snapshot->dir, BG_SNAPSHOT_STATE);
    for (size_t i = 0; i < snapshot->memory_count; i++) {
        bg_layer_memory_file(snapshot->memory[i].id, file);
        opts->memory_layer_fds[opts->memory_layer_count++] = open_in(snapshot->dir, file);
    }
}

/* QEMU has its own copies; the golden snapshot's are its own to close. */
static void close_files(const struct qemu_opts *opts, const struct golden *golden, bool incoming)
{
    for (size_t i = 0; i + 2 < opts->disk_count; i++)
        (void)close(opts->disk_fds[i]);
    for (size_t i = 0; i < opts->memory_layer_count; i++)
        (void)close(opts->memory_layer_fds[i]);
    if (opts->memory_fd != golden->memory_fd)
        (void)close(opts->memory_fd);
    if (!incoming)
        (void)close(opts->state_fd);
    (void)close(opts->qmp_fd);
    (void)close(opts->console_fd);
    (void)close(opts->vsock_fd);
}

struct bare_qemu bare_qemu_start(const struct bg_paths *paths, const struct bg_snapshot *snapshot,
                                 const char *top_path, int incoming_fd)
{
    struct bg_err err;
    struct bg_image image;
    struct golden golden;
    struct qemu_program program;
    struct bare_qemu qemu;
    unsigned uid, gid;
    if (bg_image_find(paths, snapshot->image_digest, &image, &err) < 0 ||
        golden_open(paths, &image, snapshot->golden, &golden, &err) < 0 ||
        qemu_find(/* note= */ NULL, &program, &err) < 0)
        bench_fail("%s", err.text);
    bg_runner_ids(&uid, &gid);
    struct qemu_opts opts = {.path = program.path,
                             .name = "bare",
                             .accel = strcmp(snapshot->accel, "kvm") == 0 ? ACCEL_KVM : ACCEL_TCG,
                             .cpus = snapshot->cpus,
                             .memory_bytes = snapshot->memory_bytes,
                             .memory_fd = golden.memory_fd,
                             .kernel_fd = -1,
                             .initrd_fd = -1,
                             .log_fd = STDERR_FILENO,
                             .uid = uid,
                             .gid = gid};
    pair(&qemu.monitor_fd, &opts.qmp_fd);
    pair(&qemu.vsock_fd, &opts.vsock_fd);
    pair(&qemu.console_fd, &opts.console_fd);
    add_memory(&opts, snapshot, incoming_fd);
    opts.disk_fds[opts.disk_count++] = make_top(&golden, top_path, uid);
    for (size_t i = snapshot->disk_count; i-- > 0;) {
        char file[BG_LAYER_FILE_SIZE];
        bg_layer_disk_file(snapshot->disk[i].id, file);
        opts.disk_fds[opts.disk_count++] = open_in(snapshot->dir, file);
    }
    opts.disk_fds[opts.disk_count++] = golden.disk_fd;
    opts.disk_fds[opts.disk_count++] = golden.base_fd;
    if (qemu_start(&opts, &qemu.pid, &err) < 0)
        bench_fail("%s", err.text);
    close_files(&opts, &golden, incoming_fd >= 0);
    golden_done(&golden);
    qemu_program_done(&program);
    bg_image_done(&image);
    let_run(&qemu);
    return qemu;
}

void bare_qemu_end(struct bare_qemu *qemu)
{
    (void)kill(qemu->pid, SIGKILL);
    (void)waitpid(qemu->pid, NULL, 0);
    (void)close(qemu->monitor_fd);
    (void)close(qemu->vsock_fd);
    (void)close(qemu->console_fd);
}
