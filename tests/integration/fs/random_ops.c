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
#include <sys/xattr.h>
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

static bool do_append(int fd, struct shadow *shadow, uint64_t *seed)
{
    uint8_t bytes[3000];
    size_t size = 1 + pick(seed, sizeof bytes);
    fill(seed, bytes, size);
    if (shadow->size + size > FILE_MAX)
        return true;
    memcpy(shadow->bytes + shadow->size, bytes, size);
    shadow->size += size;
    return write(fd, bytes, size) == (ssize_t)size;
}

static bool do_copy(int fd, struct shadow *shadow, uint64_t *seed)
{
    if (shadow->size < 2)
        return true;
    size_t size = 1 + pick(seed, (unsigned)shadow->size / 2);
    size_t at = pick(seed, (unsigned)(shadow->size - size) + 1);
    size_t to = at + size + pick(seed, 1000); /* behind it: they must not overlap */
    if (to + size > FILE_MAX)
        return true;
    loff_t in = (loff_t)at, out = (loff_t)to;
    for (size_t left = size; left > 0;) {
        ssize_t n = copy_file_range(fd, &in, fd, &out, left, 0);
        if (n <= 0)
            return false;
        left -= (size_t)n;
    }
    if (to > shadow->size)
        memset(shadow->bytes + shadow->size, 0, to - shadow->size);
    memcpy(shadow->bytes + to, shadow->bytes + at, size);
    shadow->size = to + size > shadow->size ? to + size : shadow->size;
    return true;
}

/* Both ends of a run of data that SEEK_DATA and SEEK_HOLE find; what is outside is zeros. */
static bool do_seek(int fd, const struct shadow *shadow, uint64_t *seed)
{
    if (shadow->size == 0)
        return true;
    off_t at = (off_t)pick(seed, (unsigned)shadow->size), data = lseek(fd, at, SEEK_DATA);
    size_t end = data < 0 ? shadow->size : (size_t)data;
    if (data < 0 && errno != ENXIO)
        return false;
    for (size_t i = (size_t)at; i < end; i++)
        if (shadow->bytes[i] != 0)
            return false;
    off_t hole = lseek(fd, at, SEEK_HOLE);
    return hole >= at && (size_t)hole <= shadow->size;
}

