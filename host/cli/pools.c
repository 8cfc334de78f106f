#include "host/cli/pools.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <jansson.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/sha256.h"
#include "common/state/folder.h"
#include "host/cli/process.h"

#define VERSION 1
#define END_MS  20000 /* for a keeper that was told to end: longer than its EXIT_MS */

#define STATUS_FD 3
#define OWNER_FD  4

void pool_info_done(struct pool_info *info)
{
    free(info->image);
    info->image = NULL;
}

void pool_info_key(struct pool_info *info)
{
    char text[64], hex[2 * 8 + 1];
    uint8_t digest[BG_SHA256_SIZE];
    struct bg_sha256 hash;
    int n = snprintf(text, sizeof text, "\n%u\n%llu", info->cpus,
                     (unsigned long long)info->memory_bytes);
    bg_sha256_init(&hash);
    bg_sha256_update(&hash, info->image, strlen(info->image));
    bg_sha256_update(&hash, text, (size_t)n);
    bg_sha256_final(&hash, digest);
    bg_hex(digest, 8, hex);
    if (info->gateway)
        (void)snprintf(info->key, sizeof info->key, "%s-%d", hex, info->keeper_pid);
    else
        (void)snprintf(info->key, sizeof info->key, "%s", hex);
}

char *pool_info_emit(const struct pool_info *info)
{
    json_auto_t *json = json_pack("{s:i, s:s, s:I, s:I, s:I, s:I, s:i, s:b}", "version", VERSION,
                                  "image", info->image, "cpus", (json_int_t)info->cpus,
                                  "memory_bytes", (json_int_t)info->memory_bytes, "wanted",
                                  (json_int_t)info->wanted, "ready", (json_int_t)info->ready,
                                  "keeper_pid", info->keeper_pid, "gateway", (int)info->gateway);
    return json ? json_dumps(json, JSON_COMPACT) : NULL;
}

int pool_info_parse(const char *text, size_t size, struct pool_info *ret)
{
    json_auto_t *json = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
    const char *image;
    json_int_t cpus, memory, wanted, ready;
    int version, pid, gateway;
    if (!json ||
        json_unpack(json, "{s:i, s:s, s:I, s:I, s:I, s:I, s:i, s:b !}", "version", &version,
                    "image", &image, "cpus", &cpus, "memory_bytes", &memory, "wanted", &wanted,
                    "ready", &ready, "keeper_pid", &pid, "gateway", &gateway) < 0)
        return -EINVAL;
    if (version != VERSION || cpus < 1 || cpus > BG_SANDBOX_CPUS_MAX || memory < 1 || wanted < 0 ||
        wanted > BG_POOL_MEMBERS_MAX || ready < 0 || ready > BG_POOL_MEMBERS_MAX || pid < 1)
        return -EINVAL;
    *ret = (struct pool_info){.image = strdup(image),
                              .cpus = (unsigned)cpus,
                              .memory_bytes = (uint64_t)memory,
                              .wanted = (unsigned)wanted,
                              .ready = (unsigned)ready,
                              .keeper_pid = pid,
                              .gateway = gateway};
    return ret->image ? 0 : -ENOMEM;
}

/* ---- files ---- */

static int open_folder(const struct bg_paths *paths, int *ret_fd, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/pools", paths->state) < 0)
        return bg_err_errno(err, -ENOMEM, "pools");
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return bg_err_errno(err, -errno, "%s", path);
    *ret_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *ret_fd < 0 ? bg_err_errno(err, -errno, "%s", path) : 0;
}

struct file_name {
    char text[POOLS_KEY_SIZE + 16];
};

static struct file_name file_of(const char *key, const char *file)
{
    struct file_name name;
    (void)snprintf(name.text, sizeof name.text, "%s/%s", key, file);
    return name;
}

/* 0, or -EBUSY: its keeper lives. */
static int try_lock(int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
        return 0;
    return errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
}

