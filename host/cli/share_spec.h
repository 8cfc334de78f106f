/* share_spec: what a share's option says, and which folders are not to be shared. Pure. */
#pragma once

#include <stdbool.h>

#include "common/err.h"
#include "common/state/sandbox.h"

/* DIR[:GUESTDIR][:ro|rw|cow] cut up. */
struct share_spec {
    char *dir;   /* as given; owned */
    char *guest; /* absolute and plain, or NULL; owned */
    enum bg_share_mode mode;
};

/* Errors: -EINVAL with the text quoted and what is wrong; -ENOMEM. */
int share_spec_parse(const char *text, struct share_spec *ret, struct bg_err *err) BG_MUST_CHECK;
void share_spec_done(struct share_spec *spec);

/* A folder of the guest without "//", "/." and '/' at the end. *ret: heap, the caller's. Errors:
 * -EINVAL not absolute, "..", "/", or where the guest's kernel has its own. */
int share_spec_guest(const char *text, char **ret, struct bg_err *err) BG_MUST_CHECK;

/* Where the user and we keep things. Paths without symbolic links; NULL: not known. */
struct share_places {
    const char *home, *data, *state, *runtime;
};

/* Refuses folders that hold more than a project: the root, the home folder and what is above it,
 * ours, the kernel's. dir: absolute, without symbolic links. Errors: -EPERM, naming the way out. */
int share_spec_allowed(const char *dir, const struct share_places *places,
                       struct bg_err *err) BG_MUST_CHECK;
