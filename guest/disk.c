/* All of it runs in a worker. The order of the end matters: whoever serves files of the disk has a
 * stream of his own, which the host ends before this one; then the disk is unmounted, so that all
 * is on it, and looked over; and only then the host is told how it went and ends the machine. */
#include "guest/disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/io.h"
#include "common/quote.h"
#include "guest/worker.h"

#define CHECKER  "/sbin/e2fsck"
#define PAUSE_MS 20 /* between looks at what sends no event */

/* Of its exit status, e2fsck(8). */
#define CHECK_REPAIRED 3 /* bits: errors were corrected; the machine should restart */
#define CHECK_ERRORS   4 /* bit: errors are left */
#define CHECK_MISSING  127

struct disk {
    struct bg_disk_request request;
    char device[DISK_DEVICE_SIZE];
};

/* ---- finding it ---- */

/* The block device whose serial number is the wanted one; false if there is none now. */
static bool find_device(const char *serial, char *out, size_t out_size)
{
    DIR *folder = opendir("/sys/class/block");
    bool found = false;
    for (const struct dirent *d; folder && !found && (d = readdir(folder));) {
        char path[sizeof d->d_name + 32];
        BG_AUTOFREE char *text = NULL;
        (void)snprintf(path, sizeof path, "/sys/class/block/%s/serial", d->d_name);
        if (d->d_name[0] == '.' || bg_read_file(AT_FDCWD, path, 4096, &text, NULL, NULL) < 0)
            continue;
        text[strcspn(text, "\n")] = '\0';
        (void)snprintf(path, sizeof path, "/dev/%s", d->d_name);
        BG_AUTOCLOSE int fd = strcmp(text, serial) == 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        found = fd >= 0 && strlen(path) < out_size;
        if (found)
            (void)snprintf(out, out_size, "%s", path);
    }
    if (folder)
        (void)closedir(folder); /* only read from */
    return found;
}

/* It was plugged a moment ago. Its node in /dev appears before it can be opened, and no event tells
 * of that. */
int disk_wait(const char *serial, char device[DISK_DEVICE_SIZE], struct bg_err *err)
{
    uint64_t deadline_ms = bg_now_ms() + BG_DISK_WAIT_MS;
    while (!find_device(serial, device, DISK_DEVICE_SIZE)) {
        if (bg_now_ms() >= deadline_ms)
            return bg_err_set(err, -ENODEV, "no disk '%s' was plugged", serial);
        (void)poll(NULL, 0, PAUSE_MS);
    }
    return 0;
}

/* ---- checking it ---- */

int disk_run(const char *const *argv, int *ret_status, char *said, size_t said_size,
             struct bg_err *err)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) < 0)
        return bg_err_errno(err, -errno, "pipe");
    BG_AUTOCLOSE int in = fds[0];
    pid_t pid = fork();
    if (pid == 0) {
        if (dup2(fds[1], 1) >= 0 && dup2(fds[1], 2) >= 0)
            (void)execv(argv[0], (char *const *)(uintptr_t)argv); /* which changes none of them */
        _exit(CHECK_MISSING);
    }
    (void)close(fds[1]);
    if (pid < 0)
        return bg_err_errno(err, -errno, "fork");
    size_t used = 0;
    char rest[512];
    for (ssize_t n;;) {
        bool room = used < said_size - 1;
        n = read(in, room ? said + used : rest, room ? said_size - 1 - used : sizeof rest);
        if (n == 0 || (n < 0 && errno != EINTR))
            break;
        used += n > 0 && room ? (size_t)n : 0;
    }
    said[used] = '\0';
    int status;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    *ret_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return 0;
}

/* The first line of what the checker said that tells what is wrong, without the names before it. */
static void first_finding(const char *said, const char *device, char *out, size_t out_size)
{
    static const char *const idle[] = {
        "e2fsck 1.",       "e2fsck: aborted",   "Pass ", "check forced", "UNEXPECTED INCONSISTENCY",
        "(i.e., without ", "recovering journal"};
    out[0] = '\0';
    for (const char *line = said; *line && !out[0]; line += *line == '\n') {
        char text[256];
        size_t size = strcspn(line, "\n");
        (void)snprintf(text, sizeof text, "%.*s", (int)size, line);
        line += size;
        bool tells = strspn(text, "* \t") < strlen(text);
        for (size_t i = 0; i < sizeof idle / sizeof *idle; i++)
            tells = tells && !strstr(text, idle[i]);
        const char *at = strstr(text, device) == text ? text + strlen(device) : text;
        at += strncmp(at, "e2fsck: ", 8) == 0 ? 8 : 0;
        at += strspn(at, ": ");
        if (tells)
            bg_escape(at, strlen(at), out, out_size);
    }
}

int disk_check(const char *device, const char *how, struct bg_err *err)
{
    const char *const argv[] = {CHECKER, how, device, NULL};
    BG_AUTOFREE char *said = malloc(BG_DISK_OUTPUT_MAX);
    char finding[256];
    int status = 0;
    if (!said)
        return bg_err_errno(err, -ENOMEM, "check");
    int r = disk_run(argv, &status, said, BG_DISK_OUTPUT_MAX, err);
    if (r < 0)
        return r;
    if (status == CHECK_MISSING)
        return bg_err_set(err, -ENOENT, "the image has no " CHECKER " to check the disk with");
    if ((status & ~CHECK_REPAIRED) == 0)
        return 0;
    first_finding(said, device, finding, sizeof finding);
    if (status & CHECK_ERRORS && status < 8)
        return bg_err_set(err, -EUCLEAN,
                          "the disk's file system has errors (%s); bellglass mount --rw --force "
                          "repairs them and keeps a copy",
                          finding);
    return bg_err_set(err, -EMEDIUMTYPE, "the disk has no file system that can be checked (%s)",
                      finding);
}

