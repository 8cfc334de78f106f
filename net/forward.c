#include "net/forward.h"

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <jansson.h>

#include "common/io.h"
#include "common/limits.h"
#include "net/confine.h"
#include "net/policy_file.h"
#include "net/presets.h"
#include "net/serve.h"
#include "net/tls_ca.h"

#define START_MS     30000 /* for a worker to read its files */
#define STOP_MS      5000  /* for workers to end, before they are killed */
#define AGAIN_MIN_MS 100   /* before a worker that died is started again; doubles ... */
#define AGAIN_MAX_MS 5000
#define STEADY_MS    60000 /* ... unless it lived that long */

/* What the files said when they were read last. */
struct config {
    struct bg_secret_use uses[BG_EGRESS_SECRETS_MAX];
    char *specs[BG_EGRESS_SECRETS_MAX]; /* copies of --secret that uses point into */
    size_t count, spec_count;
    char *policy; /* the file's text; NULL: none */
    struct policy_file file;
};

struct worker {
    pid_t pid; /* 0: it has died */
    uint64_t started_ms, again_ms;
    unsigned wait_ms;
};

/* Workers that have read the same files. */
struct generation {
    struct config config;
    int audit_fd;
    int life[2]; /* a pipe; workers hold [0], and retire when [1] is closed */
    struct worker workers[BG_PROXY_WORKERS_MAX];
};

struct forward {
    const struct forward_opts *opts;
    struct bg_paths paths;
    unsigned worker_count;
    int listeners[BG_PROXY_WORKERS_MAX];
    char address[128]; /* where they listen */
    int signal_fd;
    int ledger_fd;                 /* what limits have counted; as long as this process */
    _Atomic uint32_t *next_stream; /* in memory that all workers have */
    struct generation *now;
    pid_t old[BG_PROXY_OLD_MAX]; /* retired, still at work; the longest first */
    size_t old_count;
};

/* --- files --- */

static void make_placeholder(struct bg_secret_use *use)
{
    uint8_t random[32];
    bg_random(random, sizeof random);
    memcpy(use->placeholder, SECRET_PREFIX, sizeof SECRET_PREFIX);
    bg_hex(random, sizeof random, use->placeholder + sizeof SECRET_PREFIX - 1);
}

static struct bg_secret_use *find_use(struct config *config, const char *name)
{
    for (size_t i = 0; i < config->count; i++)
        if (strcmp(config->uses[i].name, name) == 0)
            return &config->uses[i];
    return NULL;
}

/* Adds a secret; clients that know its placeholder from before keep it. */
static int add_use(struct config *config, struct config *before, char *name,
                   struct bg_secret_use **ret, struct bg_err *err)
{
    if (config->count == BG_EGRESS_SECRETS_MAX)
        return bg_err_set(err, -E2BIG, "more than %d secrets", BG_EGRESS_SECRETS_MAX);
    const struct bg_secret_use *known = before ? find_use(before, name) : NULL;
    struct bg_secret_use *use = &config->uses[config->count++];
    use->name = name;
    if (known)
        memcpy(use->placeholder, known->placeholder, sizeof use->placeholder);
    else
        make_placeholder(use);
    *ret = use;
    return 0;
}

/* NAME@HOST[,HOST...]; cuts text up. */
static int add_spec(struct config *config, struct config *before, char *text, struct bg_err *err)
{
    char *at = strchr(text, '@');
    if (!at || at == text || at[1] == '\0')
        return bg_err_set(err, -EINVAL, "--secret %s: want NAME@HOST[,HOST...]", text);
    *at = '\0';
    struct bg_secret_use *use = NULL;
    int r = add_use(config, before, text, &use, err);
    if (r < 0)
        return r;
    for (char *rest = at + 1, *host; (host = strsep(&rest, ",")) != NULL;) {
        char **grown = reallocarray(use->hosts, use->host_count + 1, sizeof *grown);
        if (!grown)
            return bg_err_errno(err, -ENOMEM, "--secret");
        use->hosts = grown;
        use->hosts[use->host_count++] = host;
    }
    return 0;
}

