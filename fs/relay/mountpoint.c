#include "fs/relay/mountpoint.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/limits.h"

extern char **environ;

#define MOUNTINFO_MAX (16u * 1024 * 1024)
#define HELPER        "fusermount3"
#ifndef MS_NOSYMFOLLOW
#define MS_NOSYMFOLLOW 256 /* Linux 5.10; older ones ignore it */
#endif
#define COMM_FD 3 /* where fusermount3 finds its socket */

/* ---- mountinfo ---- */

/* The kernel writes blanks and backslashes as \ooo. */
static bool same_path(const char *escaped, const char *path)
{
    while (*escaped && *path) {
        char c = *escaped;
        if (c == '\\' && escaped[1] && escaped[2] && escaped[3]) {
            c = (char)((escaped[1] - '0') << 6 | (escaped[2] - '0') << 3 | (escaped[3] - '0'));
            escaped += 3;
        }
        if (c != *path)
            return false;
        escaped++;
        path++;
    }
    return *escaped == *path;
}

/* options: separated by commas. */
static bool has_option(const char *options, const char *wanted)
{
    size_t size = strlen(wanted);
    while (*options) {
        size_t part = strcspn(options, ",");
        if (part == size && memcmp(options, wanted, size) == 0)
            return true;
        options += part;
        options += *options == ',';
    }
    return false;
}

/* ID PARENT MAJOR:MINOR ROOT PATH OPTIONS [TAG...] - TYPE SOURCE SUPER_OPTIONS */
static bool parse_line(char *line, const char *path, struct fs_mount *ret)
{
    char *fields[6], *save = NULL;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        fields[i] = strtok_r(i == 0 ? line : NULL, " ", &save);
        if (!fields[i])
            return false;
    }
    if (!same_path(fields[4], path))
        return false;
    bool nosymfollow = has_option(fields[5], "nosymfollow");
    const char *field;
    do {
        field = strtok_r(NULL, " ", &save);
    } while (field && strcmp(field, "-") != 0);
    const char *type = field ? strtok_r(NULL, " ", &save) : NULL;
    if (!type)
        return false;
    (void)snprintf(ret->device, sizeof ret->device, "%s", fields[2]);
    (void)snprintf(ret->type, sizeof ret->type, "%s", type);
    ret->nosymfollow = nosymfollow;
    return true;
}

int fs_mount_find(const char *path, struct fs_mount *ret, struct bg_err *err)
{
    BG_AUTOFREE char *text = NULL;
    int r = bg_read_file(AT_FDCWD, "/proc/self/mountinfo", MOUNTINFO_MAX, &text, NULL, err);
    if (r < 0)
        return r;
    bool found = false;
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        if (parse_line(line, path, ret))
            found = true; /* a later line is a mount on top */
    return found ? 0 : bg_err_set(err, -ENOENT, "%s: nothing is mounted there", path);
}

int fs_mount_check(const char *dir, char **ret_path, struct bg_err *err)
{
    struct stat st;
    if (access("/dev/fuse", F_OK) < 0)
        return bg_err_set(err, -ENODEV,
                          "/dev/fuse is missing: modprobe fuse; in a container, start it with "
                          "--device /dev/fuse");
    if (access("/dev/fuse", R_OK | W_OK) < 0)
        return bg_err_errno(err, -errno, "/dev/fuse (chmod 666 /dev/fuse lets all users mount)");
    if (stat(dir, &st) < 0) {
        if (errno == ENOTCONN)
            return bg_err_set(err, -ENOTCONN, "%s: a dead mount is there: bellglass umount %s", dir,
                              dir);
        return bg_err_errno(err, -errno, "%s: mount point (mkdir it first)", dir);
    }
    if (!S_ISDIR(st.st_mode))
        return bg_err_errno(err, -ENOTDIR, "%s: mount point", dir);
    BG_AUTOFREE char *path = realpath(dir, NULL);
    if (!path)
        return bg_err_errno(err, -errno, "%s: mount point", dir);
    struct fs_mount there;
    if (fs_mount_find(path, &there, NULL) == 0 && strcmp(there.type, FS_MOUNT_TYPE) == 0)
        return bg_err_set(err, -EBUSY, "%s: a sandbox is mounted there: bellglass umount %s", dir,
                          dir);
    *ret_path = BG_TAKE(path);
    return 0;
}

