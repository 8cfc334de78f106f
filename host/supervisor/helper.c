#include "host/supervisor/helper.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/wire.h"
#include "host/supervisor/background.h"
#include "host/supervisor/child.h"
#include "host/supervisor/parts.h"

/* Of a helper for an image: what `bellglass create` takes, so that the golden snapshot is there. */
#define CPUS         1
#define MEMORY_BYTES (512ull << 20)

#define LOG_SIZE_MAX 262144 /* then the log begins anew */

struct helper {
    const struct helper_opts *opts;
    struct parts parts;
    struct bg_sandbox sandbox;   /* the one whose disk it is; name NULL: none */
    struct bg_snapshot snapshot; /* likewise */
    struct bg_disk disk;         /* of that sandbox: its layers come after the scratch, if any */
    size_t layer_count;
    struct golden below;    /* what they are above */
    struct bg_sandbox self; /* what the supervisor runs */
    struct supervisor_disk second;
    int lock_fd, scratch_fd, root_fd, log_fd;
    struct bg_log log;
    int signal_fd;
    struct supervisor_child child;
    bool served; /* the disk was mounted */
};

/* ---- preparation ---- */

/* A file without a name, in the folder. */
static int open_nameless(const char *dir, int *ret_fd, struct bg_err *err)
{
    BG_AUTOCLOSE int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT)) {
        BG_AUTOFREE char *path = NULL;
        if (asprintf(&path, "%s/.scratch-XXXXXX", dir) < 0)
            return bg_err_errno(err, -ENOMEM, "overlay");
        fd = mkostemp(path, O_CLOEXEC);
        if (fd >= 0)
            (void)unlink(path); /* just made */
    }
    if (fd < 0)
        return bg_err_errno(err, -errno, "%s", dir);
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

static int make_scratch(const struct helper *h, const char *dir, int *ret_fd, struct bg_err *err)
{
    int fd = -1;
    int r = open_nameless(dir, &fd, err);
    if (r == 0)
        r = parts_write_overlay(&h->parts.golden, fd, err);
    *ret_fd = fd;
    return r;
}

/* What errors are repaired on is kept as it was. */
static int keep_copy(const struct bg_sandbox *sandbox, int disk_fd, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/disk.before-repair.qcow2", sandbox->dir) < 0)
        return bg_err_errno(err, -ENOMEM, "disk");
    BG_AUTOCLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return bg_err_errno(err, -errno, "%s", path);
    if (ioctl(fd, FICLONE, disk_fd) == 0)
        return 0;
    struct stat st;
    off_t from = 0;
    ssize_t n = fstat(disk_fd, &st) < 0 ? -1 : 1;
    while (n > 0 && from < st.st_size)
        n = copy_file_range(disk_fd, &from, fd, NULL, (size_t)(st.st_size - from), 0);
    if (n <= 0 && from < st.st_size) {
        int code = n < 0 ? -errno : -EIO;
        (void)unlink(path); /* half a copy */
        return bg_err_errno(err, code, "cannot keep a copy of the disk, %s", path);
    }
    return 0;
}

static int open_sandbox_disk(struct helper *h, struct bg_err *err)
{
    const struct helper_opts *opts = h->opts;
    size_t at = opts->write ? 0 : 1; /* the overlay that goes away comes first */
    int r = source_open_layers(&h->sandbox, opts->write, &h->disk, h->second.fds + at,
                               &h->layer_count, err);
    h->second.count = at + h->layer_count;
    if (r == 0)
        r = golden_open_disk(opts->paths, &h->parts.image, h->disk.golden, &h->below, err);
    if (r == 0 && opts->repair)
        r = keep_copy(&h->sandbox, h->second.fds[0], err);
    if (r < 0)
        return r;
    h->second.fds[h->second.count++] = h->below.disk_fd;
    h->second.fds[h->second.count++] = h->below.base_fd;
    return 0;
}

