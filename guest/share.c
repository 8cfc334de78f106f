#include "guest/share.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "guest/accounts.h"
#include "guest/share_mount.h"
#include "guest/share_relay.h"
#include "guest/worker.h"

#define KERNEL_THREAD 0x00200000u /* PF_KTHREAD, proc(5) */
#define BUSY_TRIES    600         /* half a minute: a loaded guest without KVM is slow */
#define BUSY_MS       50
#define OURS          "bellglass-" /* how our processes are called */

/* A share's worker: what it needs is copied by the fork; the agent keeps the rest. */
struct share {
    struct agent *agent;
    const struct bg_log *log;
    struct bg_share_request request;
    struct account account;
    uint32_t id;
};

/* ---- in the worker ---- */

static int end_mount(struct link *link, const struct share *share)
{
    struct bg_err err = {0};
    int r = share_unmount(share->request.path, share->request.flags & BG_SHARE_LAZY, &err);
    return link_reply(link, &err) < 0 || r < 0;
}

static int make_mount(const struct share *share, int *ret_fuse_fd, struct bg_err *err)
{
    const struct account *user = &share->account;
    const struct share_mount_opts opts = {.path = share->request.path,
                                          .id = share->id,
                                          .read_only = share->request.flags & BG_SHARE_READ_ONLY,
                                          .uid = user->uid,
                                          .gid = user->gid};
    int r = share_folder_make(opts.path, user->uid, user->gid, err);
    if (r < 0)
        return r;
    /* The mount of one whose stream has just ended is on its way out. */
    struct bg_err why; /* err is what is replied: no failure may stay in it */
    for (int left = BUSY_TRIES; (r = share_mount(&opts, ret_fuse_fd, &why)) == -EBUSY && left > 0;
         left--)
        (void)poll(NULL, 0, BUSY_MS);
    if (r < 0)
        *err = why;
    return r;
}

/* Whether /proc/NAME is a process of the guest's user: no thread of the kernel, none of ours and
 * none that has ended. */
static bool is_users(int proc_fd, const char *name)
{
    char path[64], text[512], state;
    unsigned flags;
    (void)snprintf(path, sizeof path, "%s/stat", name);
    BG_AUTOCLOSE int fd = openat(proc_fd, path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (n <= 0)
        return false;
    text[n] = '\0';
    const char *comm = strchr(text, '('), *end = strrchr(text, ')');
    if (!comm || !end || sscanf(end + 1, " %c %*d %*d %*d %*d %*d %u", &state, &flags) != 2)
        return false;
    return !(flags & KERNEL_THREAD) && state != 'Z' && strncmp(comm + 1, OURS, strlen(OURS)) != 0;
}

/* SIGTERM comes when the guest powers off: commands that end then write their last files, so their
 * shares end after them. */
static bool others_live(void)
{
    DIR *proc = opendir("/proc");
    bool found = false;
    const struct dirent *entry;
    while (proc && !found && (entry = readdir(proc)))
        found = entry->d_name[0] >= '1' && entry->d_name[0] <= '9' &&
                strcmp(entry->d_name, "1") != 0 && is_users(dirfd(proc), entry->d_name);
    if (proc)
        (void)closedir(proc); /* read only */
    return found;
}

static int open_signals(int *ret_fd, struct bg_err *err)
{
    sigset_t term;
    (void)sigemptyset(&term); /* these cannot fail with such arguments */
    (void)sigaddset(&term, SIGTERM);
    (void)sigprocmask(SIG_BLOCK, &term, NULL);
    *ret_fd = signalfd(-1, &term, SFD_CLOEXEC | SFD_NONBLOCK);
    return *ret_fd < 0 ? bg_err_errno(err, -errno, "signalfd") : 0;
}

static int run(struct link *link, void *arg)
{
    const struct share *share = arg;
    struct bg_err err = {0};
    if (share->request.flags & BG_SHARE_END)
        return end_mount(link, share);
    struct share_relay_opts opts = {.link = link,
                                    .needed = others_live,
                                    .read_only = share->request.flags & BG_SHARE_READ_ONLY,
                                    .uid = share->account.uid,
                                    .gid = share->account.gid};
    int r = open_signals(&opts.signal_fd, &err);
    if (r == 0)
        r = make_mount(share, &opts.fuse_fd, &err);
    if (link_reply(link, &err) < 0 || r < 0)
        return 1; /* the agent's next worker takes the mount away */
    r = share_relay_greet(&opts, &err);
    if (r == 0)
        r = share_relay_run(&opts, &err);
    if (r < 0)
        bg_log(share->log, BG_LOG_WARN, "%s: %s", share->request.path, err.text);
    /* The mount is dead from here on: whoever waits for it is told so. */
    (void)close(opts.fuse_fd);
    return r < 0;
}

static int run_cleanup(struct link *link, void *arg)
{
    const struct share *share = arg;
    struct bg_err err = {0};
    (void)link;
    if (share_unmount_id(share->id, &err) < 0) {
        bg_log(share->log, BG_LOG_WARN, "share: %s", err.text);
        return 1;
    }
    return 0;
}

/* ---- in the agent ---- */

/* However the worker ended, its mount must not stay as a folder that gives errors only. */
static void worker_ended(void *owner, int wait_status)
{
    BG_AUTOFREE struct share *share = owner;
    struct bg_err err;
    (void)wait_status; /* it has logged why */
    if (share->request.flags & BG_SHARE_END || share->agent->power)
        return;
    const struct worker_opts opts = {.name = "bellglass-share", .run = run_cleanup, .arg = share};
    if (worker_start(share->agent, &opts, &err) < 0)
        bg_log(share->log, BG_LOG_ERROR, "share: %s", err.text);
}

static int share_open(struct stream *stream, const uint8_t *body, size_t size, struct bg_err *err)
{
    BG_AUTOFREE struct share *share = calloc(1, sizeof *share);
    if (!share)
        return bg_err_errno(err, -ENOMEM, "share");
    int r = bg_share_request_parse(body, size, &share->request, err);
    if (r == 0)
        r = account_load("", &share->account, err);
    if (r < 0)
        return r;
    share->agent = stream->agent;
    share->log = stream->agent->log;
    share->id = stream->id;
    const struct worker_opts opts = {.name = "bellglass-share",
                                     .stream = stream,
                                     .lasts = true,
                                     .run = run,
                                     .arg = share,
                                     .on_exit = worker_ended,
                                     .owner = share};
    /* Detached: if there is no worker, the host sees the connection close. */
    if (worker_start(share->agent, &opts, err) < 0)
        bg_log(share->log, BG_LOG_ERROR, "share: %s", err->text);
    else
        (void)BG_TAKE(share); /* worker_ended's */
    return 0;
}

const struct stream_kind share_kind = {.name = "share", .open = share_open};
