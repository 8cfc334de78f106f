/* Recipes: what an image is made of, as YAML (images/debian.yaml is the model). A recipe is the
 * user's own file and as trusted as a Makefile: its run steps are root in the new root folder. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "common/err.h"

#define RECIPE_SIZE_MAX   (256u * 1024u)        /* the YAML itself; refused */
#define RECIPE_SOURCE_MAX (64u * 1024u * 1024u) /* one file of `source`; refused */
#define RECIPE_ITEMS_MAX  1024u                 /* packages, files or run steps; refused */
#define RECIPE_DISK_MIN   (UINT64_C(1) << 30)   /* a Debian does not fit in less */
#define RECIPE_DISK_MAX   (UINT64_C(1) << 42)

struct recipe_file {
    char *path;    /* absolute, in the image */
    char *mode;    /* octal digits; NULL: 0644 */
    char *owner;   /* "root" or the recipe's user; NULL: root */
    char *content; /* either this ... */
    char *source;  /* ... or a file beside the recipe */
    char sha256[65];
};

struct recipe {
    char *name;  /* what the image is called unless the user says otherwise */
    char *suite; /* Debian's: "bookworm" */
    char **packages;
    unsigned packages_count;
    char *kernel; /* package; NULL: linux-image-cloud-amd64 */
    char *user;   /* default user in the guest, made with uid 1000; NULL: root */
    char *disk;   /* size as the guest sees it; NULL: 10G */
    int docs;     /* 1: keep manuals, documentation and translations */
    struct recipe_file *files;
    unsigned files_count;
    char **run; /* shell commands, as root, in order */
    unsigned run_count;

    uint64_t disk_bytes; /* of disk */
    char *folder;        /* where `source` files are looked for */
    json_t *canonical;   /* all that makes the image what it is: equal recipes have equal ones */
};

/* Parses and checks a recipe. text: size bytes. folder: of the recipe's file; NULL: `source` is
 * refused. Errors: -EINVAL (the text names the key and, where a key is unknown, the known ones);
 * errno of reading a source file. */
int recipe_parse(const char *text, size_t size, const char *folder, struct recipe **ret,
                 struct bg_err *err) BG_MUST_CHECK;

/* Finds a recipe by name (in the folders that bellglass came with) or by path (anything with a '/'
 * or a ".yaml" end) and parses it. Errors: -ENOENT; as recipe_parse. */
int recipe_load(const char *name, struct recipe **ret, struct bg_err *err) BG_MUST_CHECK;
void recipe_free(struct recipe *recipe);
