/* bellglass-policy: what `bellglass policy` runs. */
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include <jansson.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/quote.h"
#include "common/state/audit_files.h"
#include "common/state/sandbox.h"
#include "net/audit.h"
#include "net/learn.h"
#include "net/ledger.h"
#include "net/policy_file.h"
#include "net/presets.h"
#include "net/project_file.h"
#include "net/reload.h"
#include "net/yaml_doc.h"

#define REFUSED 1 /* exit status of test */

static const char help[] =
    "usage: bellglass policy check FILE\n"
    "       bellglass policy show FILE|SANDBOX [--json]\n"
    "       bellglass policy test FILE|SANDBOX [METHOD] URL [-H 'NAME: VALUE'...]\n"
    "       bellglass policy apply SANDBOX FILE\n"
    "       bellglass policy learn SANDBOX\n"
    "\n"
    "What sandboxes may reach, and where their secrets may go, as a file for --policy of run and "
    "create.\n"
    "\n"
    "check  reads the file and says what is wrong, with its line\n"
    "show   prints the rules in the order in which they are tried, and the secrets' rules; for a\n"
    "       sandbox also what is used up of their limits\n"
    "test   says what would become of a request (METHOD: GET) and which secrets may be in it; the "
    "status\n"
    "       is 0 if it is allowed, 1 if not. A tcp://HOST:PORT is a connection that is not HTTP.\n"
    "       -H gives the request a header field, and may be given again\n"
    "apply  gives the sandbox the file's rules in the place of those it had, for all that it asks "
    "for\n"
    "       from now on; requests under way end as they began. --allow and --secret stay as they "
    "were\n"
    "learn  prints a policy file with which the sandbox could do what it has done and tried so "
    "far, "
    "for\n"
    "       you to cut down\n"
    "\n"
    "A name with '/' or '.yaml' is a file, any other a sandbox. docs/policy.md describes the "
    "file.\n";

/* What is looked at. */
struct subject {
    char *text; /* of the file; owned */
    struct policy_file file;
    struct ledger *ledger; /* of a sandbox: what its limits have counted; NULL: nothing yet */
};

static void subject_done(struct subject *subject)
{
    free(subject->text);
    policy_file_done(&subject->file);
    ledger_close(subject->ledger);
}

static bool is_file(const char *name)
{
    size_t size = strlen(name);
    return strchr(name, '/') || (size > 5 && strcmp(name + size - 5, ".yaml") == 0) ||
           (size > 4 && strcmp(name + size - 4, ".yml") == 0);
}

static int load_file(const char *path, struct subject *subject, struct bg_err *err)
{
    size_t size;
    const char *slash = strrchr(path, '/');
    int r = bg_read_file(AT_FDCWD, path, YAML_DOC_SIZE_MAX, &subject->text, &size, err);
    if (r < 0)
        return r;
    return policy_file_parse(slash ? slash + 1 : path, subject->text, size, &presets_installed,
                             &subject->file, err);
}

/* The rules of --allow go before those of the file, as in the proxy. */
static int merge(const struct bg_sandbox *s, struct subject *subject, struct bg_err *err)
{
    struct policy policy;
    int r = policy_init(&policy, (const char *const *)s->allow, s->allow_count, err);
    if (r < 0)
        return r;
    for (size_t i = 0; r == 0 && i < subject->file.policy.count; i++)
        r = policy_add(&policy, &subject->file.policy.rules[i], err);
    policy.strict = subject->file.policy.strict;
    policy_done(&subject->file.policy);
    subject->file.policy = policy;
    return r;
}

static int add_secret(struct subject *subject, const struct bg_secret_use *use, const char *host,
                      struct bg_err *err)
{
    struct policy_file *file = &subject->file;
    struct policy_secret *secrets =
        reallocarray(file->secrets, file->secret_count + 1, sizeof *secrets);
    if (!secrets)
        return bg_err_errno(err, -ENOMEM, "secrets");
    file->secrets = secrets;
    secrets[file->secret_count] = (struct policy_secret){.name = strdup(use->name)};
    struct policy_secret *s = &secrets[file->secret_count++];
    s->rule.in = SECRET_IN_DEFAULT;
    if (!s->name)
        return bg_err_errno(err, -ENOMEM, "secrets");
    return host_pattern_parse(host, strlen(host), &s->rule.host, err);
}

