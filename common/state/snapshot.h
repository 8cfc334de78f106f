/* Snapshots: STATE/snapshots/NAME@TAG, a sandbox at one instant: what was in its memory and on its
 * disk (docs/protocol.md, "Snapshots").
 *
 * Layers are files that nobody writes again once they are frozen. Every folder that stands on one
 * has a hard link of it: each snapshot, and each sandbox that was forked from one. So the file
 * system counts who needs it, a removal is that of a folder, and nothing can vanish below somebody.
 *
 * A snapshot is made in a folder ".tmp-XXXXXXXX" that its maker has locked (flock), and appears by
 * one rename; what a killed maker left is unlocked, and the sweep takes it away. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "common/err.h"
#include "common/limits.h"
#include "common/state/disk.h"
#include "common/state/paths.h"
#include "common/state/sandbox.h"

#define BG_SNAPSHOT_NAME_SIZE (2 * BG_SANDBOX_NAME_MAX + 3) /* "NAME@TAG", TAG with a dot; NUL */
#define BG_SNAPSHOT_TEMP_SIZE 14                            /* ".tmp-XXXXXXXX" and a NUL */
#define BG_SNAPSHOT_MANIFEST  "manifest.json"
#define BG_SNAPSHOT_SUM       "manifest.sha256"
#define BG_SNAPSHOT_STATE     "state"

struct bg_layer {
    char id[BG_LAYER_ID_SIZE];
    uint64_t size; /* of its file */
    int64_t mtime_ns;
};

enum bg_snapshot_kind {
    BG_SNAPSHOT_FULL,
    BG_SNAPSHOT_DISK,    /* no memory: what is forked from it boots its disk */
    BG_SNAPSHOT_SUSPEND, /* of a sandbox's own resume/, not of a snapshot's folder */
};

struct bg_snapshot {
    char id[BG_LAYER_ID_SIZE];
    char *name, *dir; /* "NAME@TAG" and its folder; both NULL unless bg_snapshot_load found it */
    char *tag, *note;
    uint64_t created_ms;
    enum bg_snapshot_kind kind;
    char *source_name;
    char source_id[32];
    char *parent; /* "NAME@TAG" or NULL */
    char *image_name, *image_digest, *golden;
    unsigned cpus;
    uint64_t memory_bytes;
    /* The machine that it was taken on; "" in one of kind disk. cpu: also "" without KVM. */
    char qemu[64], accel[8], cpu[65];
    bool memory_base_none;                        /* zeros, else the golden snapshot's memory */
    struct bg_layer memory[BG_MEMORY_LAYERS_MAX]; /* bottom to top; files memory-ID.mem */
    size_t memory_count;
    uint64_t state_size;
    char state_sha256[65];
    struct bg_layer disk[BG_DISK_LAYERS_MAX]; /* bottom to top; files disk-ID.qcow2 */
    size_t disk_count;
    uint32_t next_stream;
    uint64_t dirty_bytes; /* of its own memory layer */
    json_t *sandbox;      /* the source's sandbox.json; whoever uses it has it checked */
};

/* --- names --- */

/* A tag is made like a sandbox's name; one of a snapshot that a command made for a moment has a dot
 * before it. A snapshot's name is "NAME@TAG". */
bool bg_snapshot_tag_ok(const char *tag);
bool bg_snapshot_name_ok(const char *name);
/* Cuts "NAME@TAG" in two; false if it is none. */
bool bg_snapshot_split(const char *name, char source[BG_SANDBOX_NAME_MAX + 1],
                       char tag[BG_SANDBOX_NAME_MAX + 2]);
const char *bg_snapshot_kind_name(enum bg_snapshot_kind kind); /* "full", "disk", "suspend" */

/* --- manifests --- */

/* Pure, for whatever bytes. ret: all but name and dir. Errors: -EUCLEAN with what is wrong;
 * -EPROTONOSUPPORT of a later version; -ENOMEM. */
int bg_snapshot_parse(const char *text, size_t size, struct bg_snapshot *ret,
                      struct bg_err *err) BG_MUST_CHECK;
/* Heap text; NULL when memory is out or a text is not UTF-8. */
char *bg_snapshot_emit(const struct bg_snapshot *snapshot);

/* Reads a snapshot's manifest, checked by its sum. name: "NAME@TAG". Errors: -ENOENT unknown;
 * -EUCLEAN damaged; -EPROTONOSUPPORT; each with the way out. */
int bg_snapshot_load(const struct bg_paths *paths, const char *name, struct bg_snapshot *ret,
                     struct bg_err *err) BG_MUST_CHECK;
/* The same of any folder, such as a sandbox's resume/; the way out is the caller's to say. Errors:
 * also -ENOENT there is no manifest. */
int bg_snapshot_load_dir(const char *dir, struct bg_snapshot *ret,
                         struct bg_err *err) BG_MUST_CHECK;
