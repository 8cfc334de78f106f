/* The verbs of `bellglass image`. Each parses its own arguments (argv[0] is the verb), prints its
 * results on stdout and its progress on stderr, and returns the exit status. */
#pragma once

#include <jansson.h>

#include "common/err.h"
#include "common/state/paths.h"
#include "images/job.h"
#include "images/kernel.h"
#include "images/progress.h"
#include "images/recipe.h"
#include "images/store.h"

#define EXIT_FAILED 125 /* bellglass's own errors; smaller ones are a sandbox's command's */

int cmd_build(int argc, char **argv);
int cmd_import(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_ls(int argc, char **argv);
int cmd_rm(int argc, char **argv);
int cmd_save(int argc, char **argv);

/* Prints "bellglass image: TEXT" and returns EXIT_FAILED. */
int fail(const struct bg_err *err);
/* Prints how the verb is used: to stdout with status 0, or to stderr with EXIT_FAILED. */
int usage(const char *text, bool asked);
/* Prints a value as indented JSON on stdout and drops it. NULL: memory is out. */
int print_json(json_t *value);

/* What building and importing have in common: one at a time in a work folder, step by step. */
struct maker {
    struct bg_paths paths;
    struct store store;
    struct work work;
    struct jobs jobs;
    struct progress progress;
    int lock_fd;   /* of the cache: one maker at a time uses it */
    char *log;     /* in the work folder */
    char *partial; /* disk before it is compacted, in the work folder */
    struct kernel kernel;
};

/* Opens paths and store and takes over the signals. Whatever it returns, maker_done() ends it. */
int maker_init(struct maker *maker, struct bg_err *err) BG_MUST_CHECK;
/* Waits for other makers. */
int maker_lock(struct maker *maker, struct bg_err *err) BG_MUST_CHECK;
/* Makes the work folder, with its log. */
int maker_open_work(struct maker *maker, struct bg_err *err) BG_MUST_CHECK;
/* Checks programs and room, and makes the work folder. */
int maker_begin(struct maker *maker, struct bg_err *err) BG_MUST_CHECK;
/* Copies the partial disk to the image's folder without its holes and zeros. */
int maker_compact(struct maker *maker, struct bg_err *err) BG_MUST_CHECK;
/* Unpacks the kernel's package that bootstrap_run fetched into the work folder. */
int maker_unpack_kernel(struct maker *maker, struct bg_err *err) BG_MUST_CHECK;
/* Puts kernel and modules into the image's folder. */
int maker_install_kernel(struct maker *maker, struct bg_err *err) BG_MUST_CHECK;

struct maker_facts {
    json_t *recipe;   /* borrowed */
    json_t *packages; /* borrowed */
    const char *user;
    uint64_t virtual_bytes;
    const char *digest; /* NULL: over the files */
};

/* Writes the manifest, publishes the image and tags it. */
int maker_publish(struct maker *maker, const struct maker_facts *facts, const char *tag,
                  char ret_digest[65], struct bg_err *err) BG_MUST_CHECK;
/* Drops the work folder and all else. Shows the end of the log if failed. Returns the exit status:
 * 0, EXIT_FAILED, or 128 and the signal that interrupted us. */
int maker_done(struct maker *maker, const struct bg_err *err);

/* Removes the golden snapshots that were made of an image. */
int remove_golden(const struct bg_paths *paths, const char *digest,
                  struct bg_err *err) BG_MUST_CHECK;
