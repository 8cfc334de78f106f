#include "host/gateway/sandboxes.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/state/image.h"
#include "host/cli/launch.h"
#include "host/cli/life.h"
#include "host/cli/pool.h"
#include "host/cli/wake.h"
#include "host/gateway/attach.h"
#include "host/gateway/folder_watch.h"
#include "host/gateway/text.h"

/* For the clients of a gateway before this one to come back to what would end without them. */
#define ORPHAN_MS 60000

/* For a launcher whose start has failed to end, and between looks at that. */
#define FAILED_MS      30000
#define FAILED_POLL_MS 50

/* From a supervisor's end until its launcher has said why, which takes 32 s at most. */
#define SETTLE_MS   40000
#define LOOK_MIN_MS 100 /* for those that nobody uses */
#define LOOK_MAX_MS 10000

/* docs/policy.md: every public host, by HTTP and HTTPS, without secrets. */
#define OPEN_POLICY "network:\n  default: learn\n"

#define ID_CHARS "0123456789abcdefghjkmnpqrstuvwxyz" /* docs/deno-protocol.md, "Ids" */

/* Something that blocks, in a thread. It touches nothing of the loop's but itself. */
struct job {
    LIST_ENTRY(job) link;
    uv_work_t work;
    struct sandboxes *all;
    struct create_config config; /* of a creation */
    struct sandbox_entry *entry; /* taken until it is in all->entries, or NULL: a removal */
    bool removes;                /* a removal */
    bool suspends;
    bool held;                   /* one that wakes, until the end of one that suspends */
    bool waits;                  /* of a creation: for what an ending sandbox still has */
    char id[ROUTE_ID_SIZE];      /* of a removal, and of what follows */
    enum bg_sandbox_state state; /* what it came to */
    sandboxes_done *on_done;
    void *owner;       /* NULL: it is gone */
    uint64_t began_ms; /* of a creation, on the loop's clock */
    int status;
    struct bg_err err;
};

struct sandboxes {
    uv_loop_t *loop;
    struct sandboxes_opts opts;
    LIST_HEAD(, sandbox_entry) entries;
    LIST_HEAD(, job) jobs;
    LIST_HEAD(, sandboxes_claim) claims;
    size_t count;          /* of entries, of those that are being made, and of what is claimed */
    size_t waiting;        /* of jobs: each keeps a thread from the others */
    uv_timer_t look_timer; /* the loop's until look_closed */
    bool look_open;
    bool closing;
};

/* The pipe that tells of the sandbox's end is the supervisor's control socket, with nothing asked:
 * it is open for as long as the supervisor is there. */
struct presence {
    uv_pipe_t pipe;
    struct sandbox_entry *entry; /* NULL: it is gone */
    char byte;
};

/* ---- entries ---- */

static uint64_t unix_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now); /* cannot fail with this clock */
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void entry_free(struct sandbox_entry *entry)
{
    if (!entry)
        return;
    bg_sandbox_done(&entry->sandbox);
    record_done(&entry->record);
    json_decref(entry->base_env);
    free(entry);
}

static void free_if_all(struct sandboxes *all)
{
    if (all->closing && !all->look_open && LIST_EMPTY(&all->jobs) && LIST_EMPTY(&all->entries))
        free(all);
}

static void timer_closed(uv_handle_t *handle)
{
    struct sandbox_entry *entry = handle->data;
    struct sandboxes *all = entry->all;
    LIST_REMOVE(entry, link);
    entry_free(entry);
    free_if_all(all);
}

static void presence_closed(uv_handle_t *handle)
{
    struct presence *presence = handle->data;
    free(presence);
}

static void forget_presence(struct sandbox_entry *entry)
{
    if (!entry->presence)
        return;
    entry->presence->entry = NULL;
    uv_close((uv_handle_t *)&entry->presence->pipe, presence_closed);
    entry->presence = NULL;
}

static void send_away(struct sandbox_entry *entry)
{
    while (!LIST_EMPTY(&entry->viewers)) {
        struct viewer *viewer = LIST_FIRST(&entry->viewers);
        LIST_REMOVE(viewer, link);
        viewer->on_gone(viewer->owner);
    }
}

/* Takes the entry away from everybody. */
static void dismiss(struct sandbox_entry *entry)
{
    if (entry->state == SANDBOX_ENDS)
        return;
    entry->state = SANDBOX_ENDS;
    entry->all->count--;
    forget_presence(entry);
    folder_watch_close(BG_TAKE(entry->watch));
    send_away(entry);
    uv_close((uv_handle_t *)&entry->timer, timer_closed);
}

static void timer_fired(uv_timer_t *timer)
{
    struct sandbox_entry *entry = timer->data;
    bg_log(entry->all->opts.log, BG_LOG_INFO, "sandbox %s: its time is over", entry->sandbox.name);
    sandboxes_remove(entry, NULL, NULL);
}

/* Sets the timer to what ends it first: its stop time, its token's limit, and, in in_ms, that
 * nobody came back to it (UINT64_MAX: does not matter). */
static void set_timer(struct sandbox_entry *entry, uint64_t in_ms)
{
    const uint64_t ends_ms[] = {entry->record.stop_at_ms, entry->record.ends_by_ms};
    uint64_t now = unix_ms();
    for (size_t i = 0; i < 2; i++) {
        uint64_t left = ends_ms[i] > now ? ends_ms[i] - now : 0;
        if (ends_ms[i] > 0 && left < in_ms)
            in_ms = left;
    }
    if (in_ms == UINT64_MAX)
        (void)uv_timer_stop(&entry->timer); /* cannot fail */
    else
        (void)uv_timer_start(&entry->timer, timer_fired, in_ms, 0); /* fails only when closing */
}

static void supervisor_gone(struct sandbox_entry *entry);

static void presence_read(uv_stream_t *pipe, ssize_t n, const uv_buf_t *buffer)
{
    struct presence *presence = pipe->data;
    (void)buffer;
    if (n == 0 || !presence->entry)
        return;
    supervisor_gone(presence->entry);
}

