#include "guest/session.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "guest/cgroup.h"
#include "guest/exec.h"
#include "guest/identity.h"
#include "guest/kernel_pages.h"
#include "guest/parking.h"
#include "guest/power.h"
#include "guest/ssh_keys.h"
#include "guest/version.h"
#include "guest/warm.h"
#include "guest/worker.h"

#define PROTOCOL 1u

struct session {
    struct agent *agent;
    struct stream *stream; /* NULL: gone, and we wait for what is under way only */
    bool identified;
    bool warming;   /* it will be answered by WARMED */
    bool preparing; /* it will be answered by PREPARED, when neither of these is the case: */
    bool syncing;   /* a sync is under way */
    bool parking;   /* streams are being parked */
    unsigned busy;  /* syncs and warm-ups under way: they hold this struct */
};

static void free_if_idle(struct session *session)
{
    if (!session->stream && session->busy == 0)
        free(session);
}

/* ---- identity ---- */

static void send_ready(struct session *session, const struct bg_err *err)
{
    if (!session->stream)
        return;
    uint8_t payload[4 + BG_ERR_TEXT_SIZE];
    struct bg_writer w = bg_writer_init(payload, sizeof payload);
    bg_writer_u32le(&w, (uint32_t)err->code);
    bg_writer_bytes(&w, err->text, strnlen(err->text, BG_ERR_TEXT_SIZE));
    stream_send(session->stream, BG_FRAME_READY, payload, w.used);
}

static int run_ssh_keygen(struct link *link, void *unused)
{
    (void)link;
    (void)unused;
    return ssh_keys_make();
}

/* READY does not wait for it: an RSA key takes long. */
static void make_ssh_keys(struct agent *agent)
{
    struct bg_err err = {0};
    const struct worker_opts opts = {.name = "ssh-keys", .run = run_ssh_keygen};
    if (worker_start(agent, &opts, &err) < 0)
        bg_log(agent->log, BG_LOG_ERROR, "ssh host keys: %s; there are none now", err.text);
}

static void warmed(void *owner)
{
    struct session *session = owner;
    session->busy--;
    send_ready(session, &(struct bg_err){0});
    free_if_idle(session);
}

static void warmed_early(void *owner)
{
    struct session *session = owner;
    session->busy--;
    session->warming = false;
    if (session->stream)
        stream_send(session->stream, BG_FRAME_WARMED, NULL, 0);
    free_if_idle(session);
}

/* The identity will be long in coming, and then it is in a hurry. */
static int warm_early(struct session *session, struct bg_err *err)
{
    if (session->identified || session->warming)
        return bg_err_set(err, -EPROTO, "WARM after the identity, or twice");
    session->busy++;
    session->warming = true;
    /* The golden snapshot was taken with all commands frozen, and had none. */
    agent_thaw(session->agent);
    if (warm_start(session->agent, /* all= */ false, warmed_early, session) < 0)
        warmed_early(session); /* it is only slower then */
    return 0;
}

static int take_identity(struct session *session, const uint8_t *payload, size_t size,
                         struct bg_err *err)
{
    struct bg_identity identity;
    int r = bg_identity_parse(payload, size, &identity, err);
    if (r < 0)
        return r;
    if (session->identified || session->warming)
        return bg_err_set(err, -EPROTO, "a second identity, or one before WARMED");
    session->identified = true;
    struct agent *agent = session->agent;
    bool fork = strcmp(agent->identity, identity.sandbox_id) != 0;
    if (identity.flags & BG_IDENTITY_AGAIN) {
        exec_orphan_all(agent, fork);
        agent_drop_streams(agent, &session->stream->live);
        parking_drop(agent);
    } else if (!(identity.flags & BG_IDENTITY_CONTINUE)) {
        agent_drop_all(agent, &session->stream->live);
        parking_drop(agent);
    }
    if (!(identity.flags & BG_IDENTITY_CONTINUE)) /* which says no name: it is who it was */
        memcpy(agent->identity, identity.sandbox_id, sizeof agent->identity);
    struct bg_err why = {0};
    r = identity_apply(&identity, agent->opts.pid1, &agent->env, &why);
    if (r < 0)
        bg_log(agent->log, BG_LOG_ERROR, "identity: %s", why.text);
    /* In a fork nothing runs on as somebody else: it stands still until the host gives it up. */
    if (r == 0 || !(identity.flags & BG_IDENTITY_AGAIN))
        agent_thaw(agent);
    if (r == 0 && agent->opts.pid1 && ssh_keys_due())
        make_ssh_keys(agent);
    if (r == 0 && (identity.flags & BG_IDENTITY_GOLDEN)) {
        session->busy++;
        if (warm_start(session->agent, /* all= */ true, warmed, session) == 0)
            return 0; /* READY follows */
        session->busy--;
    }
    send_ready(session, &why);
    return 0;
}

