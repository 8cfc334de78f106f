#include "host/gateway/extra.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/state/snapshot.h"
#include "host/cli/client.h"
#include "host/cli/grammar.h"
#include "host/cli/output.h"
#include "host/cli/process.h"
#include "host/cli/snapshots.h"
#include "host/gateway/audit_tail.h"
#include "host/gateway/overview.h"
#include "host/gateway/reach.h"
#include "host/gateway/rule_edit.h"

#define COMMAND_MS  600000 /* a command that has not ended by then is killed: none takes so long */
#define OUTPUT_SIZE 4096   /* of a command: names, or why not */
#define WORDS_MAX   (BG_GATEWAY_FORKS_MAX + 8)
#define RELOAD_MS   10000
#define STOP_AT_MS  86400000u /* how long one lives that no connection holds any more: a day */

struct job {
    LIST_ENTRY(job) link;
    uv_work_t work;
    struct extra *extra;
    struct extra_route route;
    char token[64];
    bool all;
    json_t *body; /* an object */
    /* Of forks that clients of the SDK shall find: made on the loop's thread, NULL-terminated. */
    char *ids[BG_GATEWAY_FORKS_MAX + 1];
    uint64_t ends_by_ms; /* of those: by their token; 0: none */
    struct sandboxes_claim claim;
    bool claimed;
    bool admit; /* something may run now that the gateway does not know yet */
    bool freed; /* if it went well: no connection holds the sandbox any more */
    extra_done *on_done;
    void *owner; /* NULL: it is gone */
    json_t *value;
    int status;
    struct bg_err err;
};

struct extra {
    uv_loop_t *loop;
    struct extra_opts opts;
    LIST_HEAD(, job) jobs;
    size_t count;
    bool closing;
};

/* ---- the body ---- */

/* A text, or NULL: it is not there. */
static int read_text(const json_t *body, const char *key, const char **ret, struct bg_err *err)
{
    const json_t *value = json_object_get(body, key);
    if (value && !json_is_null(value) && !json_is_string(value))
        return bg_err_set(err, -EINVAL, "%s: want a text", key);
    *ret = json_string_value(value);
    return 0;
}

static int read_number(const json_t *body, const char *key, json_int_t max, json_int_t fallback,
                       json_int_t *ret, struct bg_err *err)
{
    const json_t *value = json_object_get(body, key);
    json_int_t number = value && !json_is_null(value) ? json_integer_value(value) : fallback;
    if (value && !json_is_null(value) && (!json_is_integer(value) || number < 1 || number > max))
        return bg_err_set(err, -EINVAL, "%s: want a number from 1 to %" JSON_INTEGER_FORMAT, key,
                          max);
    *ret = number;
    return 0;
}

/* ---- commands ---- */

struct words {
    char *list[WORDS_MAX + 1]; /* heap; NULL-terminated */
    size_t count;
    bool failed;
};

static void words_done(struct words *words)
{
    for (size_t i = 0; i < words->count; i++)
        free(words->list[i]);
}

static void BG_PRINTF(2, 3) add_word(struct words *words, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *word = NULL;
    if (words->count == WORDS_MAX || vasprintf(&word, format, args) < 0)
        words->failed = true;
    else
        words->list[words->count++] = word;
    va_end(args);
}

/* The last thing that a command has said, without who says it. */
static const char *last_line(char *text)
{
    static const char prefix[] = "bellglass: ";
    size_t size = strlen(text);
    while (size > 0 && text[size - 1] == '\n')
        text[--size] = '\0';
    char *line = strrchr(text, '\n');
    line = line ? line + 1 : text;
    return strncmp(line, prefix, sizeof prefix - 1) == 0 ? line + sizeof prefix - 1 : line;
}

