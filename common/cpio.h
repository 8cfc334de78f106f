/* Writes a cpio archive in the "newc" form that the kernel unpacks as initramfs
 * (Documentation/driver-api/early-userspace/buffer-format.rst). Archives may stand one behind the
 * other in a file: each starts at a multiple of 4. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"

struct bg_cpio {
    int fd;          /* borrowed */
    uint64_t offset; /* bytes written by us */
    uint32_t inode;  /* of the last entry */
};

/* The next bytes of fd are the archive; its offset must be a multiple of 4. */
static inline struct bg_cpio bg_cpio_init(int fd)
{
    return (struct bg_cpio){.fd = fd};
}

/* Entries belong to root and are dated 1970, so that equal contents give equal archives. A folder
 * comes before what is in it. path: relative, without a leading slash. mode: permission bits.
 * Errors: errno of write; -EFBIG more than 4 GiB in a file; -ENAMETOOLONG. */
int bg_cpio_folder(struct bg_cpio *cpio, const char *path, mode_t mode) BG_MUST_CHECK;
int bg_cpio_file(struct bg_cpio *cpio, const char *path, mode_t mode, const void *bytes,
                 size_t size) BG_MUST_CHECK;
int bg_cpio_char_device(struct bg_cpio *cpio, const char *path, mode_t mode, unsigned device_major,
                        unsigned device_minor) BG_MUST_CHECK;

/* Ends the archive, padded to a multiple of 512. */
int bg_cpio_end(struct bg_cpio *cpio) BG_MUST_CHECK;
