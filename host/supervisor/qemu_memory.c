/* Loaded into QEMU before its libraries (LD_PRELOAD), for guests whose RAM is a private mapping of
 * a file that all forks share. Two things that QEMU cannot be told on its command line:
 *
 * - QEMU up to 8.1 opens the file behind `memory-backend-file,share=off` for writing although it
 *   maps it private. No QEMU may be able to write it: that one open becomes a read-only one, which
 *   a private writable mapping is content with (mmap(2)).
 * - A snapshot's memory is that file and layers over it (memory_layer.h). Where QEMU has mapped the
 *   file, the layers' pages are mapped over it, private too: nothing is copied, and all children of
 *   a snapshot share its pages.
 *
 * From the environment: BELLGLASS_MEMORY_PATH, the file as QEMU names it; BELLGLASS_MEMORY_LAYERS,
 * "FD:FD:..." from the bottom to the top; BELLGLASS_MEMORY_BASE=none, zeros in place of the file's
 * content. Whatever fails here ends QEMU before the guest runs: with the wrong memory it must not.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include "common/io.h"
#include "host/supervisor/memory_layer.h"

#define EXPORT            __attribute__((visibility("default")))
#define MAPS_DEFAULT      65530u /* the kernel's, for one process */
#define SMALL_MAX         4096u  /* pages; no piece of so many is read rather than mapped */
#define PAGES_TO_BYTES(n) ((size_t)(n)*MEMORY_PAGE_SIZE)

/* ---- opening ---- */