static void presence_buffer(uv_handle_t *handle, size_t size, uv_buf_t *ret)
{
    struct presence *presence = handle->data;
    (void)size;
    *ret = uv_buf_init(&presence->byte, 1);
}

static int watch_presence(struct sandbox_entry *entry, struct bg_err *err)
{
    BG_AUTOCLOSE int fd = -1;
    int r = bg_sandbox_connect(&entry->all->opts.app->paths, &entry->sandbox, &fd, err);
    if (r < 0)
        return r;
    struct presence *presence = calloc(1, sizeof *presence);
    if (!presence)
        return bg_err_errno(err, -ENOMEM, "sandbox");
    r = uv_pipe_init(entry->all->loop, &presence->pipe, /* ipc= */ 0);
    if (r < 0) {
        free(presence);
        return bg_err_errno(err, r, "sandbox");
    }
    presence->pipe.data = presence;
    presence->entry = entry;
    entry->presence = presence;
    r = uv_pipe_open(&presence->pipe, fd);
    if (r < 0)
        return bg_err_errno(err, r, "control socket");
    (void)bg_take_fd(&fd);
    r = uv_read_start((uv_stream_t *)&presence->pipe, presence_buffer, presence_read);
    return r < 0 ? bg_err_errno(err, r, "control socket") : 0;
}

/* Puts a running sandbox's entry into the list. It is in there even if this fails: dismiss it then.
 */
static int admit(struct sandboxes *all, struct sandbox_entry *entry, struct bg_err *err)
{
    entry->all = all;
    LIST_INIT(&entry->viewers);
    LIST_INSERT_HEAD(&all->entries, entry, link);
    (void)uv_timer_init(all->loop, &entry->timer); /* cannot fail */
    entry->timer.data = entry;
    entry->quiet_since_ms = uv_now(all->loop);
    set_timer(entry, UINT64_MAX);
    return entry->state == SANDBOX_RUNS ? watch_presence(entry, err) : 0;
}

/* ---- jobs ---- */

static void job_free(struct job *job)
{
    LIST_REMOVE(job, link);
    create_config_done(&job->config);
    entry_free(job->entry);
    free(job);
}

static void job_tell(const struct job *job, struct sandbox_entry *entry)
{
    if (job->owner && job->on_done)
        job->on_done(job->owner, entry, job->status < 0 ? &job->err : NULL);
}

/* Ends a sandbox, whatever state it is in, and removes its folder. In a thread. */
static int remove_sandbox(struct app *app, const char *name, struct bg_err *err)
{
    struct life life;
    int r = life_open_any(app, name, &life, err);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    r = life_stop(app, &life, /* grace_ms= */ 0, NULL, err);
    if (r == 0)
        r = life_remove(app, &life, err);
    life_done(&life);
    return r;
}

static void removal_work(uv_work_t *work)
{
    struct job *job = work->data;
    job->status = remove_sandbox(job->all->opts.app, job->id, &job->err);
}

static void removal_over(uv_work_t *work, int status)
{
    struct job *job = work->data;
    struct sandboxes *all = job->all;
    (void)status; /* nobody cancels work */
    if (job->status < 0)
        bg_log(all->opts.log, BG_LOG_ERROR, "sandbox %s: %s", job->id, job->err.text);
    job_tell(job, NULL);
    job_free(job);
    free_if_all(all);
}

static void out_of_memory(struct sandboxes *all, sandboxes_done *on_done, void *owner)
{
    struct bg_err err;
    (void)bg_err_errno(&err, -ENOMEM, "sandbox");
    bg_log(all->opts.log, BG_LOG_ERROR, "%s", err.text);
    if (on_done)
        on_done(owner, NULL, &err);
}

static void queue_removal(struct sandboxes *all, const char *id, sandboxes_done *on_done,
                          void *owner)
{
    struct job *job = calloc(1, sizeof *job);
    if (!job) {
        out_of_memory(all, on_done, owner);
        return;
    }
    *job = (struct job){.all = all, .removes = true, .on_done = on_done, .owner = owner};
    job->work.data = job;
    (void)snprintf(job->id, sizeof job->id, "%s", id);
    LIST_INSERT_HEAD(&all->jobs, job, link);
    (void)uv_queue_work(all->loop, &job->work, removal_work, removal_over); /* cannot fail */
}

void sandboxes_remove(struct sandbox_entry *entry, sandboxes_done *on_done, void *owner)
{
    struct sandboxes *all = entry->all;
    char id[ROUTE_ID_SIZE];
    (void)snprintf(id, sizeof id, "%s", entry->sandbox.name);
    dismiss(entry);
    queue_removal(all, id, on_done, owner);
}

/* ---- sleep ---- */

/* In a thread, as all that ends in _work. */
static int suspend(struct app *app, const char *name, enum bg_sandbox_state *ret_state,
                   struct bg_err *err)
{
    struct life life;
    json_t *answer = NULL;
    int r = life_open(app, name, &life, err);
    if (r < 0)
        return r;
    if (life.state == BG_SANDBOX_RUNNING)
        r = life_suspend(app, &life, NULL, &answer, err);
    json_decref(answer);
    *ret_state = life.state;
    life_done(&life);
    return r;
}

static void suspend_work(uv_work_t *work)
{
    struct job *job = work->data;
    job->state = BG_SANDBOX_RUNNING; /* if it fails it runs as before */
    job->status = suspend(job->all->opts.app, job->id, &job->state, &job->err);
}

/* Waits until it is known what a sandbox whose supervisor is gone has become. */
static void settle_work(uv_work_t *work)
{
    struct job *job = work->data;
    struct life life;
    int fd = -1;
    uint64_t until_ms = bg_now_ms() + SETTLE_MS, now_ms;
    job->status = life_open_any(job->all->opts.app, job->id, &life, &job->err);
    job->state = BG_SANDBOX_STOPPED;
    if (job->status < 0)
        return;
    job->status = wake_watch(&life.sandbox, &fd, &job->err);
    BG_AUTOCLOSE int watch = fd;
    while (job->status == 0) {
        job->status = bg_sandbox_state(&life.sandbox, &job->state, NULL, &job->err);
        now_ms = bg_now_ms();
        if (bg_sandbox_rests(job->state) || now_ms >= until_ms)
            break;
        wake_await(watch, -1, (int)(until_ms - now_ms));
    }
    life_done(&life);
}

