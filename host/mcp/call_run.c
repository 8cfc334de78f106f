/* The tool run: a command in a sandbox. Its end by timeout or cancellation is the end of its
 * stream: the guest then kills all that it has started. */
#include <stdio.h>
#include <string.h>

#include "common/limits.h"
#include "common/io.h"
#include "host/cli/exec_request.h"
#include "host/cli/grammar.h"
#include "host/gateway/guest_process.h"
#include "host/gateway/signal_name.h"
#include "host/mcp/call.h"
#include "host/mcp/capture.h"

#define OUTPUT_DEFAULT (32 * 1024)

struct run {
    uv_timer_t timer; /* the loop's until timer_closed */
    struct call *call;
    struct guest_process *process;
    struct stream_table input_table;
    struct inbound *input; /* NULL: it has all */
    struct capture out[2];
    uint64_t timeout_ms, begin_ms;
};

static void timer_closed(uv_handle_t *handle)
{
    struct run *run = handle->data;
    free(run);
}

static void run_abort(void *work)
{
    struct run *run = work;
    guest_process_close(BG_TAKE(run->process));
    inbound_drop(BG_TAKE(run->input));
    stream_table_done(&run->input_table);
    for (size_t i = 0; i < 2; i++)
        capture_done(&run->out[i]);
    uv_close((uv_handle_t *)&run->timer, timer_closed);
}

static void run_describe(const void *work, char *text, size_t size)
{
    const struct run *run = work;
    (void)snprintf(text, size, "running, %llu bytes of output so far",
                   (unsigned long long)(run->out[0].total + run->out[1].total));
}

/* ---- its answer ---- */

/* For a model to read: what a terminal would show, with headings. */
static json_t *as_text(const char *how, const json_t *out, const json_t *err)
{
    BG_AUTOFREE char *text = NULL;
    const char *texts[2] = {json_string_value(out), json_string_value(err)};
    size_t sizes[2] = {json_string_length(out), json_string_length(err)};
    if (!texts[0] || !texts[1])
        return NULL;
    int head = asprintf(&text, "%s\n", how);
    if (head < 0) {
        text = NULL;
        return NULL;
    }
    static const char *const headings[2] = {"--- stdout\n", "--- stderr\n"};
    size_t used = (size_t)head;
    char *grown = realloc(text, used + sizes[0] + sizes[1] + 64);
    if (!grown)
        return NULL;
    text = grown;
    for (size_t i = 0; i < 2; i++) {
        if (sizes[i] == 0)
            continue;
        bool gap = text[used - 1] != '\n';
        if (gap)
            text[used++] = '\n';
        memcpy(text + used, headings[i], strlen(headings[i]));
        used += strlen(headings[i]);
        memcpy(text + used, texts[i], sizes[i]);
        used += sizes[i];
    }
    return json_stringn(text, used);
}

/* how NULL: it was ended after its time. */
static void answer(struct run *run, const struct guest_exit *how)
{
    struct call *call = run->call;
    char words[96], signal_text[16];
    const char *name = how && how->signal ? signal_name(how->signal, signal_text) : NULL;
    json_auto_t *out = capture_text(&run->out[0]), *err = capture_text(&run->out[1]);
    if (!how)
        (void)snprintf(words, sizeof words, "timed out after %llu s, and was ended",
                       (unsigned long long)run->timeout_ms / 1000);
    else if (name)
        (void)snprintf(words, sizeof words, "ended by %s (exit code %d)", name, how->status);
    else
        (void)snprintf(words, sizeof words, "exit code %d", how->status);
    bool cut = capture_lost(&run->out[0]) > 0 || capture_lost(&run->out[1]) > 0;
    json_t *structured =
        json_pack("{s:o*, s:s*, s:O, s:O, s:I, s:I, s:b, s:b, s:I}", "exit_code",
                  how ? json_integer(how->status) : NULL, "signal", name, "stdout", out, "stderr",
                  err, "stdout_bytes", (json_int_t)run->out[0].total, "stderr_bytes",
                  (json_int_t)run->out[1].total, "truncated", cut, "timed_out", how == NULL,
                  "duration_ms", (json_int_t)(bg_now_ms() - run->begin_ms));
    call_answer(call, structured, as_text(words, out, err), /* is_error= */ how == NULL);
}

/* ---- the process ---- */

static void on_started(void *owner, uint32_t pid)
{
    (void)owner;
    (void)pid;
}

static void on_refused(void *owner, int status, const char *text)
{
    struct run *run = owner;
    (void)status;
    call_fail(run->call, "cannot run it: %s", text);
}

static void on_output(void *owner, bool is_stderr, const uint8_t *bytes, size_t size)
{
    struct run *run = owner;
    if (capture_add(&run->out[is_stderr], bytes, size) < 0)
        call_fail(run->call, "out of memory");
}

static void on_room(void *owner)
{
    struct run *run = owner;
    int r = 0;
    if (!run->input)
        return;
    r = guest_process_feed(run->process, run->input);
    if (r == 0 && inbound_over(run->input)) {
        inbound_drop(BG_TAKE(run->input));
        r = guest_process_end_input(run->process);
    }
    if (r < 0)
        call_fail(run->call, "out of memory");
}

static void on_ended(void *owner, const struct guest_exit *how, const struct bg_err *err)
{
    struct run *run = owner;
    if (how)
        answer(run, how);
    else
        call_fail(run->call, "the command was lost: %s", err->text);
}

static void timed_out(uv_timer_t *timer)
{
    answer(timer->data, NULL);
}

/* ---- its start ---- */