static void config_done(struct config *config)
{
    for (size_t i = 0; i < config->count; i++)
        free(config->uses[i].hosts); /* the texts are those of specs and file */
    for (size_t i = 0; i < config->spec_count; i++)
        free(config->specs[i]);
    free(config->policy);
    policy_file_done(&config->file);
}

/* before: what the generation that serves has, or NULL. */
static int config_load(const struct forward_opts *opts, struct config *before,
                       struct config *config, struct bg_err *err)
{
    size_t size;
    int r = 0;
    if (opts->secret_count > BG_EGRESS_SECRETS_MAX)
        return bg_err_set(err, -E2BIG, "more than %d secrets", BG_EGRESS_SECRETS_MAX);
    for (size_t i = 0; r == 0 && i < opts->secret_count; i++) {
        char *spec = strdup(opts->secrets[i]);
        if (!spec)
            return bg_err_errno(err, -ENOMEM, "--secret");
        config->specs[config->spec_count++] = spec;
        r = add_spec(config, before, spec, err);
    }
    if (r < 0 || !opts->policy)
        return r;
    r = bg_read_file(AT_FDCWD, opts->policy, BG_MANIFEST_MAX, &config->policy, &size, err);
    if (r == 0)
        r = policy_file_parse(opts->policy, config->policy, size, &presets_installed, &config->file,
                              err);
    for (size_t i = 0; r == 0 && i < config->file.secret_count; i++) {
        struct bg_secret_use *use = NULL;
        char *name = config->file.secrets[i].name;
        if (!find_use(config, name))
            r = add_use(config, before, name, &use, err);
    }
    return r;
}

static int open_audit(const char *path, int *ret_fd, struct bg_err *err)
{
    int fd =
        path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY, 0600)
             : fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    if (fd < 0)
        return bg_err_errno(err, -errno, "audit log %s", path ? path : "stderr");
    *ret_fd = fd;
    return 0;
}

/* --- listeners --- */

static int read_listen(const struct forward_opts *opts, struct destination *ret, struct bg_err *err)
{
    const char *text = opts->listen;
    /* Port 0 asks for any free one, and is no port of a destination. */
    size_t size = strlen(text);
    bool any = size > 2 && strcmp(text + size - 2, ":0") == 0;
    int r = any ? destination_parse_host(text, size - 2, ret, err)
                : destination_parse(text, size, 0, ret, err);
    if (r < 0 || !ret->is_address || (!any && ret->port == 0))
        return bg_err_set(err, -EINVAL, "--listen %s: want ADDRESS:PORT", text);
    if (opts->client_count == 0 && address_classify(&ret->address) != ADDRESS_LOOPBACK)
        return bg_err_set(err, -EINVAL,
                          "--listen %s: other machines could use the proxy and its secrets; name "
                          "those that may with --client-network ADDRESS/BITS",
                          text);
    return 0;
}

/* The first one is bound without SO_REUSEPORT, which fails where anything else listens: another
 * proxy of ours would share the connections with this one. Only then others may join it. */
static int open_listener(const struct sockaddr_storage *sa, socklen_t sa_size, bool first,
                         int *ret_fd)
{
    int on = 1;
    BG_AUTOCLOSE int fd = socket(sa->ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
        return -errno;
    if (!first && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) < 0)
        return -errno;
    if (bind(fd, (const struct sockaddr *)sa, sa_size) < 0)
        return -errno;
    if (first && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) < 0)
        return -errno;
    if (listen(fd, SOMAXCONN) < 0)
        return -errno;
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

