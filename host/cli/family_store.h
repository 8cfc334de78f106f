/* family_store: fills a family with the sandboxes and snapshots that there are. */
#pragma once

#include <stdbool.h>

#include "host/cli/app.h"
#include "host/cli/family.h"

struct family_store_filter {
    bool (*wants)(void *owner, const char *name); /* "web" or "web@1" */
    void *owner;
};

/* Adds all that the filter (NULL: none) wants, and links the family. Those that are removed
 * meanwhile, or damaged, are not in it. Errors: -ENOMEM; errno of reading the state. */
int family_store_collect(struct app *app, struct family *family,
                         const struct family_store_filter *filter,
                         struct bg_err *err) BG_MUST_CHECK;
