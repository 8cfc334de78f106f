/* Between /dev/fuse and the server on the host (docs/protocol.md, "FUSE stream"). The kernel here
 * is the guest's and trusts the host, so messages pass as they are; only the kernel's INIT, and
 * what is never spoken on streams, is answered here. One thread; no file is opened. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "common/err.h"
#include "guest/link.h"

struct share_relay_opts {
    int fuse_fd;       /* /dev/fuse, mounted and non-blocking; borrowed */
    struct link *link; /* to the server; borrowed */
    int signal_fd;     /* readable when it shall end; borrowed; -1: none */
    /* Asked when nobody wants anything after the signal: is there still somebody who may? NULL: no.
     */
    bool (*needed)(void);
    bool read_only;
    uid_t uid; /* whom the files of the host's user shall belong to here */
    gid_t gid;
};

/* Says hello to the server; blocks, so call it before anything waits for the mount. Errors: -EPROTO
 * no file server there; -ENODATA, errno of read and write. */
int share_relay_greet(const struct share_relay_opts *opts, struct bg_err *err) BG_MUST_CHECK;

/* Relays until the mount is gone (0) or the stream has ended; after the signal until nobody needs
 * it (0). Errors: -ENODATA the server's end; -EPROTO; errno of the fds. */
int share_relay_run(const struct share_relay_opts *opts, struct bg_err *err) BG_MUST_CHECK;
