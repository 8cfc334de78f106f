/* Disk streams (docs/protocol.md, "Disk"): a second disk, which the host has plugged, is checked
 * and mounted, and unmounted when the host ends its side. Its file system is another guest's and
 * may be anything: it meets no kernel but this one. */
#pragma once

#include <stddef.h>

#include "guest/stream.h"

#define DISK_MOUNT "/run/bellglass/disk"

extern const struct stream_kind disk_kind;

/* The calling process has the mounted disk for its root, for good. Errors: -ENOTCONN none is
 * mounted; errno of chroot. */
int disk_enter(struct bg_err *err) BG_MUST_CHECK;

/* For whoever has a disk plugged; they block. */

/* Waits for the disk with this serial number: its node in /dev, at most DISK_DEVICE_SIZE with the
 * NUL. Errors: -ENODEV it does not come. */
#define DISK_DEVICE_SIZE 64
int disk_wait(const char *serial, char device[DISK_DEVICE_SIZE], struct bg_err *err) BG_MUST_CHECK;

/* Checks the file system on it. how: -p repairs what is safe, -fy everything, -fn nothing (f: even
 * if it is said to be clean). Errors: -EUCLEAN errors are left; -EMEDIUMTYPE there is no file
 * system; -ENOENT there is no checker. */
int disk_check(const char *device, const char *how, struct bg_err *err) BG_MUST_CHECK;

/* Runs a program. *ret_status: its exit status, 128 and the signal's number, or 127; said: what it
 * printed, cut. Errors: errno of pipe, fork. */
int disk_run(const char *const *argv, int *ret_status, char *said, size_t said_size,
             struct bg_err *err) BG_MUST_CHECK;