static int format_listener(const struct sockaddr_storage *sa, socklen_t size, char *out,
                           size_t out_size)
{
    char host[64], port[16];
    if (getnameinfo((const struct sockaddr *)sa, size, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return -EIO;
    bool v6 = sa->ss_family == AF_INET6;
    (void)snprintf(out, out_size, "%s%s%s:%s", v6 ? "[" : "", host, v6 ? "]" : "", port);
    return 0;
}

static int open_listeners(struct forward *f, struct bg_err *err)
{
    struct destination at;
    struct sockaddr_storage sa;
    int r = read_listen(f->opts, &at, err);
    if (r < 0)
        return r;
    socklen_t sa_size = address_to_sockaddr(&at.address, at.port, &sa);
    for (unsigned i = 0; r == 0 && i < f->worker_count; i++) {
        r = open_listener(&sa, sa_size, i == 0, &f->listeners[i]);
        if (r == 0 && i == 0 && getsockname(f->listeners[0], (struct sockaddr *)&sa, &sa_size) < 0)
            r = -errno; /* from here on the port is known */
    }
    if (r == 0)
        r = format_listener(&sa, sa_size, f->address, sizeof f->address);
    return r < 0 ? bg_err_errno(err, r, "--listen %s", f->opts->listen) : 0;
}

/* --- workers --- */

/* In the new process. Returns its status. */
static int work(const struct forward *f, const struct generation *g, unsigned index, int ready_fd)
{
    const struct forward_opts *o = f->opts;
    struct bg_err err;
    sigset_t none;
    (void)sigemptyset(&none); /* cannot fail */
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)signal(SIGHUP, SIG_IGN); /* the parent's; a terminal's too, which it gets as well */
    const int keep[] = {f->listeners[index], ready_fd,     g->life[0],
                        g->audit_fd,         f->ledger_fd, o->log->fd};
    const struct serve_shared shared = {
        .ledger_fd = f->ledger_fd, .ready_fd = ready_fd, .life_fd = g->life[0]};
    const struct serve_opts opts = {.paths = &f->paths,
                                    .sandbox = "-",
                                    .allow = o->allow,
                                    .allow_count = o->allow_count,
                                    .policy = g->config.policy,
                                    .secrets = g->config.uses,
                                    .secret_count = g->config.count,
                                    .secrets_file = o->secrets_file,
                                    .upstream_ca = o->upstream_ca,
                                    .audit_fd = g->audit_fd,
                                    .audit_socket_fd = -1,
                                    .fd = f->listeners[index],
                                    .listening = true,
                                    .clients = {o->clients, o->client_count, f->next_stream},
                                    .shared = &shared,
                                    .log = o->log,
                                    .timeouts = o->timeouts,
                                    .conns_max = o->conns_max};
    int r = confine_start(keep, sizeof keep / sizeof *keep, &err);
    if (r == 0)
        r = serve_run(&opts, &err);
    if (r < 0)
        (void)!write(ready_fd, err.text, strlen(err.text)); /* nobody left to tell otherwise */
    return r < 0 ? 125 : 0;
}

static int fork_worker(const struct forward *f, struct generation *g, unsigned index,
                       int *ret_ready, struct bg_err *err)
{
    int ready[2];
    struct worker *w = &g->workers[index];
    (void)fflush(NULL); /* or the child might write it again */
    if (pipe2(ready, O_CLOEXEC) < 0)
        return bg_err_errno(err, -errno, "worker");
    pid_t pid = fork();
    if (pid == 0)
        _exit(work(f, g, index, ready[1]));
    int r = pid < 0 ? bg_err_errno(err, -errno, "worker") : 0;
    (void)close(ready[1]); /* the worker's */
    if (r < 0) {
        (void)close(ready[0]); /* nothing was in it */
        return r;
    }
    w->pid = pid;
    w->started_ms = bg_now_ms();
    *ret_ready = ready[0];
    return 0;
}

/* Waits until the worker serves. Closes ready. Errors: what it says. */
static int await_ready(const struct worker *w, int ready, struct bg_err *err)
{
    char text[BG_ERR_TEXT_SIZE] = "a worker ended before it served";
    struct pollfd p = {.fd = ready, .events = POLLIN};
    int n;
    do {
        n = poll(&p, 1, START_MS);
    } while (n < 0 && errno == EINTR);
    ssize_t got = n > 0 ? read(ready, text, sizeof text - 1) : 0;
    (void)close(ready); /* only read */
    if (got == 1 && text[0] == '\0')
        return 0;
    if (got > 0)
        text[got] = '\0';
    (void)kill(w->pid, SIGKILL); /* fails only if it has ended, as it should */
    return n == 0 ? bg_err_set(err, -ETIMEDOUT, "a worker does not come up")
                  : bg_err_set(err, -ECHILD, "%s", text);
}

static void signal_workers(const struct forward *f, const struct generation *g, int number)
{
    for (unsigned i = 0; i < f->worker_count; i++)
        if (g->workers[i].pid > 0)
            (void)kill(g->workers[i].pid, number); /* fails only if it has just ended */
}

static void generation_free(struct generation *g)
{
    if (!g)
        return;
    for (size_t i = 0; i < 2; i++)
        if (g->life[i] >= 0)
            (void)close(g->life[i]); /* nothing was written; the workers see the end */
    if (g->audit_fd >= 0)
        (void)close(g->audit_fd); /* the workers have written what there was */
    config_done(&g->config);
    free(g);
}

static void remember_old(struct forward *f, pid_t pid)
{
    if (f->old_count == BG_PROXY_OLD_MAX) {
        (void)kill(f->old[0], SIGTERM); /* fails only if it has just ended */
        memmove(f->old, f->old + 1, (f->old_count - 1) * sizeof *f->old);
        f->old_count--;
    }
    f->old[f->old_count++] = pid;
}

/* Its workers go on to the end of what they have begun. */
static void retire_generation(struct forward *f, struct generation *g)
{
    for (unsigned i = 0; i < f->worker_count; i++)
        if (g->workers[i].pid > 0)
            remember_old(f, g->workers[i].pid);
    generation_free(g);
}

/* The first worker alone, so that what is wrong in a file is told once; then the others. */
static int start_workers(const struct forward *f, struct generation *g, struct bg_err *err)
{
    int ready[BG_PROXY_WORKERS_MAX];
    int r = fork_worker(f, g, 0, &ready[0], err);
    if (r == 0)
        r = await_ready(&g->workers[0], ready[0], err);
    unsigned started = 1;
    for (; r == 0 && started < f->worker_count; started++) {
        r = fork_worker(f, g, started, &ready[started], err);
        if (r < 0)
            break;
    }
    for (unsigned i = 1; i < started; i++) {
        int failed = await_ready(&g->workers[i], ready[i], r < 0 ? NULL : err);
        r = r < 0 ? r : failed;
    }
    return r;
}

static int generation_start(struct forward *f, struct generation **ret, struct bg_err *err)
{
    struct generation *g = calloc(1, sizeof *g);
    if (!g)
        return bg_err_errno(err, -ENOMEM, "worker");
    g->audit_fd = g->life[0] = g->life[1] = -1;
    int r = config_load(f->opts, f->now ? &f->now->config : NULL, &g->config, err);
    if (r == 0)
        r = open_audit(f->opts->audit, &g->audit_fd, err);
    if (r == 0 && pipe2(g->life, O_CLOEXEC) < 0)
        r = bg_err_errno(err, -errno, "worker");
    if (r == 0)
        r = start_workers(f, g, err);
    if (r < 0) {
        retire_generation(f, g); /* some of them may be at work already */
        return r;
    }
    *ret = g;
    return 0;
}

/* --- what it prints --- */

static int print_json(const struct forward *f, const char *ca)
{
    const struct config *config = &f->now->config;
    json_t *secrets = json_array();
    for (size_t i = 0; i < config->count; i++)
        (void)json_array_append_new(secrets, /* shows as NULL below if it fails */
                                    json_pack("{s:s, s:s}", "name", config->uses[i].name,
                                              "placeholder", config->uses[i].placeholder));
    bool whole = json_array_size(secrets) == config->count;
    json_t *all = json_pack("{s:s, s:s, s:i, s:o}", "listen", f->address, "ca", ca, "workers",
                            (int)f->worker_count, "secrets", secrets);
    int r = whole && all && json_dumpf(all, stdout, JSON_COMPACT) == 0 && putchar('\n') != EOF
                ? 0
                : -EIO;
    json_decref(all);
    return r;
}

static int print_lines(const struct forward *f, const char *ca)
{
    const struct config *config = &f->now->config;
    bool ok = printf("listening %s\n", f->address) > 0;
    for (size_t i = 0; i < config->count; i++)
        ok &= printf("%s=%s\n", config->uses[i].name, config->uses[i].placeholder) > 0;
    return ok && printf("ca %s\n", ca) > 0 ? 0 : -EIO;
}

static int print_state(const struct forward *f, struct bg_err *err)
{
    BG_AUTOFREE char *ca = tls_ca_path(f->paths.data);
    int r = !ca ? -ENOMEM : f->opts->json ? print_json(f, ca) : print_lines(f, ca);
    return r < 0 || fflush(stdout) != 0 ? bg_err_set(err, -EIO, "cannot print where it listens")
                                        : 0;
}

/* --- life --- */

static void reload(struct forward *f)
{
    const struct bg_log *log = f->opts->log;
    struct generation *next = NULL, *before = f->now;
    struct bg_err err;
    if (generation_start(f, &next, &err) < 0) {
        bg_log(log, BG_LOG_ERROR, "%s; going on with what was read before", err.text);
        return;
    }
    f->now = next;
    retire_generation(f, before);
    bg_log(log, BG_LOG_INFO, "policy and secrets are read anew: %zu rules, %zu secrets",
           f->opts->allow_count + next->config.file.policy.count, next->config.count);
    (void)print_state(f, &err); /* whoever read it has perhaps gone; they serve all the same */
}

/* True for one of the generation's. */
static bool worker_ended(struct forward *f, pid_t pid, int status)
{
    for (unsigned i = 0; i < f->worker_count; i++) {
        struct worker *w = &f->now->workers[i];
        if (w->pid != pid)
            continue;
        uint64_t now = bg_now_ms();
        bool steady = now - w->started_ms >= STEADY_MS;
        unsigned doubled = w->wait_ms * 2 < AGAIN_MAX_MS ? w->wait_ms * 2 : AGAIN_MAX_MS;
        w->pid = 0;
        w->wait_ms = steady || w->wait_ms == 0 ? AGAIN_MIN_MS : doubled;
        w->again_ms = now + w->wait_ms;
        bg_log(f->opts->log, BG_LOG_ERROR, "worker %u ended with %s %d; it is started again", i,
               WIFSIGNALED(status) ? "signal" : "status",
               WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
        return true;
    }
    return false;
}

static void reap(struct forward *f)
{
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        if (f->now && worker_ended(f, pid, status))
            continue;
        for (size_t i = 0; i < f->old_count; i++)
            if (f->old[i] == pid) {
                memmove(f->old + i, f->old + i + 1, (f->old_count - i - 1) * sizeof *f->old);
                f->old_count--;
                break;
            }
    }
}

/* Starts those again whose time has come. Returns the ms until the next one's, or -1. */
static int replace_dead(struct forward *f)
{
    uint64_t now = bg_now_ms(), next = UINT64_MAX;
    struct bg_err err;
    for (unsigned i = 0; i < f->worker_count; i++) {
        struct worker *w = &f->now->workers[i];
        int ready = -1;
        if (w->pid > 0)
            continue;
        if (w->again_ms <= now) {
            int r = fork_worker(f, f->now, i, &ready, &err);
            if (r == 0)
                r = await_ready(w, ready, &err);
            else
                w->again_ms = now + AGAIN_MAX_MS;
            if (r < 0)
                bg_log(f->opts->log, BG_LOG_ERROR, "worker %u: %s", i, err.text);
        }
        if (w->pid == 0 && w->again_ms - now < next)
            next = w->again_ms - now;
    }
    return next == UINT64_MAX ? -1 : (int)next;
}

/* Returns false when it is told to stop. */
static bool take_signals(struct forward *f)
{
    struct signalfd_siginfo info;
    bool hup = false;
    while (read(f->signal_fd, &info, sizeof info) == (ssize_t)sizeof info) {
        bool hangup = info.ssi_signo == SIGHUP && info.ssi_code == SI_KERNEL; /* of the terminal */
        if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT || hangup)
            return false;
        hup |= info.ssi_signo == SIGHUP;
    }
    reap(f);
    if (hup)
        reload(f);
    return true;
}