/* ---- snapshot ---- */

static void answer_if_prepared(struct session *session)
{
    if (!session->preparing || session->syncing || session->parking)
        return;
    session->preparing = false;
    if (!session->stream)
        return;
    uint8_t payload[BG_PAGE_RECORDS_SIZE];
    const struct bg_page_records *pages = session->agent->pages;
    size_t size = pages ? bg_page_records_emit(pages, payload) : 0;
    stream_send(session->stream, BG_FRAME_PREPARED, payload, size);
}

static void synced(void *owner, int wait_status)
{
    struct session *session = owner;
    session->busy--;
    session->syncing = false;
    if (wait_status != 0)
        bg_log(session->agent->log, BG_LOG_ERROR, "the sync ended with status 0x%x",
               (unsigned)wait_status);
    answer_if_prepared(session);
    free_if_idle(session);
}

static void parked(void *owner)
{
    struct session *session = owner;
    session->parking = false;
    answer_if_prepared(session);
}

static void disk_thaw(struct agent *agent)
{
    BG_AUTOCLOSE int root = agent->disk_frozen ? open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    agent->disk_frozen = false;
    if (root >= 0)
        (void)ioctl(root, FITHAW, 0); /* fails if the freezing did */
}

/* What is read from the disk alone shall need no journal. Nobody writes who would have to be waited
 * for: the commands stand still, and so do the streams. */
static void freeze_disk(const struct agent *agent)
{
    BG_AUTOCLOSE int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0 || ioctl(root, FIFREEZE, 0) < 0)
        bg_log(agent->log, BG_LOG_WARN, "the disk was synced and cannot be frozen: %s",
               strerror(errno));
}

/* Of the commands, what waits in the kernel comes to a stop when it is done with that: it has not
 * run on either. */