static bool do_zero(int fd, struct shadow *shadow, uint64_t *seed)
{
    size_t at = pick(seed, FILE_MAX - 1), size = 1 + pick(seed, FILE_MAX - (unsigned)at);
    if (fallocate(fd, FALLOC_FL_ZERO_RANGE, (off_t)at, (off_t)size) < 0)
        return errno == EOPNOTSUPP;
    if (at + size > shadow->size) {
        memset(shadow->bytes + shadow->size, 0, at + size - shadow->size);
        shadow->size = at + size;
    }
    memset(shadow->bytes + at, 0, size);
    return true;
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

/* Two handles are used in turn, and a third appends. */
struct file {
    const char *path;
    int fds[3];
};

static bool open_all(struct file *file)
{
    static const int flags[3] = {O_RDWR, O_RDWR, O_WRONLY | O_APPEND};
    bool good = true;
    for (size_t i = 0; i < 3; i++) {
        if (file->fds[i] >= 0)
            (void)close(file->fds[i]);
        file->fds[i] = open(file->path, flags[i] | O_CLOEXEC);
        good = good && file->fds[i] >= 0;
    }
    return good;
}

static bool do_file_op(struct file *file, unsigned kind, struct shadow *shadow, uint64_t *seed)
{
    int fd = file->fds[pick(seed, 2)];
    switch (kind) {
    case 0:
    case 1:
    case 2:
        return do_write(fd, shadow, seed);
    case 3:
    case 4:
        return do_read(fd, shadow, seed);
    case 5:
        return do_truncate(fd, shadow, seed);
    case 6:
        return do_map(fd, shadow, seed);
    case 7:
        return do_punch(fd, shadow, seed);
    case 8:
        return do_append(file->fds[2], shadow, seed);
    case 9:
        return do_copy(fd, shadow, seed);
    case 10:
        return do_seek(fd, shadow, seed);
    case 11:
        return do_zero(fd, shadow, seed);
    default:
        return fsync(fd) == 0;
    }
}
#define FILE_OP_KINDS 13u

int random_file_ops(const char *path, const char *behind, uint64_t seed, unsigned count)
{
    struct shadow *shadow = calloc(1, sizeof *shadow);
    struct file file = {.path = path, .fds = {-1, -1, -1}};
    uint64_t first_seed = seed;
    int made = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    bool good = shadow && made >= 0 && close(made) == 0 && open_all(&file);
    unsigned done = 0, op = 0;
    for (; good && done < count; done++) {
        op = pick(&seed, FILE_OP_KINDS);
        good = do_file_op(&file, op, shadow, &seed);
        if (good && done % 100 == 99) /* a fresh open sees the same */
            good = open_all(&file) && check_file(file.fds[0], shadow);
    }
    good = good && check_file(file.fds[0], shadow);
    int other = good && behind && fsync(file.fds[1]) == 0 ? open(behind, O_RDONLY | O_CLOEXEC) : -1;
    if (good && behind)
        good = other >= 0 && check_file(other, shadow);
    if (other >= 0)
        (void)close(other);
    if (!good)
        (void)fprintf(stderr, "%s: seed %llu: operation %u (kind %u) differs: %s\n", path,
                      (unsigned long long)first_seed, done, op, strerror(errno));
    for (size_t i = 0; i < 3; i++)
        if (file.fds[i] >= 0)
            (void)close(file.fds[i]);
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

/* What one side has open while its names come and go. */
#define KEPT_OPEN 4u

struct side {
    const char *root;
    int fds[KEPT_OPEN];
};

static int set_value(const char *path, const struct op *op)
{
    char name[32];
    (void)snprintf(name, sizeof name, "user.%s", names[op->number % NAMES]);
    if (op->number % 3 == 0)
        return removexattr(path, name);
    return setxattr(path, name, op->text, strlen(op->text) + op->number % 5, 0);
}

/* Something with an open file, whatever has become of its name. */
static int use_open(const struct side *side, const struct op *op)
{
    int fd = side->fds[op->number % KEPT_OPEN];
    char bytes[64];
    struct stat st;
    if (fd < 0)
        return 0;
    switch (op->number % 5) {
    case 0:
        return (int)pwrite(fd, op->text, strlen(op->text), op->number % 3000);
    case 1:
        return (int)pread(fd, bytes, sizeof bytes, op->number % 3000);
    case 2:
        return ftruncate(fd, op->number % 4000);
    case 3:
        return fchmod(fd, 0600 | (op->number & 0077));
    default:
        return fstat(fd, &st) < 0 ? -1 : (int)st.st_size + 10000 * (int)st.st_nlink;
    }
}

static int list_folder(const char *path)
{
    DIR *dir = opendir(path);
    int sum = 0; /* in whatever order */
    if (!dir)
        return -1;
    for (const struct dirent *entry; (entry = readdir(dir));)
        for (const char *c = entry->d_name; *c; c++)
            sum += *c * 31 + entry->d_type;
    (void)closedir(dir);
    return sum;
}

/* Returns what the call said: a number, or -errno. */
static int do_op(struct side *side, const struct op *op)
{
    char path[2 * PATH_SIZE], path2[2 * PATH_SIZE];
    struct timespec times[2] = {{.tv_sec = op->number}, {.tv_sec = op->number, .tv_nsec = 7}};
    (void)snprintf(path, sizeof path, "%s%s", side->root, op->path);
    (void)snprintf(path2, sizeof path2, "%s%s", side->root, op->path2);
    int *open_fd = &side->fds[op->number % KEPT_OPEN];
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
    case 11:
        r = renameat2(AT_FDCWD, path, AT_FDCWD, path2,
                      op->number % 2 ? RENAME_EXCHANGE : RENAME_NOREPLACE);
        break;
    case 12:
        r = link(path, path2);
        break;
    case 13:
        r = symlink(names[op->number % NAMES], path);
        break;
    case 14:
        r = chmod(path, 0600 | (op->number & 0077));
        break;
    case 15:
        r = utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW);
        break;
    case 16:
        r = set_value(path, op);
        break;
    case 17:
    case 18:
        r = use_open(side, op);
        break;
    case 19:
        if (*open_fd >= 0)
            (void)close(*open_fd);
        *open_fd = open(path, O_RDWR | O_CLOEXEC);
        r = *open_fd < 0 ? -1 : 0;
        break;
    case 20:
        r = list_folder(path);
        break;
    default:
        r = truncate(path, op->number % 5000);
        break;
    }
    return r < 0 ? -errno : r;
}
#define OP_KINDS 22u

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

