/* From the initramfs to the running guest: PID 1 only. Order: proc, sys and dev; the kernel
 * modules; the root file system from /dev/vda; its own mounts; loopback, name servers, limits. */
#pragma once

#include "common/err.h"
#include "common/log.h"

#define BOOT_CGROUPS "/sys/fs/cgroup/bellglass"

/* Does it all. The log's fd may be useless until boot_console. What the guest can live without is
 * logged and passed over. Errors: the first step without which there is no guest. */
int boot(const struct bg_log *log, struct bg_err *err) BG_MUST_CHECK;

/* Mounts /dev if need be and makes the console fds 0, 1 and 2. */
void boot_console(void);
