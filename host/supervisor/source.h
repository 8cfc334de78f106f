/* source: what a sandbox's start begins from: the layers of its disk, and the snapshot that it goes
 * on from if its folder has one (docs/protocol.md, "Sandboxes"). */
#pragma once

#include "common/state/disk.h"
#include "common/state/resume.h"
#include "common/state/sandbox.h"
#include "common/state/snapshot.h"
#include "host/supervisor/golden.h"

struct source {
    struct bg_disk disk;
    bool has_disk;               /* the sandbox has been started before, or is a fork */
    bool resumes;                /* its memory is restored, not only its disk */
    struct bg_snapshot snapshot; /* if it resumes */
    int state_fd;
    /* Layers of its memory, bottom to top: those that QEMU maps, then those of the snapshots that
     * were taken since it started. */
    struct {
        char id[BG_LAYER_ID_SIZE];
        int fd;
    } memory[BG_MEMORY_LAYERS_MAX];
    size_t memory_count, mapped_count;
    int base_fd; /* of a memory that stands on nothing: a file of its size, all holes; else -1 */
    int disk_fds[BG_DISK_LAYERS_MAX]; /* top first; the first is open for writing */
    size_t disk_count;
    const char *root_dir; /* borrowed: the folder of the volume whose disk it is; NULL: its own */
};

/* Reads what the folder says. root_dir: as in struct source, borrowed. cold: its disk is to be
 * booted whatever there is. Nothing is opened but what must be checked. Errors: -EUCLEAN damaged;
 * -ENOTSUP the snapshot is from another QEMU, accelerator or CPU: the text says how to start it
 * cold. */
int source_find(const struct bg_sandbox *sandbox, const char *root_dir,
                const struct qemu_program *qemu, enum accel accel, bool cold, struct source *ret,
                struct bg_err *err) BG_MUST_CHECK;

/* Makes a new top if the disk has none of its own, and notes it; then opens every layer. golden:
 * has the empty overlay. Waits for an earlier QEMU that is still ending. Errors: -EBUSY it does not
 * end. */
int source_open_disk(const struct bg_sandbox *sandbox, const struct golden *golden,
                     struct source *source, struct bg_err *err) BG_MUST_CHECK;

/* Opens a sandbox's layers without changing anything, top first, for a reader (or for a writer:
 * then the first is open for writing, and an earlier QEMU's end is waited for). Errors: -ENOENT it
 * has no disk; -EBUSY it has no top that could be written, that QEMU does not end, or it is
 * suspended and its memory would not agree with its disk. */
int source_open_layers(const struct bg_sandbox *sandbox, bool write, struct bg_disk *ret_disk,
                       int *ret_fds, size_t *ret_count, struct bg_err *err) BG_MUST_CHECK;

/* Opens the layers of a disk, top first; write: the first for writing, once an earlier QEMU that
 * wrote it is gone. Those that are open when it fails are counted. Errors: -EMEDIUMTYPE, -EBUSY. */
int source_open_chain(int dir_fd, const struct bg_disk *disk, bool write, int *ret_fds,
                      size_t *ret_count, struct bg_err *err) BG_MUST_CHECK;

/* A layer's header must be as we write it: one that came from elsewhere, or from a QEMU that was
 * its guest's, could name other files. Errors: -EMEDIUMTYPE; errno of read. */
int source_check_layer(int fd, const char *file, struct bg_err *err) BG_MUST_CHECK;

/* The guest is about to run: what it goes on from will no longer be true of its disk. */
int source_consume(const struct bg_sandbox *sandbox, struct bg_err *err) BG_MUST_CHECK;

/* After the end of a sandbox's run: its memory's layers are nobody's. */
void source_forget_memory(const struct bg_sandbox *sandbox);

void source_done(struct source *source);

/* Folders of a sandbox: what the next start goes on from, and what the memory of the one that runs
 * stands on. */
#define SOURCE_RESUME BG_RESUME_FOLDER
#define SOURCE_MEMORY "memory"