static int load_ledger(const struct bg_sandbox *s, struct subject *subject, struct bg_err *err)
{
    const struct policy_file *file = &subject->file;
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/budgets", s->dir) < 0) {
        path = NULL;
        return bg_err_errno(err, -ENOMEM, "budgets");
    }
    int r = ledger_open_copy(path, &subject->ledger, err);
    if (r == -ENOENT)
        return 0;
    for (size_t i = 0; r == 0 && i < file->policy.count; i++)
        if (file->policy.rules[i].meter)
            r = ledger_attach(subject->ledger, file->policy.rules[i].meter, err);
    for (size_t i = 0; r == 0 && i < file->secret_count; i++)
        if (file->secrets[i].rule.meter)
            r = ledger_attach(subject->ledger, file->secrets[i].rule.meter, err);
    return r;
}

static int load_sandbox(const char *name, struct subject *subject, struct bg_err *err)
{
    struct bg_paths paths;
    struct bg_sandbox s = {0};
    int r = bg_paths_init(&paths, err);
    if (r < 0)
        return r;
    r = bg_sandbox_load(&paths, name, &s, err);
    if (r == 0 && s.policy)
        r = policy_file_parse("policy", s.policy, strlen(s.policy), &presets_installed,
                              &subject->file, err);
    if (r == 0)
        r = load_ledger(&s, subject, err);
    if (r == 0)
        r = merge(&s, subject, err);
    for (size_t i = 0; r == 0 && i < s.secret_count; i++)
        for (size_t k = 0; r == 0 && k < s.secrets[i].host_count; k++)
            r = add_secret(subject, &s.secrets[i], s.secrets[i].hosts[k], err);
    bg_sandbox_done(&s);
    bg_paths_done(&paths);
    return r;
}

static int load(const char *name, struct subject *subject, struct bg_err *err)
{
    return is_file(name) ? load_file(name, subject, err) : load_sandbox(name, subject, err);
}

static int printed(struct bg_err *err)
{
    return fflush(stdout) != 0 ? bg_err_set(err, -EIO, "cannot print") : 0;
}

static int load_project(const char *path, struct project_file *ret, struct bg_err *err)
{
    BG_AUTOFREE char *text = NULL;
    size_t size;
    const char *slash = strrchr(path, '/');
    int r = bg_read_file(AT_FDCWD, path, YAML_DOC_SIZE_MAX, &text, &size, err);
    return r < 0 ? r : project_file_parse(slash ? slash + 1 : path, text, size, ret, err);
}

static int check(const char *path, struct bg_err *err)
{
    struct subject subject = {0};
    struct project_file project;
    int r = load_project(path, &project, err);
    if (r < 0)
        return r;
    project_file_done(&project);
    r = load_file(path, &subject, err);
    if (r == 0)
        (void)printf("%zu rules, %zu rules of secrets\n", subject.file.policy.count,
                     subject.file.secret_count);
    subject_done(&subject);
    return r < 0 ? r : printed(err);
}

/* For `bellglass run --policy`: the names of the secrets, one a line. */
static int print_names(const char *path, struct bg_err *err)
{
    struct subject subject = {0};
    int r = load_file(path, &subject, err);
    for (size_t i = 0; r == 0 && i < subject.file.secret_count; i++)
        if (i == 0 || strcmp(subject.file.secrets[i].name, subject.file.secrets[i - 1].name) != 0)
            (void)printf("%s\n", subject.file.secrets[i].name);
    subject_done(&subject);
    return r < 0 ? r : printed(err);
}

/* ---- show ---- */

static void host_text(const struct host_pattern *host, char out[DESTINATION_TEXT_SIZE + 2])
{
    char text[DESTINATION_TEXT_SIZE];
    destination_format(&host->host, 0, text); /* of a network its text is the host */
    size_t size = strlen(text);
    if (host->host.port == 0 && size > 2 && strcmp(text + size - 2, ":0") == 0)
        text[size - 2] = '\0';
    (void)snprintf(out, DESTINATION_TEXT_SIZE + 2, "%s%s",
                   host->kind == HOST_PATTERN_SUFFIX ? "*." : "", text);
}

