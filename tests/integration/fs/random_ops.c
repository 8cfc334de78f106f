#include "tests/integration/fs/random_ops.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_SIZE 256u
#define FILE_MAX  (256u * 1024)

/* xorshift64*: the same on every machine. */
static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    return *seed * 0x2545f4914f6cdd1du;
}

static unsigned pick(uint64_t *seed, unsigned below)
{
    return (unsigned)(next_random(seed) >> 33) % below;
}

/* ---- one file ---- */

struct shadow {
    uint8_t bytes[FILE_MAX];
    size_t size;
};

static void fill(uint64_t *seed, uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(next_random(seed) >> 56);
}

static bool check_file(int fd, const struct shadow *shadow)
{
    static uint8_t bytes[FILE_MAX + 1];
    size_t used = 0;
    ssize_t n;
    while ((n = pread(fd, bytes + used, sizeof bytes - used, (off_t)used)) > 0)
        used += (size_t)n;
    return n == 0 && used == shadow->size && memcmp(bytes, shadow->bytes, used) == 0;
}

static bool do_write(int fd, struct shadow *shadow, uint64_t *seed)
{
    uint8_t bytes[20000];
    size_t size = 1 + pick(seed, sizeof bytes), at = pick(seed, FILE_MAX - (unsigned)size);
    fill(seed, bytes, size);
    if (pwrite(fd, bytes, size, (off_t)at) != (ssize_t)size)
        return false;
    if (at > shadow->size)
        memset(shadow->bytes + shadow->size, 0, at - shadow->size);
    memcpy(shadow->bytes + at, bytes, size);
    shadow->size = at + size > shadow->size ? at + size : shadow->size;
    return true;
}

static bool do_read(int fd, const struct shadow *shadow, uint64_t *seed)
{
    uint8_t bytes[20000];
    size_t size = 1 + pick(seed, sizeof bytes), at = pick(seed, FILE_MAX);
    size_t want = at >= shadow->size ? 0 : shadow->size - at < size ? shadow->size - at : size;
    ssize_t n = pread(fd, bytes, size, (off_t)at);
    return n == (ssize_t)want && memcmp(bytes, shadow->bytes + at, want) == 0;
}

static bool do_truncate(int fd, struct shadow *shadow, uint64_t *seed)
{
    size_t size = pick(seed, FILE_MAX);
    if (ftruncate(fd, (off_t)size) < 0)
        return false;
    if (size > shadow->size)
        memset(shadow->bytes + shadow->size, 0, size - shadow->size);
    shadow->size = size;
    return true;
}

static bool do_map(int fd, struct shadow *shadow, uint64_t *seed)
{
    if (shadow->size < 2)
        return true;
    size_t at = pick(seed, (unsigned)shadow->size - 1);
    size_t size = 1 + pick(seed, (unsigned)(shadow->size - at));
    uint8_t *map = mmap(NULL, shadow->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return false;
    bool same = memcmp(map, shadow->bytes, shadow->size) == 0;
    fill(seed, shadow->bytes + at, size);
    memcpy(map + at, shadow->bytes + at, size);
    return munmap(map, shadow->size) == 0 && same;
}

static bool do_punch(int fd, struct shadow *shadow, uint64_t *seed)
{
    size_t at = pick(seed, FILE_MAX - 1), size = 1 + pick(seed, FILE_MAX - (unsigned)at);
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)size) < 0)
        return errno == EOPNOTSUPP;
    if (at < shadow->size)
        memset(shadow->bytes + at, 0, at + size < shadow->size ? size : shadow->size - at);
    return true;
}

int random_file_ops(const char *path, uint64_t seed, unsigned count)
{
    struct shadow *shadow = calloc(1, sizeof *shadow);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    bool good = shadow && fd >= 0;
    unsigned done = 0, op = 0;
    for (; good && done < count; done++) {
        op = pick(&seed, 8);
        if (op <= 2)
            good = do_write(fd, shadow, &seed);
        else if (op <= 4)
            good = do_read(fd, shadow, &seed);
        else if (op == 5)
            good = do_truncate(fd, shadow, &seed);
        else if (op == 6)
            good = do_map(fd, shadow, &seed);
        else
            good = do_punch(fd, shadow, &seed);
        if (good && done % 100 == 99) { /* a fresh open sees the same */
            (void)close(fd);
            fd = open(path, O_RDWR | O_CLOEXEC);
            good = fd >= 0 && check_file(fd, shadow);
        }
    }
    good = good && check_file(fd, shadow);
    if (!good)
        (void)fprintf(stderr, "%s: operation %u (kind %u) differs: %s\n", path, done, op,
                      strerror(errno));
    if (fd >= 0)
        (void)close(fd);
    free(shadow);
    return good ? 0 : 1;
}

/* ---- a tree ---- */

static const char *const names[] = {"a", "b", "c", "d", "e", "ff"};
#define NAMES (sizeof names / sizeof *names)

