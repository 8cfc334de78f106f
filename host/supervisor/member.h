/* member: what a launcher has to do for a sandbox that waits in a pool (docs/protocol.md, "Pools").
 *
 * Its guest is there, without an identity, and its CPUs stand. A claimer brings the sandbox.json of
 * what it wants (member_named: the folder gets its name), puts what else it has into the folder,
 * and says go (member_goes). Then the sandbox is as any other that starts. A claimer that goes away
 * before its sandbox has a name leaves the member as it was; after that, nothing.
 * No fd, rule or timer of the launcher's is in here. */
#pragma once

#include <sys/stat.h>

#include "common/state/pool.h"
#include "host/supervisor/parts.h"

#define MEMBER_LOOK_MS 60000 /* between looks whether it is out of date */
#define MEMBER_FILES   6

/* A file that it was made with. */
struct member_file {
    char *path;
    dev_t device;
    ino_t inode;
    off_t size;
    struct timespec changed;
};

enum member_state {
    MEMBER_NONE,   /* no member, or no longer one */
    MEMBER_STARTS, /* its guest is not there yet */
    MEMBER_WAITS,
    MEMBER_NAMED, /* its folder has its name, and its claimer has not said go yet */
    MEMBER_OVER,  /* it ends: nobody is heard any more */
};

struct member {
    enum member_state state;
    int listen_fd, claimer_fd; /* -1: none */
    int config_fd;             /* the claimed sandbox.json; -1: none */
    struct member_file files[MEMBER_FILES];
};

/* Notes what it is made with. Errors: -ENOMEM; errno of looking at a file. */
int member_begin(struct member *member, const struct bg_paths *paths, const struct parts *parts,
                 struct bg_err *err) BG_MUST_CHECK;
void member_done(struct member *member);

/* True if something that it was made with is another one by now, or gone: no sandbox is to be made
 * of it. */
bool member_is_stale(const struct member *member);

/* The guest is there. */
int member_wait(struct member *member, const struct bg_sandbox *sandbox,
                struct bg_err *err) BG_MUST_CHECK;

/* It ends. Who claims it this moment hears of that with member_done(): when its folder is gone. */
void member_end(struct member *member);

/* The fd to be polled for who connects, and that of who has; -1: none. */
int member_listen_fd(const struct member *member);
int member_claimer_fd(const struct member *member);

/* Somebody connects. */
void member_accept(struct member *member);

enum member_event {
    MEMBER_NOTHING,
    MEMBER_IS_NAMED, /* *sandbox is another one from now on */
    MEMBER_GOES,     /* *ret_status_fd, *ret_owner_fd are the caller's; -1: none */
    MEMBER_ENDS,     /* its claimer is gone, or it cannot be made that sandbox */
};

/* The claimer spoke. sandbox: the member's, taken apart and replaced when it is named. err: set
 * with MEMBER_ENDS. */
enum member_event member_spoke(struct member *member, const struct bg_paths *paths,
                               struct bg_sandbox *sandbox, int *ret_status_fd, int *ret_owner_fd,
                               struct bg_err *err);
