/* Reads images: what is at DATA/images (docs/protocol.md, "Images"). Writing them is images/. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "common/err.h"
#include "common/state/paths.h"

struct bg_image {
    char digest[65];        /* hex SHA-256; also the folder's name */
    char *name;             /* a tag of it, "" if it has none */
    char *dir;              /* DATA/images/DIGEST */
    char *kernel_release;   /* "6.1.0-56-cloud-amd64" */
    char *user;             /* default user in the guest */
    uint64_t created_ms;    /* Unix time */
    uint64_t virtual_bytes; /* size of the disk as the guest sees it */
    uint64_t stored_bytes;  /* files of the image */
    json_t *manifest;       /* the whole of it, for inspect */
};

/* True for names that an image may be tagged with: [a-z0-9][a-z0-9._-]{0,62}. */
bool bg_image_name_ok(const char *name);

/* The digest that a tag, full digest or unique prefix stands for, without looking at the image's
 * files. *ret_tagged: name is a tag. Errors: as bg_image_find. */
int bg_image_resolve(const struct bg_paths *paths, const char *name, char ret_digest[65],
                     bool *ret_tagged, struct bg_err *err) BG_MUST_CHECK;

/* Finds an image by tag, full digest or a unique digest prefix of 6 and more digits, and checks its
 * manifest and the sizes of its files. Errors: -ENOENT unknown (the text says how to build or list
 * images); -EUCLEAN damaged (names the file and the way out); -EINVAL ambiguous prefix or not a
 * possible name. */
int bg_image_find(const struct bg_paths *paths, const char *name, struct bg_image *ret,
                  struct bg_err *err) BG_MUST_CHECK;
void bg_image_done(struct bg_image *image);

/* All images, newest first: heap array, the caller's; end with bg_image_list_free. Damaged ones are
 * left out and counted. */
int bg_image_list(const struct bg_paths *paths, struct bg_image **ret, size_t *ret_count,
                  size_t *ret_damaged, struct bg_err *err) BG_MUST_CHECK;
void bg_image_list_free(struct bg_image *images, size_t count);

/* Files of an image, below its dir. */
#define BG_IMAGE_DISK   "root.qcow2"
#define BG_IMAGE_KERNEL "vmlinuz"
#define BG_IMAGE_MODULES                                                                           \
    "modules.cpio" /* newc; the supervisor puts the agent behind it as /init                       \
                    */
#define BG_IMAGE_MANIFEST "manifest.json"
