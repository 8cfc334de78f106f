#include "net/serve.h"

#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/io.h"
#include "common/limits.h"
#include "net/audit_socket.h"
#include "net/confine.h"
#include "net/intake.h"
#include "net/ledger.h"
#include "net/locked.h"
#include "net/policy_file.h"
#include "net/presets.h"
#include "net/secrets_file.h"
#include "net/store.h"

#define DRAIN_MS    500                         /* for connections to end by themselves */
#define OTHER_FILES (64 + BG_EGRESS_RACING_MAX) /* the loop's, the log, the resolver's; dials */
#define KEPT_BYTES  (512 * 1024)                /* of freed memory */

struct server {
    const struct serve_opts *opts;
    struct secrets_file secrets_file;
    uv_loop_t loop;
    struct policy policy;
    bool audit_best_effort;
    struct secrets secrets;
    struct parent parent;  /* its port is 0: there is none */
    struct ledger *ledger; /* NULL: none */
    struct tls_context *tls;
    struct engine *engine;
    struct intake *intake;
    uv_signal_t signals[2];
    uv_timer_t drain;
    uv_poll_t life; /* of a worker */
    bool stopping;
};

static int load_secret(struct server *server, const struct bg_secret_use *use, struct bg_err *err)
{
    void *value = NULL;
    size_t size = 0;
    bool locked = true;
    struct bg_err why;
    int r = secrets_file_get(&server->secrets_file, use->name, &value, &size);
    if (r == -ENOENT && server->opts->own_dir)
        r = store_get(server->opts->own_dir, use->name, &value, &size, &locked, &why);
    if (r == -ENOENT)
        r = store_get(server->opts->paths->data, use->name, &value, &size, &locked, &why);
    else if (r < 0)
        (void)bg_err_errno(&why, r, "secret %s", use->name);
    if (!locked)
        bg_log(server->opts->log, BG_LOG_WARN,
               "secret %s may be swapped out: the limit on locked memory is too low (ulimit -l)",
               use->name);
    if (r < 0 && r != -ENOMEM) /* said again, and audited, for each request that would need it */
        bg_log(server->opts->log, BG_LOG_ERROR, "%s; requests that need it are refused", why.text);
    if (r == -ENOMEM)
        return bg_err_set(err, r, "%s", why.text);
    r = secrets_add(&server->secrets, use->name, use->placeholder, (const char *const *)use->hosts,
                    use->host_count, value, size, err);
    if (r < 0)
        locked_free(value, size);
    for (size_t i = 0; r == 0 && i < use->inherited_count; i++)
        r = secrets_add_inherited(&server->secrets, use->name, use->inherited[i], err);
    return r;
}

static int load_tls(struct server *server, struct bg_err *err)
{
    BG_AUTOFREE char *ca = NULL;
    size_t ca_size = 0;
    const char *path = server->opts->upstream_ca;
    if (path) {
        int r = bg_read_file(AT_FDCWD, path, BG_MANIFEST_MAX, &ca, &ca_size, err);
        if (r < 0) {
            (void)bg_err_prefix(err, "upstream CA");
            return r;
        }
    }
    int r = tls_context_new(server->opts->paths->data, server->opts->ca_pem, ca, ca_size,
                            &server->tls, err);
    if (r == -EINVAL && path)
        (void)bg_err_prefix(err, "upstream CA %s", path);
    return r;
}

/* Without the login the parent says what it thinks of that, to each request. */
static int load_parent(struct server *server, const struct policy_file *file, struct bg_err *err)
{
    void *login = NULL;
    size_t size = 0;
    struct bg_err why;
    server->parent.at = file->parent;
    if (!file->parent_login)
        return 0;
    int r = store_get(server->opts->paths->data, file->parent_login, &login, &size, NULL, &why);
    if (r == 0)
        r = parent_set_login(&server->parent, login, size, &why);
    locked_free(login, size);
    if (r == -ENOMEM)
        return bg_err_set(err, r, "%s", why.text);
    if (r < 0)
        bg_log(server->opts->log, BG_LOG_ERROR, "parent_login %s: %s; going on without it",
               file->parent_login, why.text);
    return 0;
}