/* ---- mounting it ---- */

static int mount_disk(struct disk *disk, struct bg_err *err)
{
    bool read_only = disk->request.flags & BG_DISK_READ_ONLY;
    int r = disk_wait(disk->request.serial, disk->device, err);
    if (r == 0 && !read_only)
        r = disk_check(disk->device, disk->request.flags & BG_DISK_REPAIR ? "-fy" : "-p", err);
    if (r < 0)
        return r;
    static const char *const folders[] = {"/run/bellglass", DISK_MOUNT};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        if (mkdir(folders[i], 0755) < 0 && errno != EEXIST)
            return bg_err_errno(err, -errno, "%s", folders[i]);
    /* What the file system itself wants done at errors may be a panic. */
    if (mount(disk->device, DISK_MOUNT, "ext4",
              MS_NOSUID | MS_NODEV | MS_NOEXEC | (read_only ? MS_RDONLY : 0),
              "errors=remount-ro,noinit_itable") == 0)
        return 0;
    return errno == EINVAL || errno == EUCLEAN || errno == EBADMSG
               ? bg_err_set(err, -EUCLEAN,
                            "there is no ext4 file system on the disk, or a damaged "
                            "one")
               : bg_err_errno(err, -errno, "mounting the disk");
}

static int unmount_disk(const struct disk *disk, struct bg_err *err)
{
    uint64_t deadline_ms = bg_now_ms() + BG_DISK_BUSY_MS;
    while (umount2(DISK_MOUNT, UMOUNT_NOFOLLOW) < 0) {
        if (errno != EBUSY || bg_now_ms() >= deadline_ms) {
            int code = -errno;
            sync(); /* at least what is there now; it has no errors to tell */
            return bg_err_errno(err, code, "unmounting the disk");
        }
        (void)poll(NULL, 0, PAUSE_MS);
    }
    return disk->request.flags & BG_DISK_READ_ONLY ? 0 : disk_check(disk->device, "-fn", err);
}

int disk_enter(struct bg_err *err)
{
    struct stat above, here;
    if (stat(DISK_MOUNT, &here) < 0 || stat(DISK_MOUNT "/..", &above) < 0 ||
        here.st_dev == above.st_dev)
        return bg_err_set(err, -ENOTCONN, "no disk is mounted");
    if (chroot(DISK_MOUNT) < 0 || chdir("/") < 0)
        return bg_err_errno(err, -errno, DISK_MOUNT);
    return 0;
}

/* ---- the stream ---- */

static int send_end(int fd, const struct bg_err *err)
{
    uint8_t bytes[BG_FRAME_HEADER_SIZE + 4 + BG_ERR_TEXT_SIZE];
    size_t text_size = strnlen(err->text, BG_ERR_TEXT_SIZE);
    bg_frame_header_emit(BG_FRAME_END, (uint32_t)(4 + text_size), bytes);
    struct bg_writer w =
        bg_writer_init(bytes + BG_FRAME_HEADER_SIZE, sizeof bytes - BG_FRAME_HEADER_SIZE);
    bg_writer_u32le(&w, (uint32_t)err->code);
    bg_writer_bytes(&w, err->text, text_size);
    return bg_write_full(fd, bytes, BG_FRAME_HEADER_SIZE + w.used);
}

static int run(struct link *link, void *arg)
{
    int fd = link->fd;
    struct disk *disk = arg;
    struct bg_err err = {0};
    int r = mount_disk(disk, &err);
    if (stream_reply_fd(fd, &err) < 0 && r < 0)
        return 1; /* one that is mounted is unmounted below, whoever hears of it */
    if (r < 0)
        return 1;
    char byte;
    ssize_t n;
    do {
        n = read(fd, &byte, 1); /* nothing comes but the end */
    } while (n > 0 || (n < 0 && errno == EINTR));
    err = (struct bg_err){0};
    r = unmount_disk(disk, &err);
    if (send_end(fd, &err) < 0 || r < 0)
        return 1;
    return 0;
}

static int disk_open(struct stream *stream, const uint8_t *body, size_t size, struct bg_err *err)
{
    BG_AUTOFREE struct disk *disk = calloc(1, sizeof *disk);
    if (!disk)
        return bg_err_errno(err, -ENOMEM, "disk");
    int r = bg_disk_request_parse(body, size, &disk->request, err);
    if (r < 0)
        return r;
    if (!stream->agent->opts.pid1)
        return bg_err_set(err, -EOPNOTSUPP, "this agent is not the guest's init");
    const struct worker_opts opts = {
        .name = "bellglass-disk", .stream = stream, .run = run, .arg = disk};
    /* Detached: if there is no worker, the host sees the connection close. */
    if (worker_start(stream->agent, &opts, err) < 0)
        bg_log(stream->agent->log, BG_LOG_ERROR, "disk: %s", err->text);
    return 0;
}

const struct stream_kind disk_kind = {.name = "disk", .open = disk_open};
