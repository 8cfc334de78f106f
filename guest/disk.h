/* Disk streams (docs/protocol.md, "Disk"): a second disk, which the host has plugged, is checked
 * and mounted, and unmounted when the host ends its side. Its file system is another guest's and
 * may be anything: it meets no kernel but this one. */
#pragma once

#include "guest/stream.h"

#define DISK_MOUNT "/run/bellglass/disk"

extern const struct stream_kind disk_kind;

/* The calling process has the mounted disk for its root, for good. Errors: -ENOTCONN none is
 * mounted; errno of chroot. */
int disk_enter(struct bg_err *err) BG_MUST_CHECK;
