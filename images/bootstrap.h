/* Makes the root folder of a recipe with mmdebstrap, as a tar, and fetches the kernel's package of
 * the same suite. Packages come from where the host's own apt gets that suite (mirrors, proxies,
 * logins), else from deb.debian.org; nothing of that configuration stays in the image. */
#pragma once

#include "images/job.h"
#include "images/recipe.h"

struct bootstrap {
    /* Files that bootstrap_run makes in `folder`. */
#define BOOTSTRAP_TAR      "root.tar" /* the root; not with kernel_only */
#define BOOTSTRAP_PACKAGES "packages" /* "NAME=VERSION" lines, sorted; not with kernel_only */
#define BOOTSTRAP_KERNEL   "kernel.deb"
#define BOOTSTRAP_VERSION  "kernel.version" /* "PACKAGE=VERSION" of kernel.deb */
    const char *folder;                     /* absolute */
    const char *tmp;                        /* where the root is unpacked meanwhile */
    const char *log;
    bool kernel_only; /* for imports */
};

/* Fails with a text that says what to install or set up if mmdebstrap could not work here. */
int bootstrap_check(struct bg_err *err) BG_MUST_CHECK;

/* Errors: as job_run; of writing in the folder. */
int bootstrap_run(struct jobs *jobs, const struct bootstrap *bootstrap, const struct recipe *recipe,
                  struct bg_err *err) BG_MUST_CHECK;