static json_t *texts_json(char *const *texts, size_t count)
{
    json_t *array = json_array();
    for (size_t i = 0; array && i < count; i++)
        (void)json_array_append_new(array, json_string(texts[i])); /* seen as a lack below */
    return array && json_array_size(array) == count ? array : (json_decref(array), NULL);
}

/* For `bellglass run --file`. */
static int print_project(const char *path, struct bg_err *err)
{
    static const char *const keys[PROJECT_TEXTS] = {[PROJECT_IMAGE] = "image",
                                                    [PROJECT_CPUS] = "cpus",
                                                    [PROJECT_MEMORY] = "memory",
                                                    [PROJECT_TTL] = "ttl",
                                                    [PROJECT_IDLE_SUSPEND] = "idle-suspend"};
    struct project_file file;
    int r = load_project(path, &file, err);
    if (r < 0)
        return r;
    json_auto_t *json =
        json_pack("{s:o, s:o, s:b}", "env", texts_json(file.env, file.env_count), "mount",
                  texts_json(file.mounts, file.mount_count), "policy", (int)file.has_policy);
    bool whole = json != NULL;
    for (size_t i = 0; whole && i < PROJECT_TEXTS; i++)
        if (file.texts[i])
            whole = json_object_set_new(json, keys[i], json_string(file.texts[i])) == 0;
    project_file_done(&file);
    if (!whole || json_dumpf(json, stdout, JSON_COMPACT) < 0)
        return bg_err_errno(err, -ENOMEM, "project");
    return printed(err);
}

/* By bit. */
static const char *const place_names[] = {"header", "basic", "query", "path", "body", NULL};
static const char *const body_type_names[] = {"json", "form", "multipart", "text", NULL};

static json_t *bits_json(const char *const *names, unsigned bits)
{
    json_t *array = json_array();
    for (size_t i = 0; array && names[i]; i++)
        if (bits >> i & 1)
            (void)json_array_append_new(array, json_string(names[i]));
    return array;
}

/* NAME to its patterns */
static json_t *conditions_json(const struct request_condition *conditions, size_t count)
{
    json_t *object = json_object();
    for (size_t i = 0; object && i < count; i++)
        (void)json_object_set_new(object, conditions[i].name,
                                  texts_json(conditions[i].patterns, conditions[i].pattern_count));
    return object && json_object_size(object) == count ? object : (json_decref(object), NULL);
}

/* A list, or null where any key may be there. */
static json_t *keys_json(const struct request_match *match)
{
    return match->only_keys ? texts_json(match->keys, match->key_count) : json_null();
}

static void pin_text(const struct address_network *pin, char out[ADDRESS_NETWORK_TEXT_SIZE])
{
    if (pin->bits == address_bits(&pin->first))
        address_format(&pin->first, out);
    else
        address_network_format(pin, out);
}

static json_t *rate_json(const struct policy_meter *m)
{
    return m && m->rate > 0 ? json_pack("{s:I, s:I}", "requests", (json_int_t)m->rate, "ms",
                                        (json_int_t)m->per_ms)
                            : json_null();
}

/* A last part that did not fit is counted too. */
static uint64_t bytes_used(const struct policy_meter *m)
{
    return m->count->bytes < m->bytes_max ? m->count->bytes : m->bytes_max;
}

/* What is gone of a sandbox's limits, null where nothing was counted yet. */
static json_t *used_json(const struct policy_meter *m)
{
    return m && m->count ? json_pack("{s:I, s:I}", "requests", (json_int_t)m->count->spent, "bytes",
                                     (json_int_t)(m->bytes_max > 0 ? bytes_used(m) : 0))
                         : json_null();
}

/* 0: no limit */
static json_t *limit_json(uint64_t limit)
{
    return limit > 0 ? json_integer((json_int_t)limit) : json_null();
}