static void wake_work(uv_work_t *work)
{
    struct job *job = work->data;
    struct life life;
    job->state = BG_SANDBOX_STOPPED;
    job->status = life_open(job->all->opts.app, job->id, &life, &job->err);
    if (job->status < 0)
        return;
    job->status = wake_here(job->all->opts.app, &life, &job->err);
    job->state = life.state;
    if (job->status == 0)
        job->status = bg_sandbox_state(&life.sandbox, &job->state, NULL, &job->err);
    if (job->status == 0 && job->state != BG_SANDBOX_RUNNING)
        job->status = bg_err_set(&job->err, -ENOTCONN, "the sandbox has ended");
    life_done(&life);
}

static struct sandbox_entry *entry_of(struct sandboxes *all, const char *id)
{
    struct sandbox_entry *entry;
    LIST_FOREACH(entry, &all->entries, link)
    {
        if (entry->state != SANDBOX_ENDS && strcmp(entry->sandbox.name, id) == 0)
            return entry;
    }
    return NULL;
}

static struct job *add_job(struct sandbox_entry *entry, sandboxes_done *on_done, void *owner)
{
    struct sandboxes *all = entry->all;
    struct job *job = calloc(1, sizeof *job);
    if (!job) {
        out_of_memory(all, on_done, owner);
        return NULL;
    }
    *job = (struct job){.all = all, .on_done = on_done, .owner = owner};
    job->work.data = job;
    (void)snprintf(job->id, sizeof job->id, "%s", entry->sandbox.name);
    LIST_INSERT_HEAD(&all->jobs, job, link);
    return job;
}

static void doze_over(uv_work_t *work, int status);

/* work: suspend_work or settle_work. */
static void doze(struct sandbox_entry *entry, uv_work_cb work)
{
    entry->state = SANDBOX_DOZES;
    struct job *job = add_job(entry, NULL, NULL);
    if (!job)
        return;
    job->suspends = entry->suspending = work == suspend_work;
    (void)uv_queue_work(entry->all->loop, &job->work, work, doze_over); /* cannot fail */
}

/* Somebody else did something with one that sleeps: it runs, and may sleep again, or it is gone. */
static void folder_changed(void *owner)
{
    struct sandbox_entry *entry = owner;
    enum bg_sandbox_state state = BG_SANDBOX_SUSPENDED;
    const struct bg_log *log = entry->all->opts.log;
    struct bg_err err;
    if (entry->state != SANDBOX_SLEEPS)
        return; /* it is our doing */
    int r = bg_sandbox_state(&entry->sandbox, &state, NULL, &err);
    if (r == -ENOENT) {
        bg_log(log, BG_LOG_INFO, "sandbox %s was removed", entry->sandbox.name);
        dismiss(entry);
    } else if (r == 0 && state == BG_SANDBOX_RUNNING) {
        if (watch_presence(entry, &err) < 0) {
            forget_presence(entry); /* it has ended meanwhile, which is the next change */
            return;
        }
        bg_log(log, BG_LOG_INFO, "sandbox %s: somebody has woken it", entry->sandbox.name);
        entry->state = SANDBOX_RUNS;
        entry->quiet_since_ms = uv_now(entry->all->loop);
        folder_watch_close(BG_TAKE(entry->watch));
    } else if (r == 0 && bg_sandbox_rests(state) && state != BG_SANDBOX_SUSPENDED) {
        doze(entry, settle_work);
    }
}

/* Without the watch, the next request finds out what became of it. */
static void falls_asleep(struct sandbox_entry *entry)
{
    struct bg_err err;
    entry->state = SANDBOX_SLEEPS;
    if (entry->watch)
        return;
    if (folder_watch_open(entry->all->loop, entry->sandbox.dir, folder_changed, entry,
                          &entry->watch, &err) < 0)
        bg_log(entry->all->opts.log, BG_LOG_WARN, "sandbox %s: not watched: %s",
               entry->sandbox.name, err.text);
    folder_changed(entry); /* last: what came before the watch */
}

static void wake_over(uv_work_t *work, int status);

/* Those who came while it was being suspended, when it has come to that, or to nothing. */
static void let_wake(struct sandboxes *all, const char *id)
{
    struct job *job, *next;
    for (job = LIST_FIRST(&all->jobs); job; job = next) {
        next = LIST_NEXT(job, link);
        if (!job->held || strcmp(job->id, id) != 0)
            continue;
        job->held = false;
        if (all->closing)
            job_free(job); /* nobody waits for it any more */
        else
            (void)uv_queue_work(all->loop, &job->work, wake_work, wake_over); /* cannot fail */
    }
}

/* After suspend_work and settle_work: it sleeps, or is gone, or runs as before. */
static void doze_over(uv_work_t *work, int status)
{
    struct job *job = work->data;
    struct sandboxes *all = job->all;
    struct sandbox_entry *entry = entry_of(all, job->id);
    struct bg_err err;
    (void)status; /* nobody cancels work */
    if (job->status < 0)
        bg_log(all->opts.log, BG_LOG_ERROR, "sandbox %s: %s", job->id, job->err.text);
    if (job->suspends) {
        if (entry)
            entry->suspending = false;
        if (entry && entry->state != SANDBOX_RUNS && job->state == BG_SANDBOX_SUSPENDED)
            forget_presence(entry); /* before another run has one */
        let_wake(all, job->id);
    }
    /* Else a request is going to wake it, or it is being suspended after it was woken. */
    if (entry && entry->state == SANDBOX_DOZES && !entry->suspending) {
        entry->quiet_since_ms = uv_now(all->loop);
        if (job->state == BG_SANDBOX_SUSPENDED) {
            all->opts.metrics->suspended++;
            if (entry->record.stop_at_ms == 0)
                set_timer(entry, ORPHAN_MS);
            falls_asleep(entry);
        } else if (job->state == BG_SANDBOX_RUNNING &&
                   (entry->presence || watch_presence(entry, &err) == 0)) {
            entry->state = SANDBOX_RUNS; /* with another supervisor, if it was started again */
            folder_watch_close(BG_TAKE(entry->watch));
        } else {
            bg_log(all->opts.log, BG_LOG_INFO, "sandbox %s has ended", job->id);
            /* Its folder stays: whoever ended it may be about to remove it, and if it crashed it
             * has the logs. */
            dismiss(entry);
        }
    }
    job_free(job);
    free_if_all(all);
}

