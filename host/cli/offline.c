#include "host/cli/offline.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/quote.h"
#include "host/cli/client.h"
#include "host/cli/mounts.h"
#include "host/cli/process.h"

#define STATUS_FD         3
#define OWNER_FD          4
#define LINE_MAX_SIZE     8192 /* a line of status; longer is damage */
#define PROGRESS_AFTER_MS 1000 /* what is quick needs no words */
#define LOOK_MS           50   /* between looks at a lock, whose end sends no event */
#define ANSWER_TIMEOUT_MS 5000
/* The helper's own deadline for writing back, and some time to end. */
#define AWAIT_TIMEOUT_MS (BG_DISK_END_MS + 15000)

int offline_parse_line(const char *line, size_t size, enum offline_line *ret,
                       char text[BG_ERR_TEXT_SIZE], struct bg_err *err)
{
    json_auto_t *json = json_loadb(line, size, JSON_REJECT_DUPLICATES, NULL);
    const char *progress = json_string_value(json_object_get(json, "progress"));
    const char *error = json_string_value(json_object_get(json, "error"));
    const char *id = json_string_value(json_object_get(json, "id"));
    json_int_t number = json_integer_value(json_object_get(json, "errno"));
    if (error) {
        bg_escape(error, strlen(error), text, BG_ERR_TEXT_SIZE);
        return bg_err_set(err, number > 0 && number < 4096 ? -(int)number : -EREMOTEIO, "%s", text);
    }
    const char *said = progress ? progress : id ? id : "";
    bg_escape(said, strlen(said), text, BG_ERR_TEXT_SIZE);
    *ret = progress ? OFFLINE_PROGRESS : id ? OFFLINE_READY : OFFLINE_ENDED;
    if (progress || id || json_is_true(json_object_get(json, "ended")))
        return 0;
    return bg_err_set(err, -EPROTO, "the helper's status makes no sense");
}

struct waiting {
    uint64_t since_ms;
    char note[BG_ERR_TEXT_SIZE]; /* not shown yet */
};

/* Waits for fd to be readable, showing the note when it is due. */
static int wait_line(struct waiting *waiting, int fd)
{
    for (;;) {
        uint64_t now = bg_now_ms(), due = waiting->since_ms + PROGRESS_AFTER_MS;
        if (waiting->note[0] && now >= due) {
            app_note("%s", waiting->note);
            waiting->note[0] = '\0';
        }
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int n = poll(&p, 1, waiting->note[0] ? (int)(due - now) : -1);
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
    }
}

/* The next line but progress, which is shown. */
static int next_line(struct offline *offline, struct waiting *waiting, enum offline_line *ret,
                     char text[BG_ERR_TEXT_SIZE], struct bg_err *err)
{
    char line[LINE_MAX_SIZE];
    for (size_t used = 0;;) {
        int r = wait_line(waiting, offline->status_fd);
        ssize_t n = r < 0 ? r : read(offline->status_fd, line + used, 1);
        if (n < 0 && errno == EINTR && r == 0)
            continue;
        if (n <= 0 || used == sizeof line - 1)
            return bg_err_set(err, n < 0 ? -EIO : -ECHILD,
                              "the helper for its files ended without a word; see the sandbox's "
                              "helper.log");
        if (line[used++] != '\n')
            continue;
        r = offline_parse_line(line, used - 1, ret, text, err);
        if (r < 0 || *ret != OFFLINE_PROGRESS)
            return r;
        (void)snprintf(waiting->note, sizeof waiting->note, "%s", text);
        used = 0;
    }
}

/* No image has such a name. */
static bool is_snapshot(const struct offline_opts *opts)
{
    return !opts->sandbox && strchr(opts->image, '@');
}