static int sync_disk(struct link *link, void *arg)
{
    const struct agent *agent = arg;
    (void)link;
    BG_AUTOCLOSE int cgroup_fd =
        agent->frozen ? open(agent->opts.cgroup_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (cgroup_fd >= 0 && cgroup_wait_frozen(cgroup_fd, BG_AGENT_FREEZE_MS) < 0)
        bg_log(agent->log, BG_LOG_WARN, "some commands do not stand still yet; going on");
    sync();
    if (agent->disk_frozen)
        freeze_disk(agent);
    return 0;
}

/* Once: they stay where they are, and every fork's agent knows them from the golden snapshot. */
static void seek_pages(struct agent *agent)
{
    struct bg_err err = {0};
    if (!agent->opts.pid1 || agent->pages_sought)
        return;
    agent->pages_sought = true;
    BG_AUTOCLOSE int kcore = open("/proc/kcore", O_RDONLY | O_CLOEXEC);
    BG_AUTOCLOSE int flags = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
    BG_AUTOFREE struct bg_page_records *pages = malloc(sizeof *pages);
    if (pages && kernel_pages_find(kcore, flags, pages, &err) == 0)
        agent->pages = BG_TAKE(pages);
    else
        bg_log(agent->log, BG_LOG_INFO, "snapshots will have this guest's free pages too: %s",
               pages ? err.text : "out of memory");
}

static int prepare(struct session *session, bool of_disk, struct bg_err *err)
{
    if (session->preparing)
        return bg_err_set(err, -EPROTO, "PREPARE before the last one was answered");
    session->preparing = session->syncing = true;
    session->parking = !parking_begin(session->agent, parked, session);
    session->busy++;
    agent_freeze(session->agent);
    if (!of_disk)
        seek_pages(session->agent);
    session->agent->disk_frozen = of_disk && session->agent->opts.pid1; /* by the worker */
    /* In a process of its own: the disk may be slow, and the heartbeat goes on. */
    const struct worker_opts opts = {.name = "sync",
                                     .run = sync_disk,
                                     .arg = session->agent,
                                     .on_exit = synced,
                                     .owner = session};
    int r = worker_start(session->agent, &opts, err);
    if (r < 0) {
        session->busy--;
        session->syncing = session->agent->disk_frozen = false;
        sync();
        answer_if_prepared(session);
    }
    return 0;
}

/* ---- the stream ---- */

static int on_frame(void *context, uint8_t type, const uint8_t *payload, size_t size,
                    struct bg_err *err)
{
    struct session *session = context;
    switch (type) {
    case BG_FRAME_IDENTITY:
        return take_identity(session, payload, size, err);
    case BG_FRAME_PING:
        if (size != 8)
            break;
        /* A host that pings and does not read would fill the queue. */
        if (stream_room(session->stream) == 0)
            return bg_err_set(err, -ENOBUFS, "pings without reading the answers");
        stream_send(session->stream, BG_FRAME_PONG, payload, size);
        return 0;
    case BG_FRAME_SHUTDOWN:
        if (size != 0)
            break;
        if (session->agent->opts.pid1)
            power_off(session->agent);
        else
            agent_stop(session->agent);
        return 0;
    case BG_FRAME_WARM:
        if (size != 0)
            break;
        return warm_early(session, err);
    case BG_FRAME_PREPARE:
        if (size != 1 || payload[0] > 1)
            break;
        return prepare(session, payload[0] != 0, err);
    case BG_FRAME_GO_ON:
        if (size != 1 || payload[0] > BG_GO_ON_RESUMED)
            break;
        parking_forget(session->agent, session);
        session->parking = false;
        disk_thaw(session->agent);
        parking_end(session->agent, (enum bg_go_on)payload[0]);
        agent_thaw(session->agent);
        answer_if_prepared(session); /* late, but it is waited for */
        return 0;
    default:
        return bg_err_set(err, -EPROTO, "frame type %u in a session", type);
    }
    return bg_err_set(err, -EPROTO, "frame type %u with %zu bytes", type, size);
}

static void on_gone(void *context)
{
    struct session *session = context;
    if (session->agent->session == session->stream)
        session->agent->session = NULL;
    if (session->parking)
        parking_forget(session->agent, session);
    session->parking = false;
    session->stream = NULL;
    free_if_idle(session);
}

static int session_open(struct stream *stream, const uint8_t *body, size_t size, struct bg_err *err)
{
    (void)body;
    if (size != 0)
        return bg_err_set(err, -EPROTO, "session with a body of %zu bytes", size);
    struct session *session = calloc(1, sizeof *session);
    if (!session)
        return bg_err_errno(err, -ENOMEM, "session");
    struct agent *agent = stream->agent;
    disk_thaw(agent);
    if (agent->session) {
        bg_log(agent->log, BG_LOG_INFO, "a new session replaces the old one");
        stream_abort(agent->session);
    }
    session->agent = agent;
    session->stream = stream;
    agent->session = stream;
    stream->context = session;
    stream_reply(stream, NULL, 0);

    uint8_t payload[64];
    struct bg_writer w = bg_writer_init(payload, sizeof payload);
    bg_writer_u32le(&w, PROTOCOL);
    bg_writer_text32le(&w, AGENT_VERSION);
    stream_send(stream, BG_FRAME_HELLO, payload, w.used);
    return 0;
}

/* IDENTITY is the largest; the others' sizes are checked one by one. */
const struct stream_kind session_kind = {.name = "session",
                                         .frame_size_max = BG_IDENTITY_SIZE_MAX,
                                         .open = session_open,
                                         .on_frame = on_frame,
                                         .on_gone = on_gone};