/* ---- fusermount3 ---- */

/* Runs it and waits. comm: the socket that it sends the fd on; -1: none. What it prints becomes the
 * error's text. */
static int run_helper(char *const argv[], int comm, struct bg_err *err)
{
    int output[2];
    if (pipe2(output, O_CLOEXEC) < 0)
        return bg_err_errno(err, -errno, "pipe");
    BG_AUTOCLOSE int out = output[0];
    BG_AUTOCLOSE int in = output[1];

    posix_spawn_file_actions_t actions;
    pid_t pid = -1;
    int r = -posix_spawn_file_actions_init(&actions);
    if (r < 0)
        return bg_err_errno(err, r, "posix_spawn");
    r = -posix_spawn_file_actions_adddup2(&actions, in, STDERR_FILENO);
    if (r == 0 && comm >= 0)
        r = -posix_spawn_file_actions_adddup2(&actions, comm, COMM_FD);
    if (r == 0)
        r = -posix_spawnp(&pid, HELPER, &actions, NULL, argv, environ);
    (void)posix_spawn_file_actions_destroy(&actions); /* frees memory only */
    if (r == -ENOENT)
        return bg_err_set(err, r, "%s is not installed: apt-get install fuse3", HELPER);
    if (r < 0)
        return bg_err_errno(err, r, "%s", HELPER);
    (void)close(bg_take_fd(&in)); /* so that the end comes when the helper's copy is closed */

    char said[256];
    size_t used = 0;
    ssize_t n;
    while ((n = read(out, said + used, sizeof said - 1 - used)) != 0 && used < sizeof said - 1) {
        if (n < 0 && errno != EINTR)
            break;
        used += n > 0 ? (size_t)n : 0;
    }
    while (used > 0 && isspace((unsigned char)said[used - 1]))
        used--;
    said[used] = '\0';
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return bg_err_errno(err, -errno, "%s", HELPER);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        bool busy = strstr(said, "busy") != NULL;
        return bg_err_set(err, busy ? -EBUSY : -EPERM, "%s", used > 0 ? said : HELPER " failed");
    }
    return 0;
}

/* The name as part of an option list: what could end the option, or confuse a reader of the mount
 * table, becomes '_'. */
static void option_name(const char *name, char out[BG_NAME_MAX + 1])
{
    size_t used = 0;
    for (; *name && used < BG_NAME_MAX; name++) {
        unsigned char c = (unsigned char)*name;
        out[used++] = isalnum(c) || (c && strchr("._-:/@+", c)) ? (char)c : '_';
    }
    out[used] = '\0';
}

static int mount_by_helper(const struct fs_mount_opts *opts, const char *name, int *ret_fd,
                           struct bg_err *err)
{
    int sockets[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) < 0)
        return bg_err_errno(err, -errno, "socketpair");
    BG_AUTOCLOSE int ours = sockets[0];
    BG_AUTOCLOSE int theirs = sockets[1];
    char options[BG_NAME_MAX + 256];
    (void)snprintf(options, sizeof options,
                   "nosuid,nodev,noatime,default_permissions,%s%sfsname=bellglass:%s,"
                   "subtype=bellglass",
                   opts->exec ? "" : "noexec,", opts->read_only ? "ro," : "", name);
    BG_AUTOFREE char *path = strdup(opts->path);
    char helper[] = HELPER, dash_o[] = "-o", dashes[] = "--", comm[16];
    if (!path)
        return bg_err_set(err, -ENOMEM, "out of memory");
    (void)snprintf(comm, sizeof comm, "%d", COMM_FD);
    if (setenv("_FUSE_COMMFD", comm, 1) < 0)
        return bg_err_errno(err, -errno, "setenv");
    char *argv[] = {helper, dash_o, options, dashes, path, NULL};
    int r = run_helper(argv, theirs, err);
    (void)unsetenv("_FUSE_COMMFD");
    if (r < 0)
        return bg_err_prefix(err, "%s", opts->path);
    char byte;
    int fds[BG_RECV_FDS_MAX];
    size_t count = 0;
    (void)close(bg_take_fd(&theirs)); /* else a helper that sent nothing would leave us waiting */
    ssize_t n = bg_recv_fds(ours, &byte, sizeof byte, fds, &count);
    if (n < 0 || count != 1) {
        while (count > 0)
            (void)close(fds[--count]);
        return bg_err_set(err, n < 0 ? (int)n : -EPROTO, "%s gave no file", HELPER);
    }
    *ret_fd = fds[0];
    return 0;
}