static void supervisor_gone(struct sandbox_entry *entry)
{
    bool runs = entry->state == SANDBOX_RUNS;
    forget_presence(entry);
    if (!runs)
        return;           /* who suspends or wakes it will know */
    if (entry->foreign) { /* whether it sleeps or has ended is not for us to keep */
        bg_log(entry->all->opts.log, BG_LOG_INFO, "sandbox %s runs no more", entry->sandbox.name);
        dismiss(entry);
        return;
    }
    entry->state = SANDBOX_DOZES;
    send_away(entry);
    doze(entry, settle_work);
}

static void wake_over(uv_work_t *work, int status)
{
    struct job *job = work->data;
    struct sandboxes *all = job->all;
    struct sandbox_entry *entry = entry_of(all, job->id);
    (void)status; /* nobody cancels work */
    if (!entry && job->status == 0) {
        /* It was to be removed while it came up: then that had failed. */
        if (!all->closing)
            queue_removal(all, job->id, NULL, NULL);
        job->status = bg_err_set(&job->err, -ENOTCONN, "the sandbox has ended");
    } else if (entry && entry->state != SANDBOX_RUNS) {
        if (job->status == 0 && !entry->presence) /* there is one if it could not be suspended */
            job->status = watch_presence(entry, &job->err);
        entry->quiet_since_ms = uv_now(all->loop);
        all->opts.metrics->woken += job->status == 0;
        if (job->status == 0) {
            entry->state = SANDBOX_RUNS;
            folder_watch_close(BG_TAKE(entry->watch));
        } else {
            forget_presence(entry);
            if (job->state == BG_SANDBOX_SUSPENDED)
                falls_asleep(entry);
            else
                dismiss(entry); /* there is nothing to wake any more */
        }
    }
    if (job->status < 0)
        bg_log(all->opts.log, BG_LOG_ERROR, "sandbox %s: %s", job->id, job->err.text);
    job_tell(job, job->status == 0 ? entry : NULL);
    job_free(job);
    free_if_all(all);
}

void sandboxes_wake(struct sandbox_entry *entry, sandboxes_done *on_done, void *owner)
{
    if (entry->state == SANDBOX_RUNS) {
        if (on_done)
            on_done(owner, entry, NULL);
        return;
    }
    entry->state = SANDBOX_WAKES;
    struct job *job = add_job(entry, on_done, owner);
    if (job &&
        entry->suspending) /* until it is suspended it runs: whoever came would be sent away */
        job->held = true;
    else if (job)
        (void)uv_queue_work(entry->all->loop, &job->work, wake_work, wake_over); /* cannot fail */
}

void sandboxes_use_begin(struct sandbox_entry *entry)
{
    entry->uses++;
}

void sandboxes_use_end(struct sandboxes *all, const char *id)
{
    struct sandbox_entry *entry = entry_of(all, id);
    if (!entry)
        return;
    if (entry->uses > 0) /* else it was of a run before, which has ended since */
        entry->uses--;
    entry->quiet_since_ms = uv_now(all->loop);
}

/* One that somebody started by hand is not ours to suspend, and one with volumes cannot be. */
static bool may_sleep(const struct sandbox_entry *entry)
{
    return entry->state == SANDBOX_RUNS && entry->uses == 0 && LIST_EMPTY(&entry->viewers) &&
           !entry->foreign && entry->sandbox.volume_count == 0 &&
           entry->sandbox.root_volume[0] == '\0';
}

static void look(uv_timer_t *timer)
{
    struct sandboxes *all = timer->data;
    struct sandbox_entry *entry;
    uint64_t now_ms = uv_now(all->loop);
    LIST_FOREACH(entry, &all->entries, link)
    {
        if (!may_sleep(entry) || now_ms - entry->quiet_since_ms < all->opts.idle_ms)
            continue;
        bg_log(all->opts.log, BG_LOG_INFO, "sandbox %s: nobody uses it: it is suspended",
               entry->sandbox.name);
        doze(entry, suspend_work);
    }
}

static void look_closed(uv_handle_t *handle)
{
    struct sandboxes *all = handle->data;
    all->look_open = false;
    free_if_all(all);
}

static void start_looking(struct sandboxes *all)
{
    uint64_t every_ms = all->opts.idle_ms / 10;
    every_ms = every_ms < LOOK_MIN_MS   ? LOOK_MIN_MS
               : every_ms > LOOK_MAX_MS ? LOOK_MAX_MS
                                        : every_ms;
    (void)uv_timer_init(all->loop, &all->look_timer); /* cannot fail, as the next one */
    all->look_timer.data = all;
    all->look_open = true;
    if (all->opts.idle_ms > 0)
        (void)uv_timer_start(&all->look_timer, look, every_ms, every_ms);
}

/* ---- creation ---- */

static char *make_id(const char *region)
{
    char tail[21];
    size_t used = 0;
    while (used < sizeof tail - 1) {
        uint8_t byte;
        bg_random(&byte, sizeof byte);
        /* 256 is no multiple of 33: the rest would make some more likely. */
        if (byte < 256 / (sizeof ID_CHARS - 1) * (sizeof ID_CHARS - 1))
            tail[used++] = ID_CHARS[byte % (sizeof ID_CHARS - 1)];
    }
    tail[used] = '\0';
    char *id = NULL;
    return asprintf(&id, "sbx_%s_%s", region, tail) < 0 ? NULL : id;
}