static void run(struct forward *f)
{
    do {
        struct pollfd p = {.fd = f->signal_fd, .events = POLLIN};
        (void)poll(&p, 1, replace_dead(f)); /* whatever it says: looked at next */
    } while (take_signals(f));
}

/* Ends all workers, and waits for them. */
static void stop(struct forward *f)
{
    uint64_t start_ms = bg_now_ms();
    int number = SIGTERM;
    if (f->now)
        signal_workers(f, f->now, number);
    for (size_t i = 0; i < f->old_count; i++)
        (void)kill(f->old[i], number); /* fails only if it has just ended */
    for (;;) {
        pid_t pid = waitpid(-1, NULL, WNOHANG);
        if (pid < 0 && errno == ECHILD)
            return;
        if (pid != 0)
            continue;
        uint64_t gone = bg_now_ms() - start_ms;
        if (gone >= STOP_MS && number == SIGTERM) {
            number = SIGKILL;
            if (f->now)
                signal_workers(f, f->now, number);
            for (size_t i = 0; i < f->old_count; i++)
                (void)kill(f->old[i], number); /* fails only if it has just ended */
        }
        struct signalfd_siginfo info;
        struct pollfd p = {.fd = f->signal_fd, .events = POLLIN};
        (void)poll(&p, 1, number == SIGKILL ? -1 : (int)(STOP_MS - gone)); /* SIGCHLD */
        (void)!read(f->signal_fd, &info, sizeof info);                     /* only wakes us */
    }
}