static json_t *rule_json(const struct policy_rule *rule)
{
    char host[DESTINATION_TEXT_SIZE + 2];
    host_text(&rule->host, host);
    json_t *addresses = json_array();
    for (size_t i = 0; addresses && i < rule->pin_count; i++) {
        char address[ADDRESS_NETWORK_TEXT_SIZE];
        pin_text(&rule->pins[i], address);
        (void)json_array_append_new(addresses, json_string(address));
    }
    const struct policy_meter *m = rule->meter;
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "rule",
        rule->text, "action", rule->action == POLICY_ALLOW ? "allow" : "deny", "host", host,
        "protocol",
        rule->tcp           ? "tcp"
        : rule->passthrough ? "passthrough"
                            : "http",
        "methods", texts_json(rule->match.methods, rule->match.method_count), "paths",
        texts_json(rule->match.paths, rule->match.path_count), "query",
        conditions_json(rule->match.query, rule->match.query_count), "query_keys",
        keys_json(&rule->match), "headers",
        conditions_json(rule->match.header, rule->match.header_count), "addresses", addresses,
        "rate", rate_json(m), "requests", limit_json(m ? m->requests_max : 0), "bytes",
        limit_json(m ? m->bytes_max : 0), "used", used_json(m), "max_body",
        rule->body_max != UINT64_MAX ? json_integer((json_int_t)rule->body_max) : json_null());
}

static json_t *secret_json(const struct policy_secret *secret)
{
    char host[DESTINATION_TEXT_SIZE + 2];
    const struct secret_rule *rule = &secret->rule;
    host_text(&rule->host, host);
    const struct policy_meter *m = rule->meter;
    json_t *body = json_null();
    if (rule->in & SECRET_IN_BODY)
        body = json_pack("{s:o, s:I, s:b}", "types", bits_json(body_type_names, rule->body.types),
                         "max", (json_int_t)rule->body.size_max, "decode", (int)rule->body.decode);
    return json_pack("{s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "name",
                     secret->name, "host", host, "in", bits_json(place_names, rule->in), "headers",
                     texts_json(rule->headers, rule->header_count), "methods",
                     texts_json(rule->match.methods, rule->match.method_count), "paths",
                     texts_json(rule->match.paths, rule->match.path_count), "query",
                     conditions_json(rule->match.query, rule->match.query_count), "query_keys",
                     keys_json(&rule->match), "body", body, "budget",
                     limit_json(m ? m->requests_max : 0), "budget_rate", rate_json(m), "used",
                     used_json(m));
}

static int show_json(const struct policy_file *file, struct bg_err *err)
{
    json_auto_t *rules = json_array(), *secrets = json_array();
    bool ok = rules && secrets;
    for (size_t i = 0; ok && i < file->policy.count; i++)
        ok = json_array_append_new(rules, rule_json(&file->policy.rules[i])) == 0;
    for (size_t i = 0; ok && i < file->secret_count; i++)
        ok = json_array_append_new(secrets, secret_json(&file->secrets[i])) == 0;
    char parent[DESTINATION_TEXT_SIZE];
    destination_format(&file->parent, 0, parent);
    json_auto_t *all = ok ? json_pack("{s:b, s:b, s:s, s:s?, s:s?, s:O, s:O}", "learn", file->learn,
                                      "strict", file->policy.strict, "audit",
                                      file->audit_best_effort ? "best-effort" : "required",
                                      "parent", file->parent.port ? parent : NULL, "parent_login",
                                      file->parent_login, "rules", rules, "secrets", secrets)
                          : NULL;
    if (!all)
        return bg_err_errno(err, -ENOMEM, "output");
    (void)json_dumpf(all, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII);
    (void)putchar('\n');
    return printed(err);
}

static void show_texts(const char *what, char *const *texts, size_t count)
{
    for (size_t i = 0; i < count; i++)
        (void)printf("%s%s", i == 0 ? what : ",", texts[i]);
}

static void show_bits(const char *const *names, unsigned bits)
{
    const char *before = "";
    for (size_t i = 0; names[i]; i++)
        if (bits >> i & 1) {
            (void)printf("%s%s", before, names[i]);
            before = ",";
        }
}

