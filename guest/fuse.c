#include "guest/fuse.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fs/server/server.h"
#include "guest/accounts.h"
#include "guest/disk.h"
#include "guest/worker.h"

/* Requests worked on at once. One virtual CPU gains little from more, slow disks do. */
#define THREADS 8

struct server {
    struct bg_fuse_request request;
    struct account account;
    bool drop_rights;
    const struct bg_log *log;
};

/* Finds the folder and the user on the mounted disk as they were found if the disk were running, so
 * with it as the root; then goes back to our own, which has /proc. root: a name for the folder. */
static int find_on_disk(struct server *server, char *root, size_t root_size, struct bg_err *err)
{
    BG_AUTOCLOSE int ours = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (ours < 0)
        return bg_err_errno(err, -errno, "/");
    int r = disk_enter(err);
    if (r < 0)
        return r;
    r = account_load("", &server->account, err);
    int folder = r < 0 ? -1 : open(server->request.path, O_PATH | O_CLOEXEC);
    if (r == 0 && folder < 0)
        r = bg_err_errno(err, -errno, "folder '%s' in the sandbox", server->request.path);
    if (fchdir(ours) < 0 || chroot(".") < 0)
        return bg_err_errno(err, -errno, "leaving the disk");
    (void)snprintf(root, root_size, "/proc/self/fd/%d", folder); /* it stays open */
    return r;
}

static ssize_t read_link(void *owner, void *buffer, size_t size)
{
    return link_read(owner, buffer, size);
}

static int write_link(void *owner, const struct iovec *parts, int count)
{
    return link_writev(owner, parts, count);
}

static void stop_link(void *owner)
{
    link_stop(owner);
}

static int run(struct link *link, void *arg)
{
    struct server *server = arg;
    struct bg_err err = {0};
    char on_disk[32];
    bool disk = server->request.flags & BG_FUSE_DISK;
    if (disk)
        (void)(find_on_disk(server, on_disk, sizeof on_disk, &err) < 0); /* err tells */
    else if (access(server->request.path, F_OK) < 0)
        (void)bg_err_errno(&err, -errno, "folder '%s' in the sandbox", server->request.path);
    if (link_reply(link, &err) < 0 || err.code < 0)
        return 1;
    const struct fs_server_opts opts = {
        .root = disk ? on_disk : server->request.path,
        .whole = strcmp(server->request.path, "/") == 0,
        .read_only = server->request.flags & BG_FUSE_READ_ONLY,
        .as_root = !server->drop_rights || (server->request.flags & BG_FUSE_AS_ROOT),
        .uid = server->account.uid,
        .gid = server->account.gid,
        .groups = server->account.groups,
        .group_count = server->account.group_count,
        .threads = THREADS,
        .io = {.read = read_link, .write = write_link, .stop = stop_link, .owner = link},
    };
    if (fs_server_run(link->fd, link->fd, &opts, &err) < 0) {
        bg_log(server->log, BG_LOG_WARN, "mount: %s", err.text);
        return 1;
    }
    return 0;
}

static int fuse_open(struct stream *stream, const uint8_t *body, size_t size, struct bg_err *err)
{
    BG_AUTOFREE struct server *server = calloc(1, sizeof *server);
    if (!server)
        return bg_err_errno(err, -ENOMEM, "mount");
    int r = bg_fuse_request_parse(body, size, &server->request, err);
    if (r == 0)
        r = account_load("", &server->account, err);
    if (r < 0)
        return r;
    server->drop_rights = geteuid() == 0;
    server->log = stream->agent->log;
    const struct worker_opts opts = {
        .name = "bellglass-fuse", .stream = stream, .lasts = true, .run = run, .arg = server};
    /* Detached: if there is no worker, the host sees the connection close. */
    if (worker_start(stream->agent, &opts, err) < 0)
        bg_log(stream->agent->log, BG_LOG_ERROR, "mount: %s", err->text);
    return 0;
}

const struct stream_kind fuse_kind = {.name = "fuse", .open = fuse_open};