/* Runs bellglass with these words, which are done with then. output: what it printed. */
static int run(struct words *words, char output[OUTPUT_SIZE], struct bg_err *err)
{
    int status = 0;
    int r = words->failed
                ? bg_err_errno(err, -ENOMEM, "command")
                : process_output(words->list, output, OUTPUT_SIZE, COMMAND_MS, &status, err);
    words_done(words);
    if (r == 0 && status != 0)
        r = bg_err_set(err, -EBUSY, "%s", last_line(output));
    return r;
}

/* This program is bellglass too (main.c). */
static struct words command(const char *verb)
{
    struct words words = {0};
    BG_AUTOFREE char *self = process_self();
    add_word(&words, "%s", self ? self : "");
    add_word(&words, "%s", verb);
    words.failed |= self == NULL;
    return words;
}

static int run_simple(const char *verb, const char *option, const char *name, struct bg_err *err)
{
    char output[OUTPUT_SIZE];
    struct words words = command(verb);
    add_word(&words, "%s", option);
    add_word(&words, "%s", name);
    return run(&words, output, err);
}

/* The lines of a command's output that are names of what it made. */
static json_t *names_in(char *output, bool (*name_ok)(const char *name))
{
    json_t *names = json_array();
    for (char *rest = output, *line; names && (line = strsep(&rest, "\n"));)
        if (name_ok(line) && json_array_append_new(names, json_string(line)) < 0) {
            json_decref(names);
            return NULL;
        }
    return names;
}

/* ---- what each does, in a thread ---- */

static struct reach reach_of(const struct job *job)
{
    return (struct reach){.app = job->extra->opts.app, .token = job->token, .all = job->all};
}

/* No connection holds it any more: without a time it would end within a minute (sandboxes.h). */
static int give_time(struct job *job, const struct life *life, struct record *record)
{
    job->freed = true;
    if (!record->token || record->stop_at_ms > 0)
        return 0;
    record->stop_at_ms = output_now_ms() + STOP_AT_MS;
    return record_save(life->sandbox.dir, record, &job->err);
}

static int do_suspend(struct job *job, struct life *life, struct record *record)
{
    int r = run_simple("suspend", "-q", life->sandbox.name, &job->err);
    return r < 0 ? r : give_time(job, life, record);
}

static int do_start(struct job *job, struct life *life, struct record *record)
{
    int r = life->state == BG_SANDBOX_RUNNING ? 0 : give_time(job, life, record);
    job->admit = r == 0;
    return r < 0 ? r : run_simple("start", "-q", life->sandbox.name, &job->err);
}

static int do_snapshot(struct job *job, const struct life *life)
{
    const char *tag = NULL, *note = NULL;
    char output[OUTPUT_SIZE];
    bool disk_only = json_is_true(json_object_get(job->body, "disk_only"));
    int r = read_text(job->body, "tag", &tag, &job->err);
    if (r == 0)
        r = read_text(job->body, "note", &note, &job->err);
    if (r == 0 && tag)
        r = snapshots_check_tag(tag, &job->err);
    if (r == 0 && note && strlen(note) > BG_SNAPSHOT_NOTE_MAX)
        r = bg_err_set(&job->err, -EINVAL, "note: at most %d bytes", BG_SNAPSHOT_NOTE_MAX);
    if (r < 0)
        return r;
    struct words words = command("snapshot");
    add_word(&words, "-q");
    if (disk_only)
        add_word(&words, "--disk-only");
    if (note)
        add_word(&words, "--note=%s", note);
    add_word(&words, "%s%s%s", life->sandbox.name, tag ? "@" : "", tag ? tag : "");
    r = run(&words, output, &job->err);
    if (r == 0) {
        json_auto_t *names = names_in(output, bg_snapshot_name_ok);
        job->value = json_pack("{s:O?}", "name", json_array_get(names, 0));
    }
    return r;
}