/* A key or a value may hold anything that YAML can. */
static void show_escaped(const char *before, const char *text)
{
    char shown[4 * REQUEST_PATTERN_MAX + 1];
    bg_escape(text, strlen(text), shown, sizeof shown);
    (void)printf("%s%s", before, shown);
}

static void show_conditions(const char *what, const char *is,
                            const struct request_condition *conditions, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        show_escaped(what, conditions[i].name);
        for (size_t k = 0; k < conditions[i].pattern_count; k++)
            show_escaped(k == 0 ? is : "|", conditions[i].patterns[k]);
    }
}

static void show_match(const struct request_match *match)
{
    show_texts("  ", match->methods, match->method_count);
    show_texts("  ", match->paths, match->path_count);
    show_conditions("  ?", "=", match->query, match->query_count);
    if (match->only_keys)
        (void)printf("  %s",
                     match->query_count + match->key_count > 0 ? "no other keys" : "no query");
    for (size_t i = 0; i < match->key_count; i++)
        show_escaped(i == 0 ? " but " : ",", match->keys[i]);
    show_conditions("  ", ": ", match->header, match->header_count);
}

static void show_meter(const struct policy_meter *m)
{
    if (m && m->rate > 0)
        (void)printf("  %" PRIu64 " per %" PRIu64 " s", m->rate, m->per_ms / 1000);
    if (m && m->requests_max > 0)
        (void)printf("  %" PRIu64 " in all", m->requests_max);
    if (m && m->requests_max > 0 && m->count)
        (void)printf(" (%" PRIu64 " used)", m->count->spent);
    if (m && m->bytes_max > 0)
        (void)printf("  %" PRIu64 " bytes in all", m->bytes_max);
    if (m && m->bytes_max > 0 && m->count)
        (void)printf(" (%" PRIu64 " used)", bytes_used(m));
}

static void show_places(const struct secret_rule *rule)
{
    show_bits(place_names, rule->in);
    show_texts("  headers ", rule->headers, rule->header_count);
    if (rule->in & SECRET_IN_BODY) {
        (void)printf("  bodies of ");
        show_bits(body_type_names, rule->body.types);
        (void)printf(" up to %zu bytes%s", rule->body.size_max,
                     rule->body.decode ? ", decoded" : "");
    }
}

static void show_lines(const struct policy_file *file)
{
    char host[DESTINATION_TEXT_SIZE + 2];
    for (size_t i = 0; i < file->policy.count; i++) {
        const struct policy_rule *rule = &file->policy.rules[i];
        host_text(&rule->host, host);
        (void)printf("%-6s %s", rule->action == POLICY_ALLOW ? "allow" : "deny", host);
        show_match(&rule->match);
        for (size_t k = 0; k < rule->pin_count; k++) {
            char address[ADDRESS_NETWORK_TEXT_SIZE];
            pin_text(&rule->pins[k], address);
            (void)printf("%s%s", k == 0 ? "  at " : ",", address);
        }
        show_meter(rule->meter);
        if (rule->body_max != UINT64_MAX)
            (void)printf("  bodies up to %" PRIu64 " bytes", rule->body_max);
        (void)printf("%s\n", rule->tcp           ? "  any protocol"
                             : rule->passthrough ? "  TLS, not opened"
                                                 : "");
    }
    (void)printf("deny   all else%s%s\n",
                 file->learn ? ", which is what does not lead to public addresses by HTTP or HTTPS"
                             : "",
                 file->policy.strict ? ", and placeholders where their secrets may not go" : "");
    if (file->parent.port != 0) {
        char parent[DESTINATION_TEXT_SIZE];
        destination_format(&file->parent, 0, parent);
        (void)printf("through the parent proxy %s%s%s\n", parent,
                     file->parent_login ? ", with the login " : "",
                     file->parent_login ? file->parent_login : "");
    }
    if (file->audit_best_effort)
        (void)printf("audit  best-effort: requests go out even while it cannot be written\n");
    for (size_t i = 0; i < file->secret_count; i++) {
        const struct secret_rule *rule = &file->secrets[i].rule;
        host_text(&rule->host, host);
        (void)printf("secret %s  %s  in ", file->secrets[i].name, host);
        show_places(rule);
        show_match(&rule->match);
        show_meter(rule->meter);
        (void)printf("\n");
    }
}

