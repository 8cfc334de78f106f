#include "guest/files.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/accounts.h"
#include "guest/file_ops.h"
#include "guest/worker.h"

/* ---- in the worker ---- */

struct files {
    struct link *link;
    struct bg_files_request request;
    struct account account;
    bool drop_rights;
    struct file_ops ops;
    uint8_t frame[BG_FRAME_SIZE_MAX];
};

static int send_answer(void *owner, const uint8_t *bytes, size_t size)
{
    struct files *f = owner;
    uint8_t header[BG_FRAME_HEADER_SIZE];
    bg_frame_header_emit(BG_FRAME_ANSWER, (uint32_t)size, header);
    int r = link_write(f->link, header, sizeof header);
    return r < 0 ? r : link_write(f->link, bytes, size);
}

static int serve(struct files *f, struct bg_err *err)
{
    uint8_t header[BG_FRAME_HEADER_SIZE];
    struct bg_frame_header frame;
    for (;;) {
        int r = link_read_full(f->link, header, sizeof header);
        if (r < 0)
            return r == -ENODATA ? 0 : bg_err_errno(err, r, "files stream");
        r = bg_frame_header_parse(header, sizeof header, BG_FRAME_SIZE_MAX, &frame, err);
        if (r < 0)
            return r;
        if (frame.type != BG_FRAME_CALL)
            return bg_err_set(err, -EPROTO, "frame type %u in a files stream", frame.type);
        r = link_read_full(f->link, f->frame, frame.size);
        if (r < 0)
            return bg_err_errno(err, r, "files stream");
        r = file_ops_call(&f->ops, f->frame, frame.size, err);
        if (r < 0)
            return r;
    }
}

static int run(struct link *link, void *arg)
{
    struct files *f = arg;
    struct bg_err err = {0};
    f->link = link;
    f->ops.fd = -1;
    f->ops.answer = send_answer;
    f->ops.owner = f;
    (void)umask(f->request.umask);
    int r = f->drop_rights ? account_become(&f->account, &err) : 0;
    if (r == 0 && chdir(f->account.home) < 0 && chdir("/") < 0)
        r = bg_err_errno(&err, -errno, "%s", f->account.home);
    if (link_reply(link, &err) < 0 || r < 0)
        return 1;
    return serve(f, &err) < 0;
}

/* ---- in the agent ---- */

static int files_open(struct stream *stream, const uint8_t *body, size_t size, struct bg_err *err)
{
    BG_AUTOFREE struct files *f = calloc(1, sizeof *f);
    if (!f)
        return bg_err_errno(err, -ENOMEM, "files");
    int r = bg_files_request_parse(body, size, &f->request, err);
    if (r == 0)
        r = account_load(f->request.user, &f->account, err);
    if (r < 0)
        return r;
    f->drop_rights = geteuid() == 0;
    const struct worker_opts opts = {
        .name = "bellglass-files", .stream = stream, .lasts = true, .run = run, .arg = f};
    /* Detached: if there is no worker, the host sees the connection close. */
    if (worker_start(stream->agent, &opts, err) < 0)
        bg_log(stream->agent->log, BG_LOG_ERROR, "files: %s", err->text);
    return 0;
}

const struct stream_kind files_kind = {.name = "files", .open = files_open};