/* ---- mount(2) ---- */

static int mount_by_call(const struct fs_mount_opts *opts, const char *name, int *ret_fd,
                         struct bg_err *err)
{
    BG_AUTOCLOSE int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return bg_err_errno(err, -errno, "/dev/fuse");
    unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOATIME;
    flags |= opts->exec ? 0 : MS_NOEXEC;
    flags |= opts->read_only ? MS_RDONLY : 0;
    flags |= opts->nosymfollow ? MS_NOSYMFOLLOW : 0;
    char source[BG_NAME_MAX + 16], data[128];
    (void)snprintf(source, sizeof source, "bellglass:%s", name);
    (void)snprintf(data, sizeof data,
                   "fd=%d,rootmode=40000,user_id=%u,group_id=%u,default_permissions", fd, getuid(),
                   getgid());
    if (mount(source, opts->path, FS_MOUNT_TYPE, flags, data) < 0)
        return bg_err_errno(err, -errno, "%s: mount", opts->path);
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

int fs_mount_make(const struct fs_mount_opts *opts, int *ret_fd, struct bg_err *err)
{
    char name[BG_NAME_MAX + 1];
    option_name(opts->name, name);
    BG_AUTOCLOSE int fd = -1;
    int r = geteuid() == 0 ? mount_by_call(opts, name, &fd, err) : -EPERM;
    if (r == -EPERM && opts->nosymfollow)
        return bg_err_set(err, r,
                          "%s: a mount whose links nobody can follow (--symlinks=none) needs root, "
                          "or a namespace of your own (unshare -rm): " HELPER
                          " does not know this kind; --symlinks=inside works for every user",
                          opts->path);
    if (r == -EPERM) /* not root, or root of a container without the right to mount */
        r = mount_by_helper(opts, name, &fd, err);
    if (r < 0)
        return r;
    struct fs_mount made;
    if (opts->nosymfollow && (fs_mount_find(opts->path, &made, err) < 0 || !made.nosymfollow)) {
        (void)umount2(opts->path, UMOUNT_NOFOLLOW | MNT_DETACH); /* ours, nobody has used it */
        return bg_err_set(err, -EOPNOTSUPP,
                          "%s: this kernel cannot keep links from being followed "
                          "(--symlinks=none needs Linux 5.10)",
                          opts->path);
    }
    if (fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0)
        return bg_err_errno(err, -errno, "/dev/fuse");
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

void fs_mount_abort(const char *path, const struct fs_mount *expected)
{
    struct fs_mount there;
    char control[128];
    const char *minor = strchr(expected->device, ':'); /* the connection's number */
    (void)snprintf(control, sizeof control, "/sys/fs/fuse/connections/%s/abort",
                   minor ? minor + 1 : "");
    BG_AUTOCLOSE int fd = open(control, O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && write(fd, "1", 1) == 1)
        return;
    if (fs_mount_find(path, &there, NULL) == 0 && strcmp(there.device, expected->device) == 0)
        (void)umount2(path, UMOUNT_NOFOLLOW | MNT_FORCE); /* aborts even if it is busy then */
}

int fs_mount_end(const char *path, const struct fs_mount *expected, bool lazily, struct bg_err *err)
{
    struct fs_mount there;
    if (fs_mount_find(path, &there, NULL) < 0 || strcmp(there.device, expected->device) != 0)
        return 0;
    if (umount2(path, UMOUNT_NOFOLLOW | (lazily ? MNT_DETACH : 0)) == 0)
        return 0;
    if (errno != EPERM)
        return bg_err_errno(err, -errno, "%s: umount", path);
    BG_AUTOFREE char *copy = strdup(path);
    if (!copy)
        return bg_err_set(err, -ENOMEM, "out of memory");
    char helper[] = HELPER, dash_u[] = "-u", dash_z[] = "-z", dashes[] = "--";
    char *lazy[] = {helper, dash_u, dash_z, dashes, copy, NULL};
    char *plain[] = {helper, dash_u, dashes, copy, NULL};
    int r = run_helper(lazily ? lazy : plain, -1, err);
    return r < 0 ? bg_err_prefix(err, "%s", path) : 0;
}