static int open_file(const char *path, int flags, mode_t mode)
{
    const char *memory = getenv("BELLGLASS_MEMORY_PATH");
    if (memory && strcmp(path, memory) == 0 && (flags & O_ACCMODE) == O_RDWR)
        flags = (flags & ~O_ACCMODE) | O_RDONLY;
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

#define FORWARD(name)                                                                              \
    EXPORT int name(const char *path, int flags, ...);                                             \
    EXPORT int name(const char *path, int flags, ...)                                              \
    {                                                                                              \
        mode_t mode = 0;                                                                           \
        if (flags & (O_CREAT | __O_TMPFILE)) {                                                     \
            va_list args;                                                                          \
            va_start(args, flags);                                                                 \
            mode = va_arg(args, mode_t);                                                           \
            va_end(args);                                                                          \
        }                                                                                          \
        return open_file(path, flags, mode);                                                       \
    }
FORWARD(open)
FORWARD(open64)

EXPORT int __open_2(const char *path, int flags);
EXPORT int __open_2(const char *path, int flags)
{
    return open_file(path, flags, 0);
}

EXPORT int __open64_2(const char *path, int flags);
EXPORT int __open64_2(const char *path, int flags)
{
    return open_file(path, flags, 0);
}

/* ---- mapping ---- */

struct target {
    uint8_t *address; /* of QEMU's mapping */
    uint64_t first_page, end_page;
    uint64_t ram_size;
    int prot, flags;
    bool zeros; /* no file is mapped there */
};

static void die(const char *text, int code) __attribute__((noreturn));
static void die(const char *text, int code)
{
    if (code < 0)
        (void)fprintf(stderr, "bellglass: guest memory: %s: %s\n", text, strerror(-code));
    else
        (void)fprintf(stderr, "bellglass: guest memory: %s\n", text);
    _exit(1); /* QEMU's own clean-up has nothing to do yet */
}

static void *map(void *address, size_t length, int prot, int flags, int fd, off_t offset)
{
    /* The system call's wrapper of libc is what we stand in front of. */
    return (void *)syscall(SYS_mmap, address, length, prot, flags, fd, offset);
}

/* Sets fds; returns how many. */
static size_t read_layer_fds(int fds[BG_MEMORY_LAYERS_MAX])
{
    const char *text = getenv("BELLGLASS_MEMORY_LAYERS");
    size_t count = 0;
    while (text && *text) {
        char *end;
        unsigned long fd = strtoul(text, &end, 10);
        if (end == text || (*end != ':' && *end != '\0') || fd > INT32_MAX ||
            count == BG_MEMORY_LAYERS_MAX)
            die("BELLGLASS_MEMORY_LAYERS is not a list of fds, or a too long one", 0);
        fds[count++] = (int)fd;
        text = *end == ':' ? end + 1 : end;
    }
    return count;
}

/* How many pieces may be mapped: each makes up to two mappings of one, and QEMU needs the other
 * half of what a process may have. */
static size_t pieces_max(void)
{
    char text[32];
    unsigned long maps = MAPS_DEFAULT;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, "/proc/sys/vm/max_map_count", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (n > 0) {
        text[n] = '\0';
        maps = strtoul(text, NULL, 10);
    }
    if (fd >= 0)
        (void)close(fd); /* only read */
    return (maps < MAPS_DEFAULT ? maps : MAPS_DEFAULT) / 4;
}

/* Which pieces are read: those below a size, in pages, and some of just that size. */
struct reading {
    uint64_t size;
    size_t of_size;
};

/* As few as leave no more to map than may be. */
static struct reading choose_reading(const struct memory_map *map)
{
    size_t sizes[SMALL_MAX + 1] = {0}; /* the last counts all larger ones */
    size_t max = pieces_max(), excess = map->count > max ? map->count - max : 0;
    for (size_t i = 0; i < map->count; i++) {
        uint64_t count = map->pieces[i].count;
        sizes[count < SMALL_MAX ? count : SMALL_MAX]++;
    }
    struct reading reading = {.size = 1};
    /* Even 1 TiB of RAM has not so many of the large ones. */
    for (; reading.size < SMALL_MAX && excess > sizes[reading.size]; reading.size++)
        excess -= sizes[reading.size];
    reading.of_size = excess;
    return reading;
}

static bool is_read(struct reading *reading, const struct memory_piece *piece)
{
    if (piece->count != reading->size)
        return piece->count < reading->size;
    if (reading->of_size == 0)
        return false;
    reading->of_size--;
    return true;
}

/* Puts one piece into its place. */
static void place(const struct target *target, const struct memory_layer *layers,
                  struct memory_piece piece, bool by_reading)
{
    bool zero = piece.file_page == MEMORY_ZERO;
    if (piece.ram_page < target->first_page || piece.ram_page + piece.count > target->end_page)
        die("a layer has pages that QEMU did not map", 0);
    uint8_t *to = target->address + PAGES_TO_BYTES(piece.ram_page - target->first_page);
    size_t size = PAGES_TO_BYTES(piece.count);
    if (zero && target->zeros)
        return;
    if (by_reading && zero) {
        memset(to, 0, size);
        return;
    }
    int fd = zero ? -1 : layers[piece.layer].fd;
    if (by_reading) {
        int r = bg_pread_full(fd, to, size, piece.file_page * MEMORY_PAGE_SIZE);
        if (r < 0)
            die("cannot read a layer", r);
        return;
    }
    int flags = MAP_PRIVATE | MAP_FIXED | (target->flags & MAP_NORESERVE);
    if (map(to, size, target->prot, zero ? flags | MAP_ANONYMOUS : flags, fd,
            zero ? 0 : (off_t)(piece.file_page * MEMORY_PAGE_SIZE)) == MAP_FAILED)
        die("cannot map a layer", -errno);
}

static void place_layers(const struct target *target, const int *fds, size_t count)
{
    struct memory_layer layers[BG_MEMORY_LAYERS_MAX];
    struct memory_map pieces;
    struct bg_err err = {0};
    for (size_t i = 0; i < count; i++)
        if (memory_layer_open(fds[i], target->ram_size, &layers[i], &err) < 0) {
            (void)fprintf(stderr, "bellglass: guest memory: layer %zu of %zu: %s\n", i + 1, count,
                          err.text);
            _exit(1); /* as die() */
        }
    if (memory_map_build(layers, count, &pieces, &err) < 0)
        die(err.text, 0);
    struct reading reading = choose_reading(&pieces);
    for (size_t i = 0; i < pieces.count; i++)
        place(target, layers, pieces.pieces[i], is_read(&reading, &pieces.pieces[i]));
    memory_map_done(&pieces);
    for (size_t i = 0; i < count; i++)
        memory_layer_done(&layers[i]);
}

/* Whether fd is the guest's memory file. */
static bool is_memory(int fd, uint64_t *ret_size)
{
    const char *path = getenv("BELLGLASS_MEMORY_PATH");
    struct stat memory, st;
    if (!path || fd < 0 || fstat(fd, &st) < 0 || stat(path, &memory) < 0 ||
        st.st_dev != memory.st_dev || st.st_ino != memory.st_ino)
        return false;
    *ret_size = (uint64_t)st.st_size;
    return true;
}

static void *map_memory(void *address, size_t length, int prot, int flags, int fd, off_t offset)
{
    uint64_t ram_size;
    if ((flags & MAP_ANONYMOUS) || prot == PROT_NONE || !is_memory(fd, &ram_size))
        return map(address, length, prot, flags, fd, offset);
    int fds[BG_MEMORY_LAYERS_MAX];
    size_t count = read_layer_fds(fds);
    const char *base = getenv("BELLGLASS_MEMORY_BASE");
    bool zeros = base && strcmp(base, "none") == 0;
    if ((zeros || count > 0) && (flags & MAP_TYPE) != MAP_PRIVATE)
        die("QEMU maps the file shared, it would write into it", 0);
    uint8_t *mapped = zeros ? map(address, length, prot, flags | MAP_ANONYMOUS, -1, 0)
                            : map(address, length, prot, flags, fd, offset);
    if (mapped == MAP_FAILED || count == 0)
        return mapped;
    struct target target = {.address = mapped,
                            .first_page = (uint64_t)offset / MEMORY_PAGE_SIZE,
                            .end_page = ((uint64_t)offset + length) / MEMORY_PAGE_SIZE,
                            .ram_size = ram_size,
                            .prot = prot,
                            .flags = flags,
                            .zeros = zeros};
    place_layers(&target, fds, count);
    return mapped;
}

EXPORT void *mmap(void *address, size_t length, int prot, int flags, int fd, off_t offset)
{
    return map_memory(address, length, prot, flags, fd, offset);
}

EXPORT void *mmap64(void *address, size_t length, int prot, int flags, int fd, off64_t offset)
{
    return map_memory(address, length, prot, flags, fd, offset);
}