/* The secrets move into what the sandbox is to have; their values are written by keep_secrets. */
static int take_secrets(struct create_config *c, struct bg_sandbox *s)
{
    s->secrets = calloc(c->secret_count + 1, sizeof *s->secrets);
    if (!s->secrets)
        return -ENOMEM;
    for (size_t i = 0; i < c->secret_count; i++) {
        struct bg_secret_use *use = &s->secrets[s->secret_count++];
        use->name = strdup(c->secrets[i].name);
        use->hosts = BG_TAKE(c->secrets[i].hosts);
        use->host_count = c->secrets[i].host_count;
        c->secrets[i].host_count = 0;
        if (!use->name)
            return -ENOMEM;
    }
    return 0;
}

/* A secret's hosts may be reached: what would it be for else? */
static int allow_hosts(const char *const *always, const struct create_config *c,
                       struct bg_sandbox *s)
{
    size_t count = c->allow_count;
    for (const char *const *rule = always; *rule; rule++)
        count++;
    for (size_t i = 0; i < c->secret_count; i++)
        count += c->secrets[i].host_count;
    s->allow = calloc(count + 1, sizeof *s->allow);
    if (!s->allow)
        return -ENOMEM;
    for (const char *const *rule = always; *rule; rule++)
        if (!(s->allow[s->allow_count++] = strdup(*rule)))
            return -ENOMEM;
    for (size_t i = 0; i < c->allow_count; i++)
        if (!(s->allow[s->allow_count++] = strdup(c->allow[i])))
            return -ENOMEM;
    for (size_t i = 0; i < c->secret_count && !c->restricted; i++)
        for (size_t j = 0; j < c->secrets[i].host_count; j++)
            if (!(s->allow[s->allow_count++] = strdup(c->secrets[i].hosts[j])))
                return -ENOMEM;
    return 0;
}

static int fill_in(const struct sandboxes_opts *opts, struct create_config *c, struct bg_sandbox *s,
                   struct bg_err *err)
{
    struct bg_image image;
    int r = bg_image_find(&opts->app->paths, opts->image, &image, err);
    if (r < 0)
        return r;
    s->name = make_id(opts->region);
    s->image_name = strdup(opts->image);
    s->image_digest = strdup(image.digest);
    bg_image_done(&image);
    s->cpus = opts->cpus;
    s->memory_bytes = c->memory_bytes;
    s->policy = c->restricted ? NULL : strdup(OPEN_POLICY);
    s->upstream_ca = opts->upstream_ca ? strdup(opts->upstream_ca) : NULL;
    if (!s->name || !s->image_name || !s->image_digest || (!c->restricted && !s->policy) ||
        (opts->upstream_ca && !s->upstream_ca) || allow_hosts(opts->allow, c, s) < 0 ||
        take_secrets(c, s) < 0)
        return bg_err_errno(err, -ENOMEM, "sandbox");
    return 0;
}

