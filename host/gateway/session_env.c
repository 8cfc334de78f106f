/* The environment of a sandbox's processes. What clients set or took away is in the sandbox's
 * record and counts for what is started later. The guest's own is asked for (`env -0`) only when it
 * is needed: to be shown, or because something of it was taken away, which an exec cannot ask for
 * but by naming all the rest. */
#include <stdio.h>
#include <string.h>

#include "common/limits.h"
#include "host/gateway/fault.h"
#include "host/gateway/guest_process.h"
#include "host/gateway/session_state.h"
#include "host/gateway/text.h"

#define ANSWER_MAX BG_STREAM_BODY_MAX /* of env -0; more could not be passed on either */

struct env_query {
    LIST_ENTRY(env_query) link;
    struct session *session;
    struct guest_process *process; /* NULL: the answer is there */
    char *text;
    size_t size;
    json_t *id; /* of envGet and envToObject */
    char *key;  /* of envGet */
    /* Of a process that is to be started. */
    json_t *own;
    session_env_ready *on_ready;
    void *owner;
};

static void query_free(struct env_query *q)
{
    guest_process_close(q->process);
    LIST_REMOVE(q, link);
    json_decref(q->id);
    json_decref(q->own);
    free(q->key);
    free(q->text);
    free(q);
}

static void list_done(struct env_list *env)
{
    for (size_t i = 0; env->list && i < env->count; i++)
        free(env->list[i]);
    free(env->list);
}

/* The names are what can be one: not empty, no '='. */
static bool name_ok(const char *name)
{
    return *name != '\0' && !strchr(name, '=');
}

/* Lays the texts of `over` on `object`, and takes away what is null in it. */
static int lay_over(json_t *object, const json_t *over)
{
    const char *key;
    json_t *value;
    /* The iterator takes no const object, and changes none. */
    json_object_foreach((json_t *)(uintptr_t)over, key, value)
    {
        if (json_is_null(value))
            (void)json_object_del(object, key); /* fails if it is not there */
        else if (json_object_set(object, key, value) < 0)
            return -ENOMEM;
    }
    return 0;
}

static int to_list(const json_t *object, struct env_list *ret)
{
    const char *key;
    json_t *value;
    ret->list = calloc(json_object_size(object) + 1, sizeof *ret->list);
    if (!ret->list)
        return -ENOMEM;
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        if (!name_ok(key))
            continue;
        if (asprintf(&ret->list[ret->count], "%s=%s", key, json_string_value(value)) < 0) {
            ret->list[ret->count] = NULL;
            return -ENOMEM;
        }
        ret->count++;
    }
    return 0;
}

/* Something of the guest's own may have been taken away. */
static bool takes_away(const json_t *env)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)env, key, value) if (json_is_null(value)) return true;
    return false;
}

/* The guest's own with what clients made of it. NULL: out of memory. */
static json_t *whole(const struct session *s)
{
    json_t *env = json_copy(s->opts.entry->base_env);
    if (env && lay_over(env, s->opts.entry->record.env) < 0) {
        json_decref(env);
        return NULL;
    }
    return env;
}

/* env: taken; NULL: out of memory. */
static void give_list(json_t *env, const json_t *own, bool clear, session_env_ready *on_ready,
                      void *owner)
{
    struct env_list list = {.clear = clear};
    struct bg_err err;
    int r = env && lay_over(env, own) == 0 ? to_list(env, &list) : -ENOMEM;
    json_decref(env);
    if (r < 0)
        (void)bg_err_errno(&err, r, "environment");
    on_ready(owner, &list, r < 0 ? &err : NULL);
    list_done(&list);
}

/* ---- what the guest says ---- */

/* "K=V\0" each. What is not UTF-8 cannot be told to a client, nor given back unchanged: it is left
 * as it looks like. */
static json_t *parse_answer(const char *text, size_t size)
{
    json_t *env = json_object();
    for (size_t at = 0; env && at < size;) {
        size_t n = strnlen(text + at, size - at);
        const char *equals = memchr(text + at, '=', n);
        if (equals && equals > text + at) {
            json_auto_t *key = text_lossy(text + at, (size_t)(equals - (text + at)));
            json_t *value = text_lossy(equals + 1, n - (size_t)(equals - (text + at)) - 1);
            if (!key || json_object_set_new(env, json_string_value(key), value) < 0) {
                json_decref(env);
                return NULL;
            }
        }
        at += n + 1;
    }
    return env;
}

static void answer_query(struct env_query *q, const struct bg_err *why)
{
    struct session *s = q->session;
    if (q->on_ready) {
        if (why) {
            struct env_list none = {0};
            q->on_ready(q->owner, &none, why);
        } else {
            give_list(whole(s), q->own, /* clear= */ true, q->on_ready, q->owner);
        }
        return;
    }
    json_t *env = why ? NULL : whole(s);
    if (!env)
        session_throw(s, q->id, fault_new("Error", why ? why->text : "out of memory"));
    else if (q->key && json_object_get(env, q->key))
        session_reply(s, q->id, json_incref(json_object_get(env, q->key)));
    else
        session_reply(s, q->id, q->key ? json_null() : json_incref(env));
    json_decref(env);
}

static void on_output(void *owner, bool is_stderr, const uint8_t *bytes, size_t size)
{
    struct env_query *q = owner;
    if (is_stderr || q->size + size > ANSWER_MAX)
        return;
    char *grown = realloc(q->text, q->size + size);
    if (!grown)
        return; /* what is missing is out of memory's */
    memcpy(grown + q->size, bytes, size);
    q->text = grown;
    q->size += size;
}