int bg_snapshot_load_at(int dir_fd, struct bg_snapshot *ret, struct bg_err *err) BG_MUST_CHECK;

void bg_snapshot_done(struct bg_snapshot *snapshot);

/* Writes manifest.json and manifest.sha256, durably; what was there is replaced, and until both are
 * there the folder does not load. Errors: errno. */
int bg_snapshot_write(int dir_fd, const struct bg_snapshot *snapshot,
                      struct bg_err *err) BG_MUST_CHECK;

/* Takes size and time of a layer's file. Errors: errno; -EUCLEAN not a file. */
int bg_layer_measure(int dir_fd, const char *file, struct bg_layer *layer,
                     struct bg_err *err) BG_MUST_CHECK;

/* Compares the files of a snapshot with its manifest: sizes and times of the layers, the state by
 * its sum. The disk's layers are looked for in dir_fd too. Errors: -EUCLEAN which, and what to do.
 */
int bg_snapshot_check_files(const struct bg_snapshot *snapshot, int dir_fd,
                            struct bg_err *err) BG_MUST_CHECK;
/* The same of memory and state alone: of a resume/, whose disk is the sandbox's. */
int bg_snapshot_check_memory(const struct bg_snapshot *snapshot, int dir_fd,
                             struct bg_err *err) BG_MUST_CHECK;

/* --- the store --- */

/* Names of all, sorted, numbers by their value, those for a moment too: heap array of heap strings,
 * NULL-terminated; end with bg_sandbox_names_free. */
int bg_snapshot_names(const struct bg_paths *paths, char ***ret_names,
                      struct bg_err *err) BG_MUST_CHECK;

/* What a person calls a snapshot: "NAME@TAG", or a TAG or an id (6 and more digits of it) that only
 * one has. *ret_name: heap. Errors: -ENOENT; -EINVAL several are meant. */
int bg_snapshot_resolve(const struct bg_paths *paths, const char *text, char **ret_name,
                        struct bg_err *err) BG_MUST_CHECK;

/* Makes the folder of a new one, locked: *ret_fd is folder and lock, the caller's to close when it
 * has been committed or abandoned. *ret_temp_name: heap. Errors: errno. */
int bg_snapshot_begin(const struct bg_paths *paths, int *ret_fd, char **ret_temp_name,
                      struct bg_err *err) BG_MUST_CHECK;

/* Makes all in the folder durable and gives it its name. tag: NULL for the next number; the
 * manifest there gets it. *ret_name: heap, "NAME@TAG". Errors: -EEXIST the tag is in use; errno.
 * The folder is still there then, to be abandoned. */
int bg_snapshot_commit(const struct bg_paths *paths, int temp_fd, const char *temp_name,
                       const char *source_name, const char *tag, char **ret_name,
                       struct bg_err *err) BG_MUST_CHECK;

/* Removes a folder that was begun. Best effort: the sweep would take it too. */
void bg_snapshot_abandon(const struct bg_paths *paths, const char *temp_name);

/* Errors: -ENOENT unknown; errno. What is half removed is the sweep's. */
int bg_snapshot_remove(const struct bg_paths *paths, const char *name,
                       struct bg_err *err) BG_MUST_CHECK;

/* Folders that killed makers left, as bg_snapshot_names; and their removal, which does nothing to
 * one that is being made. Errors: errno; -EBUSY it is. */
int bg_snapshot_leftovers(const struct bg_paths *paths, char ***ret_names,
                          struct bg_err *err) BG_MUST_CHECK;
int bg_snapshot_sweep(const struct bg_paths *paths, const char *leftover,
                      struct bg_err *err) BG_MUST_CHECK;

/* Opens STATE/snapshots, making it. */
int bg_snapshot_open_store(const struct bg_paths *paths, int *ret_fd,
                           struct bg_err *err) BG_MUST_CHECK;

/* --- links --- */

/* A second name for a file. One that is there under to_name already is replaced unless it is the
 * same. Errors: -EXDEV and -EMLINK with a text; errno. */
int bg_layer_link(int from_dir_fd, const char *from_name, int to_dir_fd, const char *to_name,
                  struct bg_err *err) BG_MUST_CHECK;

/* From here on it is read by whoever stands on it and written by nobody, nor owned by who might;
 * but a QEMU may have it open. Errors: errno. */
int bg_layer_freeze(int dir_fd, const char *file, struct bg_err *err) BG_MUST_CHECK;

enum bg_layer_set { BG_LAYERS_MEMORY = 1, BG_LAYERS_DISK = 2 };

/* Links the layers' files of a snapshot, by its names for them, and with those of the memory the
 * state. sets: of enum bg_layer_set. Errors: as bg_layer_link. */
int bg_snapshot_link_layers(int from_dir_fd, int to_dir_fd, const struct bg_snapshot *snapshot,
                            unsigned sets, struct bg_err *err) BG_MUST_CHECK;
