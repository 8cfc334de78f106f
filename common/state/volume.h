/* Volumes: STATE/volumes/ID, a disk that outlives the sandboxes that have it, one at a time, and
 * snapshots of such disks (docs/protocol.md, "Volumes").
 *
 * A volume is for data (a file system of its own, mounted where its user says) or bootable (the
 * disk of a sandbox). Its disk is a chain of layers with a disk.json, as a sandbox's is; that of a
 * volume for data stands on nothing. A snapshot has hard links of layers that are frozen, so that a
 * removal asks nobody.
 *
 * Whoever uses a volume, a start or a command, holds its folder's lock (flock): exclusively to
 * write it, shared to read a snapshot. Whoever makes, names or removes one holds that of the
 * store's folder, so that names stay unique, and what has a temporary name is a dead one's. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/state/disk.h"
#include "common/state/paths.h"
#include "common/state/sandbox.h"

#define BG_VOLUME_SLUG_MAX  32
#define BG_VOLUME_FILE      "volume.json"
#define BG_VOLUME_NO_GOLDEN "golden-none" /* in disk.json: the layers stand on nothing */

struct bg_volume {
    char id[BG_VOLUME_ID_SIZE];
    char slug[BG_VOLUME_SLUG_MAX + 1];
    bool snapshot;
    bool ready;   /* its file system has been made, and is as large as the disk */
    char *owner;  /* name of the token whose it is; "": it is everybody's */
    char *region; /* as its maker called it; means nothing here */
    uint64_t created_ms, capacity;
    /* What a bootable one stands on; NULL of one for data. */
    char *image_name, *image_digest;
    /* Of a snapshot the volume, of a volume the snapshot that it was made from; id "": none. */
    struct {
        char id[BG_VOLUME_ID_SIZE], slug[BG_VOLUME_SLUG_MAX + 1];
    } source;
    char *dir; /* STATE/volumes/ID */
};

/* 2 to 32 of a-z, 0-9 and '-', no '-' at either end, and no "--" third and fourth. */
bool bg_volume_slug_ok(const char *slug);

/* "10GB", "512MiB" or a number of bytes, rounded up to 4 KiB. Errors: -EINVAL; the text names the
 * limits. */
int bg_volume_parse_capacity(const char *text, uint64_t *ret, struct bg_err *err) BG_MUST_CHECK;

/* Pure, for whatever bytes: volume.json. ret: all but dir. Errors: -EUCLEAN, -ENOMEM. */
int bg_volume_parse(const char *text, size_t size, struct bg_volume *ret,
                    struct bg_err *err) BG_MUST_CHECK;
char *bg_volume_emit(const struct bg_volume *volume); /* heap; NULL: out of memory */
void bg_volume_done(struct bg_volume *volume);

struct bg_volume_opts {
    const char *slug, *owner, *region;
    uint64_t capacity;
    const char *image_name, *image_digest; /* NULL: for data, or as `from` is */
    const struct bg_volume *from;          /* a snapshot; NULL: empty */
};

/* Makes one. Errors: -EINVAL slug or capacity; -EEXIST the slug is in use; -EUSERS too many;
 * -EBUSY from is being removed; errno. */
int bg_volume_create(const struct bg_paths *paths, const struct bg_volume_opts *opts,
                     struct bg_volume *ret, struct bg_err *err) BG_MUST_CHECK;

/* Makes a snapshot of a volume that nobody uses. Errors: as bg_volume_create; -EBUSY it is in use;
 * -EMLINK too many layers; -EUCLEAN damaged. */
int bg_volume_snapshot(const struct bg_paths *paths, const struct bg_volume *volume,
                       const char *slug, struct bg_volume *ret, struct bg_err *err) BG_MUST_CHECK;

/* Errors: -EBUSY it is in use; errno. One that is gone is no error. */
int bg_volume_remove(const struct bg_paths *paths, const struct bg_volume *volume,
                     struct bg_err *err) BG_MUST_CHECK;

/* By id, or by slug: the owner's own before everybody's. owner NULL: of whomever. Errors:
 * -ENOMEDIUM there is none; -EINVAL several are meant; -EUCLEAN damaged; errno. */
int bg_volume_find(const struct bg_paths *paths, const char *owner, const char *name,
                   struct bg_volume *ret, struct bg_err *err) BG_MUST_CHECK;

/* The owner's and everybody's, the oldest first: heap, the caller's. owner NULL: all. Damaged ones
 * are left out. */
int bg_volume_list(const struct bg_paths *paths, const char *owner, struct bg_volume **ret,
                   size_t *ret_count, struct bg_err *err) BG_MUST_CHECK;
void bg_volume_list_free(struct bg_volume *volumes, size_t count);

/* Takes its lock; the fd is that of its folder. Errors: -EBUSY it is in use; -ENOMEDIUM it was
 * removed. */
int bg_volume_lock(const struct bg_volume *volume, bool shared, int *ret_fd,
                   struct bg_err *err) BG_MUST_CHECK;
/* True if somebody has it. */
bool bg_volume_in_use(const struct bg_volume *volume);

/* Reads the disk of one for data and puts a layer that may be written on top if it has none. The
 * caller has the lock. Errors: -EUCLEAN; -EMLINK; errno. */
int bg_volume_open_disk(const struct bg_volume *volume, int dir_fd, struct bg_disk *ret,
                        struct bg_err *err) BG_MUST_CHECK;

/* Notes that its file system is there. The caller has the lock. */
int bg_volume_set_ready(const struct bg_volume *volume, struct bg_err *err) BG_MUST_CHECK;

/* Links a bootable snapshot's disk into a new sandbox's folder; one that never had a disk has none.
 * Errors: -EBUSY, -ENOMEDIUM it is being removed, or was; as bg_layer_link. */
int bg_volume_fork_into(const struct bg_volume *snapshot, int dir_fd,
                        struct bg_err *err) BG_MUST_CHECK;

/* What its layers take: those that nobody else stands on, and all. */
void bg_volume_sizes(const struct bg_volume *volume, uint64_t *ret_own, uint64_t *ret_all);