static bool same_values(const char *a, const char *b)
{
    for (size_t i = 0; i < NAMES; i++) {
        char name[32], left[512], right[512];
        (void)snprintf(name, sizeof name, "user.%s", names[i]);
        ssize_t n = lgetxattr(a, name, left, sizeof left),
                m = lgetxattr(b, name, right, sizeof right);
        if (n != m || (n > 0 && memcmp(left, right, (size_t)n) != 0))
            return false;
    }
    return true;
}

/* mtime counts where an operation has set it: those times are long ago. Of links only the text
 * does: each name of one is a node of its own on the mount, and learns within a second what was
 * done by another. */
static bool same_stat(const struct stat *x, const struct stat *y)
{
    if (S_ISLNK(x->st_mode))
        return x->st_mode == y->st_mode && x->st_size == y->st_size;
    bool set = x->st_mtim.tv_sec < 100000 || y->st_mtim.tv_sec < 100000;
    return x->st_mode == y->st_mode && x->st_nlink == y->st_nlink &&
           (S_ISDIR(x->st_mode) || x->st_size == y->st_size) &&
           (!set ||
            (x->st_mtim.tv_sec == y->st_mtim.tv_sec && x->st_mtim.tv_nsec == y->st_mtim.tv_nsec));
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
        same = lstat(left, &x) == 0 && lstat(right, &y) == 0 && same_stat(&x, &y) &&
               (S_ISLNK(x.st_mode) || same_values(left, right));
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

/* The place that an operation was about, on both sides. */
static bool same_place(const struct side *a, const struct side *b, const char *place)
{
    char left[2 * PATH_SIZE], right[2 * PATH_SIZE];
    struct stat x, y;
    (void)snprintf(left, sizeof left, "%s%s", a->root, place);
    (void)snprintf(right, sizeof right, "%s%s", b->root, place);
    int r = lstat(left, &x) < 0 ? errno : 0, q = lstat(right, &y) < 0 ? errno : 0;
    return r == q && (r != 0 || same_stat(&x, &y));
}

static int run_tree_ops(struct side *a, struct side *b, uint64_t seed, unsigned count)
{
    uint64_t first_seed = seed;
    for (unsigned i = 0; i < count; i++) {
        struct op op = {.kind = pick(&seed, OP_KINDS), .number = pick(&seed, 100000)};
        random_path(&seed, op.path);
        random_path(&seed, op.path2);
        (void)snprintf(op.text, sizeof op.text, "text of operation %u", i);
        int x = do_op(a, &op), y = do_op(b, &op);
        if (x != y || !same_place(a, b, op.path) || !same_place(a, b, op.path2)) {
            (void)fprintf(
                stderr, "seed %llu: operation %u, kind %u (%u) on %s and %s: %d, and %d\n",
                (unsigned long long)first_seed, i, op.kind, op.number, op.path, op.path2, x, y);
            return 1;
        }
    }
    return 0;
}

int random_tree_ops(const char *a, const char *b, const char *behind_b, uint64_t seed,
                    unsigned count)
{
    struct side left = {.root = a, .fds = {-1, -1, -1, -1}};
    struct side right = {.root = b, .fds = {-1, -1, -1, -1}};
    int r = run_tree_ops(&left, &right, seed, count);
    for (size_t i = 0; i < KEPT_OPEN; i++) {
        if (left.fds[i] >= 0)
            (void)close(left.fds[i]);
        if (right.fds[i] >= 0)
            (void)close(right.fds[i]);
    }
    if (r == 0 &&
        !(same_tree(a, b) && same_tree(b, a) && same_tree(a, behind_b) && same_tree(behind_b, a))) {
        (void)fprintf(stderr, "seed %llu: the trees differ after %u operations\n",
                      (unsigned long long)seed, count);
        r = 1;
    }
    return r;
}