static int show(const char *name, bool json, struct bg_err *err)
{
    struct subject subject = {0};
    int r = load(name, &subject, err);
    if (r == 0 && json)
        r = show_json(&subject.file, err);
    else if (r == 0)
        show_lines(&subject.file);
    subject_done(&subject);
    return r < 0 ? r : printed(err);
}

/* ---- apply ---- */

/* The guest's environment was made when it started: a secret that came now would have no
 * placeholder there. */
static int check_names(const struct policy_file *file, const struct bg_sandbox *s,
                       struct bg_err *err)
{
    for (size_t i = 0; i < file->secret_count; i++) {
        bool found = false;
        for (size_t k = 0; k < s->secret_count; k++)
            found |= strcmp(s->secrets[k].name, file->secrets[i].name) == 0;
        if (!found)
            return bg_err_set(
                err, -EINVAL,
                "%s was made without the secret %s, and a running sandbox gets no new "
                "ones; make one with --secret or --policy",
                s->name, file->secrets[i].name);
    }
    return 0;
}

static int apply(const char *name, const char *path, struct bg_err *err)
{
    struct subject subject = {0};
    struct bg_paths paths = {0};
    struct bg_sandbox s = {0};
    int r = load_file(path, &subject, err);
    if (r == 0)
        r = bg_paths_init(&paths, err);
    if (r == 0)
        r = bg_sandbox_load(&paths, name, &s, err);
    if (r == 0)
        r = check_names(&subject.file, &s, err);
    if (r == 0) {
        free(s.policy);
        s.policy = BG_TAKE(subject.text);
        r = bg_sandbox_save(&s, err);
    }
    if (r == 0)
        r = reload_sandbox(&paths, &s, err);
    bool stopped = r == -ENOTCONN;
    if (r == 0 || stopped)
        (void)printf("%s: %zu rules, %zu rules of secrets%s\n", s.name, subject.file.policy.count,
                     subject.file.secret_count, stopped ? ", from its next start on" : "");
    bg_sandbox_done(&s);
    bg_paths_done(&paths);
    subject_done(&subject);
    return r < 0 && !stopped ? r : printed(err);
}

/* ---- learn ---- */

static int read_lines(FILE *file, struct learn *learn)
{
    char *line = NULL;
    size_t room = 0;
    int r = 0;
    for (ssize_t n; r == 0 && (n = getline(&line, &room, file)) > 0;)
        if ((size_t)n <= AUDIT_LINE_MAX)
            r = learn_line(learn, line, (size_t)n);
    if (r == 0 && ferror(file))
        r = -EIO;
    free(line);
    return r;
}

/* All files of the log, the oldest first. */
static int read_audit(const char *dir, struct learn *learn, struct bg_err *err)
{
    int fds[BG_AUDIT_FILES_MAX];
    size_t count;
    BG_AUTOCLOSE int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return bg_err_errno(err, -errno, "%s", dir);
    int r = bg_audit_open_all(dir_fd, fds, &count, err);
    if (r < 0)
        return bg_err_prefix(err, "%s", dir);
    if (count == 0)
        r = bg_err_set(err, -ENOENT, "%s: it has no audit log yet; start it, and use it", dir);
    for (size_t i = 0; i < count; i++) {
        FILE *file = r == 0 ? fdopen(fds[i], "r") : NULL;
        if (!file) {
            if (r == 0)
                r = bg_err_errno(err, -errno, "%s", dir);
            (void)close(fds[i]); /* it was only read, as below */
            continue;
        }
        r = read_lines(file, learn);
        if (r < 0)
            (void)bg_err_errno(err, r, "%s: audit log", dir);
        (void)fclose(file);
    }
    return r;
}

static int print_learnt(const struct learn *found, const char *sandbox, struct bg_err *err)
{
    struct buffer out = buffer_init(64 << 20);
    learn_put(found, sandbox, &out);
    int r = buffer_ok(&out) ? 0 : bg_err_errno(err, -ENOMEM, "policy");
    if (r == 0 && fwrite(buffer_bytes(&out), 1, buffer_size(&out), stdout) != buffer_size(&out))
        r = bg_err_set(err, -EIO, "cannot print");
    buffer_reset(&out);
    return r < 0 ? r : printed(err);
}

