#include "host/cli/ssh_stream.h"

#include <string.h>

#include "common/quote.h"
#include "host/cli/exec_request.h"
#include "host/cli/exec_stream.h"
#include "host/cli/reattach.h"
#include "host/cli/ssh_files.h"
#include "host/cli/ssh_guest.h"
#include "host/cli/wake.h"

#define SAID_MAX 512 /* of the guest's stderr; what follows is dropped */

struct carrier {
    struct reattach reattach;
    struct app *app;
    const struct bg_sandbox *sandbox;
    struct ssh_greeting greeting;
    char said[SAID_MAX]; /* on stderr before the greeting */
    size_t said_size;
};

/* Takes the greeting off the front of the guest's output; its stderr never reaches the terminal. */
static ssize_t take_output(void *owner, bool is_stderr, const uint8_t *bytes, size_t size,
                           struct bg_err *err)
{
    struct carrier *c = owner;
    if (is_stderr) {
        size_t room = sizeof c->said - c->said_size;
        memcpy(c->said + c->said_size, bytes, size < room ? size : room);
        c->said_size += size < room ? size : room;
        return (ssize_t)size;
    }
    if (c->greeting.done)
        return 0;
    ssize_t taken = ssh_greeting_feed(&c->greeting, bytes, size, err);
    if (taken >= 0 && c->greeting.done) {
        int r = ssh_files_pin(c->app, c->sandbox, c->greeting.key, err);
        if (r < 0)
            return r;
    }
    return taken;
}

/* Before the greeting has come there is nothing to go on with. */
static int on_lost(void *owner, const struct exec_position *at, int *ret_fd, struct bg_err *err)
{
    struct carrier *c = owner;
    return c->greeting.done ? reattach_lost(&c->reattach, at, ret_fd, err)
                            : bg_err_set(err, -ECONNRESET, "the sandbox stopped or crashed");
}

static int open_stream(struct app *app, const struct bg_sandbox *sandbox, int *ret_fd,
                       struct bg_err *err)
{
    const char *argv[SSH_GUEST_ARGS];
    char key[SSH_KEY_SIZE], *strings[SSH_GUEST_ARGS];
    BG_AUTOFREE uint8_t *body = NULL;
    size_t size;
    int r = ssh_files_key(app, key, err);
    if (r < 0)
        return r;
    ssh_guest_argv(sandbox->id, key, argv);
    memcpy(strings, argv, sizeof strings); /* only read; argv of a request has no const */
    struct exec_request request = {
        .detach = true, .user = "root", .cwd = "/", .argv = strings, .argc = SSH_GUEST_ARGS};
    r = exec_request_emit(&request, &body, &size, err);
    return r < 0 ? r : wake_open(app, sandbox, "exec", body, size, ret_fd, err);
}

int ssh_stream_run(struct app *app, const struct bg_sandbox *sandbox, struct bg_err *err)
{
    struct carrier c = {.reattach = {.app = app, .sandbox = sandbox, .signal_fd = -1, .own = true},
                        .app = app,
                        .sandbox = sandbox};
    struct exec_stream_result result;
    char said[BG_ERR_TEXT_SIZE / 2];
    BG_AUTOCLOSE int stream = -1;
    int r = open_stream(app, sandbox, &stream, err);
    if (r < 0)
        return r;
    /* No signals are caught: who ends us ends the connection, and the sshd in it. */
    struct exec_stream_opts opts = {.stream_fd = stream,
                                    .stdin_fd = STDIN_FILENO,
                                    .stdout_fd = STDOUT_FILENO,
                                    .stderr_fd = STDERR_FILENO,
                                    .signal_fd = -1,
                                    .on_output = take_output,
                                    .on_lost = on_lost,
                                    .owner = &c};
    *err = (struct bg_err){0};
    r = exec_stream_run(&opts, &result, err);
    if (r == 0 && !result.started)
        r = err->code != 0 ? err->code : -EIO; /* no shell: err says so */
    else if (r == 0 && !c.greeting.done) {
        size_t used = c.said_size;
        while (used > 0 && c.said[used - 1] == '\n')
            used--;
        const char *line = used > 0 ? memrchr(c.said, '\n', used) : NULL;
        line = line ? line + 1 : c.said;
        bg_escape(line, (size_t)(c.said + used - line), said, sizeof said);
        r = ssh_guest_explain(result.exit_status, said, err);
    }
    return r < 0 ? (bg_err_prefix(err, "sandbox '%s'", sandbox->name), r) : 0;
}
