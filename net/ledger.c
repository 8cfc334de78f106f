#include "net/ledger.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/limits.h"

/* More than a policy can have meters, so that one finds room when those of others are forgotten. */
#define PLACES (2 * (BG_EGRESS_RULES_MAX + BG_EGRESS_BUDGETS_MAX))

static const char magic[8] = "BGLEDGR1";

struct place {
    uint64_t key; /* 0: free */
    uint64_t rate, per_ms;
    struct policy_count count;
};

struct image {
    char magic[8];
    struct place places[PLACES];
};

struct ledger {
    struct image *image;   /* mapped */
    bool attached[PLACES]; /* to a meter of this process */
};

static int damaged(const char *path, struct bg_err *err)
{
    return bg_err_set(
        err, -EINVAL,
        "%s is damaged; without it all that policies have counted begins anew: remove "
        "it if that is all right",
        path);
}

/* Looks at the file, or makes it whole: with its blocks, or a full disk would be a fault at some
 * later count. */
static int prepare(int fd, const char *path, struct bg_err *err)
{
    static const char none[sizeof magic];
    struct stat st;
    char found[sizeof magic] = "";
    if (fstat(fd, &st) < 0)
        return bg_err_errno(err, -errno, "%s", path);
    if (st.st_size > 0 && (!S_ISREG(st.st_mode) || st.st_size != (off_t)sizeof(struct image) ||
                           pread(fd, found, sizeof found, 0) != (ssize_t)sizeof found))
        return damaged(path, err);
    if (memcmp(found, none, sizeof none) == 0) { /* it is new, or was when its maker ended */
        int r = posix_fallocate(fd, 0, sizeof(struct image));
        if (r != 0)
            return bg_err_errno(err, -r, "%s", path);
        if (pwrite(fd, magic, sizeof magic, 0) != (ssize_t)sizeof magic)
            return bg_err_errno(err, -errno, "%s", path);
        return 0;
    }
    return memcmp(found, magic, sizeof magic) == 0 ? 0 : damaged(path, err);
}

static int map(int fd, bool shared, const char *path, struct ledger **ret, struct bg_err *err)
{
    int r = prepare(fd, path, err);
    if (r < 0)
        return r;
    struct ledger *ledger = calloc(1, sizeof *ledger);
    if (!ledger)
        return bg_err_errno(err, -ENOMEM, "%s", path);
    void *image = mmap(NULL, sizeof(struct image), PROT_READ | PROT_WRITE,
                       shared ? MAP_SHARED : MAP_PRIVATE, fd, 0);
    if (image == MAP_FAILED) {
        r = bg_err_errno(err, -errno, "%s", path);
        free(ledger);
        return r;
    }
    ledger->image = image;
    *ret = ledger;
    return 0;
}

int ledger_open(const char *path, struct ledger **ret, struct bg_err *err)
{
    BG_AUTOCLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY, 0600);
    return fd < 0 ? bg_err_errno(err, -errno, "%s", path)
                  : map(fd, /* shared= */ true, path, ret, err);
}

int ledger_open_fd(int fd, const char *name, struct ledger **ret, struct bg_err *err)
{
    return map(fd, /* shared= */ true, name, ret, err);
}

int ledger_open_copy(const char *path, struct ledger **ret, struct bg_err *err)
{
    BG_AUTOCLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY);
    return fd < 0 ? bg_err_errno(err, -errno, "%s", path)
                  : map(fd, /* shared= */ false, path, ret, err);
}

/* The place of that key, else a free one, else one that no meter here has; PLACES: none. */
static size_t find(const struct ledger *ledger, uint64_t key)
{
    size_t free_one = PLACES, other = PLACES;
    for (size_t i = 0; i < PLACES; i++) {
        const struct place *place = &ledger->image->places[i];
        if (ledger->attached[i])
            continue;
        if (place->key == key)
            return i;
        if (place->key == 0 && free_one == PLACES)
            free_one = i;
        if (other == PLACES)
            other = i;
    }
    return free_one < PLACES ? free_one : other;
}

int ledger_attach(struct ledger *ledger, struct policy_meter *meter, struct bg_err *err)
{
    if (meter->count || meter->key == 0)
        return 0; /* another of its rules did it; or it is of nowhere */
    size_t i = find(ledger, meter->key);
    if (i == PLACES)
        return bg_err_set(err, -E2BIG, "more than %d budgets", PLACES);
    struct place *place = &ledger->image->places[i];
    if (place->key != meter->key)
        *place = (struct place){.key = meter->key, .count = meter->own};
    if (place->rate != meter->rate || place->per_ms != meter->per_ms) {
        /* Another rate: what it lets through at once is there once more. */
        place->rate = meter->rate;
        place->per_ms = meter->per_ms;
        place->count.due = 0;
    }
    ledger->attached[i] = true;
    meter->count = &place->count;
    return 0;
}

void ledger_close(struct ledger *ledger)
{
    if (!ledger)
        return;
    (void)munmap(ledger->image, sizeof(struct image)); /* fails only for what is not mapped */
    free(ledger);
}
