#include "common/cpio.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"

#define HEADER_SIZE 110u /* "070701" and 13 fields of 8 hex digits */

struct entry {
    const char *path;
    mode_t mode; /* with the type */
    unsigned device_major, device_minor;
    const void *bytes;
    size_t size;
};

static int write_padding(struct bg_cpio *cpio, uint64_t multiple)
{
    static const uint8_t zeros[512];
    size_t size = (size_t)((multiple - cpio->offset % multiple) % multiple);
    cpio->offset += size;
    return bg_write_full(cpio->fd, zeros, size);
}

static int write_entry(struct bg_cpio *cpio, const struct entry *entry)
{
    size_t path_size = strlen(entry->path) + 1;
    if (entry->size > UINT32_MAX)
        return -EFBIG;
    if (path_size > PATH_MAX)
        return -ENAMETOOLONG;
    char header[HEADER_SIZE + 1];
    (void)snprintf(header, sizeof header,
                   "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", ++cpio->inode,
                   entry->mode, /* uid= */ 0u, /* gid= */ 0u, /* links= */ 1u, /* mtime= */ 0u,
                   (unsigned)entry->size, /* device of the file system= */ 0u, 0u,
                   entry->device_major, entry->device_minor, (unsigned)path_size,
                   /* checksum= */ 0u);
    int r = bg_write_full(cpio->fd, header, HEADER_SIZE);
    if (r == 0)
        r = bg_write_full(cpio->fd, entry->path, path_size);
    cpio->offset += HEADER_SIZE + path_size;
    if (r == 0)
        r = write_padding(cpio, 4);
    if (r == 0 && entry->size > 0)
        r = bg_write_full(cpio->fd, entry->bytes, entry->size);
    cpio->offset += entry->size;
    return r == 0 ? write_padding(cpio, 4) : r;
}

int bg_cpio_folder(struct bg_cpio *cpio, const char *path, mode_t mode)
{
    return write_entry(cpio, &(struct entry){.path = path, .mode = S_IFDIR | mode});
}

int bg_cpio_file(struct bg_cpio *cpio, const char *path, mode_t mode, const void *bytes,
                 size_t size)
{
    return write_entry(
        cpio, &(struct entry){.path = path, .mode = S_IFREG | mode, .bytes = bytes, .size = size});
}

int bg_cpio_char_device(struct bg_cpio *cpio, const char *path, mode_t mode, unsigned device_major,
                        unsigned device_minor)
{
    return write_entry(cpio, &(struct entry){.path = path,
                                             .mode = S_IFCHR | mode,
                                             .device_major = device_major,
                                             .device_minor = device_minor});
}

int bg_cpio_end(struct bg_cpio *cpio)
{
    int r = write_entry(cpio, &(struct entry){.path = "TRAILER!!!"});
    return r == 0 ? write_padding(cpio, 512) : r;
}