/* Texts of an array, or "K=V" of an object: a heap array of heap texts, NULL-terminated. */
static char **texts_of(const json_t *value)
{
    size_t count = json_is_array(value) ? json_array_size(value) : json_object_size(value), i = 0;
    char **list = calloc(count + 1, sizeof *list);
    const char *key;
    json_t *item;
    if (!list)
        return NULL;
    for (; i < count && json_is_array(value); i++)
        list[i] = strdup(json_string_value(json_array_get(value, i)));
    /* The iterator takes no const object, and changes none. */
    json_object_foreach((json_t *)(uintptr_t)value, key, item)
    {
        if (asprintf(&list[i], "%s=%s", key, json_string_value(item)) < 0)
            list[i] = NULL;
        i++;
    }
    return list;
}

static void free_texts(char **list, size_t count)
{
    for (size_t i = 0; list && i < count; i++)
        free(list[i]);
    free(list);
}

static bool all_there(char *const *list, size_t count)
{
    for (size_t i = 0; list && i < count; i++)
        if (!list[i])
            return false;
    return list != NULL;
}

static int give_input(struct run *run, const json_t *text)
{
    size_t size = json_string_length(text);
    const char *bytes = json_string_value(text);
    if (size == 0)
        return 0;
    int r = stream_table_start(&run->input_table, /* id= */ 0);
    struct stream_chunk *chunk = r == 0 ? stream_chunk_new(size) : NULL;
    if (!chunk)
        return -ENOMEM;
    memcpy(chunk->bytes, bytes, size);
    stream_table_enqueue(&run->input_table, 0, chunk);
    stream_table_end(&run->input_table, 0, /* failed= */ false);
    run->input = stream_table_claim(&run->input_table, 0, on_room, run);
    return run->input ? 0 : -ENOMEM;
}

static int start_process(struct run *run, struct bg_err *err)
{
    const struct call *call = run->call;
    const char *command = tool_text(call->args, "command");
    const json_t *env = json_object_get(call->args, "env");
    const char *cwd = tool_text(call->args, "cwd"), *user = tool_text(call->args, "user");
    json_auto_t *shell = command ? json_pack("[s, s, s]", "/bin/sh", "-c", command) : NULL;
    const json_t *words = command ? shell : json_object_get(call->args, "argv");
    size_t argc = json_array_size(words), envc = json_object_size(env);
    char **argv = texts_of(words), **env_list = texts_of(env);
    int r = argc > 0 && all_there(argv, argc) && all_there(env_list, envc)
                ? give_input(run, json_object_get(call->args, "stdin"))
                : -ENOMEM;
    if (r < 0)
        (void)bg_err_errno(err, r, "run");
    const struct exec_request request = {.user = user ? user : "",
                                         .cwd = cwd ? cwd : "",
                                         .argv = argv,
                                         .argc = argc,
                                         .env = env_list,
                                         .envc = envc};
    const struct guest_process_opts opts = {.paths = &call->all->app->paths,
                                            .sandbox = &call->box->sandbox,
                                            .request = &request,
                                            .on_started = on_started,
                                            .on_refused = on_refused,
                                            .on_output = on_output,
                                            .on_room = on_room,
                                            .on_ended = on_ended,
                                            .owner = run};
    if (r == 0)
        r = guest_process_start(call->all->loop, &opts, &run->process, err);
    if (r == 0 && !run->input && (r = guest_process_end_input(run->process)) < 0)
        (void)bg_err_errno(err, r, "run");
    free_texts(argv, argc);
    free_texts(env_list, envc);
    return r;
}

static void start_run(struct call *call)
{
    struct bg_err err;
    int64_t seconds = tool_number(call->args, "timeout_seconds", call->all->timeout_s_max);
    int64_t size = tool_number(call->args, "output_bytes_max", OUTPUT_DEFAULT);
    struct run *run = calloc(1, sizeof *run);
    if (!run) {
        call_fail(call, "out of memory");
        return;
    }
    (void)uv_timer_init(call->all->loop, &run->timer); /* cannot fail */
    run->timer.data = run;
    run->call = call;
    run->begin_ms = bg_now_ms();
    run->timeout_ms = (uint64_t)seconds * 1000;
    stream_table_init(&run->input_table);
    for (size_t i = 0; i < 2; i++)
        capture_init(&run->out[i], (size_t)size);
    call->work = run;
    call->abort = run_abort;
    call->describe = run_describe;
    if (start_process(run, &err) < 0) {
        call_fail(call, "%s", err.text);
        return;
    }
    call->counted = true;
    call->box->runs++;
    (void)uv_timer_start(&run->timer, timed_out, run->timeout_ms, 0); /* fails only when closing */
}

static void have_turn(struct call *call)
{
    call_awake(call, start_run);
}

/* What the table does not say. False: the call has ended. */
static bool check(struct call *call)
{
    const char *key, *cwd = tool_text(call->args, "cwd");
    json_t *value;
    int64_t seconds = tool_number(call->args, "timeout_seconds", 1);
    bool shell = tool_text(call->args, "command") != NULL;
    json_object_foreach(json_object_get(call->args, "env"), key, value)
    {
        if (!grammar_name_ok(key, strlen(key))) {
            call_fail(call, "env: names have letters, digits and '_' only");
            return false;
        }
    }
    if (shell == json_is_array(json_object_get(call->args, "argv")))
        call_fail(call, "give either command (shell text) or argv (an array of strings)");
    else if (cwd && cwd[0] != '/')
        call_fail(call, "cwd: want an absolute path");
    else if (seconds > call->all->timeout_s_max)
        call_fail(call, "timeout_seconds: at most %u here", call->all->timeout_s_max);
    else
        return true;
    return false;
}

void call_run(struct call *call)
{
    if (check(call) && call_find_box(call, "sandbox"))
        call_queue(call, have_turn);
}
