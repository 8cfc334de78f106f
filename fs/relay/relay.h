/* fs/relay: stands between the host's kernel (/dev/fuse) and a server that may be hostile. Knows no
 * fds: the loop hands messages in and takes messages out, so tests and fuzzers drive it without a
 * kernel. Single-threaded.
 *
 * Each request of the kernel is translated (node ids, handles, owners), sent to the server with a
 * number of our own, and waits as `pending` for the one reply that may have that number. A reply is
 * parsed by the table, checked against what was asked, translated back and passed on. The kernel
 * gets exactly one answer to each request, whatever the server does:
 *
 *   LIVE   requests are forwarded. One without an answer for its deadline gets EIO and stays known
 * as late: what its answer brings (references, handles, locks) is given back to the server. While
 * the server answers others, up to four deadlines are waited. STALE  after three such in a row:
 * everything gets EIO at once. A probe is sent each second; any answer makes it LIVE again. GONE
 * the stream has ended, or the server broke the protocol: EIO for good.
 *   LOST   the stream has ended, and the owner tries to get another one to a server of the same
 * folder (the agent was restarted, the sandbox was stopped and started, ...). Requests wait for one
 * deadline, then they get EIO. REBINDING  it is there: folders and open files are found again by
 * their names, and are the same if their inode numbers are. What is not is ESTALE, and the kernel
 * looks names up anew. Open files that were deleted, or that somebody has held a lock on, cannot be
 * had again (EIO).
 *
 * Writes are acknowledged before the server has done them: gather.h.
 *
 * STATFS and the root's attributes are answered from memory when the server does not, so that df, a
 * shell's prompt and umount work on a dead mount. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "common/err.h"
#include "common/log.h"
#include "fs/guard/pins.h"
#include "fs/guard/rules.h"

struct fs_relay;

/* What the kernel shall forget: a name in a folder, a node's attributes, or all names. */
struct fs_notice {
    uint64_t node;    /* the kernel's id */
    const char *name; /* not NUL-terminated; NULL: the node's attributes */
    size_t name_size;
    bool contents;  /* with the attributes: pages of a file, names read from a folder */
    bool all_names; /* alone; kernels before 7.44 do not know it */
};

/* What the kernel is told about symbolic links. */
enum fs_links {
    FS_LINKS_INSIDE, /* only texts that stay inside the mount */
    FS_LINKS_NONE,   /* true texts; the mount itself lets nobody follow them */
    FS_LINKS_RAW,    /* true texts, and the host follows them anywhere */
};

/* Guarded files: see guarded.h. */
struct fs_guard_opts {
    enum guard_policy policy;
    const char *root; /* the mount's root, as a path in the sandbox; NULL: "/". Borrowed for new */
    /* Seconds since 1970, for the times of what is written. NULL: 0. */
    uint64_t (*now_s)(void *owner);
    /* The host has written or removed a guarded file. NULL: nobody keeps it. */
    void (*on_note)(void *owner, const struct fs_pin_note *note);
    void *owner;
};

struct fs_relay_opts {
    uid_t uid; /* whose mount it is */
    gid_t gid;
    bool read_only;
    bool raw_names; /* show names with control characters */
    bool returns;   /* after the loss of the stream another may come */
    enum fs_links links;
    uint64_t deadline_ms;     /* for metadata; data has twice, fsync eight times that. > 0 */
    const struct bg_log *log; /* borrowed */
    struct fs_guard_opts guard;
    /* Gives one whole message to the kernel. Returns 0 or negative errno: -ENOENT the kernel no
     * longer wants it. */
    int (*to_kernel)(void *owner, const struct iovec *parts, int count);
    /* Takes one whole message for the server; copies what it cannot send at once. */
    void (*to_server)(void *owner, const struct iovec *parts, int count);
    /* Tells the kernel, later and from elsewhere: it may wait for answers. Copies. False: no room
     * now. NULL: changes of others are not asked for. */
    bool (*notify)(void *owner, const struct fs_notice *notice);
    /* The server sleeps (fs_relay_asleep) and is needed. NULL if returns is false. */
    void (*on_needed)(void *owner);
    /* Gives the process that makes echoes its next operation (echoer.h). False: it has ended. */
    bool (*to_echoer)(void *owner, const uint8_t *bytes, size_t size);
    void *owner;
};

