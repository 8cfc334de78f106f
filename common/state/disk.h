/* The disk of a sandbox: which qcow2 files, one on the other, are its disk (docs/protocol.md,
 * "disk.json"). Below them all are the golden snapshot's disk and the image's. The names in the
 * qcow2 files themselves are never followed. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"
#include "common/limits.h"

#define BG_LAYER_ID_SIZE   17 /* 16 hex digits and a NUL */
#define BG_LAYER_FILE_SIZE 32 /* the name of a layer's file, and a NUL */
#define BG_DISK_FILE       "disk.json"
#define BG_DISK_FIRST      "disk.qcow2" /* a sandbox's first writable layer; later ones have ids */

/* What QEMU locks of a file that it writes: RAW_LOCK_PERM_BASE + the bit of BLK_PERM_WRITE (QEMU
 * 7.2, block/file-posix.c); and where all its locks are, those of readers too, who want no writer.
 */
#define BG_QEMU_LOCK_WRITE 101
#define BG_QEMU_LOCKS      100
#define BG_QEMU_LOCKS_SIZE 200

/* A layer but the last has been frozen: nobody writes it again, and other folders have links of it.
 */
struct bg_disk {
    char *golden; /* the folder's name */
    char *parent; /* the snapshot that it goes on from, "NAME@TAG", or NULL */
    bool top;     /* the last layer is this sandbox's alone and written; else a start makes one */
    size_t count;
    struct {
        char id[BG_LAYER_ID_SIZE];
        char *file;
    } layers[BG_DISK_LAYERS_MAX]; /* bottom to top */
};

/* Reads disk.json below an open sandbox's folder. A sandbox that was last started when that file
 * was not known has one layer; it gets an id that stays only if the disk is saved. Errors: -ENOENT
 * it was never started; -EUCLEAN damaged, with what is wrong; errno. */
int bg_disk_load(int dir_fd, struct bg_disk *ret, struct bg_err *err) BG_MUST_CHECK;

/* Writes disk.json anew, atomically and durably. Errors: errno; the old one stands then. */
int bg_disk_save(int dir_fd, const struct bg_disk *disk, struct bg_err *err) BG_MUST_CHECK;

void bg_disk_done(struct bg_disk *disk);

/* Puts another layer on top. file: NULL for "disk-ID.qcow2". Errors: -EMLINK too many, with a text;
 * -ENOMEM. */
int bg_disk_push(struct bg_disk *disk, const char *id, const char *file,
                 struct bg_err *err) BG_MUST_CHECK;

/* Counts the layers' files in the folder that do not belong to its disk: of a chain before, or of
 * one that was to be and whose maker was killed. remove: they go. The caller holds the sandbox's
 * lock, or what it counts may be in the making. Errors: errno. */
int bg_disk_strays(int dir_fd, const struct bg_disk *disk, bool remove, size_t *ret_count,
                   struct bg_err *err) BG_MUST_CHECK;
/* Removes them. */
int bg_disk_tidy(int dir_fd, const struct bg_disk *disk, struct bg_err *err) BG_MUST_CHECK;

/* Pure: for fuzzing and tests. Errors: -EUCLEAN, -ENOMEM. */
int bg_disk_parse(const char *text, size_t size, struct bg_disk *ret,
                  struct bg_err *err) BG_MUST_CHECK;
char *bg_disk_emit(const struct bg_disk *disk); /* heap; NULL: out of memory */

/* True for 16 lowercase hex digits. */
bool bg_layer_id_ok(const char *id);
void bg_layer_new_id(char out[BG_LAYER_ID_SIZE]);
/* "disk-ID.qcow2" and "memory-ID.mem". */
void bg_layer_disk_file(const char *id, char out[BG_LAYER_FILE_SIZE]);
void bg_layer_memory_file(const char *id, char out[BG_LAYER_FILE_SIZE]);
/* True for what may be the name of a golden snapshot's folder. */
bool bg_golden_name_ok(const char *name);
