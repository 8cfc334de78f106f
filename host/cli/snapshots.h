/* snapshots: what the commands around snapshots share: taking one of a sandbox in whatever state it
 * is, and making sandboxes from one. */
#pragma once

#include <stdint.h>

#include "common/state/snapshot.h"
#include "host/cli/app.h"
#include "host/cli/life.h"

struct snapshots_take_opts {
    const char *tag;  /* NULL: the next number */
    const char *note; /* NULL: none */
    bool disk_only;
    bool quiet; /* no progress on stderr */
};

struct snapshots_taken {
    char *name; /* "NAME@TAG"; owned */
    bool ran;   /* the numbers are those of a sandbox that ran, else zero */
    uint64_t pause_ms, stream_pause_ms, dirty_bytes, written_bytes;
};

/* Takes a snapshot of a sandbox that runs, or does not. Errors: -EAGAIN it is just starting or
 * stopping; -EEXIST the tag is in use; those of bg_snapshot_of_folder; what its supervisor says. */
int snapshots_take(struct app *app, const struct life *life, const struct snapshots_take_opts *opts,
                   struct snapshots_taken *ret, struct bg_err *err) BG_MUST_CHECK;
void snapshots_taken_done(struct snapshots_taken *taken);

/* What sandboxes are made from. */
struct snapshots_source {
    struct bg_snapshot snapshot;
    bool temporary; /* taken for this command only */
    int hold_fd;    /* keeps prune away from it */
};

struct snapshots_open_opts {
    bool sandboxes; /* a sandbox may be meant too, and its name goes first */
    bool disk_only; /* that is enough of it */
    bool quiet;     /* no progress on stderr */
};

/* Finds a snapshot, or takes one of a sandbox for a moment. text: as bg_snapshot_resolve, or a
 * sandbox's name. Errors: -ENOENT neither; as snapshots_take; -EUCLEAN. */
int snapshots_open(struct app *app, const char *text, const struct snapshots_open_opts *opts,
                   struct snapshots_source *ret, struct bg_err *err) BG_MUST_CHECK;
/* Removes it if it was for a moment. */
void snapshots_close(struct app *app, struct snapshots_source *source);

/* The settings of a child: all of the source's, with placeholders of its own. name: NULL: one is
 * made up. */
int snapshots_child(const struct snapshots_source *source, const char *name, struct bg_sandbox *ret,
                    struct bg_err *err) BG_MUST_CHECK;

/* Makes its folder, which goes on from the snapshot at its first start. Errors: as
 * bg_sandbox_create, bg_snapshot_fork_into. */
int snapshots_create(struct app *app, const struct snapshots_source *source,
                     struct bg_sandbox *child, struct bg_err *err) BG_MUST_CHECK;

/* "TAG" and "NAME@TAG" of the command line. Errors: -EINVAL with the rules. */
int snapshots_check_tag(const char *tag, struct bg_err *err) BG_MUST_CHECK;

/* What is known of a snapshot, as JSON; NULL: memory is out. frees: bytes that its removal would
 * give back. */
json_t *snapshots_json(const struct bg_snapshot *snapshot, uint64_t bytes, uint64_t frees);