/* Errors: -EINVAL guard.root; -ENOMEM. */
int fs_relay_new(const struct fs_relay_opts *opts, struct fs_relay **ret) BG_MUST_CHECK;
void fs_relay_free(struct fs_relay *relay);

/* What we say first on the stream, and what the server said: FS_HELLO_SIZE bytes each. Before
 * anything else. Errors: -EPROTO. */
void fs_relay_hello(const struct fs_relay *relay, uint8_t *out);
int fs_relay_greeted(struct fs_relay *relay, const uint8_t *bytes, size_t size,
                     struct bg_err *err) BG_MUST_CHECK;

/* An approval that was kept, or was given elsewhere. At any time. Errors, which leave the path
 * without one: -ENOSPC, -ENOMEM. */
int fs_relay_note(struct fs_relay *relay, const struct fs_pin_note *note) BG_MUST_CHECK;

/* Whether the server tells of changes. */
bool fs_relay_is_told(const struct fs_relay *relay);

/* One request of the kernel, as read from /dev/fuse. */
void fs_relay_request(struct fs_relay *relay, const uint8_t *bytes, size_t size, uint64_t now_ms);

/* One message of the server; size is what it says (fs_message_size). Errors: -EPROTO: the stream
 * must be closed and fs_relay_gone called. */
int fs_relay_reply(struct fs_relay *relay, const uint8_t *bytes, size_t size, uint64_t now_ms,
                   struct bg_err *err) BG_MUST_CHECK;

/* Echoes (echo.h) are made by the process pid from now on; 0: no more are made. Errors: -ENOMEM. */
int fs_relay_echo_by(struct fs_relay *relay, pid_t pid) BG_MUST_CHECK;
/* Its operation is done, or has failed with a negative errno. */
void fs_relay_echoed(struct fs_relay *relay, int status, uint64_t now_ms);

/* The stream is no more. */
void fs_relay_gone(struct fs_relay *relay);

/* The stream is no more, and another may come: -EPROTO it never began. Once it has come, the hellos
 * are exchanged again (fs_relay_hello) and fs_relay_returned is called instead of fs_relay_greeted.
 */
int fs_relay_lost(struct fs_relay *relay, uint64_t now_ms) BG_MUST_CHECK;
/* It will not come soon: nobody waits for it any longer. */
void fs_relay_not_soon(struct fs_relay *relay);
/* It comes only when it is called: nobody is kept waiting, and nothing is done, until a request
 * comes that it has to answer. Then on_needed is called, and requests wait for one deadline. */
void fs_relay_asleep(struct fs_relay *relay, uint64_t now_ms);
/* Errors: -EPROTO no hello, or one of another folder: close the stream; the relay is still LOST. */
int fs_relay_returned(struct fs_relay *relay, const uint8_t *bytes, size_t size, uint64_t now_ms,
                      struct bg_err *err) BG_MUST_CHECK;

/* Looks at the deadlines. Returns in how many ms to come again; UINT64_MAX: when something happens.
 * Errors come as by fs_relay_reply. */
int fs_relay_tick(struct fs_relay *relay, uint64_t now_ms, uint64_t *ret_next_ms,
                  struct bg_err *err) BG_MUST_CHECK;

/* Whether the window has room: else the kernel's requests wait in the kernel. */
bool fs_relay_has_room(const struct fs_relay *relay);

/* No more requests will come: sends what was acknowledged and not sent. True when there is nothing
 * left that the server has to answer. */
bool fs_relay_finish(struct fs_relay *relay, uint64_t now_ms);

/* Sends the references that were given up since the last time. Not while the stream is clogged. */
void fs_relay_flush_forgets(struct fs_relay *relay);

enum fs_relay_state {
    FS_RELAY_NEW, /* before INIT and the root's first attributes */
    FS_RELAY_LIVE,
    FS_RELAY_STALE,
    FS_RELAY_LOST,
    FS_RELAY_REBINDING,
    FS_RELAY_GONE,
};

enum fs_relay_state fs_relay_state(const struct fs_relay *relay);