static int learn(const char *name, struct bg_err *err)
{
    struct bg_paths paths;
    struct bg_sandbox s = {0};
    struct learn found = {0};
    int r = bg_paths_init(&paths, err);
    if (r < 0)
        return r;
    r = bg_sandbox_load(&paths, name, &s, err);
    if (r == 0)
        r = read_audit(s.dir, &found, err);
    if (r == 0)
        r = print_learnt(&found, s.name, err);
    learn_done(&found);
    bg_sandbox_done(&s);
    bg_paths_done(&paths);
    return r;
}

/* ---- test ---- */

struct url {
    bool tcp, tls;
    struct destination to;
    struct slice target;
};

static int parse_url(const char *text, struct url *ret, struct bg_err *err)
{
    static const struct {
        const char *prefix;
        uint16_t port;
    } schemes[] = {{"http://", 80}, {"https://", 443}, {"tcp://", 0}};
    char shown[200];
    for (size_t i = 0; i < 3; i++) {
        size_t prefix = strlen(schemes[i].prefix);
        if (strncasecmp(text, schemes[i].prefix, prefix) != 0)
            continue;
        const char *host = text + prefix;
        size_t size = strcspn(host, "/?#");
        struct url url = {.tcp = i == 2, .tls = i == 1};
        int r = destination_parse(host, size, schemes[i].port, &url.to, err);
        if (r < 0)
            return bg_err_prefix(err, "%s", bg_quote(text, shown, sizeof shown));
        if (url.to.port == 0)
            return bg_err_set(err, -EINVAL, "%s: want a port", bg_quote(text, shown, sizeof shown));
        url.target = (struct slice){host + size, strcspn(host + size, "#")};
        if (url.target.size == 0)
            url.target = (struct slice){"/", 1};
        *ret = url;
        return 0;
    }
    return bg_err_set(err, -EINVAL, "%s: want http://, https:// or tcp://",
                      bg_quote(text, shown, sizeof shown));
}

/* The header of the request, as -H gave it. */
struct fields {
    struct http_field items[BG_EGRESS_FIELDS_MAX];
    size_t count;
};

static int add_field(struct fields *fields, const char *text, struct bg_err *err)
{
    char shown[200];
    const char *colon = strchr(text, ':');
    const char *value = colon ? colon + 1 + strspn(colon + 1, " \t") : text;
    size_t size = strlen(value);
    if (!colon || colon == text || strcspn(text, " \t\r\n") < (size_t)(colon - text) ||
        strpbrk(value, "\r\n"))
        return bg_err_set(err, -EINVAL, "-H %s: want 'NAME: VALUE'",
                          bg_quote(text, shown, sizeof shown));
    if (fields->count == BG_EGRESS_FIELDS_MAX)
        return bg_err_set(err, -EINVAL, "more than %d header fields", BG_EGRESS_FIELDS_MAX);
    while (size > 0 && (value[size - 1] == ' ' || value[size - 1] == '\t'))
        size--;
    fields->items[fields->count++] =
        (struct http_field){{text, (size_t)(colon - text)}, {value, size}};
    return 0;
}

static void test_secrets(const struct policy_file *file, const struct url *url,
                         const struct request_text *request)
{
    struct request_view view;
    request_view_init(&view, request, (unsigned)REQUEST_PATH | REQUEST_QUERY);
    for (size_t i = 0; i < file->secret_count && url->tls; i++) {
        const struct secret_rule *rule = &file->secrets[i].rule;
        uint16_t port = rule->host.host.port;
        if (!host_pattern_matches(&rule->host, &url->to) || (port != 0 && port != url->to.port) ||
            !request_match_covers(&rule->match, &view))
            continue;
        (void)printf("secret %s in ", file->secrets[i].name);
        show_places(rule);
        show_meter(rule->meter);
        (void)printf("\n");
    }
    request_view_done(&view);
}

