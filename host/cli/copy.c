#include "host/cli/copy.h"

#include <fcntl.h>
#include <string.h>

#include "common/io.h"
#include "common/quote.h"
#include "common/state/snapshot.h"
#include "common/tree/tree_tar.h"
#include "common/wire.h"
#include "host/cli/client.h"
#include "host/cli/copy_stream.h"
#include "host/cli/grammar.h"
#include "host/cli/life.h"
#include "host/cli/offline.h"
#include "host/cli/sandbox_options.h"
#include "host/cli/wake.h"

#define REPLY_TIMEOUT_MS 120000 /* to open a file there; a loaded guest without KVM is slow */
#define CHUNK_SIZE       (64 * 1024)

struct copy {
    char *name;       /* sandbox */
    const char *path; /* there */
    const char *local;
    bool out; /* of the guest */
    const char *user;
};

/* The last component of a path, "." if that is none to name a thing by. */
static int base_name(const char *path, char out[BG_NAME_MAX + 1], struct bg_err *err)
{
    size_t end = strlen(path);
    while (end > 0 && path[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/')
        start--;
    size_t size = end - start;
    if (size > BG_NAME_MAX)
        return bg_err_set(err, -ENAMETOOLONG, "a name of %zu bytes: at most %d are possible", size,
                          BG_NAME_MAX);
    memcpy(out, path + start, size);
    out[size] = '\0';
    if (size == 0 || strcmp(out, "..") == 0)
        memcpy(out, ".", 2);
    return 0;
}

static void tell_skip(void *owner, const char *name, const char *why)
{
    char quoted[256];
    (void)owner;
    app_note("left out %s: %s", bg_quote(name, quoted, sizeof quoted), why);
}

static int write_stdout(struct copy_stream *stream, struct bg_err *err)
{
    for (;;) {
        const void *bytes;
        ssize_t n = copy_stream_read(stream, &bytes);
        if (n <= 0)
            return n < 0 ? copy_stream_explain(stream, (int)n, err) : 0;
        int r = bg_write_full(STDOUT_FILENO, bytes, (size_t)n);
        if (r < 0)
            return bg_err_errno(err, r, "cannot write to standard output");
    }
}

static int copy_out(const struct copy *copy, const char *root, struct copy_stream *stream,
                    struct bg_err *err)
{
    if (strcmp(copy->local, "-") == 0)
        return write_stdout(stream, err);
    struct tree_tar_unpack_opts opts = {.dir_fd = AT_FDCWD,
                                        .path = copy->local,
                                        .root = root,
                                        .read = copy_stream_read,
                                        .on_skip = tell_skip,
                                        .owner = stream};
    int r = tree_tar_unpack(&opts, NULL, err);
    /* What the guest said explains more than what came of it here. */
    if (r < 0 && stream->ended && stream->status < 0)
        return copy_stream_explain(stream, -ECANCELED, err);
    return r < 0 ? r : copy_stream_finish_read(stream, err);
}

static int read_stdin(struct copy_stream *stream, struct bg_err *err)
{
    BG_AUTOFREE char *bytes = malloc(CHUNK_SIZE);
    if (!bytes)
        return bg_err_errno(err, -ENOMEM, "cp");
    for (;;) {
        ssize_t n = read(STDIN_FILENO, bytes, CHUNK_SIZE);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return bg_err_errno(err, -errno, "cannot read standard input");
        int r = n > 0 ? copy_stream_write(stream, bytes, (size_t)n) : 0;
        if (r == -ECANCELED && stream->ended && stream->status == 0)
            return 0; /* it has all it wants */
        if (r < 0)
            return copy_stream_explain(stream, r, err);
        if (n == 0)
            return 0;
    }
}

static int copy_in(const struct copy *copy, const char *root, struct copy_stream *stream,
                   struct bg_err *err)
{
    int r;
    if (strcmp(copy->local, "-") == 0) {
        r = read_stdin(stream, err);
    } else {
        struct tree_tar_pack_opts opts = {.dir_fd = AT_FDCWD,
                                          .path = copy->local,
                                          .root = root,
                                          .write = copy_stream_write,
                                          .on_skip = tell_skip,
                                          .owner = stream};
        r = tree_tar_pack(&opts, NULL, err);
        if (r < 0 && stream->ended)
            r = copy_stream_explain(stream, -ECANCELED, err);
    }
    return r < 0 ? r : copy_stream_finish_write(stream, err);
}

static int open_copy(struct app *app, const struct bg_sandbox *sandbox, const struct copy *copy,
                     const char *root, bool disk, int *ret_fd, struct bg_err *err)
{
    struct bg_copy_request q = {.direction = copy->out ? BG_COPY_OUT_OF_GUEST : BG_COPY_INTO_GUEST};
    uint8_t body[2 * (BG_PATH_MAX + BG_NAME_MAX)];
    struct bg_writer w = bg_writer_init(body, sizeof body);
    const char *path = copy->path[0] != '\0' ? copy->path : ".";
    if (!copy->out && strcmp(copy->local, "-") == 0)
        q.flags = BG_COPY_UNPACK;
    if (disk)
        q.flags |= BG_COPY_DISK;
    if ((size_t)snprintf(q.user, sizeof q.user, "%s", copy->user) >= sizeof q.user ||
        (size_t)snprintf(q.path, sizeof q.path, "%s", path) >= sizeof q.path)
        return bg_err_set(err, -ENAMETOOLONG, "the user's or the path's name is too long");
    memcpy(q.root, root, strlen(root) + 1);
    bg_copy_request_emit(&q, &w);
    int r = wake_open(app, sandbox, "copy", body, w.used, ret_fd, err);
    return r < 0 ? r : client_stream_reply(*ret_fd, REPLY_TIMEOUT_MS, err);
}

static int copy_with(struct app *app, const struct bg_sandbox *sandbox, const struct copy *copy,
                     const char *root, bool disk, struct bg_err *err)
{
    int fd = -1;
    int r = open_copy(app, sandbox, copy, root, disk, &fd, err);
    BG_AUTOCLOSE int owned = fd;
    if (r < 0) {
        char quoted[512];
        return bg_err_prefix(err, "%s", bg_quote(copy->path, quoted, sizeof quoted));
    }
    BG_AUTOFREE struct copy_stream *stream = copy_stream_new(owned);
    if (!stream)
        return bg_err_errno(err, -ENOMEM, "cp");
    return copy->out ? copy_out(copy, root, stream, err) : copy_in(copy, root, stream, err);
}

/* With what does not run: through a helper, which is gone afterwards. */
static int copy_offline(struct app *app, const struct offline_opts *opts, const struct copy *copy,
                        const char *root, struct bg_err *err)
{
    struct offline offline;
    int r = offline_start(app, opts, &offline, err);
    if (r < 0)
        return r;
    r = copy_with(app, &offline.helper, copy, root, /* disk= */ true, err);
    int ended = offline_finish(&offline, r < 0 ? NULL : err);
    /* What was read is as good if the helper did not end well. */
    return r < 0 || copy->out ? r : ended;
}

static int copy_snapshot(struct app *app, const struct copy *copy, const char *root,
                         struct bg_err *err)
{
    BG_AUTOFREE char *name = NULL;
    if (!copy->out)
        return bg_err_set(err, -EINVAL, "a snapshot does not change: copy into a fork of it");
    int r = app_paths(app, err);
    if (r == 0)
        r = bg_snapshot_resolve(&app->paths, copy->name, &name, err);
    return r < 0 ? r : copy_offline(app, &(struct offline_opts){.image = name}, copy, root, err);
}

static int do_copy(struct app *app, const struct copy *copy, struct bg_err *err)
{
    struct life life = {0};
    char root[BG_NAME_MAX + 1];
    int r = base_name(copy->out ? copy->path : copy->local, root, err);
    if (r == 0 && strchr(copy->name, '@'))
        return copy_snapshot(app, copy, root, err);
    if (r == 0)
        r = life_open(app, copy->name, &life, err);
    if (r < 0)
        return r;
    if (wake_allowed() && (r = wake(app, &life, err)) < 0) {
        life_done(&life);
        return r;
    }
    if (bg_sandbox_rests(life.state))
        r = copy_offline(app, &(struct offline_opts){.sandbox = &life.sandbox, .write = !copy->out},
                         copy, root, err);
    else if (life.state == BG_SANDBOX_RUNNING)
        r = copy_with(app, &life.sandbox, copy, root, /* disk= */ false, err);
    else
        r = bg_err_set(err, -ENOTCONN, "sandbox '%s' is %s: try again in a moment", copy->name,
                       bg_sandbox_state_name(life.state));
    life_done(&life);
    return r;
}

int copy_run(struct app *app, const struct args *args)
{
    struct bg_err err;
    const char *from = args->operands[0], *to = args->operands[1];
    struct copy copy = {.user = args_text(args, OPTION_USER, "")};
    char *names[2] = {NULL, NULL};
    const char *paths[2];
    bool from_guest = grammar_split_path(from, &names[0], &paths[0]);
    bool to_guest = grammar_split_path(to, &names[1], &paths[1]);
    BG_AUTOFREE char *first = names[0];
    BG_AUTOFREE char *second = names[1];
    if (from_guest == to_guest) {
        (void)bg_err_set(&err, -EINVAL,
                         from_guest ? "both are in a sandbox: copy by way of a folder here"
                                    : "neither is in a sandbox: write it as NAME:PATH");
        return app_fail(&err);
    }
    copy.out = from_guest;
    copy.name = from_guest ? first : second;
    copy.path = from_guest ? paths[0] : paths[1];
    copy.local = from_guest ? to : from;
    return do_copy(app, &copy, &err) < 0 ? app_fail(&err) : 0;
}
