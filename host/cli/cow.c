#include "host/cli/cow.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/changes.h"
#include "host/cli/client.h"
#include "host/cli/process.h"
#include "host/cli/wake.h"

void cow_lower(const struct bg_share *share, char out[BG_PATH_MAX])
{
    (void)snprintf(out, BG_PATH_MAX, BG_CHANGES_FOLDER "/%u/lower", share->id); /* it fits */
}

/* Heap; NULL: memory is out. */
static char *file_path(const struct bg_sandbox *sandbox, const struct bg_share *share,
                       const char *name)
{
    char *path = NULL;
    return asprintf(&path, "%s/cow/%u/%s", sandbox->dir, share->id, name) < 0 ? NULL : path;
}

static int ask(struct app *app, const struct bg_sandbox *sandbox, const struct bg_share *share,
               enum bg_changes_op op, struct bg_err *err)
{
    uint8_t body[BG_PATH_MAX + 64];
    struct bg_changes_request q = {.op = (uint8_t)op, .share = share->id};
    if ((size_t)snprintf(q.path, sizeof q.path, "%s", share->guest) >= sizeof q.path)
        return bg_err_errno(err, -ENAMETOOLONG, "share");
    struct bg_writer w = bg_writer_init(body, sizeof body);
    bg_changes_request_emit(&q, &w);
    BG_AUTOCLOSE int fd = -1;
    int r = wake_open(app, sandbox, "changes", body, w.used, &fd, err);
    return r < 0 ? r : client_stream_reply(fd, BG_CHANGES_WAIT_MS, err);
}

/* bellglass-changes says itself what went wrong. */
static int make_base(const struct bg_sandbox *sandbox, const struct bg_share *share,
                     struct bg_err *err)
{
    char program[] = "bellglass-changes", verb[] = "base", id[16];
    BG_AUTOFREE char *path = NULL;
    BG_AUTOFREE char *name = strdup(sandbox->name);
    BG_AUTOFREE char *host = strdup(share->host);
    pid_t pid;
    (void)snprintf(id, sizeof id, "%u", share->id);
    int r =
        name && host ? bg_helper_path(program, &path, err) : bg_err_errno(err, -ENOMEM, "share");
    if (r < 0)
        return r;
    char *argv[] = {program, verb, name, id, host, NULL};
    const struct process_opts opts = {.path = path, .argv = argv};
    r = process_start(&opts, &pid, err);
    if (r == 0 && process_wait(pid) != 0)
        r = bg_err_set(err, -EIO, "its files could not be listed");
    return r;
}

int cow_start(struct app *app, const struct bg_sandbox *sandbox, const struct bg_share *share,
              struct bg_err *err)
{
    BG_AUTOFREE char *base = file_path(sandbox, share, "base");
    BG_AUTOFREE char *made = file_path(sandbox, share, "base.new");
    if (!base || !made)
        return bg_err_errno(err, -ENOMEM, "share");
    if (access(base, F_OK) == 0)
        return ask(app, sandbox, share, BG_CHANGES_MOUNT, err);
    /* In this order: an empty layer without a base is made empty again, and never a layer that is
     * not empty gets a base that is younger. */
    int r = make_base(sandbox, share, err);
    if (r == 0)
        r = ask(app, sandbox, share, BG_CHANGES_NEW, err);
    if (r == 0 && rename(made, base) < 0)
        r = bg_err_errno(err, -errno, "%s", base);
    return r;
}

int cow_end(struct app *app, const struct bg_sandbox *sandbox, const struct bg_share *share,
            bool *ret_busy, struct bg_err *err)
{
    int r = ask(app, sandbox, share, BG_CHANGES_UNMOUNT, err);
    *ret_busy = r == -EBUSY;
    return *ret_busy ? ask(app, sandbox, share, BG_CHANGES_DETACH, err) : r;
}

void cow_forget(const struct bg_sandbox *sandbox, const struct bg_share *share)
{
    BG_AUTOFREE char *base = file_path(sandbox, share, "base");
    if (base)
        (void)unlink(base); /* the rest is overwritten by the next one, or goes with the sandbox */
}