static int open_snapshot_disk(struct helper *h, struct bg_err *err)
{
    const struct bg_snapshot *snapshot = &h->snapshot;
    BG_AUTOCLOSE int dir_fd = open(snapshot->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return bg_err_errno(err, -errno, "%s", snapshot->dir);
    h->second.count = 1; /* the overlay that goes away */
    for (size_t i = snapshot->disk_count; i-- > 0;) {
        char file[BG_LAYER_FILE_SIZE];
        bg_layer_disk_file(snapshot->disk[i].id, file);
        int fd = openat(dir_fd, file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
            return bg_err_errno(err, -errno, "%s/%s", snapshot->dir, file);
        h->second.fds[h->second.count++] = fd;
        h->layer_count++;
        int r = source_check_layer(fd, file, err);
        if (r < 0)
            return bg_err_prefix(err, "%s", snapshot->dir);
    }
    return golden_open_disk(h->opts->paths, &h->parts.image, snapshot->golden, &h->below, err);
}

/* The overlays, and the chain of the disk from them down. */
static int open_disks(struct helper *h, struct bg_err *err)
{
    const char *dir = h->sandbox.name ? h->sandbox.dir : h->opts->paths->state;
    int r = make_scratch(h, dir, &h->root_fd, err);
    if (r == 0 && !h->opts->write)
        r = make_scratch(h, dir, &h->scratch_fd, err);
    if (r == 0 && h->sandbox.name)
        r = open_sandbox_disk(h, err);
    else if (r == 0 && h->snapshot.name)
        r = open_snapshot_disk(h, err);
    if (r < 0)
        return r;
    if (!h->opts->write)
        h->second.fds[0] = h->scratch_fd;
    if (h->snapshot.name) {
        h->second.fds[h->second.count++] = h->below.disk_fd;
        h->second.fds[h->second.count++] = h->below.base_fd;
    } else if (!h->sandbox.name) { /* as it was built: without the golden snapshot's boot */
        h->second.fds[1] = h->parts.golden.base_fd;
        h->second.count = 2;
    }
    h->second.flags =
        (h->opts->write ? 0 : BG_DISK_READ_ONLY) | (h->opts->repair ? BG_DISK_REPAIR : 0);
    return 0;
}

/* What the supervisor sees: a sandbox that is in no folder. Its id begins with that of the sandbox,
 * so that whoever has to do with that one finds the helper's socket. */
static int make_self(struct helper *h, struct bg_err *err)
{
    uint8_t tag[BG_HELPER_TAG_SIZE / 2];
    char hex[BG_HELPER_TAG_SIZE + 1];
    bool image = !h->sandbox.name;
    bg_random(tag, sizeof tag);
    bg_hex(tag, sizeof tag, hex);
    h->self.name = strdup("bellglass-helper");
    h->self.dir = strdup(image ? h->opts->paths->state : h->sandbox.dir);
    if (!h->self.name || !h->self.dir)
        return bg_err_errno(err, -ENOMEM, "helper");
    (void)snprintf(h->self.id, sizeof h->self.id, "%.24s.%s",
                   image ? BG_HELPER_IMAGE_ID : h->sandbox.id, hex);
    h->self.cpus = image ? CPUS : h->sandbox.cpus;
    h->self.memory_bytes = image ? MEMORY_BYTES : h->sandbox.memory_bytes;
    return 0;
}

static int open_log(struct helper *h, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    struct stat st;
    if (asprintf(&path, "%s/helper.log", h->self.dir) < 0)
        return bg_err_errno(err, -ENOMEM, "helper.log");
    h->log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (h->log_fd < 0)
        return bg_err_errno(err, -errno, "%s", path);
    if (fstat(h->log_fd, &st) == 0 && st.st_size > LOG_SIZE_MAX)
        (void)!ftruncate(h->log_fd, 0); /* too long a log does no harm */
    h->log = (struct bg_log){.fd = h->log_fd, .level = BG_LOG_INFO, .tag = "helper"};
    return 0;
}

static int prepare(struct helper *h, struct bg_err *err)
{
    const struct helper_opts *opts = h->opts;
    int r = 0;
    if (opts->sandbox) {
        r = bg_sandbox_load(opts->paths, opts->sandbox, &h->sandbox, err);
        if (r == 0)
            r = bg_sandbox_lock_disk(&h->sandbox, opts->write, &h->lock_fd, err);
    } else if (opts->snapshot) {
        r = bg_snapshot_load(opts->paths, opts->snapshot, &h->snapshot, err);
    }
    if (r == 0)
        r = make_self(h, err);
    if (r == 0)
        r = open_log(h, err);
    if (r == 0)
        r = parts_find(opts->paths,
                       opts->sandbox    ? h->sandbox.image_digest
                       : opts->snapshot ? h->snapshot.image_digest
                                        : opts->image,
                       &h->parts, err);
    if (r == 0)
        r = parts_golden(opts->paths, h->self.cpus, h->self.memory_bytes, opts->report, &h->parts,
                         err);
    if (r == 0)
        r = open_disks(h, err);
    return r;
}

/* ---- in the background ---- */

static void reap(struct helper *h)
{
    int status;
    if (h->child.pid == 0 || waitpid(h->child.pid, &status, WNOHANG) <= 0)
        return;
    supervisor_child_died(&h->child, status, "the helper's supervisor");
}

static void supervisor_spoke(struct helper *h)
{
    char message[SUPERVISOR_LINK_MAX];
    ssize_t n = supervisor_child_spoke(&h->child, message);
    if (n == 1 + sizeof(struct vm_timings) && message[0] == LINK_READY) {
        h->served = true;
        report_serving(h->opts->report, h->self.id);
    }
}

/* Until the supervisor is gone and has said its last. */
static void watch(struct helper *h)
{
    int owner_fd = h->opts->owner_fd;
    while (h->child.pid != 0 || (h->child.link_fd >= 0 && !h->child.ended)) {
        struct pollfd fds[] = {{.fd = h->signal_fd, .events = POLLIN},
                               {.fd = h->child.link_fd, .events = POLLIN},
                               {.fd = owner_fd, .events = POLLIN}};
        if (poll(fds, 3, -1) < 0)
            continue; /* EINTR; nothing else can be */
        if (fds[1].revents)
            supervisor_spoke(h);
        if (fds[2].revents) {
            /* The owner holds the other end and writes nothing: any event is its end. */
            owner_fd = -1;
            supervisor_child_stop(&h->child, BG_DISK_END_MS);
        }
        struct signalfd_siginfo info;
        if (fds[0].revents && read(h->signal_fd, &info, sizeof info) == sizeof info) {
            if (info.ssi_signo == SIGCHLD)
                reap(h);
            else
                supervisor_child_stop(&h->child, BG_DISK_END_MS);
        }
    }
}

static int start_supervisor(struct helper *h, struct bg_err *err)
{
    int control_fd = -1;
    int r = bg_sandbox_listen(h->opts->paths, &h->self, &control_fd, err);
    BG_AUTOCLOSE int control = control_fd;
    if (r < 0)
        return r;
    const struct supervisor_opts opts = {.sandbox = &h->self,
                                         .golden = &h->parts.golden,
                                         .qemu = &h->parts.qemu,
                                         .accel = h->parts.accel,
                                         .ca_pem = h->parts.ca_pem,
                                         .disk_fds = &h->root_fd,
                                         .disk_count = 1,
                                         .second = &h->second,
                                         .control_fd = control,
                                         .log_fd = h->log_fd,
                                         .console_fd = h->log_fd,
                                         .owner_uid = geteuid()};
    const int not_its[] = {h->signal_fd, h->lock_fd, h->opts->owner_fd, h->opts->report->fd};
    return supervisor_child_start(&h->child, &opts, not_its, sizeof not_its / sizeof not_its[0],
                                  err);
}

/* Something was wrong at the end of a mount for writing: the sandbox has it for its reason, since
 * whoever mounted it may be gone. */
static void note(struct helper *h)
{
    enum bg_sandbox_state state;
    char reason[BG_ERR_TEXT_SIZE], text[BG_ERR_TEXT_SIZE + 64];
    if (!h->opts->write || !h->served)
        return;
    (void)bg_sandbox_noted(&h->sandbox, &state, reason);
    (void)snprintf(text, sizeof text, "after its disk was written from outside: %s",
                   h->child.why.text);
    struct bg_err err;
    if (bg_sandbox_set_state(&h->sandbox, state == BG_SANDBOX_CRASHED ? state : BG_SANDBOX_STOPPED,
                             text, &err) < 0)
        bg_log(&h->log, BG_LOG_ERROR, "%s", err.text);
}

static void run(struct helper *h)
{
    struct bg_err err = {0};
    int r = background_begin(&h->signal_fd, &err);
    if (r == 0)
        r = start_supervisor(h, &err);
    if (r < 0)
        h->child.why = err;
    else
        watch(h);
    bg_sandbox_unlisten(h->opts->paths, &h->self);
    if (h->child.why.code < 0) {
        bg_log(&h->log, BG_LOG_ERROR, "%s", h->child.why.text);
        note(h);
    }
    if (h->lock_fd >= 0)
        (void)close(h->lock_fd); /* first: whoever hears of the end finds the sandbox free */
    if (h->child.why.code < 0)
        report_error(h->opts->report, &h->child.why);
    else
        report_ended(h->opts->report);
}

static void helper_done(struct helper *h)
{
    const int fds[] = {h->lock_fd, h->scratch_fd, h->root_fd, h->log_fd};
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
        if (fds[i] >= 0)
            (void)close(fds[i]); /* the background process has its own */
    size_t at = h->opts->write ? 0 : 1;
    for (size_t i = 0; i < h->layer_count; i++)
        (void)close(h->second.fds[at + i]); /* the others are scratch_fd's and below's */
    bg_disk_done(&h->disk);
    if (h->snapshot.name)
        bg_snapshot_done(&h->snapshot);
    golden_done(&h->below);
    parts_done(&h->parts);
    bg_sandbox_done(&h->sandbox);
    bg_sandbox_done(&h->self);
}

int helper_run(const struct helper_opts *opts, struct bg_err *err)
{
    struct helper h = {.opts = opts,
                       .lock_fd = -1,
                       .scratch_fd = -1,
                       .root_fd = -1,
                       .log_fd = -1,
                       .child.link_fd = -1,
                       .signal_fd = -1};
    int r = prepare(&h, err);
    pid_t pid = r < 0 ? -1 : fork();
    if (r == 0 && pid < 0)
        r = bg_err_errno(err, -errno, "fork");
    if (pid == 0) {
        run(&h);
        _exit(h.child.why.code < 0);
    }
    helper_done(&h);
    return r;
}
