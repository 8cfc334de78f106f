#include "host/supervisor/parts.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/io.h"
#include "common/limits.h"

#define OVERLAY_SIZE_MAX (16u << 20) /* an empty overlay: its metadata only */

static void progressed(void *owner, const char *text)
{
    report_progress(owner, text);
}

/* The CA's certificate, for the guest to trust. The proxy's program makes it on first use. */
int parts_read_ca(const char *proxy_path, const struct bg_paths *paths, char **ret,
                  struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    size_t size;
    if (asprintf(&path, "%s/ca/ca.pem", paths->data) < 0)
        return bg_err_errno(err, -ENOMEM, "CA");
    int r = bg_read_file(AT_FDCWD, path, BG_MANIFEST_MAX, ret, &size, err);
    if (r != -ENOENT)
        return r;
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (null >= 0)
            (void)dup2(null, 1); /* the path that it prints is known here */
        (void)execl(proxy_path, proxy_path, "ca-path", (char *)NULL);
        _exit(127);
    }
    if (pid < 0)
        return bg_err_errno(err, -errno, "fork");
    int status;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    r = bg_read_file(AT_FDCWD, path, BG_MANIFEST_MAX, ret, &size, err);
    return r < 0 ? bg_err_prefix(err, "%s ca-path made no CA", proxy_path) : 0;
}

void parts_done(struct parts *parts)
{
    bg_image_done(&parts->image);
    qemu_program_done(&parts->qemu);
    golden_done(&parts->golden);
    free(parts->agent_path);
    free(parts->proxy_path);
    free(parts->ca_pem);
}

/* $BELLGLASS_AGENT is for developing the agent and for the tests' hostile one. */
static int find_agent(char **ret, struct bg_err *err)
{
    const char *forced = getenv("BELLGLASS_AGENT");
    if (!forced || !*forced)
        return bg_helper_path("bellglass-agent", ret, err);
    *ret = strdup(forced);
    return *ret ? 0 : bg_err_errno(err, -ENOMEM, "agent");
}

int parts_find(const struct bg_paths *paths, const char *image, struct parts *parts,
               struct bg_err *err)
{
    BG_AUTOFREE char *note = NULL;
    if (asprintf(&note, "%s/qemu-version", paths->data) < 0)
        return bg_err_errno(err, -ENOMEM, "QEMU");
    int r = bg_image_find(paths, image, &parts->image, err);
    if (r == 0)
        r = qemu_find(note, &parts->qemu, err);
    if (r == 0)
        r = accel_probe(&parts->accel, err);
    if (r == 0)
        r = find_agent(&parts->agent_path, err);
    if (r == 0)
        r = bg_helper_path("bellglass-proxy", &parts->proxy_path, err);
    if (r == 0)
        r = parts_read_ca(parts->proxy_path, paths, &parts->ca_pem, err);
    return r;
}

int parts_golden(const struct bg_paths *paths, unsigned cpus, uint64_t memory_bytes,
                 struct report *report, struct parts *parts, struct bg_err *err)
{
    const struct golden_opts golden = {.paths = paths,
                                       .image = &parts->image,
                                       .qemu = &parts->qemu,
                                       .accel = parts->accel,
                                       .cpus = cpus,
                                       .memory_bytes = memory_bytes,
                                       .agent_path = parts->agent_path,
                                       .ca_pem = parts->ca_pem,
                                       .on_progress = progressed,
                                       .owner = report};
    return golden_get(&golden, &parts->golden, err);
}

int parts_write_overlay(const struct golden *golden, int fd, struct bg_err *err)
{
    BG_AUTOFREE char *bytes = malloc(OVERLAY_SIZE_MAX);
    if (!bytes)
        return bg_err_errno(err, -ENOMEM, "overlay");
    ssize_t size = pread(golden->child_fd, bytes, OVERLAY_SIZE_MAX, 0);
    if (size <= 0 || size == OVERLAY_SIZE_MAX)
        return bg_err_set(err, -EUCLEAN, "%s/child.qcow2: not an empty overlay", golden->dir);
    int r = bg_write_full(fd, bytes, (size_t)size);
    return r < 0 ? bg_err_errno(err, r, "overlay") : 0;
}
