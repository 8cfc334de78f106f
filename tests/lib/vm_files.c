#include "tests/lib/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io.h"

void *vm_keep(struct vm *vm, void *memory)
{
    struct vm_kept *kept = malloc(sizeof *kept);
    assert_non_null(memory);
    assert_non_null(kept);
    *kept = (struct vm_kept){memory, vm->kept};
    vm->kept = kept;
    return memory;
}

const char *vm_text(struct vm *vm, const char *format, ...)
{
    char *text;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    assert_true(n >= 0);
    return vm_keep(vm, text);
}

const char *vm_path(struct vm *vm, const char *format, ...)
{
    char *name;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&name, format, args);
    va_end(args);
    assert_true(n >= 0);
    (void)vm_keep(vm, name);
    return vm_text(vm, "%s/%s", vm->folder, name);
}

/* ---- small files ---- */

void vm_write(const char *path, const void *bytes, size_t size)
{
    BG_AUTOCLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0 || bg_write_full(fd, bytes, size) < 0)
        fail_msg("%s: %s", path, strerror(errno));
}

char *vm_read(struct vm *vm, const char *path, size_t *ret_size)
{
    char *bytes;
    struct bg_err err;
    if (bg_read_file(AT_FDCWD, path, VM_CAPTURE_MAX, &bytes, ret_size, &err) < 0)
        fail_msg("%s", err.text);
    return vm_keep(vm, bytes);
}

/* nftw has no argument for its callback. */
static struct {
    const void *bytes;
    size_t size;
    char *ret_path;
    size_t ret_path_size;
} sought;

static int holds(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)ftw;
    if (type != FTW_F || !S_ISREG(st->st_mode))
        return 0;
    BG_AUTOCLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    /* Blocks overlap by what is sought, so that a match across two of them is seen; holes of sparse
     * files (guest memory) are jumped over. */
    enum { BLOCK = 1 << 20 };
    static uint8_t block[BLOCK];
    for (off_t at = 0; (at = lseek(fd, at, SEEK_DATA)) >= 0;) {
        ssize_t n = pread(fd, block, BLOCK, at);
        if (n <= 0)
            break;
        if (memmem(block, (size_t)n, sought.bytes, sought.size)) {
            (void)snprintf(sought.ret_path, sought.ret_path_size, "%s", path);
            return 1;
        }
        at += n == BLOCK ? (off_t)((size_t)n - sought.size + 1) : n;
    }
    return 0;
}

bool vm_tree_holds(const char *folder, const void *bytes, size_t size, char *ret_path,
                   size_t ret_path_size)
{
    sought.bytes = bytes;
    sought.size = size;
    sought.ret_path = ret_path;
    sought.ret_path_size = ret_path_size;
    return nftw(folder, holds, 16, FTW_PHYS | FTW_MOUNT) == 1;
}

void vm_noise_fill(struct vm_noise *noise, void *bytes, size_t size)
{
    uint8_t *out = bytes;
    if (noise->state == 0)
        noise->state = 1; /* the generator stays at 0 */
    for (size_t at = 0; at < size; at++) {
        /* xorshift64 (Marsaglia), one byte a step
         */
        noise->state ^= noise->state << 13;
        noise->state ^= noise->state >> 7;
        noise->state ^= noise->state << 17;
        out[at] = (uint8_t)noise->state;
    }
}
