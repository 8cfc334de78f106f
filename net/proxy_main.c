/* bellglass-proxy: the process that holds the secrets and the network. Started by a sandbox's
 * launcher, or by hand as a forward proxy. */
#include <fcntl.h>
#include <getopt.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/io.h"
#include "common/limits.h"
#include "common/quote.h"
#include "common/state/audit_files.h"
#include "net/ca_users.h"
#include "net/confine.h"
#include "net/policy_file.h"
#include "net/presets.h"
#include "net/serve.h"
#include "net/tls_ca.h"

static const char help[] =
    "usage: bellglass-proxy sandbox NAME --socket-fd N --log-fd M [--audit-fd K]\n"
    "       bellglass-proxy --listen ADDRESS:PORT [OPTION...]\n"
    "       bellglass-proxy ca-path\n"
    "\n"
    "sandbox NAME      serve the sandbox's connections, which come over the socket N (a sandbox's\n"
    "                  launcher starts it so); reads the sandbox's sandbox.json, the secrets and "
    "the\n"
    "                  CA, and appends to the sandbox's audit.ndjson. When that is full the "
    "launcher\n"
    "                  is asked for the next file over the socket K\n"
    "ca-path           print the path of the CA certificate that guests must trust; it is made on\n"
    "                  first use\n"
    "\n"
    "--listen ADDRESS:PORT  be an HTTP forward proxy there; port 0: any free one. Prints\n"
    "                       'listening ADDRESS:PORT', and for each secret NAME=PLACEHOLDER\n"
    "--allow RULE           let requests through; may be given again. Nothing else passes\n"
    "--policy FILE          rules for requests and secrets, tried after --allow (docs/policy.md); "
    "its\n"
    "                       secrets need no --secret; a parent proxy is named there, too\n"
    "--secret NAME@HOST[,HOST...]  put the stored secret NAME where its placeholder stands in a\n"
    "                       header of an HTTPS request to HOST\n"
    "--upstream-ca FILE     PEM certificates to trust for upstreams beside the system's\n"
    "--audit FILE           append a line of JSON for each decision there (default: stderr)\n"
    "--timeout PHASE=MS     change the time that a phase may take: peek, handshake, head, idle,\n"
    "                       resolve, connect, response, stall, tcp-idle, linger,\n"
    "                       upstream-idle (0: none is kept for another connection)\n"
    "--connections N        how many at once\n"
    "\n"
    "RULE: HOST[:PORT][=ADDRESS[,ADDRESS...]]\n"
    "  HOST     a name, *.suffix (all names below suffix), an IP address (IPv6 in brackets), or a\n"
    "           network such as 10.0.3.0/24, for addresses that are dialled as such\n"
    "  PORT     without it: 80 and 443, for HTTP and TLS; with it: that port, for any protocol\n"
    "  ADDRESS  where HOST is, instead of asking DNS, or a network that DNS has to answer with;\n"
    "           needed for hosts whose addresses are not public, as in --allow "
    "echo.test:8443=127.0.0.1\n";

struct options {
    const char *sandbox; /* NULL: forward proxy */
    int socket_fd, log_fd, audit_socket_fd;
    const char *listen, *audit, *upstream_ca, *policy;
    char **allow;
    size_t allow_count;
    char **secrets;
    size_t secret_count;
    struct engine_timeouts timeouts;
    unsigned conns_max;
};

static int set_timeout(const char *text, struct engine_timeouts *t, struct bg_err *err)
{
    const struct {
        const char *name;
        uint64_t *ms;
    } phases[] = {
        {"peek", &t->peek_ms},
        {"handshake", &t->handshake_ms},
        {"head", &t->head_ms},
        {"idle", &t->idle_ms},
        {"resolve", &t->resolve_ms},
        {"connect", &t->connect_ms},
        {"response", &t->response_ms},
        {"stall", &t->stall_ms},
        {"tcp-idle", &t->tcp_idle_ms},
        {"linger", &t->linger_ms},
        {"upstream-idle", &t->upstream_idle_ms},
    };
    size_t size = strcspn(text, "=");
    for (size_t i = 0; i < sizeof phases / sizeof *phases; i++) {
        if (strlen(phases[i].name) != size || memcmp(phases[i].name, text, size) != 0)
            continue;
        uint64_t min = phases[i].ms == &t->upstream_idle_ms ? 0 : 1;
        if (text[size] == '=' && bg_parse_u64(text + size + 1, min, 86400000, phases[i].ms) == 0)
            return 0;
        return bg_err_set(err, -EINVAL, "--timeout %s: want %s=MILLISECONDS", text, phases[i].name);
    }
    return bg_err_set(err, -EINVAL, "--timeout %s: no such phase; see --help", text);
}