int pools_lock(const struct bg_paths *paths, const struct pool_info *info, int *ret_lock,
               struct bg_err *err)
{
    int folder = -1;
    int r = open_folder(paths, &folder, err);
    BG_AUTOCLOSE int folder_fd = folder;
    if (r < 0)
        return r;
    const struct file_name name = file_of(info->key, "lock");
    for (;;) {
        struct stat ours, named;
        if (mkdirat(folder_fd, info->key, 0700) < 0 && errno != EEXIST)
            return bg_err_errno(err, -errno, "%s/pools", paths->state);
        BG_AUTOCLOSE int fd =
            openat(folder_fd, name.text, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        r = fd < 0 ? -errno : try_lock(fd);
        if (r == -ENOENT)
            continue; /* an earlier one's folder is just being removed */
        if (r == -EBUSY)
            return bg_err_set(err, r, "another keeper has this pool; see bellglass pool ls");
        if (r < 0 || fstat(fd, &ours) < 0)
            return bg_err_errno(err, r < 0 ? r : -errno, "%s", name.text);
        /* An earlier keeper's that has just been removed is nobody's. */
        if (fstatat(folder_fd, name.text, &named, AT_SYMLINK_NOFOLLOW) < 0 ||
            named.st_ino != ours.st_ino)
            continue;
        *ret_lock = bg_take_fd(&fd);
        return 0;
    }
}

void pools_note(const struct bg_paths *paths, const struct pool_info *info)
{
    int folder = -1;
    BG_AUTOFREE char *text = pool_info_emit(info);
    if (!text || open_folder(paths, &folder, NULL) < 0)
        return;
    BG_AUTOCLOSE int folder_fd = folder;
    const struct file_name name = file_of(info->key, "pool.json"),
                           temp = file_of(info->key, "pool.tmp");
    /* Not synced: after a power failure there is no keeper. */
    BG_AUTOCLOSE int fd =
        openat(folder_fd, temp.text, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd >= 0 && bg_write_full(fd, text, strlen(text)) == 0)
        (void)renameat(folder_fd, temp.text, folder_fd, name.text); /* else the old one stays */
}

void pools_forget(const struct bg_paths *paths, const struct pool_info *info)
{
    int folder = -1;
    if (open_folder(paths, &folder, NULL) < 0)
        return;
    (void)!bg_folder_remove(folder, info->key); /* what stays is removed by the next look */
    (void)close(folder);                        /* read only */
}

/* ---- the list ---- */

/* Those of a keeper that was killed. The lock is held meanwhile, so none is just beginning. */
static bool sweep(int folder_fd, const char *key, int lock_fd)
{
    if (try_lock(lock_fd) < 0)
        return false;
    (void)!bg_folder_remove(folder_fd, key); /* what stays is removed by the next look */
    return true;
}

static bool is_key(const char *name)
{
    size_t size = strlen(name);
    return size > 0 && size < POOLS_KEY_SIZE && strspn(name, "0123456789abcdef-") == size;
}

/* Returns 1 if its keeper lives and has said what it keeps. */
static int look(int folder_fd, const char *key, struct pool_info *ret)
{
    const struct file_name name = file_of(key, "pool.json"), lock_name = file_of(key, "lock");
    BG_AUTOFREE char *text = NULL;
    size_t size;
    BG_AUTOCLOSE int lock = openat(folder_fd, lock_name.text, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (lock < 0 || sweep(folder_fd, key, lock))
        return 0;
    int r = bg_read_file(folder_fd, name.text, BG_MANIFEST_MAX, &text, &size, NULL);
    if (r == 0)
        r = pool_info_parse(text, size, ret);
    if (r < 0)
        return r == -ENOMEM ? r : 0;
    (void)snprintf(ret->key, sizeof ret->key, "%s", key);
    return 1;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int pools_list(const struct bg_paths *paths, struct pool_info **ret, size_t *ret_count,
               struct bg_err *err)
{
    char **names = NULL;
    size_t count = 0, used = 0;
    int folder = -1;
    int r = open_folder(paths, &folder, err);
    BG_AUTOCLOSE int folder_fd = folder;
    if (r < 0)
        return r;
    r = bg_folder_names(folder_fd, is_key, by_name, &names);
    while (r == 0 && names[count])
        count++;
    struct pool_info *list = calloc(count + 1, sizeof *list);
    if (r == 0 && !list)
        r = -ENOMEM;
    for (size_t i = 0; r >= 0 && i < count; i++) {
        r = look(folder_fd, names[i], &list[used]);
        used += r == 1;
    }
    bg_folder_names_free(names);
    if (r < 0) {
        pools_free(list, used);
        return bg_err_errno(err, r, "%s/pools", paths->state);
    }
    *ret = list;
    *ret_count = used;
    return 0;
}

void pools_free(struct pool_info *list, size_t count)
{
    for (size_t i = 0; list && i < count; i++)
        pool_info_done(&list[i]);
    free(list);
}

static int end_keeper(const struct pool_info *info, int lock_fd, struct bg_err *err)
{
    BG_AUTOCLOSE int pidfd = (int)syscall(SYS_pidfd_open, info->keeper_pid, 0);
    if (pidfd < 0)
        return errno == ESRCH ? 0 : bg_err_errno(err, -errno, "pool's keeper");
    if (try_lock(lock_fd) == 0)
        return 0; /* gone meanwhile: the number may be another's */
    (void)syscall(SYS_pidfd_send_signal, pidfd, SIGTERM, NULL, 0); /* it may be gone */
    struct pollfd ended = {.fd = pidfd, .events = POLLIN};
    return poll(&ended, 1, END_MS) > 0
               ? 0
               : bg_err_set(err, -ETIME, "the pool's keeper (process %d) does not end",
                            info->keeper_pid);
}

int pools_end(const struct bg_paths *paths, const char *key, bool *ret_ended, struct bg_err *err)
{
    int folder = -1;
    struct pool_info info = {0};
    const struct file_name name = file_of(key, "lock");
    int r = open_folder(paths, &folder, err);
    BG_AUTOCLOSE int folder_fd = folder;
    *ret_ended = false;
    if (r < 0 || look(folder_fd, key, &info) != 1)
        return r;
    BG_AUTOCLOSE int lock = openat(folder_fd, name.text, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    r = lock < 0 ? 0 : end_keeper(&info, lock, err);
    *ret_ended = r == 0;
    pool_info_done(&info);
    return r;
}

int pools_start(const struct pool_info *info, int status_fd, int owner_fd, pid_t *ret_pid,
                struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    char program[] = "bellglass-pool", none[] = "-1", status[] = "3", owner[] = "4", cpus[16],
         memory[32], wanted[16];
    (void)snprintf(cpus, sizeof cpus, "%u", info->cpus);
    (void)snprintf(memory, sizeof memory, "%llu", (unsigned long long)info->memory_bytes);
    (void)snprintf(wanted, sizeof wanted, "%u", info->wanted);
    char *argv[] = {program,
                    info->image,
                    cpus,
                    memory,
                    wanted,
                    status_fd >= 0 ? status : none,
                    owner_fd >= 0 ? owner : none,
                    NULL};
    int r = bg_helper_path("bellglass-pool", &path, err);
    if (r < 0)
        return r;
    struct process_opts start = {.path = path, .argv = argv, .new_session = true};
    if (status_fd >= 0)
        start.fds[start.fd_count++] = (struct process_fd){.from = status_fd, .to = STATUS_FD};
    if (owner_fd >= 0)
        start.fds[start.fd_count++] = (struct process_fd){.from = owner_fd, .to = OWNER_FD};
    return process_start(&start, ret_pid, err);
}