static int do_restore(struct job *job, struct life *life, struct record *record)
{
    const char *snapshot = NULL;
    int r = read_text(job->body, "snapshot", &snapshot, &job->err);
    const char *at = snapshot ? strchr(snapshot, '@') : NULL;
    if (r == 0 &&
        (!snapshot || !(at ? bg_snapshot_name_ok(snapshot) : bg_snapshot_tag_ok(snapshot))))
        r = bg_err_set(&job->err, -EINVAL, "snapshot: want the one to go back to");
    if (r == 0)
        r = give_time(job, life, record);
    if (r < 0)
        return r;
    char output[OUTPUT_SIZE];
    struct words words = command("restore");
    add_word(&words, "-qy");
    add_word(&words, "%s", life->sandbox.name);
    add_word(&words, "%s", snapshot);
    job->admit = true;
    return run(&words, output, &job->err);
}

/* Values that a client gave its sandbox are in its folder alone. from: that folder. */
static int copy_secrets(const char *from, const struct bg_sandbox *to, struct bg_err *err)
{
    BG_AUTOFREE char *old = NULL, *new = NULL;
    if (asprintf(&old, "%s/secrets", from) < 0 || asprintf(&new, "%s/secrets", to->dir) < 0)
        return bg_err_errno(err, -ENOMEM, "secrets");
    BG_AUTOCLOSE int old_fd = open(old, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (old_fd < 0)
        return errno == ENOENT ? 0 : bg_err_errno(err, -errno, "%s", old);
    if (mkdir(new, 0700) < 0)
        return bg_err_errno(err, -errno, "%s", new);
    BG_AUTOCLOSE int new_fd = open(new, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = new_fd < 0 ? bg_err_errno(err, -errno, "%s", new) : 0;
    for (size_t i = 0; r == 0 && i < to->secret_count; i++) {
        BG_AUTOFREE char *value = NULL;
        size_t size = 0;
        int read =
            bg_read_file(old_fd, to->secrets[i].name, BG_GATEWAY_BODY_MAX, &value, &size, err);
        if (read == 0)
            r = bg_write_file(new_fd, to->secrets[i].name, value, size, 0600, err);
        else if (read != -ENOENT) /* else the user's own of that name is meant */
            r = read;
        if (value)
            explicit_bzero(value, size);
    }
    return r;
}

/* What a fork has beyond what `bellglass fork` gives it. */
struct origin {
    const char *dir; /* of the sandbox that it is of */
    const struct record *record;
};

/* When a fork is to end: with what it is of, or after a day, and within what its token may have. */
static uint64_t stop_of_fork(const struct job *job, const struct record *source)
{
    uint64_t now_ms = output_now_ms();
    uint64_t at_ms =
        source && source->stop_at_ms > now_ms ? source->stop_at_ms : now_ms + STOP_AT_MS;
    return job->ends_by_ms > 0 && job->ends_by_ms < at_ms ? job->ends_by_ms : at_ms;
}

/* Forks that are of a token: they get ids, and are told of in their folders before they run. */
static int tell_of_forks(const struct job *job, const struct origin *origin, struct bg_err *err)
{
    const struct record *source = origin ? origin->record : NULL;
    for (size_t i = 0; job->ids[i]; i++) {
        struct bg_sandbox child;
        json_auto_t *labels = json_object(), *env = json_object();
        BG_AUTOFREE char *token = strdup(job->token);
        const struct record record = {
            .token = token,
            .stop_at_ms = stop_of_fork(job, source),
            .ends_by_ms = job->ends_by_ms,
            .labels = source && source->labels ? source->labels : labels,
            .env = source && source->env ? source->env : env,
        };
        if (!labels || !env || !token)
            return bg_err_errno(err, -ENOMEM, "fork");
        int r = bg_sandbox_load(&job->extra->opts.app->paths, job->ids[i], &child, err);
        if (r < 0)
            return r;
        r = record_save(child.dir, &record, err);
        if (r == 0 && origin)
            r = copy_secrets(origin->dir, &child, err);
        bg_sandbox_done(&child);
        if (r < 0)
            return r;
    }
    return 0;
}

static int start_forks(const struct job *job, struct bg_err *err)
{
    int r = 0;
    for (size_t i = 0; r == 0 && job->ids[i]; i++)
        r = run_simple("start", "-q", job->ids[i], err);
    return r;
}

/* None is left half made. */
static void undo_forks(const struct job *job)
{
    struct bg_err err;
    for (size_t i = 0; job->ids[i]; i++) {
        struct bg_sandbox child;
        if (bg_sandbox_locate(&job->extra->opts.app->paths, job->ids[i], &child, &err) < 0)
            continue;
        bg_sandbox_done(&child);
        if (run_simple("rm", "-f", job->ids[i], &err) < 0)
            bg_log(job->extra->opts.log, BG_LOG_ERROR, "sandbox %s: %s", job->ids[i], err.text);
    }
}

/* from: a sandbox or a snapshot. origin: NULL: it is gone. */
static int do_fork(struct job *job, const char *from, const struct origin *origin)
{
    const char *name = NULL;
    char output[OUTPUT_SIZE];
    json_int_t count;
    bool with_ids = job->ids[0] != NULL;
    int r = read_text(job->body, "name", &name, &job->err);
    if (r == 0)
        r = read_number(job->body, "count", BG_GATEWAY_FORKS_MAX, 1, &count, &job->err);
    if (r == 0 && name && (with_ids || !bg_sandbox_name_ok(name)))
        r = bg_err_set(&job->err, -EINVAL,
                       with_ids ? "name: a fork of one that a client made gets an id"
                                : "name: want [a-z0-9][a-z0-9._-]{0,62}");
    if (r < 0)
        return r;
    struct words words = command("fork");
    add_word(&words, "-q");
    add_word(&words, "--count=%" JSON_INTEGER_FORMAT, count);
    if (with_ids)
        add_word(&words, "--no-start");
    add_word(&words, "%s", from);
    if (name)
        add_word(&words, "%s", name);
    for (size_t i = 0; job->ids[i]; i++)
        add_word(&words, "%s", job->ids[i]);
    r = run(&words, output, &job->err);
    if (r == 0 && with_ids) {
        r = tell_of_forks(job, origin, &job->err);
        if (r == 0)
            r = start_forks(job, &job->err);
        if (r < 0)
            undo_forks(job);
        job->admit = r == 0;
    }
    if (r == 0)
        job->value = json_pack("{s:o}", "names", names_in(output, bg_sandbox_name_ok));
    return r;
}

static int do_fork_snapshot(struct job *job)
{
    const struct reach reach = reach_of(job);
    struct bg_snapshot snapshot;
    struct life life;
    struct record record;
    struct bg_err why;
    if (!reach_snapshot_ok(&reach, job->route.name))
        return bg_err_set(&job->err, -ENOENT, "there is no snapshot '%s'", job->route.name);
    int r = bg_snapshot_load(&reach.app->paths, job->route.name, &snapshot, &job->err);
    if (r < 0)
        return r;
    bool there = reach_sandbox(&reach, snapshot.source_name, &life, &record, &why) == 0;
    bg_snapshot_done(&snapshot);
    const struct origin origin = {.dir = there ? life.sandbox.dir : NULL, .record = &record};
    r = do_fork(job, job->route.name, there ? &origin : NULL);
    if (there) {
        record_done(&record);
        life_done(&life);
    }
    return r;
}

static int do_remove_snapshot(struct job *job)
{
    const struct reach reach = reach_of(job);
    if (!reach_snapshot_ok(&reach, job->route.name))
        return bg_err_set(&job->err, -ENOENT, "there is no snapshot '%s'", job->route.name);
    return bg_snapshot_remove(&reach.app->paths, job->route.name, &job->err);
}

/* ---- rules ---- */

static int show_policy(struct job *job, const struct bg_sandbox *s)
{
    json_auto_t *secrets = json_array();
    for (size_t i = 0; i < s->secret_count; i++)
        if (json_array_append_new(
                secrets, json_pack("{s:s, s:o}", "name", s->secrets[i].name, "hosts",
                                   output_texts(s->secrets[i].hosts, s->secrets[i].host_count))) <
            0)
            return bg_err_errno(&job->err, -ENOMEM, "policy");
    job->value =
        json_pack("{s:o, s:o, s:O}", "allow", output_texts(s->allow, s->allow_count), "policy",
                  s->policy ? output_text(s->policy) : json_null(), "secrets", secrets);
    return 0;
}

/* The policy's own program has the last word on a text. */
static int check_policy(const struct bg_sandbox *s, const char *text, struct bg_err *err)
{
    char output[OUTPUT_SIZE];
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/policy.XXXXXX", s->dir) < 0)
        return bg_err_errno(err, -ENOMEM, "policy");
    BG_AUTOCLOSE int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        return bg_err_errno(err, -errno, "%s", path);
    int r = bg_write_full(fd, text, strlen(text));
    if (r < 0)
        (void)bg_err_errno(err, r, "%s", path);
    struct words words = command("policy");
    add_word(&words, "check");
    add_word(&words, "%s", path);
    if (r < 0)
        words_done(&words);
    else
        r = run(&words, output, err);
    (void)unlink(path); /* ours; it goes with the sandbox else */
    if (r != -EBUSY)
        return r;
    /* It names the file that we made. */
    const char *name = strrchr(path, '/') + 1, *found = strstr(err->text, name);
    return bg_err_set(err, -EINVAL, "policy%s", found ? found + strlen(name) : err->text);
}

/* Keeps what the sandbox has now, and gives it to the proxy if there is one. */
static int put_in_force(const struct job *job, const struct bg_sandbox *s, struct bg_err *err)
{
    json_auto_t *request = json_pack("{s:s}", "op", "policy-reload");
    if (!request)
        return bg_err_errno(err, -ENOMEM, "policy");
    int r = bg_sandbox_save(s, err);
    if (r == 0)
        r = client_request(&job->extra->opts.app->paths, s, request, RELOAD_MS, NULL, err);
    return r == -ENOTCONN ? 0 : r; /* it rests: at its next start */
}

static int do_set_policy(struct job *job, struct bg_sandbox *s)
{
    const char *text = NULL;
    int r = json_object_get(job->body, "policy")
                ? read_text(job->body, "policy", &text, &job->err)
                : bg_err_set(&job->err, -EINVAL, "policy: want its text, or null");
    if (r == 0 && text)
        r = check_policy(s, text, &job->err);
    if (r < 0)
        return r;
    free(s->policy);
    s->policy = text ? strdup(text) : NULL;
    if (text && !s->policy)
        return bg_err_errno(&job->err, -ENOMEM, "policy");
    r = put_in_force(job, s, &job->err);
    return r < 0 ? r : show_policy(job, s);
}

static void take_rules(struct bg_sandbox *s, struct rule_edited *edited)
{
    for (size_t i = 0; i < s->allow_count; i++)
        free(s->allow[i]);
    free(s->allow);
    free(s->policy);
    s->allow = BG_TAKE(edited->allow);
    s->allow_count = edited->allow_count;
    s->policy = BG_TAKE(edited->policy);
    edited->allow_count = 0;
}

static int do_rule(struct job *job, struct bg_sandbox *s)
{
    const char *decision = NULL, *host = NULL;
    json_int_t port = 0;
    struct rule_edited edited;
    int r = read_text(job->body, "decision", &decision, &job->err);
    if (r == 0)
        r = read_text(job->body, "host", &host, &job->err);
    if (r == 0)
        r = read_number(job->body, "port", UINT16_MAX, 0, &port, &job->err);
    bool deny = decision && strcmp(decision, "deny") == 0;
    if (r == 0 && (!host || !decision || (!deny && strcmp(decision, "allow") != 0)))
        r = bg_err_set(&job->err, -EINVAL, "want decision: \"allow\" or \"deny\", and host");
    if (r < 0)
        return r;
    const struct rule_edit_opts opts = {.deny = deny,
                                        .host = host,
                                        .port = (unsigned)port,
                                        .allow = s->allow,
                                        .allow_count = s->allow_count,
                                        .policy = s->policy};
    r = rule_edit(&opts, &edited, &job->err);
    if (r < 0)
        return r;
    if (!deny)
        r = grammar_check_allow(edited.rule, &job->err);
    if (r == 0 && edited.policy)
        r = check_policy(s, edited.policy, &job->err);
    if (r == 0) {
        take_rules(s, &edited);
        r = put_in_force(job, s, &job->err);
    }
    rule_edited_done(&edited);
    return r < 0 ? r : show_policy(job, s);
}

static int do_audit(struct job *job, const struct bg_sandbox *s)
{
    struct audit_cursor cursor;
    bool has = job->route.after[0] != '\0';
    if (has && audit_cursor_parse(job->route.after, &cursor) < 0)
        return bg_err_set(&job->err, -EINVAL, "after: want what `next` was");
    return audit_tail_read(s->dir, has ? &cursor : NULL, &job->value, &job->err);
}

/* ---- jobs ---- */

static int do_sandbox(struct job *job, struct life *life, struct record *record)
{
    const char *name = life->sandbox.name;
    switch (job->route.kind) {
    case EXTRA_REMOVE:
        return run_simple("rm", "-f", name, &job->err);
    case EXTRA_START:
        return do_start(job, life, record);
    case EXTRA_STOP:
        return run_simple("stop", "--time=10", name, &job->err);
    case EXTRA_SUSPEND:
        return do_suspend(job, life, record);
    case EXTRA_SNAPSHOT:
        return do_snapshot(job, life);
    case EXTRA_FORK:
        return do_fork(job, name, &(struct origin){.dir = life->sandbox.dir, .record = record});
    case EXTRA_RESTORE:
        return do_restore(job, life, record);
    case EXTRA_POLICY:
        return show_policy(job, &life->sandbox);
    case EXTRA_SET_POLICY:
        return do_set_policy(job, &life->sandbox);
    case EXTRA_RULE:
        return do_rule(job, &life->sandbox);
    case EXTRA_AUDIT:
        return do_audit(job, &life->sandbox);
    case EXTRA_NONE:
    case EXTRA_OTHER_METHOD:
    case EXTRA_BAD_NAME:
    case EXTRA_LOGIN:
    case EXTRA_LOGOUT:
    case EXTRA_SESSION:
    case EXTRA_OVERVIEW:
    case EXTRA_CONNECT:
    case EXTRA_REMOVE_SNAPSHOT:
        break;
    }
    return bg_err_set(&job->err, -EINVAL, "no such route");
}

static int do_job(struct job *job)
{
    const struct reach reach = reach_of(job);
    struct life life;
    struct record record;
    if (job->route.kind == EXTRA_OVERVIEW)
        return overview_make(&reach, &job->value, &job->err);
    if (job->route.kind == EXTRA_REMOVE_SNAPSHOT)
        return do_remove_snapshot(job);
    if (job->route.kind == EXTRA_FORK && strchr(job->route.name, '@'))
        return do_fork_snapshot(job);
    int r = reach_sandbox(&reach, job->route.name, &life, &record, &job->err);
    if (r < 0)
        return r;
    r = do_sandbox(job, &life, &record);
    record_done(&record);
    life_done(&life);
    return r;
}

static void job_work(uv_work_t *work)
{
    struct job *job = work->data;
    job->status = do_job(job);
    if (job->status == 0 && !job->value && !(job->value = json_object()))
        job->status = bg_err_errno(&job->err, -ENOMEM, "answer");
}

static void job_free(struct job *job)
{
    for (size_t i = 0; job->ids[i]; i++)
        free(job->ids[i]);
    json_decref(job->body);
    json_decref(job->value);
    free(job);
}

static void free_if_over(struct extra *extra)
{
    if (extra->closing && LIST_EMPTY(&extra->jobs))
        free(extra);
}

/* What runs now is the gateway's from here on, for its clients to connect to. */
static void admit(const struct job *job)
{
    struct sandboxes *all = job->extra->opts.sandboxes;
    const char *const one[] = {job->route.name, NULL};
    const char *const *names = job->ids[0] ? (const char *const *)job->ids : one;
    for (size_t i = 0; names[i]; i++) {
        struct sandbox_entry *entry;
        struct bg_err err;
        if (!route_id_ok(names[i]))
            continue;
        if (sandboxes_reach(all, names[i], job->token, job->all, &entry, &err) < 0) {
            bg_log(job->extra->opts.log, BG_LOG_ERROR, "sandbox %s: %s", names[i], err.text);
        } else if (job->status == 0) {
            sandboxes_wake(entry, NULL, NULL); /* it runs: so that this is known of it */
        }
    }
}

/* What the gateway knows of the sandbox is no more so. */
static void tell_sandboxes(struct job *job)
{
    struct sandboxes *all = job->extra->opts.sandboxes;
    if (job->extra->closing)
        return; /* they may be gone */
    if (job->claimed)
        sandboxes_unclaim(all, &job->claim);
    if (job->admit)
        admit(job);
    if (job->status < 0)
        return;
    if (job->route.kind == EXTRA_REMOVE || job->route.kind == EXTRA_STOP)
        sandboxes_ended(all, job->route.name);
    struct sandbox_entry *entry = job->freed ? sandboxes_find_any(all, job->route.name) : NULL;
    if (entry)
        sandboxes_keep(entry, output_now_ms() + STOP_AT_MS);
}

static void job_over(uv_work_t *work, int status)
{
    struct job *job = work->data;
    struct extra *extra = job->extra;
    (void)status; /* nobody cancels work */
    LIST_REMOVE(job, link);
    extra->count--;
    tell_sandboxes(job);
    if (job->owner)
        job->on_done(job->owner, job->status < 0 ? NULL : BG_TAKE(job->value),
                     job->status < 0 ? &job->err : NULL);
    job_free(job);
    free_if_over(extra);
}

/* Memory of a sandbox, and whose it is; false: it is not there, or not the token's, as the job then
 * says. *ret_mine: it is the token's own, not only the machine owner's to have. */
static bool measure(const struct job *job, const char *name, uint64_t *ret_bytes, bool *ret_mine)
{
    struct bg_sandbox s;
    struct record record;
    struct bg_err why;
    if (bg_sandbox_load(&job->extra->opts.app->paths, name, &s, &why) < 0)
        return false;
    bool made = record_load(s.dir, &record, &why) == 0;
    *ret_bytes = s.memory_bytes;
    *ret_mine = made && strcmp(record.token, job->token) == 0;
    if (made)
        record_done(&record);
    bg_sandbox_done(&s);
    return *ret_mine || job->all;
}

/* What a fork gets of memory; 0: as the job says, there is nothing to fork. */
static uint64_t memory_of_fork(const struct job *job, const char *source)
{
    struct bg_snapshot snapshot;
    struct bg_err why;
    uint64_t bytes = 0;
    bool mine;
    bool there = measure(job, source, &bytes, &mine);
    if (!strchr(job->route.name, '@'))
        return there ? bytes : 0;
    if ((!there && !job->all) ||
        bg_snapshot_load(&job->extra->opts.app->paths, job->route.name, &snapshot, &why) < 0)
        return 0;
    bytes = snapshot.memory_bytes;
    bg_snapshot_done(&snapshot);
    return bytes;
}

static int claim(struct job *job, size_t count, uint64_t memory_bytes, const struct quota *quota,
                 struct bg_err *err)
{
    job->claim =
        (struct sandboxes_claim){.token = job->token, .count = count, .memory_bytes = memory_bytes};
    int r = sandboxes_claim(job->extra->opts.sandboxes, &job->claim, quota, err);
    job->claimed = r == 0;
    return r;
}

/* A fork of what clients of the SDK have is for them too, and so is each of who has only these. */
static int claim_forks(struct job *job, const struct quota *quota, struct bg_err *err)
{
    json_int_t count;
    char name[EXTRA_NAME_SIZE];
    (void)snprintf(name, sizeof name, "%.*s", (int)strcspn(job->route.name, "@"), job->route.name);
    if (job->all && !route_id_ok(name))
        return 0;
    int r = read_number(job->body, "count", BG_GATEWAY_FORKS_MAX, 1, &count, err);
    job->ends_by_ms = quota_ends_by(quota, output_now_ms());
    for (json_int_t i = 0; r == 0 && i < count; i++)
        if (!(job->ids[i] = sandboxes_make_id(job->extra->opts.sandboxes)))
            r = bg_err_errno(err, -ENOMEM, "fork");
    return r < 0 ? r : claim(job, (size_t)count, memory_of_fork(job, name), quota, err);
}

/* One that rests does not count: to run again it needs what a new one would. The machine's owner
 * starts what is another token's as he likes. */
static int claim_start(struct job *job, const struct quota *quota, struct bg_err *err)
{
    uint64_t bytes;
    bool mine;
    if (sandboxes_find_any(job->extra->opts.sandboxes, job->route.name) ||
        !measure(job, job->route.name, &bytes, &mine) || !mine)
        return 0;
    return claim(job, 1, bytes, quota, err);
}

static int prepare(struct job *job, const struct extra_call *call, struct bg_err *err)
{
    static const char nothing[] = "{}";
    json_error_t where;
    bool empty = call->body_size == 0;
    job->body =
        json_loadb(empty ? nothing : call->body, empty ? sizeof nothing - 1 : call->body_size,
                   JSON_REJECT_DUPLICATES, &where);
    if (!json_is_object(job->body))
        return bg_err_set(err, -EINVAL, "the request's body is not a JSON object");
    if (job->route.kind == EXTRA_FORK)
        return claim_forks(job, call->quota, err);
    if (job->route.kind == EXTRA_START || job->route.kind == EXTRA_RESTORE)
        return claim_start(job, call->quota, err);
    return 0;
}

void extra_run(struct extra *extra, const struct extra_call *call, extra_done *on_done, void *owner)
{
    struct bg_err err;
    if (extra->count >= BG_GATEWAY_JOBS_MAX) {
        (void)bg_err_set(&err, -EUSERS, "%d requests are under way: try again in a moment",
                         BG_GATEWAY_JOBS_MAX);
        on_done(owner, NULL, &err);
        return;
    }
    struct job *job = calloc(1, sizeof *job);
    if (!job) {
        (void)bg_err_errno(&err, -ENOMEM, "request");
        on_done(owner, NULL, &err);
        return;
    }
    *job = (struct job){.extra = extra,
                        .route = *call->route,
                        .all = call->all,
                        .on_done = on_done,
                        .owner = owner};
    job->work.data = job;
    (void)snprintf(job->token, sizeof job->token, "%s", call->token);
    if (prepare(job, call, &err) < 0) {
        job_free(job);
        on_done(owner, NULL, &err);
        return;
    }
    extra->count++;
    LIST_INSERT_HEAD(&extra->jobs, job, link);
    (void)uv_queue_work(extra->loop, &job->work, job_work, job_over); /* cannot fail */
}

void extra_forget(struct extra *extra, const void *owner)
{
    struct job *job;
    LIST_FOREACH(job, &extra->jobs, link)
    {
        if (job->owner == owner)
            job->owner = NULL;
    }
}

int extra_open(uv_loop_t *loop, const struct extra_opts *opts, struct extra **ret,
               struct bg_err *err)
{
    struct extra *extra = calloc(1, sizeof *extra);
    if (!extra)
        return bg_err_errno(err, -ENOMEM, "routes");
    extra->loop = loop;
    extra->opts = *opts;
    LIST_INIT(&extra->jobs);
    *ret = extra;
    return 0;
}

void extra_close(struct extra *extra)
{
    if (!extra)
        return;
    extra->closing = true;
    free_if_over(extra);
}
