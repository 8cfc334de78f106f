#include "host/supervisor/volume_mount.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/wire.h"
#include "host/supervisor/disk_answers.h"
#include "host/supervisor/qemu.h"

/* Counted down from that of a helper's disk: far from those of the control socket. */
#define FIRST_STREAM_ID (UINT32_MAX - 1)

struct volume_mount {
    struct volume_mount_opts opts;
    size_t at;               /* the one that is asked for */
    struct vsock_conn *conn; /* NULL: gone */
    struct disk_answers answers;
};

/* The last thing that is done with it. */
static void end(struct volume_mount *m, const struct bg_err *why)
{
    const struct volume_mount_opts opts = m->opts;
    if (m->conn)
        vsock_reset(m->conn);
    free(m);
    opts.on_done(opts.owner, why);
}

static void opened(void *owner)
{
    struct volume_mount *m = owner;
    struct bg_volume_request request = {.flags = m->opts.flags(m->opts.owner, m->at)};
    uint8_t bytes[BG_STREAM_HEADER_SIZE + sizeof request + 16];
    qemu_volume_serial(m->at, request.serial);
    (void)snprintf(request.path, sizeof request.path, "%s", m->opts.path(m->opts.owner, m->at));
    struct bg_writer w =
        bg_writer_init(bytes + BG_STREAM_HEADER_SIZE, sizeof bytes - BG_STREAM_HEADER_SIZE);
    bg_volume_request_emit(&request, &w);
    const struct bg_stream_header header = {.kind = BG_STREAM_VOLUME,
                                            .id = FIRST_STREAM_ID - (uint32_t)m->at,
                                            .body_size = (uint32_t)w.used};
    bg_stream_header_emit(&header, bytes);
    size_t size = BG_STREAM_HEADER_SIZE + w.used;
    if (!bg_writer_ok(&w) || vsock_write(m->conn, bytes, size) < size) {
        /* A fresh connection has room for that, if the guest is no other than ours. */
        struct bg_err why;
        (void)bg_err_set(&why, -EPROTO, "the agent does not take the request for a volume");
        end(m, &why);
    }
}

static int ask(struct volume_mount *m, struct bg_err *err);

static void answered(void *owner, const uint8_t *bytes, size_t size)
{
    struct volume_mount *m = owner;
    struct bg_err why = {0};
    int r = disk_answers_feed(&m->answers, bytes, size, &why);
    if (r == 0 && !m->answers.mounted) {
        vsock_consumed(m->conn, size);
        return;
    }
    bool more = r == 0 && ++m->at < m->opts.count;
    if (more) {
        vsock_reset(BG_TAKE(m->conn));
        r = ask(m, &why);
    }
    if (r < 0 || !more)
        end(m, &why);
}

static void lost(void *owner, int code)
{
    struct volume_mount *m = owner;
    struct bg_err why;
    m->conn = NULL;
    (void)bg_err_set(&why, code < 0 ? code : -ECONNRESET, "the agent let go of a volume (%s)",
                     code < 0 ? strerror(-code) : "closed");
    end(m, &why);
}

static int ask(struct volume_mount *m, struct bg_err *err)
{
    static const struct vsock_conn_ops ops = {
        .on_open = opened, .on_data = answered, .on_end = lost};
    m->answers = (struct disk_answers){0};
    return vsock_connect(m->opts.device, BG_VSOCK_AGENT_PORT, &ops, m, &m->conn, err);
}

int volume_mount_open(const struct volume_mount_opts *opts, struct volume_mount **ret,
                      struct bg_err *err)
{
    struct volume_mount *m = calloc(1, sizeof *m);
    if (!m)
        return bg_err_errno(err, -ENOMEM, "volumes");
    m->opts = *opts;
    int r = ask(m, err);
    if (r < 0) {
        free(m);
        return r;
    }
    *ret = m;
    return 0;
}
