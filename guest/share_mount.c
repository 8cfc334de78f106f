#include "guest/share_mount.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/limits.h"

#define MOUNTINFO_MAX (16u * 1024 * 1024)
#define SOURCE        "share-%" PRIu32

/* ---- the folder ---- */

static int enter(int *fd, const char *name, bool last, uid_t uid, gid_t gid)
{
    int flags = O_PATH | O_DIRECTORY | O_CLOEXEC | (last ? O_NOFOLLOW : 0);
    bool made = mkdirat(*fd, name, 0755) == 0;
    if (!made && errno != EEXIST)
        return -errno;
    int next = openat(*fd, name, flags | (made ? O_NOFOLLOW : 0));
    if (next < 0)
        return -errno;
    (void)close(*fd);
    *fd = next;
    if (made && geteuid() == 0 && fchownat(next, "", uid, gid, AT_EMPTY_PATH) < 0)
        return -errno;
    return 0;
}

int share_folder_make(const char *path, uid_t uid, gid_t gid, struct bg_err *err)
{
    BG_AUTOFREE char *copy = strdup(path);
    BG_AUTOCLOSE int fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (!copy || fd < 0)
        return bg_err_errno(err, copy ? -errno : -ENOMEM, "%s", path);
    int r = 0;
    for (char *rest = copy + 1, *name; r == 0 && (name = strsep(&rest, "/"));) {
        size_t left = rest ? strspn(rest, "/") : 0;
        rest = rest && rest[left] ? rest + left : NULL;
        if (*name)
            r = enter(&fd, name, /* last= */ !rest, uid, gid);
    }
    return r < 0 ? bg_err_errno(err, r, "%s", path) : 0;
}

/* ---- mountinfo ---- */

struct found {
    char *path, *source; /* heap */
    bool is_share;
};

static void found_done(struct found *found)
{
    free(found->path);
    free(found->source);
}

/* The kernel writes blanks and backslashes as \ooo. */
static void unescape(char *text)
{
    char *to = text;
    for (const char *p = text; *p; p++) {
        if (p[0] == '\\' && p[1] && p[2] && p[3]) {
            *to++ = (char)((p[1] - '0') << 6 | (p[2] - '0') << 3 | (p[3] - '0'));
            p += 3;
        } else {
            *to++ = *p;
        }
    }
    *to = '\0';
}

/* ID PARENT MAJOR:MINOR ROOT PATH OPTIONS [TAG...] - TYPE SOURCE SUPER_OPTIONS */
static bool parse_line(char *line, const char **ret_path, const char **ret_type,
                       const char **ret_source)
{
    const char *field = NULL;
    char *path = NULL;
    for (int i = 0; i < 5; i++)
        path = strsep(&line, " ");
    do {
        field = strsep(&line, " ");
    } while (field && strcmp(field, "-") != 0);
    char *type = strsep(&line, " "), *source = strsep(&line, " ");
    if (!path || !source)
        return false;
    unescape(path);
    *ret_path = path;
    *ret_type = type;
    *ret_source = source;
    return true;
}

/* What is on top at path, or at the place of the share with that source; the other is NULL.
 * Errors: -ENOENT. */
static int find(const char *path, const char *source, struct found *ret, struct bg_err *err)
{
    BG_AUTOFREE char *text = NULL;
    struct found found = {0};
    int r = bg_read_file(AT_FDCWD, "/proc/self/mountinfo", MOUNTINFO_MAX, &text, NULL, err);
    for (char *rest = text, *line; r == 0 && (line = strsep(&rest, "\n"));) {
        const char *at, *type, *from;
        if (!parse_line(line, &at, &type, &from))
            continue;
        bool is_share = strcmp(type, SHARE_MOUNT_TYPE) == 0;
        bool wanted = path ? strcmp(at, path) == 0 : is_share && strcmp(from, source) == 0;
        bool above = found.path && strcmp(at, found.path) == 0; /* later lines are on top */
        if (!wanted && !above)
            continue;
        found_done(&found);
        found = (struct found){.path = strdup(at), .source = strdup(from), .is_share = is_share};
        if (!found.path || !found.source)
            r = bg_err_errno(err, -ENOMEM, "mountinfo");
    }
    if (r == 0 && !found.path)
        r = bg_err_set(err, -ENOENT, "%s: not mounted", path ? path : source);
    if (r < 0)
        found_done(&found);
    else
        *ret = found;
    return r;
}

