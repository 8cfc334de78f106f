/* guard/rules: which names of a tree make programs on the host do something. The table in rules.c
 * is the list; a place is matched by the names on the way to it, folded, so that what another file
 * system or git itself takes for the same name is the same name here. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/limits.h"

enum guard_policy {
    GUARD_OFF,   /* the guest's files as they are */
    GUARD_OWNER, /* guarded files are shown as somebody else's, so that git refuses them */
    GUARD_PIN,   /* guarded files are what the host wrote or approved */
};

enum guard_class {
    GUARD_NONE,      /* not guarded */
    GUARD_PINNED,    /* a file: as the host wrote it, or not there */
    GUARD_FOLDER,    /* a folder with only pinned files below: a folder, or not there */
    GUARD_GIT,       /* ".git": a folder, or a file that points to one */
    GUARD_CONFIG,    /* of git: shown through gitconfig */
    GUARD_POINTER,   /* of git: a file with a path in it, which must stay inside the mount */
    GUARD_POINTERS,  /* likewise, a path a line */
    GUARD_HOOKS,     /* of git: the folder with hooks in it */
    GUARD_FORBIDDEN, /* never there and never made: a hook */
    GUARD_WAY,       /* a folder that leads to guarded files: not shown if it is a link */
};

/* One name on the way from the mount's root to a place. */
struct guard_step {
    const char *name;
    size_t size;
    bool git; /* this folder is a git folder, whatever its name */
};

/* What the place is that the steps lead to; the last one is the place itself. count: 1 .. */
enum guard_class guard_classify(const struct guard_step *steps, size_t count);

/* True when a folder of this name is a git folder by its name. */
bool guard_is_git(const char *name, size_t size);

/* True when a folder that shows these names is a git folder: what git itself looks for first. */
enum guard_sign { GUARD_SIGN_NONE = 0, GUARD_SIGN_HEAD = 1, GUARD_SIGN_STORE = 2 };
enum guard_sign guard_sign(const char *name, size_t size);
bool guard_signs_suffice(unsigned signs);

/* Folds a name: lower case (ASCII and the two letters beyond it that fold to ASCII), without the
 * code points that HFS+ ignores, cut at a colon, without trailing dots and spaces; git~1 is .git.
 * out: at least size + 2 bytes; NUL-terminated. */
void guard_fold(const char *name, size_t size, char *out);

/* The table, to print it: one rule for each index from 0; false at the end. A folder ends in "/".
 */
#define GUARD_RULE_SIZE 128
bool guard_rule_at(size_t index, char out[GUARD_RULE_SIZE], enum guard_class *ret_class,
                   const char **ret_why);

/* pin, owner, off. Errors: -EINVAL. */
int guard_policy_parse(const char *text, enum guard_policy *ret);
