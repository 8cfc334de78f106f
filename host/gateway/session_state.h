/* session_state: what the parts of a session (session.c, session_process.c, ...) have together. */
#pragma once

#include <sys/queue.h>

#include <jansson.h>

#include "host/gateway/rpc.h"
#include "host/gateway/session.h"
#include "host/gateway/stream_ends.h"
#include "host/gateway/stream_table.h"

/* A stream to the client. */
struct outbound {
    LIST_ENTRY(outbound) link; /* session->outbound, while it is open */
    uint64_t id;
    uint64_t mark;                  /* the client hears of it in a later turn than this */
    bool open;                      /* started, and neither ended nor cancelled */
    void (*on_cancel)(void *owner); /* the client does not want the rest; NULL: nothing to do */
    void *owner;
};

struct held;      /* session.c */
struct env_query; /* session_env.c: what the guest's environment is */
struct fetch;     /* session_fetch.c */
struct child;     /* session_process.c */
struct file_call; /* session_files.c: a call that the guest has not answered yet */
struct handle;    /* session_files.c: a file that the client has open */
struct deno_call; /* session_deno.c */
struct glob;      /* session_glob.c */
struct walk;      /* session_walk.c */
struct transfer;  /* session_transfer.c: a whole file on its way */

struct session {
    struct session_opts opts;
    struct viewer viewer;
    bool gone;      /* viewer is not in a list: the sandbox has ended */
    bool congested; /* unread, or something is held: what can wait is not made */
    bool closing;
    bool starved; /* what was last told about session_wants_input, turned round */
    struct stream_table inbound;
    LIST_HEAD(, outbound) outbound;
    struct stream_ends ends;
    struct turns turns;
    SIMPLEQ_HEAD(, held) held; /* what is said of streams in a later turn (session.c) */
    bool unread;               /* the client does not read what it was sent */
    LIST_HEAD(, child) children;
    size_t child_count;
    struct guest_files *files; /* for calls about names; NULL: not yet opened */
    uint32_t umask;
    LIST_HEAD(, file_call) file_calls;
    LIST_HEAD(, handle) handles;
    LIST_HEAD(, transfer) transfers;
    LIST_HEAD(, env_query) env_queries;
    LIST_HEAD(, fetch) fetches;
    LIST_HEAD(, walk) walks;
    LIST_HEAD(, glob) globs;
    LIST_HEAD(, deno_call) deno_calls;
    size_t file_count; /* of handles and transfers */
    int64_t next_handle;
};

/* Answers to a call; value and error are taken and may be NULL when memory is out. */
void session_reply(struct session *s, const json_t *id, json_t *value);
void session_reply_bytes(struct session *s, const json_t *id, const void *bytes, size_t size);
void session_throw(struct session *s, const json_t *id, json_t *error);
void session_fault(struct session *s, const json_t *id, enum rpc_code code, const char *text);

/* Begins (before the call's answer, which is to come at once), goes on with and ends a stream to
 * the client, which hears of the end a little later (stream_ends.h). */
void session_stream_start(struct session *s, struct outbound *out);
void session_stream_send(struct session *s, const struct outbound *out, const void *bytes,
                         size_t size);
void session_stream_end(struct session *s, struct outbound *out);
/* The same, but it breaks off; error: taken. */
void session_stream_break(struct session *s, struct outbound *out, json_t *error);
/* Tells the client that the rest of a stream of its own is not wanted, and forgets it. NULL: no-op.
 */
void session_stream_refuse(struct session *s, struct inbound *in);

/* After something was taken from a stream of the client's. */
void session_input_taken(struct session *s);

/* A method: reads its parameters, and answers now or later. One that finds a problem in the
 * parameters does nothing: the session then answers. */
typedef void method_fn(struct session *s, const json_t *id, struct rpc_params *params);

method_fn method_spawn, method_process_wait, method_process_kill, method_process_resize;
method_fn method_chmod, method_chown, method_copy_file, method_create, method_file_close,
    method_file_lock, method_file_read, method_file_seek, method_file_stat, method_file_sync,
    method_file_sync_data, method_file_truncate, method_file_unlock, method_file_utime,
    method_file_write, method_link, method_lstat, method_make_temp_dir, method_make_temp_file,
    method_mkdir, method_open, method_read_dir, method_read_link, method_real_path, method_remove,
    method_rename, method_stat, method_symlink, method_truncate, method_umask, method_utime;
method_fn method_env_delete, method_env_get, method_env_set, method_env_to_object;
method_fn method_vscode;
method_fn method_expand_glob, method_expose_http, method_fetch, method_walk;
method_fn method_abort, method_read_file, method_read_text_file, method_write_file,
    method_write_text_file;

method_fn method_deno_http_wait, method_deno_repl_call, method_deno_repl_close,
    method_deno_repl_eval, method_spawn_deno, method_spawn_deno_repl;

/* A process of Deno's. */
struct spawn_deno {
    uint16_t port; /* its HTTP server is to listen on; that of its REPL is the next one */
    bool repl;
};

/* method_spawn; deno: NULL: any other process. */
void session_spawn(struct session *s, const json_t *id, struct rpc_params *params,
                   const struct spawn_deno *deno);
/* The port of a process of Deno's; 0: it has ended, or is none. */
uint16_t session_child_port(const struct session *s, int64_t pid);
void session_deno_close(struct session *s);

void session_children_congested(struct session *s, bool congested);
void session_fetches_congested(struct session *s, bool congested);
void session_children_close(struct session *s);
void session_files_close(struct session *s);
void session_transfers_close(struct session *s);
void session_env_close(struct session *s);
void session_fetches_close(struct session *s);
void session_walks_congested(struct session *s, bool congested);
void session_walks_close(struct session *s);
void session_globs_congested(struct session *s, bool congested);
void session_globs_close(struct session *s);

/* Aborts what has this id. False: nothing has it. */
bool session_transfer_abort(struct session *s, int64_t abort_id);
bool session_fetch_abort(struct session *s, int64_t abort_id);

/* The environment of a new process. */
struct env_list {
    bool clear;  /* nothing else is to be in it */
    char **list; /* "K=V" */
    size_t count;
};

/* Puts one together, of what the client set for all processes and for this one (may be NULL, over
 * it). clear: of that alone. on_ready is called once, now or later, unless session_env_forget is
 * called before; err: NULL, or why there is none. env is borrowed for that call. */
typedef void session_env_ready(void *owner, const struct env_list *env, const struct bg_err *err);
void session_env_make(struct session *s, const json_t *own, bool clear, session_env_ready *on_ready,
                      void *owner);
void session_env_forget(struct session *s, const void *owner);
/* Variables that a client sets (an object of texts, or NULL). False: one of them has a token of the
 * gateway's, and the call was answered so. */
bool session_env_allowed(struct session *s, const json_t *id, const json_t *env);

/* "VERB 'PATH'" for an error's text: heap, the caller's; NULL: out of memory. */
char *session_doing(const char *verb, const char *path);