static int parse_number(const char *option, const char *text, uint64_t max, uint64_t *ret,
                        struct bg_err *err)
{
    int r = bg_parse_u64(text, 0, max, ret);
    return r < 0 ? bg_err_set(err, r, "%s %s: want a number up to %llu", option, text,
                              (unsigned long long)max)
                 : 0;
}

static int add_text(char ***texts, size_t *count, const char *text, struct bg_err *err)
{
    char **grown = reallocarray(*texts, *count + 1, sizeof *grown);
    char *copy = grown ? strdup(text) : NULL;
    if (grown)
        *texts = grown;
    if (!copy)
        return bg_err_errno(err, -ENOMEM, "options");
    (*texts)[(*count)++] = copy;
    return 0;
}

static void options_done(struct options *o)
{
    for (size_t i = 0; i < o->allow_count; i++)
        free(o->allow[i]);
    for (size_t i = 0; i < o->secret_count; i++)
        free(o->secrets[i]);
    free(o->allow);
    free(o->secrets);
}

enum {
    OPT_SOCKET_FD = 1000,
    OPT_LOG_FD,
    OPT_AUDIT_FD,
    OPT_LISTEN,
    OPT_ALLOW,
    OPT_SECRET,
    OPT_CA,
    OPT_AUDIT,
    OPT_POLICY,
    OPT_TIMEOUT,
    OPT_CONNECTIONS,
    OPT_HELP
};

static int set_option(struct options *o, int option, const char *value, struct bg_err *err)
{
    uint64_t number = 0;
    int r = 0;
    switch (option) {
    case OPT_SOCKET_FD:
        r = parse_number("--socket-fd", value, INT32_MAX, &number, err);
        o->socket_fd = (int)number;
        return r;
    case OPT_LOG_FD:
        r = parse_number("--log-fd", value, INT32_MAX, &number, err);
        o->log_fd = (int)number;
        return r;
    case OPT_AUDIT_FD:
        r = parse_number("--audit-fd", value, INT32_MAX, &number, err);
        o->audit_socket_fd = (int)number;
        return r;
    case OPT_CONNECTIONS:
        r = parse_number("--connections", value, 1000000, &number, err);
        o->conns_max = (unsigned)number;
        return r;
    case OPT_LISTEN:
        o->listen = value;
        return 0;
    case OPT_ALLOW:
        return add_text(&o->allow, &o->allow_count, value, err);
    case OPT_SECRET:
        return add_text(&o->secrets, &o->secret_count, value, err);
    case OPT_CA:
        o->upstream_ca = value;
        return 0;
    case OPT_AUDIT:
        o->audit = value;
        return 0;
    case OPT_POLICY:
        o->policy = value;
        return 0;
    case OPT_TIMEOUT:
        return set_timeout(value, &o->timeouts, err);
    }
    return bg_err_set(err, -EINVAL, "see bellglass-proxy --help");
}

