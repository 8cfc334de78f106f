/* Finds the guarded files below a folder of the guest's. */
#pragma once

#include "fs/guard/rules.h"
#include "fs/trust/client.h"

struct trust_found {
    const char *path; /* absolute, in the sandbox */
    const char *name;
    enum guard_class class;
    uint64_t folder; /* node that name is in */
    uint32_t type;   /* DT_*, as the server says */
};

struct trust_walk_opts {
    const char *root;  /* canonical, "" is "/" */
    uint64_t node;     /* of root */
    bool spare_system; /* not into /usr, /etc and others that a distribution fills */
    /* A guarded file. May call the client. */
    int (*on_found)(void *owner, const struct trust_found *found);
    void (*on_folder)(void *owner); /* one more was read; NULL */
    void *owner;
};

/* Folders that cannot be read are left out. Errors: -ELOOP too many names; what on_found returns;
 * of the client. */
int trust_walk(struct trust_client *client, const struct trust_walk_opts *opts,
               struct bg_err *err) BG_MUST_CHECK;

/* Finds one place. path: canonical, not "/". The folders on the way must be folders, not links.
 * *ret: path and name borrow from path; folder is held, for the life of the client. Errors:
 * -ENOTDIR; as trust_client_look_up. */
int trust_find(struct trust_client *client, const char *path, struct trust_found *ret,
               struct bg_err *err) BG_MUST_CHECK;