static void query_over(struct env_query *q, const struct bg_err *why)
{
    struct sandbox_entry *entry = q->session->opts.entry;
    struct bg_err err;
    guest_process_close(BG_TAKE(q->process));
    if (!why && !entry->base_env)
        entry->base_env = parse_answer(q->text, q->size);
    if (!why && !entry->base_env) {
        (void)bg_err_errno(&err, -ENOMEM, "environment");
        why = &err;
    }
    answer_query(q, why);
    query_free(q);
}

static void on_ended(void *owner, const struct guest_exit *how, const struct bg_err *err)
{
    struct bg_err failed;
    if (!err && how->status != 0)
        (void)bg_err_set(&failed, -EIO, "env in the sandbox ended with status %d", how->status);
    query_over(owner, err ? err : how->status != 0 ? &failed : NULL);
}

static void on_refused(void *owner, int status, const char *text)
{
    struct bg_err err;
    (void)bg_err_set(&err, status, "env in the sandbox: %s", text);
    query_over(owner, &err);
}

static void on_started(void *owner, uint32_t pid)
{
    (void)owner;
    (void)pid; /* nobody waits for it but its stream */
}

/* query: taken; its answer may come at once. */
static void ask(struct session *s, struct env_query *query)
{
    char program[] = "env", option[] = "-0";
    char *argv[] = {program, option, NULL};
    const struct exec_request request = {.user = "", .cwd = "", .argv = argv, .argc = 2};
    const struct guest_process_opts opts = {.paths = s->opts.shared->paths,
                                            .sandbox = &s->opts.entry->sandbox,
                                            .request = &request,
                                            .on_started = on_started,
                                            .on_refused = on_refused,
                                            .on_output = on_output,
                                            .on_ended = on_ended,
                                            .owner = query};
    struct bg_err err;
    query->session = s;
    LIST_INSERT_HEAD(&s->env_queries, query, link);
    if (s->opts.entry->base_env) {
        query_over(query, NULL);
        return;
    }
    int r = guest_process_start(s->opts.shared->loop, &opts, &query->process, &err);
    if (r == 0) {
        r = guest_process_end_input(query->process);
        if (r < 0)
            (void)bg_err_errno(&err, r, "environment");
    }
    if (r < 0)
        query_over(query, &err);
}

/* ---- for processes ---- */

void session_env_make(struct session *s, const json_t *own, bool clear, session_env_ready *on_ready,
                      void *owner)
{
    const json_t *set = s->opts.entry->record.env;
    if (clear || !takes_away(set)) {
        json_t *env = json_object();
        if (env && !clear && lay_over(env, set) < 0)
            json_decref(BG_TAKE(env));
        give_list(env, own, clear, on_ready, owner);
        return;
    }
    struct env_query *q = calloc(1, sizeof *q);
    if (!q) {
        give_list(NULL, NULL, clear, on_ready, owner);
        return;
    }
    q->own = json_deep_copy(own);
    q->on_ready = on_ready;
    q->owner = owner;
    ask(s, q);
}

void session_env_forget(struct session *s, const void *owner)
{
    struct env_query *q;
    LIST_FOREACH(q, &s->env_queries, link)
    {
        if (q->owner == owner && q->process) {
            query_free(q);
            return;
        }
    }
}

/* ---- methods ---- */

static bool allowed(struct session *s, const json_t *id, const char *value)
{
    struct bg_err err;
    if (tokens_check_stray(&s->opts.shared->tokens->tokens, value, &err) == 0)
        return true;
    session_throw(s, id, fault_new("PermissionDenied", err.text));
    return false;
}

bool session_env_allowed(struct session *s, const json_t *id, const json_t *env)
{
    const char *key;
    json_t *value;
    /* The iterator takes no const object, and changes none. */
    json_object_foreach((json_t *)(uintptr_t)env, key,
                        value) if (!allowed(s, id, json_string_value(value))) return false;
    return true;
}

static void set_variable(struct session *s, const json_t *id, const char *name, const char *value)
{
    struct bg_err err;
    if (!name_ok(name))
        session_throw(s, id, fault_new("TypeError", "a variable's name is empty or has '=' in it"));
    else if (sandboxes_set_env(s->opts.entry, name, value, &err) < 0)
        session_throw(s, id, fault_new("Error", err.text));
    else
        session_reply(s, id, json_null());
}

void method_env_set(struct session *s, const json_t *id, struct rpc_params *params)
{
    const char *name = rpc_text(params, "key"), *value = rpc_text(params, "value");
    if (rpc_params_ok(params) && allowed(s, id, value))
        set_variable(s, id, name, value);
}

void method_env_delete(struct session *s, const json_t *id, struct rpc_params *params)
{
    const char *name = rpc_text(params, "key");
    if (rpc_params_ok(params))
        set_variable(s, id, name, NULL);
}

static void show(struct session *s, const json_t *id, const char *key)
{
    struct env_query *q = calloc(1, sizeof *q);
    if (q) {
        q->id = json_deep_copy(id);
        q->key = key ? strdup(key) : NULL;
    }
    if (!q || !q->id || (key && !q->key)) {
        session_throw(s, id, fault_errno(-ENOMEM, "environment"));
        if (q)
            json_decref(q->id);
        free(q);
        return;
    }
    ask(s, q);
}

void method_env_get(struct session *s, const json_t *id, struct rpc_params *params)
{
    const char *key = rpc_text(params, "key");
    if (!rpc_params_ok(params))
        return;
    json_t *set = json_object_get(s->opts.entry->record.env, key);
    if (set)
        session_reply(s, id, json_incref(set));
    else
        show(s, id, key);
}

void method_env_to_object(struct session *s, const json_t *id, struct rpc_params *params)
{
    (void)params; /* there are none */
    show(s, id, NULL);
}

void session_env_close(struct session *s)
{
    while (!LIST_EMPTY(&s->env_queries))
        query_free(LIST_FIRST(&s->env_queries));
}
