/* bellglass-proxy: the process that holds the secrets and the network. Started by a sandbox's
 * launcher, or by hand as a forward proxy. */
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/io.h"
#include "common/limits.h"
#include "common/quote.h"
#include "common/state/audit_files.h"
#include "net/ca_users.h"
#include "net/confine.h"
#include "net/forward.h"
#include "net/serve.h"
#include "net/tls_ca.h"

static const char help[] =
    "usage: bellglass proxy --listen ADDRESS:PORT [OPTION...]\n"
    "       bellglass proxy ca-path\n"
    "\n"
    "Serves what a sandbox gets as an HTTP forward proxy for anything: containers, CI. Clients "
    "need\n"
    "https_proxy and http_proxy set to http://ADDRESS:PORT, and must trust the CA of ca-path. "
    "With\n"
    "placeholders in the place of secrets, clients never have them.\n"
    "\n"
    "Prints, once it serves, 'listening ADDRESS:PORT', NAME=PLACEHOLDER for each secret, and 'ca "
    "PATH'.\n"
    "SIGHUP reads policy and secrets anew and reopens the audit log: new connections get the new "
    "rules\n"
    "at once, those that are open within 5 s, and no request that has begun is dropped. SIGTERM "
    "ends "
    "it.\n"
    "\n"
    "--listen ADDRESS:PORT  where; port 0: any free one. Addresses other than loopback need\n"
    "                       --client-network\n"
    "--client-network ADDRESS[/BITS]  only clients from there may use it; may be given again.\n"
    "                       0.0.0.0/0 is anyone: they have the use of the secrets\n"
    "--policy FILE          rules for requests and secrets (docs/policy.md); its secrets need no\n"
    "                       --secret; a parent proxy is named there, too. Without any rule\n"
    "                       nothing passes\n"
    "--allow RULE           let requests through, before the policy's rules; may be given again\n"
    "--secret NAME@HOST[,HOST...]  put the secret NAME where its placeholder stands in a header of "
    "an\n"
    "                       HTTPS request to HOST\n"
    "--secrets FILE         values of secrets, lines of NAME=VALUE in a file that only you can "
    "read;\n"
    "                       what is not in there comes from the store ('bellglass secret set')\n"
    "--audit FILE           append a line of JSON for each decision there (default: stderr)\n"
    "--upstream-ca FILE     PEM certificates to trust for upstreams beside the system's\n"
    "--workers N            processes (default: one a processor); they count a policy's rates and\n"
    "                       budgets together\n"
    "--connections N        how many at once in each of them (default 1024)\n"
    "--timeout PHASE=MS     change the time that a phase may take: peek, handshake, greet (the\n"
    "                       upstream's handshake), head, idle, resolve, connect, response, stall,\n"
    "                       tcp-idle, linger, upstream-idle (0: none is kept for another)\n"
    "--json                 print where it listens as a line of JSON\n"
    "ca-path                print the path of the CA certificate that clients and guests must "
    "trust;\n"
    "                       it is made on first use\n"
    "\n"
    "RULE: HOST[:PORT][=ADDRESS[,ADDRESS...]]\n"
    "  HOST     a name, *.suffix (all names below suffix), an IP address (IPv6 in brackets), or a\n"
    "           network such as 10.0.3.0/24, for addresses that are dialled as such\n"
    "  PORT     without it: 80 and 443, for HTTP and TLS; with it: that port, for any protocol\n"
    "  ADDRESS  where HOST is, instead of asking DNS, or a network that DNS has to answer with;\n"
    "           needed for hosts whose addresses are not public, as in --allow "
    "echo.test:8443=127.0.0.1\n"
    "\n"
    "A sandbox's launcher starts 'bellglass-proxy sandbox NAME --socket-fd N --log-fd M'.\n";

struct options {
    const char *sandbox; /* NULL: forward proxy */
    int socket_fd, log_fd, audit_socket_fd;
    const char *listen, *audit, *upstream_ca, *policy, *secrets_file;
    struct address_network *clients;
    size_t client_count;
    unsigned workers;
    bool json;
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
        {"peek", &t->peek_ms},       {"handshake", &t->handshake_ms},
        {"greet", &t->greet_ms},     {"head", &t->head_ms},
        {"idle", &t->idle_ms},       {"resolve", &t->resolve_ms},
        {"connect", &t->connect_ms}, {"response", &t->response_ms},
        {"stall", &t->stall_ms},     {"tcp-idle", &t->tcp_idle_ms},
        {"linger", &t->linger_ms},   {"upstream-idle", &t->upstream_idle_ms},
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

/* ADDRESS/BITS, or ADDRESS alone. */
static int add_client(struct options *o, const char *text, struct bg_err *err)
{
    struct address_network *grown = reallocarray(o->clients, o->client_count + 1, sizeof *grown);
    if (!grown)
        return bg_err_errno(err, -ENOMEM, "options");
    o->clients = grown;
    struct address_network *network = &grown[o->client_count];
    int r = 0;
    if (strchr(text, '/'))
        r = address_network_parse(text, strlen(text), network, err);
    else if (address_parse(text, strlen(text), &network->first) == 0)
        network->bits = address_bits(&network->first);
    else
        r = bg_err_set(err, -EINVAL, "want ADDRESS or ADDRESS/BITS");
    if (r < 0)
        return (void)bg_err_prefix(err, "--client-network %s", text), r;
    o->client_count++;
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
    free(o->clients);
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
    OPT_WORKERS,
    OPT_SECRETS_FILE,
    OPT_CLIENTS,
    OPT_JSON,
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
    case OPT_WORKERS:
        r = parse_number("--workers", value, BG_PROXY_WORKERS_MAX, &number, err);
        o->workers = (unsigned)number;
        return r;
    case OPT_SECRETS_FILE:
        o->secrets_file = value;
        return 0;
    case OPT_CLIENTS:
        return add_client(o, value, err);
    case OPT_JSON:
        o->json = true;
        return 0;
    case OPT_TIMEOUT:
        return set_timeout(value, &o->timeouts, err);
    }
    return bg_err_set(err, -EINVAL, "proxy: see bellglass proxy --help");
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
        {"workers", required_argument, NULL, OPT_WORKERS},
        {"secrets", required_argument, NULL, OPT_SECRETS_FILE},
        {"client-network", required_argument, NULL, OPT_CLIENTS},
        {"json", no_argument, NULL, OPT_JSON},
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
                                        .own_dir = sandbox.dir,
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

static int serve_forward(const struct options *o, const struct bg_log *log, struct bg_err *err)
{
    const struct forward_opts opts = {.listen = o->listen,
                                      .clients = o->clients,
                                      .client_count = o->client_count,
                                      .workers = o->workers,
                                      .policy = o->policy,
                                      .secrets_file = o->secrets_file,
                                      .upstream_ca = o->upstream_ca,
                                      .audit = o->audit,
                                      .allow = o->allow,
                                      .allow_count = o->allow_count,
                                      .secrets = o->secrets,
                                      .secret_count = o->secret_count,
                                      .json = o->json,
                                      .log = log,
                                      .timeouts = o->timeouts,
                                      .conns_max = o->conns_max};
    return forward_run(&opts, err);
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
    if (r < 0 && o->sandbox) /* by hand it is told once, by main */
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
                       "proxy: want --listen ADDRESS:PORT or ca-path; see "
                       "bellglass proxy --help");
    }
    options_done(&o);
    if (r < 0)
        (void)fprintf(stderr, "bellglass: %s\n", err.text);
    return r < 0 ? 125 : 0;
}