/* What is asked of test. */
struct question {
    const char *name, *method, *url;
    struct fields fields;
};

static int test(const struct question *question, int *ret_status, struct bg_err *err)
{
    static const char *const why[] = {
        [POLICY_NO_HOST] = "no rule allows anything there",
        [POLICY_NO_REQUEST] = "the rules there allow other requests",
        [POLICY_UNCLEAR_PATH] = "the path has several readings, and rules there look at paths",
        [POLICY_UNCLEAR_QUERY] = "the query has several readings, and rules there look at queries"};
    struct subject subject = {0};
    struct url url;
    int r = parse_url(question->url, &url, err);
    if (r == 0)
        r = load(question->name, &subject, err);
    if (r == 0) {
        const struct policy *policy = &subject.file.policy;
        const struct policy_rule *rule = policy_find(policy, &url.to);
        const struct request_text request = {.method = {question->method, strlen(question->method)},
                                             .target = url.target,
                                             .fields = question->fields.items,
                                             .field_count = question->fields.count};
        enum policy_verdict verdict = rule && rule->tcp ? POLICY_ALLOWED : POLICY_NO_HOST;
        if (!url.tcp)
            verdict = policy_decide(policy, &url.to, &request, &rule);
        *ret_status = verdict == POLICY_ALLOWED ? 0 : REFUSED;
        if (verdict == POLICY_ALLOWED || verdict == POLICY_DENIED)
            (void)printf("%s: %s\n", verdict == POLICY_ALLOWED ? "allowed" : "refused", rule->text);
        else
            (void)printf("refused: %s\n", why[verdict]);
        if (verdict == POLICY_ALLOWED)
            test_secrets(&subject.file, &url, &request);
        r = printed(err);
    }
    subject_done(&subject);
    return r;
}

static int run(char *const *words, int count, bool json, struct question *question, int *ret_status,
               struct bg_err *err)
{
    const char *verb = count > 0 ? words[0] : "";
    if (strcmp(verb, "test") == 0 && (count == 3 || count == 4) && !json) {
        question->name = words[1];
        question->method = count == 4 ? words[2] : "GET";
        question->url = words[count - 1];
        return test(question, ret_status, err);
    }
    if (question->fields.count > 0)
        return bg_err_set(err, -EINVAL, "policy: -H is for test");
    if (strcmp(verb, "check") == 0 && count == 2 && !json)
        return check(words[1], err);
    if (strcmp(verb, "names") == 0 && count == 2 && !json)
        return print_names(words[1], err);
    if (strcmp(verb, "project") == 0 && count == 2 && !json)
        return print_project(words[1], err);
    if (strcmp(verb, "apply") == 0 && count == 3 && !json)
        return apply(words[1], words[2], err);
    if (strcmp(verb, "learn") == 0 && count == 2 && !json)
        return learn(words[1], err);
    if (strcmp(verb, "show") == 0 && count == 2)
        return show(words[1], json, err);
    return bg_err_set(
        err, -EINVAL,
        "policy: want check FILE, show FILE|SANDBOX, test FILE|SANDBOX URL, apply SANDBOX "
        "FILE or learn SANDBOX; see "
        "bellglass policy --help");
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {{"json", no_argument, NULL, 'j'},
                                          {"header", required_argument, NULL, 'H'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    struct bg_err err = {0};
    struct question question = {0};
    bool json = false, wants_help = false;
    int r = 0, status = 0;
    for (int option; r == 0 && (option = getopt_long(argc, argv, "hH:", longs, NULL)) != -1;) {
        json |= option == 'j';
        wants_help |= option == 'h';
        if (option == 'H')
            r = add_field(&question.fields, optarg, &err);
        if (option == '?')
            r = bg_err_set(&err, -EINVAL, "policy: see bellglass policy --help");
    }
    if (r == 0 && wants_help)
        r = fputs(help, stdout) < 0 || fflush(stdout) != 0 ? -EIO : 0;
    else if (r == 0)
        r = run(argv + optind, argc - optind, json, &question, &status, &err);
    if (r < 0)
        (void)fprintf(stderr, "bellglass: %s\n", err.text);
    return r < 0 ? 125 : status;
}