static int load_policy(struct server *server, struct bg_err *err)
{
    struct policy_file file;
    const char *text = server->opts->policy;
    if (!text)
        return 0;
    int r = policy_file_parse("policy", text, strlen(text), &presets_installed, &file, err);
    if (r < 0)
        return r;
    server->policy.strict = file.policy.strict;
    server->audit_best_effort = file.audit_best_effort;
    for (size_t i = 0; r == 0 && i < file.policy.count; i++)
        r = policy_add(&server->policy, &file.policy.rules[i], err);
    if (r == 0)
        r = load_parent(server, &file, err);
    for (size_t i = 0; r == 0 && i < file.secret_count; i++)
        r = secrets_add_rule(&server->secrets, file.secrets[i].name, &file.secrets[i].rule, err);
    policy_file_done(&file);
    return r;
}

static int load_secrets_file(struct server *server, struct bg_err *err)
{
    bool locked = true;
    const char *path = server->opts->secrets_file;
    int r = path ? secrets_file_open(path, &server->secrets_file, &locked, err) : 0;
    if (!locked)
        bg_log(server->opts->log, BG_LOG_WARN,
               "secrets may be swapped out: the limit on locked memory is too low (ulimit -l)");
    return r;
}

/* Has all limits count where they did before. */
static int load_ledger(struct server *server, struct bg_err *err)
{
    const struct serve_shared *shared = server->opts->shared;
    int r = 0;
    if (shared)
        r = ledger_open_fd(shared->ledger_fd, "budgets", &server->ledger, err);
    else if (server->opts->ledger)
        r = ledger_open(server->opts->ledger, &server->ledger, err);
    for (size_t i = 0; r == 0 && server->ledger && i < server->policy.count; i++)
        if (server->policy.rules[i].meter)
            r = ledger_attach(server->ledger, server->policy.rules[i].meter, err);
    for (size_t i = 0; r == 0 && server->ledger && i < server->secrets.count; i++) {
        const struct secret *secret = &server->secrets.items[i];
        for (size_t k = 0; r == 0 && k < secret->rule_count; k++)
            if (secret->rules[k].meter)
                r = ledger_attach(server->ledger, secret->rules[k].meter, err);
    }
    return r;
}

static bool has_limits(const struct server *server)
{
    for (size_t i = 0; i < server->policy.count; i++)
        if (server->policy.rules[i].meter)
            return true;
    return server->secrets.budget_count > 0;
}

static int load(struct server *server, struct bg_err *err)
{
    const struct serve_opts *opts = server->opts;
    int r = policy_init(&server->policy, (const char *const *)opts->allow, opts->allow_count, err);
    if (r == 0)
        r = load_secrets_file(server, err);
    for (size_t i = 0; r == 0 && i < opts->secret_count; i++)
        r = load_secret(server, &opts->secrets[i], err);
    secrets_file_close(&server->secrets_file);
    if (r == 0)
        r = load_policy(server, err);
    if (r == 0 && has_limits(server))
        r = load_ledger(server, err);
    if (r == 0)
        r = load_tls(server, err);
    return r;
}

/* A secret without a value is in the audit too: whoever looks there for why a request failed shall
 * find it without the log. */
static void audit_missing(struct server *server)
{
    for (size_t i = 0; i < server->secrets.count; i++) {
        if (server->secrets.items[i].value)
            continue;
        struct audit_event event = {.host = "",
                                    .scheme = "",
                                    .decision = AUDIT_ERROR,
                                    .reason = "secret-without-value",
                                    .use.valueless = UINT64_C(1) << i};
        engine_audit(server->engine, &event);
    }
}

static void engine_closed(void *owner)
{
    struct server *server = owner;
    for (size_t i = 0; i < 2; i++)
        uv_close((uv_handle_t *)&server->signals[i], NULL);
    audit_socket_close(BG_TAKE(server->engine->audit_socket));
    if (server->opts->shared)
        uv_close((uv_handle_t *)&server->life, NULL);
    uv_unref((uv_handle_t *)&server->drain); /* it is only for what is still open now */
}

static void intake_closed(void *owner)
{
    struct server *server = owner;
    engine_close(server->engine, engine_closed, server);
}

/* A name that is being resolved keeps its thread, and so the loop, for as long as DNS takes; nobody
 * waits for that. */