/* Returns 1 when help was asked for. */
static int parse_options(int argc, char **argv, struct options *o, struct bg_err *err)
{
    static const struct option longs[] = {
        {"socket-fd", required_argument, NULL, OPT_SOCKET_FD},
        {"log-fd", required_argument, NULL, OPT_LOG_FD},
        {"audit-fd", required_argument, NULL, OPT_AUDIT_FD},
        {"listen", required_argument, NULL, OPT_LISTEN},
        {"allow", required_argument, NULL, OPT_ALLOW},
        {"secret", required_argument, NULL, OPT_SECRET},
        {"upstream-ca", required_argument, NULL, OPT_CA},
        {"audit", required_argument, NULL, OPT_AUDIT},
        {"policy", required_argument, NULL, OPT_POLICY},
        {"timeout", required_argument, NULL, OPT_TIMEOUT},
        {"connections", required_argument, NULL, OPT_CONNECTIONS},
        {"help", no_argument, NULL, OPT_HELP},
        {0},
    };
    for (int option; (option = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        if (option == OPT_HELP)
            return 1;
        int r = set_option(o, option, optarg, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int print_ca_path(struct bg_err *err)
{
    struct bg_paths paths;
    struct tls_ca *ca;
    int r = confine_start(NULL, 0, err);
    if (r == 0)
        r = bg_paths_init(&paths, err);
    if (r < 0)
        return r;
    r = tls_ca_open(paths.data, NULL, &ca, err);
    if (r == 0) {
        BG_AUTOFREE char *path = tls_ca_path(paths.data);
        tls_ca_close(ca);
        r = path && printf("%s\n", path) > 0 && fflush(stdout) == 0
                ? 0
                : bg_err_errno(err, -EIO, "cannot print");
    }
    bg_paths_done(&paths);
    return r;
}

static int open_audit(const char *path, int *ret_fd, struct bg_err *err)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY, 0600);
    if (fd < 0)
        return bg_err_errno(err, -errno, "audit log %s", path);
    *ret_fd = fd;
    return 0;
}

/* --- sandbox --- */

static int serve_sandbox(const struct options *o, const struct bg_log *log, struct bg_err *err)
{
    struct bg_paths paths = {0};
    struct bg_sandbox sandbox = {0};
    BG_AUTOCLOSE int audit_fd = -1;
    BG_AUTOFREE char *audit_path = NULL, *ledger_path = NULL;
    BG_AUTOFREE char *ca_pem = NULL;
    struct bg_err why;
    int r = bg_paths_init(&paths, err);
    if (r == 0)
        r = bg_sandbox_load(&paths, o->sandbox, &sandbox, err);
    if (r == 0 && asprintf(&audit_path, "%s/" BG_AUDIT_FILE, sandbox.dir) < 0)
        r = bg_err_errno(err, -ENOMEM, "audit log");
    if (r == 0 && asprintf(&ledger_path, "%s/budgets", sandbox.dir) < 0)
        r = bg_err_errno(err, -ENOMEM, "budgets");
    if (r == 0)
        r = open_audit(audit_path, &audit_fd, err);
    if (r == 0)
        r = ca_users_of(&sandbox, &ca_pem, err);
    if (r == 0 && ca_users_forget(&paths, &why) < 0)
        bg_log(log, BG_LOG_WARN, "older CAs are kept: %s", why.text);
    if (r == 0) {
        const struct serve_opts opts = {.paths = &paths,
                                        .sandbox = sandbox.name,
                                        .allow = sandbox.allow,
                                        .allow_count = sandbox.allow_count,
                                        .policy = sandbox.policy,
                                        .secrets = sandbox.secrets,
                                        .secret_count = sandbox.secret_count,
                                        .ledger = ledger_path,
                                        .upstream_ca = sandbox.upstream_ca,
                                        .ca_pem = ca_pem,
                                        .audit_fd = audit_fd,
                                        .audit_socket_fd = o->audit_socket_fd,
                                        .fd = o->socket_fd,
                                        .log = log,
                                        .timeouts = o->timeouts,
                                        .conns_max = o->conns_max};
        if (o->audit_socket_fd >= 0)
            (void)bg_take_fd(&audit_fd); /* the engine's; the process ends after this */
        r = serve_run(&opts, err);
    }
    bg_sandbox_done(&sandbox);
    bg_paths_done(&paths);
    return r;
}

/* --- forward proxy --- */

static int open_listener(const char *text, int *ret_fd, struct bg_err *err)
{
    struct destination at;
    struct sockaddr_storage sa;
    int on = 1;
    /* Port 0 asks for any free one, and is no port of a destination. */
    size_t size = strlen(text);
    bool any = size > 2 && strcmp(text + size - 2, ":0") == 0;
    int r = any ? destination_parse_host(text, size - 2, &at, err)
                : destination_parse(text, size, 0, &at, err);
    if (r < 0 || !at.is_address || (!any && at.port == 0))
        return bg_err_set(err, -EINVAL, "--listen %s: want ADDRESS:PORT", text);
    socklen_t sa_size = address_to_sockaddr(&at.address, at.port, &sa);
    BG_AUTOCLOSE int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        bind(fd, (const struct sockaddr *)&sa, sa_size) < 0 || listen(fd, SOMAXCONN) < 0)
        return bg_err_errno(err, -errno, "--listen %s", text);
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

static int print_listener(int fd)
{
    struct sockaddr_storage sa;
    socklen_t size = sizeof sa;
    char host[64], port[16];
    if (getsockname(fd, (struct sockaddr *)&sa, &size) < 0 ||
        getnameinfo((const struct sockaddr *)&sa, size, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return -EIO;
    bool v6 = sa.ss_family == AF_INET6;
    return printf("listening %s%s%s:%s\n", v6 ? "[" : "", host, v6 ? "]" : "", port) < 0 ? -EIO : 0;
}

static void make_placeholder(struct bg_secret_use *use)
{
    uint8_t random[32];
    bg_random(random, sizeof random);
    memcpy(use->placeholder, SECRET_PREFIX, sizeof SECRET_PREFIX);
    bg_hex(random, sizeof random, use->placeholder + sizeof SECRET_PREFIX - 1);
}

/* NAME@HOST[,HOST...], with a placeholder of its own; text is cut up. */
static int read_secret(char *text, struct bg_secret_use *use, struct bg_err *err)
{
    char *at = strchr(text, '@');
    if (!at || at == text || at[1] == '\0')
        return bg_err_set(err, -EINVAL, "--secret %s: want NAME@HOST[,HOST...]", text);
    *at = '\0';
    use->name = text;
    for (char *rest = at + 1, *host; (host = strsep(&rest, ",")) != NULL;) {
        char **grown = reallocarray(use->hosts, use->host_count + 1, sizeof *grown);
        if (!grown)
            return bg_err_errno(err, -ENOMEM, "--secret");
        use->hosts = grown;
        use->hosts[use->host_count++] = host;
    }
    make_placeholder(use);
    return 0;
}

/* The secrets of a forward proxy, and its policy. */
struct forward {
    struct bg_secret_use uses[BG_EGRESS_SECRETS_MAX];
    size_t count;
    char *policy; /* the file's text; NULL: none */
    struct policy_file file;
};

static int start_forward(const struct options *o, const struct forward *f, const struct bg_log *log,
                         struct bg_err *err)
{
    struct bg_paths paths;
    BG_AUTOCLOSE int audit_fd = -1;
    BG_AUTOCLOSE int fd = -1;
    int r = o->audit ? open_audit(o->audit, &audit_fd, err) : 0;
    if (r == 0)
        r = open_listener(o->listen, &fd, err);
    if (r == 0)
        r = bg_paths_init(&paths, err);
    if (r < 0)
        return r;
    bool printed = print_listener(fd) == 0;
    for (size_t i = 0; i < f->count; i++)
        printed &= printf("%s=%s\n", f->uses[i].name, f->uses[i].placeholder) > 0;
    if (!printed || fflush(stdout) != 0)
        r = bg_err_errno(err, -EIO, "cannot print where it listens");
    const struct serve_opts opts = {.paths = &paths,
                                    .sandbox = "-",
                                    .allow = o->allow,
                                    .allow_count = o->allow_count,
                                    .policy = f->policy,
                                    .secrets = f->uses,
                                    .secret_count = f->count,
                                    .upstream_ca = o->upstream_ca,
                                    .audit_fd = audit_fd >= 0 ? audit_fd : STDERR_FILENO,
                                    .audit_socket_fd = -1,
                                    .fd = fd,
                                    .listening = true,
                                    .log = log,
                                    .timeouts = o->timeouts,
                                    .conns_max = o->conns_max};
    if (r == 0)
        r = serve_run(&opts, err);
    bg_paths_done(&paths);
    return r;
}

static bool has_secret(const struct forward *f, const char *name)
{
    for (size_t i = 0; i < f->count; i++)
        if (strcmp(f->uses[i].name, name) == 0)
            return true;
    return false;
}

static int load_forward(const struct options *o, struct forward *f, struct bg_err *err)
{
    size_t size;
    int r = 0;
    for (size_t i = 0; r == 0 && i < o->secret_count; i++)
        r = f->count == BG_EGRESS_SECRETS_MAX
                ? bg_err_set(err, -E2BIG, "more than %d secrets", BG_EGRESS_SECRETS_MAX)
                : read_secret(o->secrets[i], &f->uses[f->count++], err);
    if (r < 0 || !o->policy)
        return r;
    r = bg_read_file(AT_FDCWD, o->policy, BG_MANIFEST_MAX, &f->policy, &size, err);
    if (r == 0)
        r = policy_file_parse(o->policy, f->policy, size, &presets_installed, &f->file, err);
    for (size_t i = 0; r == 0 && i < f->file.secret_count; i++) {
        if (has_secret(f, f->file.secrets[i].name))
            continue;
        if (f->count == BG_EGRESS_SECRETS_MAX)
            return bg_err_set(err, -E2BIG, "more than %d secrets", BG_EGRESS_SECRETS_MAX);
        f->uses[f->count].name = f->file.secrets[i].name;
        make_placeholder(&f->uses[f->count++]);
    }
    return r;
}

static int serve_forward(const struct options *o, const struct bg_log *log, struct bg_err *err)
{
    struct forward *f = calloc(1, sizeof *f);
    int r = f ? load_forward(o, f, err) : bg_err_errno(err, -ENOMEM, "forward proxy");
    if (r == 0)
        r = start_forward(o, f, log, err);
    for (size_t i = 0; f && i < f->count; i++)
        free(f->uses[i].hosts); /* the texts are the options' and the policy's */
    if (f) {
        free(f->policy);
        policy_file_done(&f->file);
    }
    free(f);
    return r;
}

static int run(const struct options *o, struct bg_err *err)
{
    char tag[BG_SANDBOX_NAME_MAX + 8];
    (void)snprintf(tag, sizeof tag, "vm=%s", o->sandbox ? o->sandbox : "-");
    const struct bg_log log = {.fd = o->log_fd, .level = BG_LOG_INFO, .tag = tag};
    (void)umask(077);
    const int keep[] = {o->socket_fd, o->log_fd, o->audit_socket_fd};
    int r = confine_start(keep, 3, err);
    if (r == 0)
        r = o->sandbox ? serve_sandbox(o, &log, err) : serve_forward(o, &log, err);
    if (r < 0)
        bg_log(&log, BG_LOG_ERROR, "proxy: %s", err->text);
    return r;
}

int main(int argc, char **argv)
{
    struct options o = {.socket_fd = -1,
                        .log_fd = -1,
                        .audit_socket_fd = -1,
                        .timeouts = engine_timeouts_default,
                        .conns_max = BG_EGRESS_CONNS_MAX};
    struct bg_err err = {0};
    int r = parse_options(argc, argv, &o, &err);
    const char *const *words = (const char *const *)argv + optind;
    int word_count = argc - optind;
    if (r == 1) {
        r = fputs(help, stdout) < 0 || fflush(stdout) != 0 ? -EIO : 0;
    } else if (r == 0 && word_count == 1 && strcmp(words[0], "ca-path") == 0) {
        r = print_ca_path(&err);
    } else if (r == 0 && word_count == 2 && strcmp(words[0], "sandbox") == 0 && o.socket_fd >= 0) {
        o.sandbox = words[1];
        r = run(&o, &err);
    } else if (r == 0 && word_count == 0 && o.listen) {
        o.log_fd = STDERR_FILENO;
        r = run(&o, &err);
    } else if (r == 0) {
        r = bg_err_set(&err, -EINVAL,
                       "want 'sandbox NAME --socket-fd N', '--listen ADDRESS:PORT' "
                       "or 'ca-path'; see --help");
    }
    options_done(&o);
    if (r < 0)
        (void)fprintf(stderr, "bellglass-proxy: %s\n", err.text);
    return r < 0 ? 125 : 0;
}