/* ---- mounting ---- */

/* The path as mountinfo has it, without touching what is mounted there. Heap. */
static char *real_place(const char *path)
{
    BG_AUTOFREE char *copy = strdup(path);
    if (!copy)
        return NULL;
    size_t size = strlen(copy);
    while (size > 1 && copy[size - 1] == '/')
        copy[--size] = '\0';
    char *slash = strrchr(copy, '/');
    BG_AUTOFREE char *name = strdup(slash + 1);
    *slash = '\0';
    BG_AUTOFREE char *parent = realpath(*copy ? copy : "/", NULL);
    char *place = NULL;
    if (!name || !parent ||
        asprintf(&place, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent, name) < 0)
        return NULL;
    return place;
}

int share_mount(const struct share_mount_opts *opts, int *ret_fuse_fd, struct bg_err *err)
{
    struct found there;
    char source[32], data[160];
    BG_AUTOFREE char *place = real_place(opts->path);
    if (!place)
        return bg_err_errno(err, -errno, "%s", opts->path);
    if (find(place, NULL, &there, NULL) == 0) {
        bool is_share = there.is_share;
        found_done(&there);
        if (is_share)
            return bg_err_set(err, -EBUSY, "%s: a share is mounted there already", opts->path);
    }
    BG_AUTOCLOSE int fd = open("/dev/fuse", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return bg_err_errno(err, -errno, "/dev/fuse");
    (void)snprintf(source, sizeof source, SOURCE, opts->id);
    (void)snprintf(data, sizeof data,
                   "fd=%d,rootmode=40000,user_id=%u,group_id=%u,default_permissions,allow_other",
                   fd, opts->uid, opts->gid);
    unsigned long flags = MS_NOSUID | MS_NODEV | (opts->read_only ? MS_RDONLY : 0);
    if (mount(source, place, SHARE_MOUNT_TYPE, flags, data) < 0)
        return bg_err_errno(err, -errno, "%s: mount", opts->path);
    *ret_fuse_fd = bg_take_fd(&fd);
    return 0;
}

int share_unmount(const char *path, bool lazily, struct bg_err *err)
{
    struct found found = {0};
    BG_AUTOFREE char *place = real_place(path);
    if (!place)
        return bg_err_errno(err, -errno, "%s", path);
    int r = find(place, NULL, &found, NULL);
    if (r < 0 || !found.is_share)
        r = bg_err_set(err, -EINVAL, "%s: no share is mounted there", path);
    else if (umount2(place, UMOUNT_NOFOLLOW | (lazily ? MNT_DETACH : 0)) < 0)
        r = bg_err_errno(err, -errno, "%s: umount", path);
    found_done(&found);
    return r;
}

int share_unmount_id(uint32_t id, struct bg_err *err)
{
    struct found found = {0};
    char source[32];
    (void)snprintf(source, sizeof source, SOURCE, id);
    int r = find(NULL, source, &found, err);
    if (r == -ENOENT)
        return 0;
    /* Something else on top of it is not ours to take away; below it ours only gives errors. */
    if (r == 0 && found.is_share && strcmp(found.source, source) == 0 &&
        umount2(found.path, UMOUNT_NOFOLLOW | MNT_DETACH) < 0)
        r = bg_err_errno(err, -errno, "%s: umount", found.path);
    found_done(&found);
    return r;
}