static void drain_timed_out(uv_timer_t *timer)
{
    uv_stop(timer->loop);
}

static void stop(void *owner)
{
    struct server *server = owner;
    if (server->stopping)
        return;
    server->stopping = true;
    (void)uv_timer_start(&server->drain, drain_timed_out, DRAIN_MS,
                         0); /* fails only when closing */
    intake_close(BG_TAKE(server->intake));
}

/* The supervisor has gone, or another proxy has taken our place: a policy was changed. */
static void supervisor_gone(void *owner)
{
    struct server *server = owner;
    engine_drain(server->engine, stop, server);
}

static void retire_timed_out(uv_timer_t *timer)
{
    struct server *server = timer->data;
    engine_drain(server->engine, stop, server);
}

/* Others have taken our place, or the process that started us has gone. What is being set up may
 * still bring its request, for a while: a client that has got an answer to CONNECT would take the
 * end of the connection for a failure. */
static void retire(uv_poll_t *life, int status, int events)
{
    struct server *server = life->data;
    (void)status;
    (void)events;
    (void)uv_poll_stop(life); /* fails only when closing */
    if (server->stopping)
        return;
    intake_stop(server->intake);
    (void)uv_timer_start(&server->drain, retire_timed_out, BG_PROXY_RETIRE_MS,
                         0);                     /* fails only when closing */
    engine_retire(server->engine, stop, server); /* last: may end us */
}

static int watch_life(struct server *server, struct bg_err *err)
{
    int r = uv_poll_init(&server->loop, &server->life, server->opts->shared->life_fd);
    if (r < 0)
        return bg_err_set(err, r, "life: %s", uv_strerror(r));
    server->life.data = server;
    (void)uv_poll_start(&server->life, UV_READABLE, retire); /* fails only when closing */
    return 0;
}

static void signalled(uv_signal_t *handle, int number)
{
    (void)number;
    stop(handle->data);
}

static int watch_signals(struct server *server, struct bg_err *err)
{
    static const int numbers[2] = {SIGTERM, SIGINT};
    (void)signal(SIGPIPE, SIG_IGN); /* fails only for numbers that are none */
    for (size_t i = 0; i < 2; i++) {
        int r = uv_signal_init(&server->loop, &server->signals[i]);
        if (r == 0)
            r = uv_signal_start(&server->signals[i], signalled, numbers[i]);
        if (r < 0)
            return bg_err_set(err, r, "signals: %s", uv_strerror(r));
        server->signals[i].data = server;
    }
    return 0;
}

/* Each connection has two sockets. With fewer files allowed there are fewer connections, so that
 * running out of files is not a case of its own. */
static int raise_file_limit(const struct bg_log *log, unsigned *conns_max, struct bg_err *err)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return bg_err_errno(err, -errno, "limit on open files");
    rlim_t want = 2 * (rlim_t)*conns_max + OTHER_FILES;
    if (limit.rlim_cur < want)
        limit.rlim_cur = limit.rlim_max < want ? limit.rlim_max : want;
    if (limit.rlim_cur <= OTHER_FILES + 2 || setrlimit(RLIMIT_NOFILE, &limit) < 0)
        return bg_err_set(err, -EMFILE, "the limit on open files is too low (ulimit -n)");
    if (limit.rlim_cur < want) {
        *conns_max = (unsigned)(limit.rlim_cur - OTHER_FILES) / 2;
        bg_log(log, BG_LOG_WARN, "only %u connections at once: the limit on open files is %llu",
               *conns_max, (unsigned long long)limit.rlim_cur);
    }
    return 0;
}

/* Whoever gives us the next audit file may fail to: then the present one shall not fill the disk.
 * At the limit a line cannot be written. It is the kernel's, and cannot be raised again. */
static int open_audit_socket(struct server *server, struct bg_err *err)
{
    struct rlimit limit;
    (void)signal(SIGXFSZ, SIG_IGN); /* fails only for numbers that are none */
    if (getrlimit(RLIMIT_FSIZE, &limit) < 0)
        return bg_err_errno(err, -errno, "limit on file sizes");
    if (limit.rlim_max > 2 * BG_AUDIT_FILE_SIZE)
        limit.rlim_max = 2 * BG_AUDIT_FILE_SIZE;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_FSIZE, &limit) < 0)
        return bg_err_errno(err, -errno, "limit on file sizes");
    return audit_socket_open(&server->loop, server->opts->audit_socket_fd, server->engine,
                             &server->engine->audit_socket, err);
}