static int open_signals(struct forward *f, struct bg_err *err)
{
    static const int numbers[] = {SIGTERM, SIGINT, SIGHUP, SIGCHLD};
    sigset_t set;
    (void)sigemptyset(&set); /* cannot fail, nor the next */
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        (void)sigaddset(&set, numbers[i]);
    (void)signal(SIGPIPE, SIG_IGN); /* fails only for numbers that are none */
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return bg_err_errno(err, -errno, "signals");
    f->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return f->signal_fd < 0 ? bg_err_errno(err, -errno, "signals") : 0;
}

static int open_shared(struct forward *f, struct bg_err *err)
{
    f->ledger_fd = memfd_create("budgets", MFD_CLOEXEC);
    void *memory = mmap(NULL, sizeof *f->next_stream, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (f->ledger_fd < 0 || memory == MAP_FAILED)
        return bg_err_errno(err, -errno, "memory of the workers");
    f->next_stream = memory;
    return 0;
}

static unsigned count_processors(void)
{
    cpu_set_t set;
    unsigned count = sched_getaffinity(0, sizeof set, &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;
    return count < BG_PROXY_WORKERS_MAX ? count : BG_PROXY_WORKERS_MAX;
}

int forward_run(const struct forward_opts *opts, struct bg_err *err)
{
    struct forward *f = calloc(1, sizeof *f);
    if (!f)
        return bg_err_errno(err, -ENOMEM, "proxy");
    f->opts = opts;
    f->worker_count = opts->workers ? opts->workers : count_processors();
    f->signal_fd = f->ledger_fd = -1;
    for (unsigned i = 0; i < BG_PROXY_WORKERS_MAX; i++)
        f->listeners[i] = -1;
    int r = bg_paths_init(&f->paths, err);
    if (r == 0)
        r = open_listeners(f, err);
    if (r == 0)
        r = open_shared(f, err);
    if (r == 0)
        r = open_signals(f, err);
    if (r == 0)
        r = generation_start(f, &f->now, err);
    if (r == 0)
        r = print_state(f, err);
    if (r == 0) {
        bg_log(opts->log, BG_LOG_INFO, "serving at %s: %u workers, %zu rules, %zu secrets",
               f->address, f->worker_count, opts->allow_count + f->now->config.file.policy.count,
               f->now->config.count);
        run(f);
    }
    stop(f);
    generation_free(f->now);
    for (unsigned i = 0; i < f->worker_count; i++)
        if (f->listeners[i] >= 0)
            (void)close(f->listeners[i]); /* nobody is waited for any more */
    if (f->signal_fd >= 0)
        (void)close(f->signal_fd); /* only read */
    if (f->ledger_fd >= 0)
        (void)close(f->ledger_fd); /* it goes with us */
    if (f->next_stream)
        (void)munmap(f->next_stream, sizeof *f->next_stream); /* fails only for what is none */
    bg_paths_done(&f->paths);
    free(f);
    return r;
}