static int start_process(const struct offline_opts *opts, struct offline *offline,
                         struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    BG_AUTOFREE char *name = strdup(opts->sandbox ? opts->sandbox->name : opts->image);
    int status[2], owner[2];
    int r = bg_helper_path("bellglass-supervisor", &path, err);
    if (r < 0)
        return r;
    if (!name)
        return bg_err_errno(err, -ENOMEM, "helper");
    if (pipe2(status, O_CLOEXEC) < 0)
        return bg_err_errno(err, -errno, "pipe");
    offline->status_fd = status[0];
    BG_AUTOCLOSE int status_end = status[1];
    if (pipe2(owner, O_CLOEXEC) < 0)
        return bg_err_errno(err, -errno, "pipe");
    offline->owner_fd = owner[1];
    BG_AUTOCLOSE int owner_end = owner[0];
    char program[] = "bellglass-supervisor", verb[] = "files", sandbox[] = "sandbox",
         image[] = "image", snapshot[] = "snapshot", reading[] = "read", writing[] = "write",
         repairing[] = "repair", status_option[] = "--status-fd", status_number[] = "3",
         owner_option[] = "--owner-fd", owner_number[] = "4";
    char *argv[] = {program,
                    verb,
                    opts->sandbox       ? sandbox
                    : is_snapshot(opts) ? snapshot
                                        : image,
                    name,
                    opts->repair  ? repairing
                    : opts->write ? writing
                                  : reading,
                    status_option,
                    status_number,
                    owner_option,
                    owner_number,
                    NULL};
    const struct process_opts start = {
        .path = path,
        .argv = argv,
        .fds = {{.from = status_end, .to = STATUS_FD}, {.from = owner_end, .to = OWNER_FD}},
        .fd_count = 2};
    return process_start(&start, &offline->pid, err);
}

static int start_once(const struct offline_opts *opts, struct offline *ret, struct bg_err *err)
{
    struct offline offline = {.owner_fd = -1, .status_fd = -1};
    struct waiting waiting = {.since_ms = bg_now_ms()};
    char text[BG_ERR_TEXT_SIZE], quoted[BG_SANDBOX_NAME_MAX + 32];
    enum offline_line kind = OFFLINE_ENDED;
    (void)snprintf(
        waiting.note, sizeof waiting.note, "starting a helper for the files of %s %s",
        opts->sandbox       ? "sandbox"
        : is_snapshot(opts) ? "snapshot"
                            : "image",
        bg_quote(opts->sandbox ? opts->sandbox->name : opts->image, quoted, sizeof quoted));
    int r = start_process(opts, &offline, err);
    if (r == 0)
        r = next_line(&offline, &waiting, &kind, text, err);
    if (r == 0 && (kind != OFFLINE_READY || strlen(text) >= sizeof offline.helper.id))
        r = bg_err_set(err, -EPROTO, "the helper's status makes no sense");
    if (r == 0) {
        (void)snprintf(offline.helper.id, sizeof offline.helper.id, "%s", text);
        offline.helper.name = strdup(opts->sandbox ? opts->sandbox->name : opts->image);
        if (!offline.helper.name)
            r = bg_err_errno(err, -ENOMEM, "helper");
    }
    if (r < 0) {
        offline_done(&offline);
        return r;
    }
    *ret = offline;
    return 0;
}

int offline_finish(struct offline *offline, struct bg_err *err)
{
    struct waiting waiting = {.since_ms = bg_now_ms()};
    char text[BG_ERR_TEXT_SIZE];
    enum offline_line kind = OFFLINE_ENDED;
    (void)close(offline->owner_fd); /* nothing was written to it */
    offline->owner_fd = -1;
    (void)snprintf(waiting.note, sizeof waiting.note, "waiting for the helper to end");
    int r = next_line(offline, &waiting, &kind, text, err);
    offline_done(offline);
    return r;
}

void offline_done(struct offline *offline)
{
    if (offline->owner_fd >= 0)
        (void)close(offline->owner_fd); /* nothing was written to it */
    if (offline->status_fd >= 0)
        (void)close(offline->status_fd); /* only read from */
    if (offline->pid > 0)
        (void)process_wait_for(offline->pid, 0); /* what serves has detached from it */
    bg_sandbox_done(&offline->helper);
    *offline = (struct offline){.owner_fd = -1, .status_fd = -1};
}

/* ---- those who have to do with it ---- */

static int tell_mount(const struct bg_sandbox *sandbox, enum bg_sandbox_use use, struct bg_err *err)
{
    struct mount_list mounts = {0};
    char quoted[512];
    int r = mounts_read(&mounts, err);
    for (size_t i = 0; r == 0 && i < mounts.count; i++)
        if (mounts_match(&mounts.entries[i], sandbox))
            r = bg_err_set(err, -EBUSY,
                           "sandbox '%s' is mounted on %s%s; unmount it first: bellglass umount %s",
                           sandbox->name, bg_quote(mounts.entries[i].path, quoted, sizeof quoted),
                           use == BG_SANDBOX_WRITTEN ? " for writing" : "", quoted);
    mounts_done(&mounts);
    return r;
}