/* Values are of this sandbox alone, beside the user's own of the same name. */
static int keep_secrets(const struct create_config *c, const struct bg_sandbox *s,
                        struct bg_err *err)
{
    if (c->secret_count == 0)
        return 0;
    BG_AUTOFREE char *folder = NULL;
    if (asprintf(&folder, "%s/secrets", s->dir) < 0)
        return bg_err_errno(err, -ENOMEM, "secrets");
    if (mkdir(folder, 0700) < 0)
        return bg_err_errno(err, -errno, "%s", folder);
    BG_AUTOCLOSE int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return bg_err_errno(err, -errno, "%s", folder);
    for (size_t i = 0; i < c->secret_count; i++) {
        const struct create_secret *secret = &c->secrets[i];
        int r = bg_write_file(fd, secret->name, secret->value, strlen(secret->value), 0600, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int fork_root(void *owner, const struct bg_sandbox *sandbox, int dir_fd, struct bg_err *err)
{
    (void)sandbox;
    return bg_volume_fork_into(owner, dir_fd, err);
}

/* A launcher that has said why it failed is still about to let its folder go. */
static void remove_failed(struct app *app, const char *name)
{
    struct bg_err err;
    uint64_t deadline_ms = bg_now_ms() + FAILED_MS;
    int r;
    while ((r = remove_sandbox(app, name, &err)) == -EBUSY && bg_now_ms() < deadline_ms)
        (void)poll(NULL, 0, FAILED_POLL_MS);
    if (r < 0)
        app_note("%s", err.text);
}

static void creation_work(uv_work_t *work)
{
    struct job *job = work->data;
    const struct sandboxes_opts *opts = &job->all->opts;
    struct sandbox_entry *entry = job->entry;
    struct launch_opts launch = {.signal_fd = -1, .owner_fd = -1, .quiet = true};
    int signal_number;
    bool made = false;
    struct bg_volume root = {0};
    const struct bg_sandbox_filling filling = {.fill = fork_root, .owner = &root};
    int r = fill_in(opts, &job->config, &entry->sandbox, &job->err);
    if (r == 0)
        r = attach_volumes(&opts->app->paths, entry->record.token, &job->config, job->waits,
                           &entry->sandbox, &root, &job->err);
    if (r == 0) {
        r = root.id[0]
                ? bg_sandbox_create_filled(&opts->app->paths, &entry->sandbox, &filling, &job->err)
                : pool_create(opts->app, &entry->sandbox, &launch.claim_fd, &job->err);
        made = r == 0;
    }
    bg_volume_done(&root);
    if (r == 0)
        r = keep_secrets(&job->config, &entry->sandbox, &job->err);
    if (r == 0)
        r = record_save(entry->sandbox.dir, &entry->record, &job->err);
    if (r == 0)
        r = launch_start(&entry->sandbox, &launch, NULL, &signal_number, &job->err);
    if (launch.claim_fd > 0)
        (void)close(launch.claim_fd); /* it has said all */
    job->status = r;
    if (r < 0 && made)
        remove_failed(opts->app, entry->sandbox.name);
}

static void creation_over(uv_work_t *work, int status)
{
    struct job *job = work->data;
    struct sandboxes *all = job->all;
    struct sandbox_entry *entry = NULL;
    (void)status; /* nobody cancels work */
    all->waiting -= job->waits;
    uv_update_time(all->loop);
    if (job->status == 0)
        metric_observe(&all->opts.metrics->create, uv_now(all->loop) - job->began_ms);
    else
        all->opts.metrics->create_failed++;
    if (job->status == 0) {
        entry = BG_TAKE(job->entry);
        job->status = admit(all, entry, &job->err);
        if (job->status < 0 || !job->owner || all->closing) {
            sandboxes_remove(entry, NULL, NULL);
            entry = NULL;
        }
    } else {
        all->count--;
    }
    if (job->status < 0)
        bg_log(all->opts.log, BG_LOG_ERROR, "cannot make a sandbox: %s", job->err.text);
    job_tell(job, entry);
    job_free(job);
    free_if_all(all);
}

/* A volume of it may be one that a sandbox which is just ending still has. */
static bool may_wait(const struct sandboxes *all, const struct create_config *config)
{
    const struct job *job;
    if ((config->volume_count == 0 && !config->root) || all->waiting >= BG_GATEWAY_WAITS_MAX)
        return false;
    LIST_FOREACH(job, &all->jobs, link)
    {
        if (job->removes)
            return true;
    }
    return false;
}

char *sandboxes_make_id(const struct sandboxes *all)
{
    return make_id(all->opts.region);
}

struct quota_use sandboxes_use(struct sandboxes *all, const char *token)
{
    const struct sandbox_entry *entry;
    const struct sandboxes_claim *claim;
    const struct job *job;
    struct quota_use use = {0};
    LIST_FOREACH(entry, &all->entries, link)
    {
        if (entry->state == SANDBOX_ENDS || strcmp(entry->record.token, token) != 0)
            continue;
        use.sandboxes++;
        use.memory_bytes += entry->sandbox.memory_bytes;
    }
    LIST_FOREACH(job, &all->jobs, link)
    {
        if (!job->entry || strcmp(job->entry->record.token, token) != 0)
            continue;
        use.sandboxes++;
        use.memory_bytes += job->config.memory_bytes; /* the entry has it later, in a thread */
    }
    LIST_FOREACH(claim, &all->claims, link)
    {
        if (strcmp(claim->token, token) != 0)
            continue;
        use.sandboxes += claim->count;
        use.memory_bytes += claim->count * claim->memory_bytes;
    }
    return use;
}

static const char *state_of(const struct sandbox_entry *entry)
{
    return entry->state == SANDBOX_SLEEPS ? "suspended" : "running";
}

int sandboxes_count(struct sandboxes *all, struct metric_sandbox **ret, size_t *ret_count)
{
    const struct sandbox_entry *entry;
    const struct job *job;
    size_t count = 0, at = 0;
    LIST_FOREACH(entry, &all->entries, link) count++;
    LIST_FOREACH(job, &all->jobs, link) count++;
    struct metric_sandbox *list = calloc(count + 1, sizeof *list);
    if (!list)
        return -ENOMEM;
    LIST_FOREACH(entry, &all->entries, link)
    {
        if (entry->state != SANDBOX_ENDS)
            list[at++] = (struct metric_sandbox){entry->record.token, state_of(entry),
                                                 entry->sandbox.memory_bytes};
    }
    LIST_FOREACH(job, &all->jobs, link)
    {
        if (job->entry)
            list[at++] = (struct metric_sandbox){job->entry->record.token, "starting",
                                                 job->config.memory_bytes};
    }
    *ret = list;
    *ret_count = at;
    return 0;
}

static int check_room(const struct sandboxes *all, size_t count, struct bg_err *err)
{
    return count <= BG_GATEWAY_SANDBOXES_MAX && all->count <= BG_GATEWAY_SANDBOXES_MAX - count
               ? 0
               : bg_err_set(err, -EMFILE, "there are %zu sandboxes already: end some first",
                            all->count);
}

/* Errors: as quota_admit; -EMFILE the gateway has no room. */
static int may_create(struct sandboxes *all, const struct create_config *config, const char *token,
                      const struct quota *quota, struct bg_err *err)
{
    const struct quota_use use = sandboxes_use(all, token);
    const struct quota_ask ask = {.memory_bytes = config->memory_bytes,
                                  .now_ms = unix_ms(),
                                  .stop_at_ms = config->stop_at_ms};
    int r = check_room(all, 1, err);
    return r < 0 ? r : quota_admit(quota, token, &use, &ask, err);
}

int sandboxes_claim(struct sandboxes *all, struct sandboxes_claim *claim, const struct quota *quota,
                    struct bg_err *err)
{
    struct quota_use use = sandboxes_use(all, claim->token);
    const struct quota_ask ask = {.memory_bytes = claim->memory_bytes, .now_ms = unix_ms()};
    int r = check_room(all, claim->count, err);
    for (size_t i = 0; r == 0 && i < claim->count; i++) {
        r = quota_admit(quota, claim->token, &use, &ask, err);
        use.sandboxes++;
        use.memory_bytes += claim->memory_bytes;
    }
    if (r < 0)
        return r;
    all->count += claim->count;
    LIST_INSERT_HEAD(&all->claims, claim, link);
    return 0;
}

void sandboxes_unclaim(struct sandboxes *all, struct sandboxes_claim *claim)
{
    all->count -= claim->count;
    LIST_REMOVE(claim, link);
}
void sandboxes_create(struct sandboxes *all, struct create_config *config, const char *token,
                      const struct quota *quota, sandboxes_done *on_done, void *owner)
{
    struct bg_err err;
    if (may_create(all, config, token, quota, &err) < 0) {
        create_config_done(config);
        on_done(owner, NULL, &err);
        return;
    }
    struct job *job = calloc(1, sizeof *job);
    struct sandbox_entry *entry = calloc(1, sizeof *entry);
    if (job && entry)
        entry->record = (struct record){.token = strdup(token),
                                        .stop_at_ms = config->stop_at_ms,
                                        .ends_by_ms = quota_ends_by(quota, unix_ms()),
                                        .labels = json_incref(config->labels),
                                        .env = json_incref(config->env)};
    if (!job || !entry || !entry->record.token) {
        free(job);
        entry_free(entry);
        create_config_done(config);
        out_of_memory(all, on_done, owner);
        return;
    }
    all->count++;
    bool waits = may_wait(all, config);
    all->waiting += waits;
    *job = (struct job){.all = all,
                        .config = *config,
                        .entry = entry,
                        .waits = waits,
                        .on_done = on_done,
                        .owner = owner,
                        .began_ms = uv_now(all->loop)};
    *config = (struct create_config){0};
    job->work.data = job;
    LIST_INSERT_HEAD(&all->jobs, job, link);
    (void)uv_queue_work(all->loop, &job->work, creation_work, creation_over); /* cannot fail */
}

void sandboxes_forget(struct sandboxes *all, const void *owner)
{
    struct job *job;
    LIST_FOREACH(job, &all->jobs, link)
    {
        if (job->owner == owner)
            job->owner = NULL;
    }
}

/* ---- those of an earlier gateway ---- */

static int adopt(struct sandboxes *all, const char *name, struct bg_err *err)
{
    struct sandbox_entry *entry = calloc(1, sizeof *entry);
    enum bg_sandbox_state state;
    if (!entry)
        return bg_err_errno(err, -ENOMEM, "sandbox");
    if (bg_sandbox_load(&all->opts.app->paths, name, &entry->sandbox, err) < 0 ||
        bg_sandbox_state(&entry->sandbox, &state, NULL, err) < 0 ||
        record_load(entry->sandbox.dir, &entry->record, err) < 0) {
        /* Removed just now, damaged, or not a gateway's: nothing of ours. */
        entry_free(entry);
        return 0;
    }
    if (state != BG_SANDBOX_RUNNING && state != BG_SANDBOX_SUSPENDED) {
        entry_free(entry);
        return 0; /* it ended by itself: as in doze_over */
    }
    entry->state = state == BG_SANDBOX_RUNNING ? SANDBOX_RUNS : SANDBOX_SLEEPS;
    all->count++;
    if (admit(all, entry, err) < 0) {
        sandboxes_remove(entry, NULL, NULL);
        return 0;
    }
    if (entry->record.stop_at_ms == 0)
        set_timer(entry, ORPHAN_MS);
    if (entry->state == SANDBOX_SLEEPS)
        falls_asleep(entry);
    return 0;
}

int sandboxes_open(uv_loop_t *loop, const struct sandboxes_opts *opts, struct sandboxes **ret,
                   struct bg_err *err)
{
    char **names = NULL;
    struct sandboxes *all = calloc(1, sizeof *all);
    if (!all)
        return bg_err_errno(err, -ENOMEM, "sandboxes");
    all->loop = loop;
    all->opts = *opts;
    LIST_INIT(&all->entries);
    LIST_INIT(&all->jobs);
    LIST_INIT(&all->claims);
    start_looking(all);
    int r = bg_sandbox_names(&opts->app->paths, &names, err);
    for (size_t i = 0; r == 0 && names[i]; i++)
        if (route_id_ok(names[i]))
            r = adopt(all, names[i], err);
    bg_sandbox_names_free(names);
    if (r < 0) {
        sandboxes_close(all);
        return r;
    }
    *ret = all;
    return 0;
}

void sandboxes_close(struct sandboxes *all)
{
    struct sandbox_entry *entry, *next;
    all->closing = true;
    uv_close((uv_handle_t *)&all->look_timer, look_closed);
    for (entry = LIST_FIRST(&all->entries); entry; entry = next) {
        next = LIST_NEXT(entry, link);
        dismiss(entry);
    }
    free_if_all(all);
}

/* ---- use ---- */

struct sandbox_entry *sandboxes_find_any(struct sandboxes *all, const char *id)
{
    return entry_of(all, id);
}

struct sandbox_entry *sandboxes_find(struct sandboxes *all, const char *id, const char *token)
{
    struct sandbox_entry *entry = sandboxes_find_any(all, id);
    return entry && strcmp(entry->record.token, token) == 0 ? entry : NULL;
}

static int no_such(const char *name, struct bg_err *err)
{
    return bg_err_set(err, -ENOENT, "there is no sandbox '%s'", name);
}

/* One that runs and that this gateway does not know: an entry of it. It does not end for want of a
 * connection: somebody has started it by hand. */
static int admit_running(struct sandboxes *all, const char *name, const char *token, bool everyone,
                         struct sandbox_entry **ret, struct bg_err *err)
{
    enum bg_sandbox_state state;
    struct bg_err why;
    struct sandbox_entry *entry = calloc(1, sizeof *entry);
    if (!entry)
        return bg_err_errno(err, -ENOMEM, "sandbox");
    int r = bg_sandbox_load(&all->opts.app->paths, name, &entry->sandbox, err);
    if (r == 0)
        r = bg_sandbox_state(&entry->sandbox, &state, NULL, err);
    if (r == 0 && state != BG_SANDBOX_RUNNING)
        r = bg_err_set(err, -ENOTCONN, "sandbox '%s' is %s: start it first", name,
                       bg_sandbox_state_name(state));
    if (r == 0 && record_load(entry->sandbox.dir, &entry->record, &why) < 0) {
        entry->foreign = true;
        entry->record =
            (struct record){.token = strdup(""), .labels = json_object(), .env = json_object()};
        if (!entry->record.token || !entry->record.labels || !entry->record.env)
            r = bg_err_errno(err, -ENOMEM, "sandbox");
    }
    /* Before it is in the list: who may not have it changes nothing. */
    if (r == 0 && !everyone && strcmp(entry->record.token, token) != 0)
        r = no_such(name, err);
    if (r < 0) {
        entry_free(entry);
        return r;
    }
    all->count++;
    r = admit(all, entry, err);
    if (r < 0) {
        dismiss(entry);
        return r;
    }
    *ret = entry;
    return 0;
}

int sandboxes_reach(struct sandboxes *all, const char *name, const char *token, bool everyone,
                    struct sandbox_entry **ret, struct bg_err *err)
{
    struct sandbox_entry *entry = sandboxes_find_any(all, name);
    if (!entry)
        return admit_running(all, name, token, everyone, ret, err);
    if (!everyone && strcmp(entry->record.token, token) != 0)
        return no_such(name, err);
    *ret = entry;
    return 0;
}

static bool has_owner(const struct sandbox_entry *entry)
{
    struct viewer *viewer;
    LIST_FOREACH(viewer, &entry->viewers, link)
    {
        if (viewer->is_owner)
            return true;
    }
    return false;
}

void sandboxes_view(struct sandbox_entry *entry, struct viewer *viewer)
{
    /* The first one that comes back to an orphan is who it lives with from then on. */
    viewer->is_owner =
        !entry->foreign && !viewer->looks_on && entry->record.stop_at_ms == 0 && !has_owner(entry);
    if (viewer->is_owner)
        set_timer(entry, UINT64_MAX);
    LIST_INSERT_HEAD(&entry->viewers, viewer, link);
}

void sandboxes_unview(struct sandbox_entry *entry, struct viewer *viewer)
{
    LIST_REMOVE(viewer, link);
    entry->quiet_since_ms = uv_now(entry->all->loop);
    if (viewer->is_owner && entry->record.stop_at_ms == 0)
        sandboxes_remove(entry, NULL, NULL);
    else if (entry->foreign && LIST_EMPTY(&entry->viewers))
        dismiss(entry);
}

/* Of one that no gateway made nothing is kept: it would be the next gateway's then. */
static int save_record(const struct sandbox_entry *entry, const struct record *record,
                       struct bg_err *err)
{
    return entry->foreign
               ? bg_err_set(err, -EOPNOTSUPP, "sandbox '%s' was not made by this gateway",
                            entry->sandbox.name)
               : record_save(entry->sandbox.dir, record, err);
}

int sandboxes_set_env(struct sandbox_entry *entry, const char *name, const char *value,
                      struct bg_err *err)
{
    struct record changed = entry->record;
    json_t *text = value ? json_string(value) : json_null();
    changed.env = json_copy(entry->record.env);
    int r = json_object_set_new(changed.env, name, text) < 0
                ? bg_err_errno(err, -ENOMEM, "environment")
                : save_record(entry, &changed, err);
    json_t *other = changed.env;
    if (r == 0) {
        other = entry->record.env;
        entry->record.env = changed.env;
    }
    json_decref(other);
    return r;
}

int sandboxes_set_port(struct sandbox_entry *entry, uint16_t port, struct bg_err *err)
{
    struct record changed = entry->record;
    changed.port = port;
    int r = save_record(entry, &changed, err);
    if (r == 0)
        entry->record.port = port;
    return r;
}

int sandboxes_extend(struct sandbox_entry *entry, uint64_t stop_at_ms, const struct quota *quota,
                     struct bg_err *err)
{
    struct record changed = entry->record;
    int r = quota_check_stop(quota, changed.token, entry->sandbox.created_ms, stop_at_ms, err);
    changed.stop_at_ms = stop_at_ms;
    changed.ends_by_ms = quota_ends_by(quota, entry->sandbox.created_ms);
    if (r == 0)
        r = save_record(entry, &changed, err);
    if (r < 0)
        return r;
    entry->record.stop_at_ms = stop_at_ms;
    entry->record.ends_by_ms = changed.ends_by_ms;
    set_timer(entry, UINT64_MAX);
    return 0;
}

void sandboxes_keep(struct sandbox_entry *entry, uint64_t stop_at_ms)
{
    struct record changed = entry->record;
    struct bg_err err;
    if (entry->foreign || changed.stop_at_ms > 0)
        return;
    changed.stop_at_ms = stop_at_ms;
    if (save_record(entry, &changed, &err) < 0) {
        bg_log(entry->all->opts.log, BG_LOG_ERROR, "sandbox %s: %s", entry->sandbox.name, err.text);
        return;
    }
    entry->record.stop_at_ms = stop_at_ms;
    set_timer(entry, UINT64_MAX);
}

void sandboxes_ended(struct sandboxes *all, const char *id)
{
    struct sandbox_entry *entry = entry_of(all, id);
    if (entry && entry->state != SANDBOX_WAKES) /* else wake_over finds it ended */
        dismiss(entry);
}

json_t *sandboxes_describe(const struct sandbox_entry *entry)
{
    char region[4];
    (void)snprintf(region, sizeof region, "%s", entry->sandbox.name + 4);
    return json_pack("{s:s, s:o, s:n, s:s, s:s, s:O}", "id", entry->sandbox.name, "createdAt",
                     text_time((int64_t)entry->sandbox.created_ms * 1000000), "stoppedAt", "region",
                     region, "status", "running", "labels", entry->record.labels);
}

static bool has_labels(const struct sandbox_entry *entry, const json_t *labels)
{
    const char *key;
    json_t *value;
    /* The iterator takes no const object, and changes none. */
    json_object_foreach(
        (json_t *)(uintptr_t)labels, key,
        value) if (!json_equal(json_object_get(entry->record.labels, key), value)) return false;
    return true;
}

json_t *sandboxes_list(struct sandboxes *all, const char *token, const json_t *labels)
{
    struct sandbox_entry *entry;
    json_t *list = json_array();
    LIST_FOREACH(entry, &all->entries, link)
    {
        if (entry->state != SANDBOX_ENDS && strcmp(entry->record.token, token) == 0 &&
            has_labels(entry, labels) &&
            json_array_append_new(list, sandboxes_describe(entry)) < 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}