static int open_loop(struct server *server, struct bg_err *err)
{
    const struct serve_opts *opts = server->opts;
    unsigned conns_max = opts->conns_max;
    int r = raise_file_limit(opts->log, &conns_max, err);
    if (r < 0)
        return r;
    const struct engine_opts engine_opts = {.sandbox = opts->sandbox,
                                            .policy = &server->policy,
                                            .secrets = &server->secrets,
                                            .tls = server->tls,
                                            .parent =
                                                server->parent.at.port ? &server->parent : NULL,
                                            .audit_fd = opts->audit_fd,
                                            .audit_best_effort = server->audit_best_effort,
                                            .log = opts->log,
                                            .timeouts = opts->timeouts,
                                            .conns_max = conns_max};
    r = uv_loop_init(&server->loop);
    if (r < 0)
        return bg_err_set(err, r, "loop: %s", uv_strerror(r));
    server->engine = malloc(sizeof *server->engine);
    if (!server->engine)
        return bg_err_errno(err, -ENOMEM, "engine");
    engine_init(server->engine, &server->loop, &engine_opts);
    const struct intake_opts intake_opts = {.engine = server->engine,
                                            .fd = opts->fd,
                                            .listening = opts->listening,
                                            .clients = opts->clients,
                                            .on_end = supervisor_gone,
                                            .on_closed = intake_closed,
                                            .owner = server};
    r = intake_open(&server->loop, &intake_opts, &server->intake, err);
    (void)uv_timer_init(&server->loop, &server->drain); /* cannot fail */
    server->drain.data = server;
    if (r == 0 && opts->audit_socket_fd >= 0)
        r = open_audit_socket(server, err);
    if (r == 0)
        r = watch_signals(server, err);
    return r == 0 && opts->shared ? watch_life(server, err) : r;
}

static void run(struct server *server)
{
    (void)uv_run(&server->loop, UV_RUN_DEFAULT);
    uv_close((uv_handle_t *)&server->drain, NULL);
    (void)uv_run(&server->loop, UV_RUN_NOWAIT);
    /* Whatever is left now waits for DNS, and ends with the process. */
    if (uv_loop_close(&server->loop) != 0)
        bg_log(server->opts->log, BG_LOG_DEBUG, "ended while a name was being resolved");
}

int serve_run(const struct serve_opts *opts, struct bg_err *err)
{
    /* Once a process. A thread that still resolves a name tells the loop when it has done, after
     * this has returned too. */
    static struct server server;
    server.opts = opts;
    unsigned uid, gid;
    bool landlock;
    /* One arena: threads resolve names and hold nothing, and memory should stay small. */
    (void)mallopt(M_ARENA_MAX, 1);
    /* Queues come and go with each piece of a body: some memory is kept for them, or the kernel
     * would have to clear it every time. */
    (void)mallopt(M_TRIM_THRESHOLD, KEPT_BYTES);
    (void)mallopt(M_MMAP_THRESHOLD, KEPT_BYTES);
    bg_runner_ids(&uid, &gid);
    int r = load(&server, err);
    if (r == 0)
        r = open_loop(&server, err);
    if (r == 0) {
        audit_missing(&server);
        r = confine_finish(uid, gid, &landlock, err);
    }
    if (r == 0 && opts->shared && write(opts->shared->ready_fd, "", 1) != 1)
        r = bg_err_set(err, -EPIPE, "the process that started this one has gone");
    if (r == 0) {
        bg_log(opts->log, opts->shared ? BG_LOG_DEBUG : BG_LOG_INFO,
               "serving: %zu rules, %zu secrets%s", server.policy.count, server.secrets.count,
               landlock ? "" : "; this kernel has no Landlock");
        run(&server);
    }
    free(server.engine);
    tls_context_free(server.tls);
    parent_done(&server.parent);
    secrets_done(&server.secrets);
    policy_done(&server.policy);
    ledger_close(server.ledger);
    return r;
}
