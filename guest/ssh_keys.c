#include "guest/ssh_keys.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define DUE "/etc/ssh/.bellglass-keys-due"

const struct ssh_keys_paths ssh_keys_here = {
    .ours = "/run/bellglass/ssh", .etc = "/etc/ssh", .due = DUE};

/* Removes a folder of files. */
static int remove_folder(int parent_fd, const char *name)
{
    int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        int code = -errno;
        if (fd >= 0)
            (void)close(fd); /* only read from */
        return code == -ENOTDIR && unlinkat(parent_fd, name, 0) == 0 ? 0 : code;
    }
    for (const struct dirent *d; (d = readdir(dir));)
        if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0)
            (void)unlinkat(fd, d->d_name, 0); /* one that stays makes the folder stay */
    (void)closedir(dir);                      /* only read from */
    return unlinkat(parent_fd, name, AT_REMOVEDIR) < 0 ? -errno : 0;
}

/* Calls remove for each entry that is to go. *ret_count: how many went. */
static int clear(const char *path, bool (*goes)(const char *name, const char *argument),
                 const char *argument, int (*remove)(int dir_fd, const char *name), int *ret_count)
{
    *ret_count = 0;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        int code = errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
        if (fd >= 0)
            (void)close(fd); /* only read from */
        return code;
    }
    int r = 0;
    for (const struct dirent *d; r == 0 && (d = readdir(dir));) {
        if (!goes(d->d_name, argument))
            continue;
        r = remove(fd, d->d_name);
        *ret_count += r == 0;
    }
    (void)closedir(dir); /* only read from */
    return r;
}

static bool is_another(const char *name, const char *own)
{
    return strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && strcmp(name, own) != 0;
}

static bool is_host_key(const char *name, const char *unused)
{
    (void)unused;
    return strncmp(name, "ssh_host_", 9) == 0;
}

static int remove_file(int dir_fd, const char *name)
{
    return unlinkat(dir_fd, name, 0) < 0 ? -errno : 0;
}

int ssh_keys_forget(const struct ssh_keys_paths *paths, const char *sandbox_id, bool other_machine,
                    struct bg_err *err)
{
    int count;
    int r = clear(paths->ours, is_another, sandbox_id, remove_folder, &count);
    if (r < 0)
        return bg_err_errno(err, r, "ssh keys in %s", paths->ours);
    if (!other_machine)
        return 0;
    r = clear(paths->etc, is_host_key, NULL, remove_file, &count);
    if (r < 0)
        return bg_err_errno(err, r, "ssh host keys in %s", paths->etc);
    if (count == 0)
        return 0;
    BG_AUTOCLOSE int fd = open(paths->due, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    return fd < 0 ? bg_err_errno(err, -errno, "%s", paths->due) : 0;
}

bool ssh_keys_due(void)
{
    return access(ssh_keys_here.due, F_OK) == 0;
}

int ssh_keys_make(void)
{
    static char program[] = "ssh-keygen", all[] = "-A";
    char *argv[] = {program, all, NULL};
    char path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    char *env[] = {path, NULL};
    pid_t pid = fork();
    if (pid == 0) {
        int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (null_fd >= 0)
            (void)dup2(null_fd, STDOUT_FILENO);
        (void)execve("/usr/bin/ssh-keygen", argv, env);
        _exit(127);
    }
    int status = 0;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
        return 1;
    return unlink(ssh_keys_here.due) < 0;
}