int offline_await(const struct bg_sandbox *sandbox, bool write, struct bg_err *err)
{
    uint64_t since_ms = bg_now_ms();
    bool told = false;
    for (;;) {
        enum bg_sandbox_use use;
        int r = bg_sandbox_use(sandbox, &use, err);
        if (r < 0)
            return r;
        if (use != BG_SANDBOX_WRITTEN && (use != BG_SANDBOX_READ || !write))
            return 0;
        r = tell_mount(sandbox, use, err);
        if (r < 0)
            return r;
        uint64_t waited_ms = bg_now_ms() - since_ms;
        if (waited_ms >= AWAIT_TIMEOUT_MS)
            return bg_err_set(err, -EBUSY, "sandbox '%s': another command has to do with its files",
                              sandbox->name);
        if (waited_ms >= PROGRESS_AFTER_MS && !told) {
            app_note("waiting until another command has done with the files of sandbox '%s'",
                     sandbox->name);
            told = true;
        }
        (void)poll(NULL, 0, LOOK_MS);
    }
}

int offline_start(struct app *app, const struct offline_opts *opts, struct offline *ret,
                  struct bg_err *err)
{
    enum bg_sandbox_use use = BG_SANDBOX_OWNED;
    offline_sweep(app, opts->sandbox ? opts->sandbox->id : BG_HELPER_IMAGE_ID);
    for (;;) {
        int r = opts->sandbox ? offline_await(opts->sandbox, opts->write, err) : 0;
        if (r == 0)
            r = start_once(opts, ret, err);
        else
            return r;
        /* Another one that has waited may be faster; one that runs will not end. */
        if (r != -EBUSY || !opts->sandbox || bg_sandbox_use(opts->sandbox, &use, NULL) < 0 ||
            use == BG_SANDBOX_OWNED)
            return r;
    }
}

bool offline_socket_id(const char *file, char ret_id[32])
{
    static const char end[] = ".sock";
    size_t size = strlen(file), tail = 1 + BG_HELPER_TAG_SIZE;
    if (size <= tail + strlen(end) || size - strlen(end) >= 32)
        return false;
    size -= strlen(end);
    const char *tag = file + size - BG_HELPER_TAG_SIZE;
    if (strcmp(file + size, end) != 0 || tag[-1] != '.' ||
        strspn(tag, "0123456789abcdef") != BG_HELPER_TAG_SIZE)
        return false;
    memcpy(ret_id, file, size);
    ret_id[size] = '\0';
    return true;
}

/* Ends each helper of the sandbox that answers, if kill_it; removes the sockets of those that are
 * dead. */
static void each_helper(struct app *app, const char *id, bool kill_it)
{
    char name[] = "helper";
    struct bg_sandbox helper = {.name = name};
    json_auto_t *request = json_pack("{s:s}", "op", kill_it ? "kill" : "status");
    DIR *folder = id[0] == '\0' || !request ? NULL : opendir(app->paths.runtime);
    for (const struct dirent *d; folder && (d = readdir(folder));) {
        if (strncmp(d->d_name, id, strlen(id)) != 0 ||
            strlen(d->d_name) != strlen(id) + 1 + BG_HELPER_TAG_SIZE + strlen(".sock") ||
            !offline_socket_id(d->d_name, helper.id))
            continue;
        int r = client_request(&app->paths, &helper, request, ANSWER_TIMEOUT_MS, NULL, NULL);
        if (r == -ENOTCONN) /* nobody listens; any other is found by its lock */
            bg_sandbox_unlisten(&app->paths, &helper);
    }
    if (folder)
        (void)closedir(folder); /* only read from */
}

void offline_kill(struct app *app, const struct bg_sandbox *sandbox)
{
    each_helper(app, sandbox->id, /* kill_it= */ true);
}

void offline_sweep(struct app *app, const char *id)
{
    each_helper(app, id, /* kill_it= */ false);
}
