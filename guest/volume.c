/* All of it runs in a worker. */
#include "guest/volume.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>

#include "common/io.h"
#include "guest/accounts.h"
#include "guest/disk.h"
#include "guest/share_mount.h"
#include "guest/worker.h"

#define MAKER   "/sbin/mke2fs"
#define RESIZER "/sbin/resize2fs"
#define MISSING 127 /* disk_run: there is no such program */

/* Where ext4 has its magic number, and that (the kernel's fs/ext4/ext4.h). */
#define MAGIC_AT 1080
#define MAGIC    "\x53\xef"

struct volume {
    struct bg_volume_request request;
    char device[DISK_DEVICE_SIZE];
};

static int run_tool(const char *const *argv, const char *what, struct bg_err *err)
{
    char said[512];
    int status = 0;
    int r = disk_run(argv, &status, said, sizeof said, err);
    if (r < 0 || status == 0)
        return r;
    if (status == MISSING)
        return bg_err_set(err, -ENOENT, "the image has no %s", argv[0]);
    said[strcspn(said, "\n")] = '\0';
    return bg_err_set(err, -EIO, "%s: %s", what, said[0] ? said : "failed");
}

/* A disk of which the host does not know whether an earlier mount got that far. */
static int has_files(const char *device, bool *ret, struct bg_err *err)
{
    char magic[2];
    BG_AUTOCLOSE int fd = open(device, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || pread(fd, magic, sizeof magic, MAGIC_AT) != sizeof magic)
        return bg_err_errno(err, fd < 0 ? -errno : -EIO, "%s", device);
    *ret = memcmp(magic, MAGIC, sizeof magic) == 0;
    return 0;
}

static int make_files(const char *device, const struct account *account, struct bg_err *err)
{
    char options[128];
    /* Nothing that would write all over a disk which costs only what is on it. */
    (void)snprintf(options, sizeof options,
                   "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=%u:%u",
                   (unsigned)account->uid, (unsigned)account->gid);
    const char *const argv[] = {MAKER, "-q", "-F",    "-t",   "ext4", "-m",
                                "0",   "-E", options, device, NULL};
    return run_tool(argv, "making a file system", err);
}

/* Nobody but the next sandbox's start could repair it: so that is done here, whatever it takes. */
static int repair(const char *device, struct bg_err *err)
{
    int r = disk_check(device, "-p", err);
    if (r != -EUCLEAN)
        return r;
    (void)dprintf(STDERR_FILENO, "bellglass: volume: repairing: %s\n", err->text);
    return disk_check(device, "-fy", err);
}

static int mount_volume(struct volume *v, struct bg_err *err)
{
    const char *path = v->request.path;
    bool fresh = v->request.flags & BG_VOLUME_NEW, has = true;
    struct account account;
    int r = account_load("", &account, err);
    if (r == 0)
        r = disk_wait(v->request.serial, v->device, err);
    if (r == 0 && fresh)
        r = has_files(v->device, &has, err);
    if (r == 0)
        r = has ? repair(v->device, err) : make_files(v->device, &account, err);
    if (r == 0)
        r = share_folder_make(path, account.uid, account.gid, err);
    if (r < 0)
        return r;
    /* What the file system itself wants done at errors may be a panic. */
    if (mount(v->device, path, "ext4", MS_NOSUID | MS_NODEV, "errors=remount-ro,noinit_itable") < 0)
        return bg_err_errno(err, -errno, "mounting it at %s", path);
    if (!has) {
        BG_AUTOCLOSE int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        (void)unlinkat(dir, "lost+found", AT_REMOVEDIR); /* the checker makes it when it needs it */
    }
    const char *const argv[] = {RESIZER, v->device, NULL};
    return fresh && has ? run_tool(argv, "making its file system larger", err) : 0;
}

static int run(struct link *link, void *arg)
{
    struct volume *v = arg;
    struct bg_err err = {0};
    int r = mount_volume(v, &err);
    if (r < 0)
        (void)bg_err_prefix(&err, "volume at %s", v->request.path);
    return stream_reply_fd(link->fd, &err) < 0 || r < 0;
}

static int volume_open(struct stream *stream, const uint8_t *body, size_t size, struct bg_err *err)
{
    BG_AUTOFREE struct volume *volume = calloc(1, sizeof *volume);
    if (!volume)
        return bg_err_errno(err, -ENOMEM, "volume");
    int r = bg_volume_request_parse(body, size, &volume->request, err);
    if (r < 0)
        return r;
    if (!stream->agent->opts.pid1)
        return bg_err_set(err, -EOPNOTSUPP, "this agent is not the guest's init");
    const struct worker_opts opts = {
        .name = "bellglass-volume", .stream = stream, .run = run, .arg = volume};
    /* Detached: if there is no worker, the host sees the connection close. */
    if (worker_start(stream->agent, &opts, err) < 0)
        bg_log(stream->agent->log, BG_LOG_ERROR, "volume: %s", err->text);
    return 0;
}

const struct stream_kind volume_kind = {.name = "volume", .open = volume_open};
