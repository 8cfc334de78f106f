/* fs/server: a passthrough FUSE server. It answers raw FUSE messages (docs/protocol.md, "FUSE
 * stream") that come over a byte stream, from a folder of the machine it runs on. The agent links
 * it for the guest's files; `bellglass-fs serve` runs it without a VM. libc and pthread only.
 *
 * The client is not trusted further than its place: it gets nothing outside the root folder, one
 * path component is resolved at a time, symbolic links are never followed here, and every node,
 * handle, name and size is checked. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "common/err.h"

struct fs_share_rules;

#define FS_SERVER_THREADS_MAX 32u

/* How the client is reached when it is not by the fds alone. One thread reads at a time and one
 * writes. */
struct fs_server_io {
    ssize_t (*read)(void *owner, void *buffer, size_t size); /* > 0, 0 at the end, -errno; waits */
    int (*write)(void *owner, const struct iovec *parts, int count); /* all, or -errno; waits */
    void (*stop)(void *owner); /* read returns 0 from now on, also one that waits */
    void *owner;
};

struct fs_server_opts {
    const char *root; /* folder to serve; borrowed for the call */
    bool whole;       /* root is that of its machine, though it is not called "/" here */
    bool read_only;   /* every change is refused with EROFS */
    bool as_root;     /* as the caller's own user, without a change of identity */
    /* Else, when the caller is root: whose rights the requests have and who owns new files. */
    uid_t uid;
    gid_t gid;
    const gid_t *groups; /* supplementary groups; borrowed for the call */
    size_t group_count;
    /* The folder is the host's and the client hostile: what holds then. NULL: the opposite. */
    const struct fs_share_rules *share;
    void (*on_ready)(void *owner); /* both sides have said hello; may be NULL */
    void *owner;
    unsigned threads;       /* requests worked on at once, 1..FS_SERVER_THREADS_MAX */
    struct fs_server_io io; /* all NULL: read(2) and write(2) on the fds */
};

/* Serves until the client closes the stream (0), breaks the protocol, or an fd fails. Blocks;
 * starts opts->threads threads and ends them all before it returns. Call it in a process of its
 * own: it raises RLIMIT_NOFILE and handles SIGUSR2. in_fd, out_fd: blocking, may be the same fd;
 * borrowed, and shut down at the end if they are sockets. /proc must be mounted. Errors: -EPROTO
 * the client sent what is not a message; errno of opening root, read, write. */
int fs_server_run(int in_fd, int out_fd, const struct fs_server_opts *opts,
                  struct bg_err *err) BG_MUST_CHECK;
