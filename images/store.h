/* Writes DATA/images (docs/protocol.md, "Images"); common/state/image.h reads it.
 *
 * An image is made in a work folder DATA/images/.tmp-XXXXXX, which is locked while its maker lives,
 * and gets its name by one rename. A work folder whose lock is free was left by a maker that was
 * killed; the next command that writes removes it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "common/err.h"
#include "common/state/paths.h"

struct store {
    char *dir;   /* DATA/images */
    int fd;      /* of dir */
    char *cache; /* BELLGLASS_CACHE_DIR or DATA/cache */
};

/* Opens the store, making its folders, and removes what killed makers have left. */
int store_open(const struct bg_paths *paths, struct store *ret, struct bg_err *err) BG_MUST_CHECK;
void store_close(struct store *store);

struct work {
    char *dir;  /* absolute */
    char *name; /* in the store's folder */
    int fd;     /* of dir; its lock */
    char *tmp;  /* for mmdebstrap's new root: in dir for root; else in $TMPDIR or /var/tmp, since
                   its user namespace cannot pass through our private folders */
};

/* Makes a work folder with an empty folder "image" in it, which store_publish takes. */
int store_work_begin(const struct store *store, struct work *ret, struct bg_err *err) BG_MUST_CHECK;
/* Removes it and what is in it. */
void store_work_end(const struct store *store, struct work *work);

/* Makes work's "image" folder, complete with its manifest, the image of that digest, durably. If
 * there is one already, that one stays, since sandboxes and snapshots may build on its very blocks;
 * replace: it is damaged, so ours takes its place. */
int store_publish(const struct store *store, const struct work *work, const char *digest,
                  bool replace, struct bg_err *err) BG_MUST_CHECK;

/* Lets a tag point to a digest, whatever it pointed to before. */
int store_tag(const struct store *store, const char *tag, const char *digest,
              struct bg_err *err) BG_MUST_CHECK;

/* Removes a tag, or an image with all its tags. Errors: -ENOENT. */
int store_untag(const struct store *store, const char *tag, struct bg_err *err) BG_MUST_CHECK;
int store_remove(const struct store *store, const char *digest, struct bg_err *err) BG_MUST_CHECK;

/* How many tags point to a digest. */
int store_count_tags(const struct store *store, const char *digest, size_t *ret,
                     struct bg_err *err) BG_MUST_CHECK;

/* Removes path below dir_fd and all that is in it; what is not there is fine. Errors: errno of the
 * first call that failed; the rest is removed nevertheless. */
int store_remove_tree(int dir_fd, const char *path) BG_MUST_CHECK;

/* Fails unless the file system of path has that much room. Errors: -ENOSPC. */
int store_check_space(const char *path, uint64_t bytes, struct bg_err *err) BG_MUST_CHECK;
