/* The guest's kernel: taken out of Debian's package, kept unpacked in the cache (libguestfs boots
 * it too), and packed into an image as `vmlinuz` and `modules.cpio`. */
#pragma once

#include "images/job.h"

struct kernel {
    char *version; /* "linux-image-6.1.0-51-cloud-amd64=6.1.177-1" */
    char *release; /* "6.1.0-51-cloud-amd64" */
    char *vmlinuz; /* absolute paths in the cache */
    char *modules; /* folder with modules.dep */
};

/* Unpacks a package into the cache, if it is not there already, and drops others from it. version:
 * as in struct kernel. Errors: -EUCLEAN not a kernel package; as job_run. */
int kernel_unpack(struct jobs *jobs, const char *cache, const char *deb, const char *version,
                  const char *log, struct kernel *ret, struct bg_err *err) BG_MUST_CHECK;

/* The kernel that is in the cache. Errors: -ENOENT none. */
int kernel_cached(const char *cache, struct kernel *ret, struct bg_err *err) BG_MUST_CHECK;

/* Writes vmlinuz and modules.cpio into an image's folder. Errors: as modules_resolve; errno. */
int kernel_install(const struct kernel *kernel, int image_fd, struct bg_err *err) BG_MUST_CHECK;
void kernel_done(struct kernel *kernel);
