#include "common/state/pool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/io.h"
#include "common/limits.h"
#include "common/state/folder.h"
#include "common/state/sandbox_json.h"

#define SOCKET_FILE "claim"
#define CONFIG_FILE "sandbox.json"

bool bg_pool_folder_ok(const char *name)
{
    size_t prefix = strlen(BG_POOL_PREFIX);
    return strncmp(name, BG_POOL_PREFIX "sbx_", prefix + 4) == 0 &&
           strlen(name) == prefix + 4 + 20 && strspn(name + prefix + 4, SANDBOX_ID_CHARS) == 20;
}

bool bg_pool_fits(const struct bg_sandbox *member, const struct bg_sandbox *wanted)
{
    return strcmp(member->image_digest, wanted->image_digest) == 0 &&
           member->cpus == wanted->cpus && member->memory_bytes == wanted->memory_bytes &&
           wanted->root_volume[0] == '\0' && wanted->volume_count == 0;
}

/* ---- the list ---- */

static int load(const struct bg_paths *paths, const char *name, struct bg_sandbox *ret)
{
    BG_AUTOFREE char *dir = NULL, *text = NULL;
    size_t size;
    if (asprintf(&dir, "%s/sandboxes/%s", paths->state, name) < 0)
        return -ENOMEM;
    BG_AUTOCLOSE int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = fd < 0 ? -errno : bg_read_file(fd, CONFIG_FILE, BG_MANIFEST_MAX, &text, &size, NULL);
    if (r == 0)
        r = sandbox_json_parse(text, size, name, ret, NULL);
    if (r == 0)
        ret->dir = BG_TAKE(dir);
    return r;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Claimers that come at once begin with different ones. */
static void shuffle(struct bg_sandbox *list, size_t count)
{
    for (size_t i = count; i > 1; i--) {
        uint32_t dice;
        bg_random(&dice, sizeof dice);
        struct bg_sandbox last = list[i - 1];
        list[i - 1] = list[dice % i];
        list[dice % i] = last;
    }
}

int bg_pool_members(const struct bg_paths *paths, struct bg_sandbox **ret, size_t *ret_count,
                    struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    char **names = NULL;
    if (asprintf(&path, "%s/sandboxes", paths->state) < 0)
        return bg_err_errno(err, -ENOMEM, "pool");
    BG_AUTOCLOSE int base = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool none = base < 0 && errno == ENOENT;
    int r = base < 0 && !none ? -errno : 0;
    if (base >= 0)
        r = bg_folder_names(base, bg_pool_folder_ok, by_name, &names);
    if (r < 0)
        return bg_err_errno(err, r, "%s", path);
    size_t count = 0, used = 0;
    while (names && names[count])
        count++;
    struct bg_sandbox *list = calloc(count + 1, sizeof *list);
    if (!list)
        r = bg_err_errno(err, -ENOMEM, "pool");
    for (size_t i = 0; r == 0 && i < count; i++)
        used += load(paths, names[i], &list[used]) == 0;
    bg_folder_names_free(names);
    if (r < 0)
        return r;
    shuffle(list, used);
    *ret = list;
    *ret_count = used;
    return 0;
}

void bg_pool_members_free(struct bg_sandbox *members, size_t count)
{
    for (size_t i = 0; members && i < count; i++)
        bg_sandbox_done(&members[i]);
    free(members);
}

/* ---- the socket ---- */

/* Whatever the length of the folder's path: *ret_dir_fd must stay open until the address was used.
 */
static int socket_address(const char *dir, struct sockaddr_un *ret, int *ret_dir_fd,
                          struct bg_err *err)
{
    *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
    *ret_dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (*ret_dir_fd < 0)
        return bg_err_errno(err, -errno, "%s", dir);
    (void)snprintf(ret->sun_path, sizeof ret->sun_path, "/proc/self/fd/%d/" SOCKET_FILE,
                   *ret_dir_fd);
    return 0;
}

bool bg_pool_waits(const struct bg_sandbox *member)
{
    BG_AUTOFREE char *path = NULL;
    enum bg_sandbox_use use;
    return asprintf(&path, "%s/" SOCKET_FILE, member->dir) >= 0 && access(path, F_OK) == 0 &&
           bg_sandbox_use(member, &use, NULL) == 0 && use == BG_SANDBOX_OWNED;
}

int bg_pool_connect(const struct bg_sandbox *member, int *ret_fd, struct bg_err *err)
{
    struct sockaddr_un address;
    BG_AUTOCLOSE int dir_fd = -1;
    int r = socket_address(member->dir, &address, &dir_fd, err);
    if (r < 0)
        return r;
    BG_AUTOCLOSE int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return bg_err_errno(err, -errno, "socket");
    if (connect(fd, (const struct sockaddr *)&address, sizeof address) < 0)
        return errno == ENOENT || errno == ECONNREFUSED
                   ? bg_err_set(err, -ENOTCONN, "it does not wait")
                   : bg_err_errno(err, -errno, "%s/" SOCKET_FILE, member->dir);
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

int bg_pool_listen(const struct bg_sandbox *member, int *ret_fd, struct bg_err *err)
{
    struct sockaddr_un address;
    BG_AUTOCLOSE int dir_fd = -1;
    int r = socket_address(member->dir, &address, &dir_fd, err);
    if (r < 0)
        return r;
    BG_AUTOCLOSE int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return bg_err_errno(err, -errno, "socket");
    /* Never open to others: see bg_sandbox_listen. */
    if (fchmod(fd, 0600) < 0 || bind(fd, (const struct sockaddr *)&address, sizeof address) < 0 ||
        listen(fd, 16) < 0)
        return bg_err_errno(err, -errno, "%s/" SOCKET_FILE, member->dir);
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

void bg_pool_unlisten(const struct bg_sandbox *member)
{
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/" SOCKET_FILE, member->dir) >= 0)
        (void)unlink(path); /* a dead socket does no harm */
}

/* ---- a name ---- */

int bg_pool_read_claim(int fd, const char *name, struct bg_sandbox *ret, struct bg_err *err)
{
    BG_AUTOFREE char *text = malloc(BG_MANIFEST_MAX);
    ssize_t n = text ? pread(fd, text, BG_MANIFEST_MAX, 0) : -1;
    if (n < 0)
        return bg_err_errno(err, text ? -errno : -ENOMEM, "claim");
    return sandbox_json_parse(text, (size_t)n, name, ret, err);
}

int bg_pool_name(const struct bg_paths *paths, struct bg_sandbox *sandbox, struct bg_err *err)
{
    BG_AUTOFREE char *base = NULL, *dir = NULL;
    if (asprintf(&base, "%s/sandboxes", paths->state) < 0 ||
        asprintf(&dir, "%s/%s", base, sandbox->name) < 0)
        return bg_err_errno(err, -ENOMEM, "sandbox '%s'", sandbox->name);
    int r = bg_sandbox_save(sandbox, err);
    if (r < 0)
        return r;
    /* As in bg_sandbox_create: a sandbox's folder is never empty, so this never replaces one. */
    if (rename(sandbox->dir, dir) < 0)
        return errno == EEXIST || errno == ENOTEMPTY || errno == ENOTDIR
                   ? bg_err_set(err, -EEXIST,
                                "name in use: '%s'; choose another or remove it: bellglass rm %s",
                                sandbox->name, sandbox->name)
                   : bg_err_errno(err, -errno, "sandbox '%s'", sandbox->name);
    free(sandbox->dir);
    sandbox->dir = BG_TAKE(dir);
    (void)bg_fault("pool-named");
    if (sandbox->ephemeral)
        return 0; /* it goes away with its command */
    const char *folders[] = {sandbox->dir, base};
    for (size_t i = 0; i < 2; i++) {
        BG_AUTOCLOSE int fd = open(folders[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 || fsync(fd) < 0)
            return bg_err_errno(err, -errno, "%s", folders[i]);
    }
    return 0;
}
