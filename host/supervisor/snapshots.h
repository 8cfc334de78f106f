/* snapshots: the launcher's part in a snapshot of its running sandbox: it makes the files that the
 * supervisor and QEMU fill, gives the disk its new top, and brings the whole into the store. One at
 * a time. A crash at any instant leaves the snapshot whole or not there, and the sandbox's disk
 * complete. */
#pragma once

#include <sys/types.h>

#include "common/state/sandbox.h"
#include "host/supervisor/source.h"
#include "host/supervisor/supervisor.h"

struct snapshots_opts {
    const struct bg_paths *paths;
    const struct bg_sandbox *sandbox;
    const struct golden *golden;
    const struct qemu_program *qemu;
    enum accel accel;
    bool cold;             /* it was booted: its memory stands on nothing */
    struct source *source; /* its disk's layers grow here; of its memory, those that QEMU maps */
};

struct snapshots {
    const struct snapshots_opts *opts;
    bool active, suspend, disk_only;
    size_t stands_on; /* layers of source->memory that the new one is above */
    char *tag, *note;
    char *parent;  /* the snapshot that the sandbox went on from before this one */
    int folder_fd; /* where it is made; -1: none */
    char *folder;  /* that folder's name in its parent's */
    char memory_id[BG_LAYER_ID_SIZE], top_id[BG_LAYER_ID_SIZE];
    int memory_fd; /* the new layer; -1: none */
    bool has_top;  /* a new top has been made */
    struct link_taken taken;
    pid_t finisher; /* 0: none */
    int finisher_fd;
};

/* What the supervisor gets to fill: the fds are the caller's. */
struct snapshots_files {
    struct link_files said;
    int fds[LINK_FILES_MAX];
    size_t count;
};

void snapshots_init(struct snapshots *snapshots, const struct snapshots_opts *opts);

/* A request of the supervisor's, as JSON. Errors: -EINVAL malformed; -EBUSY one is under way;
 * -EEXIST the tag is in use; -EMLINK too many layers; errno. Nothing is left behind then. */
int snapshots_begin(struct snapshots *snapshots, const char *request, size_t size,
                    struct snapshots_files *ret, struct bg_err *err) BG_MUST_CHECK;

/* The files are filled, or not: taken says. On success the sandbox's disk is what disk.json now
 * says, and the guest may go on. A suspend is complete with this. Errors: nothing is left behind,
 * and the old top goes on being the top, if QEMU has not another one. */
int snapshots_taken(struct snapshots *snapshots, const struct link_taken *taken,
                    struct bg_err *err) BG_MUST_CHECK;

/* Starts the process that syncs the files and gives the snapshot its name; snapshots->finisher_fd
 * becomes readable when it is done. */
int snapshots_finish(struct snapshots *snapshots, struct bg_err *err) BG_MUST_CHECK;

/* Takes the finisher's word. err->code is 0 when ret says the snapshot's name. */
void snapshots_finished(struct snapshots *snapshots, struct link_done *ret);

/* Drops what is under way. */
void snapshots_drop(struct snapshots *snapshots);