static void random_path(uint64_t *seed, char out[PATH_SIZE])
{
    unsigned depth = 1 + pick(seed, 4);
    size_t used = 0;
    for (unsigned i = 0; i < depth; i++)
        used += (size_t)snprintf(out + used, PATH_SIZE - used, "/%s", names[pick(seed, NAMES)]);
}

struct op {
    unsigned kind;
    char path[PATH_SIZE], path2[PATH_SIZE], text[PATH_SIZE];
    unsigned number;
};

static int put_file(const char *path, const char *text, int flags)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0644);
    if (fd < 0)
        return -1;
    ssize_t n = write(fd, text, strlen(text));
    return close(fd) < 0 || n < 0 ? -1 : 0;
}

/* Returns 0 or errno. */
static int do_op(const char *root, const struct op *op)
{
    char path[2 * PATH_SIZE], path2[2 * PATH_SIZE];
    struct timespec times[2] = {{.tv_sec = op->number}, {.tv_sec = op->number, .tv_nsec = 7}};
    (void)snprintf(path, sizeof path, "%s%s", root, op->path);
    (void)snprintf(path2, sizeof path2, "%s%s", root, op->path2);
    int r = -1;
    switch (op->kind) {
    case 0:
    case 1:
        r = put_file(path, op->text, O_TRUNC);
        break;
    case 2:
        r = put_file(path, op->text, O_APPEND);
        break;
    case 3:
    case 4:
    case 5:
        r = mkdir(path, 0755);
        break;
    case 6:
        r = unlink(path);
        break;
    case 7:
        r = rmdir(path);
        break;
    case 8:
    case 9:
        r = rename(path, path2);
        break;
    case 10:
        r = renameat2(AT_FDCWD, path, AT_FDCWD, path2,
                      op->number % 2 ? RENAME_EXCHANGE : RENAME_NOREPLACE);
        break;
    case 11:
        r = link(path, path2);
        break;
    case 12:
        r = symlink(names[op->number % NAMES], path);
        break;
    case 13:
        r = chmod(path, 0600 | (op->number & 0077));
        break;
    case 14:
        r = utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW);
        break;
    default:
        r = truncate(path, op->number % 5000);
        break;
    }
    return r < 0 ? errno : 0;
}
#define OP_KINDS 16u

static bool same_bytes(const char *a, const char *b)
{
    char left[8192], right[8192];
    int x = open(a, O_RDONLY | O_CLOEXEC), y = open(b, O_RDONLY | O_CLOEXEC);
    ssize_t n = x < 0 ? -1 : read(x, left, sizeof left);
    ssize_t m = y < 0 ? -2 : read(y, right, sizeof right);
    (void)close(x);
    (void)close(y);
    return n == m && n >= 0 && memcmp(left, right, (size_t)n) == 0;
}

static bool same_link(const char *a, const char *b)
{
    char left[PATH_SIZE], right[PATH_SIZE];
    ssize_t n = readlink(a, left, sizeof left), m = readlink(b, right, sizeof right);
    return n == m && n > 0 && memcmp(left, right, (size_t)n) == 0;
}

/* Everything in a is in b and the same; `deep` folders below. */
static bool same_tree(const char *a, const char *b)
{
    DIR *dir = opendir(a);
    if (!dir)
        return false;
    bool same = true;
    for (const struct dirent *entry; same && (entry = readdir(dir));) {
        char left[1024], right[1024];
        struct stat x, y;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        (void)snprintf(left, sizeof left, "%s/%s", a, entry->d_name);
        (void)snprintf(right, sizeof right, "%s/%s", b, entry->d_name);
        same = lstat(left, &x) == 0 && lstat(right, &y) == 0 && x.st_mode == y.st_mode &&
               x.st_nlink == y.st_nlink && (S_ISDIR(x.st_mode) || x.st_size == y.st_size);
        if (same && S_ISREG(x.st_mode))
            same = same_bytes(left, right);
        else if (same && S_ISLNK(x.st_mode))
            same = same_link(left, right);
        else if (same)
            same = same_tree(left, right);
        if (!same)
            (void)fprintf(stderr, "%s and %s differ\n", left, right);
    }
    (void)closedir(dir);
    return same;
}

int random_tree_ops(const char *a, const char *b, uint64_t seed, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct op op = {.kind = pick(&seed, OP_KINDS), .number = pick(&seed, 100000)};
        random_path(&seed, op.path);
        random_path(&seed, op.path2);
        (void)snprintf(op.text, sizeof op.text, "text of operation %u", i);
        int x = do_op(a, &op), y = do_op(b, &op);
        if (x != y) {
            (void)fprintf(stderr, "operation %u, kind %u on %s and %s: %s, and %s\n", i, op.kind,
                          op.path, op.path2, strerror(x), strerror(y));
            return 1;
        }
    }
    return same_tree(a, b) && same_tree(b, a) ? 0 : 1;
}
