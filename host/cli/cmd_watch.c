/* watch. */
#include "host/cli/commands.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/quote.h"
#include "common/wire.h"
#include "host/cli/client.h"
#include "host/cli/grammar.h"
#include "host/cli/life.h"
#include "host/cli/sandbox_options.h"
#include "host/cli/wake.h"
#include "host/cli/watch_frames.h"

#define REPLY_TIMEOUT_MS 120000 /* a loaded guest without KVM is slow */
#define INPUT_SIZE       (4 * (BG_FRAME_HEADER_SIZE + WATCH_FRAME_MAX))

static const struct option_spec watch_options[] = {
    {OPTION_JSON, 0, false, "json", NULL, "a line of JSON for each thing that happens"},
    {0},
};

static const char *const forms[] = {"[OPTIONS] NAME[:PATH]", "[OPTIONS] NAME PATH", NULL};
static const char *const examples[] = {"watch web /home/app", "watch --json web:/home/app/src",
                                       NULL};

static int open_stream(struct app *app, const struct bg_sandbox *sandbox, const char *path,
                       int *ret_fd, struct bg_err *err)
{
    uint8_t body[BG_PATH_MAX + 64];
    char quoted[512];
    struct bg_writer w = bg_writer_init(body, sizeof body);
    if (path[0] != '/' || strlen(path) >= BG_PATH_MAX)
        return bg_err_set(err, -EINVAL, "%s: the path in the sandbox must be absolute",
                          bg_quote(path, quoted, sizeof quoted));
    bg_watch_request_emit(path, &w);
    int r = wake_open(app, sandbox, "watch", body, w.used, ret_fd, err);
    return r < 0 ? r : client_stream_reply(*ret_fd, REPLY_TIMEOUT_MS, err);
}

/* Prints all whole frames of the input; *used: bytes in it. */
static int print_frames(uint8_t *input, size_t *used, bool json, struct bg_err *err)
{
    size_t at = 0;
    int r;
    do {
        BG_AUTOFREE char *text = NULL;
        r = watch_frames_take(input + at, *used - at, json, &text, err);
        if (r <= 0)
            break;
        (void)fputs(text, stdout);
        at += (size_t)r;
    } while (true);
    memmove(input, input + at, *used - at);
    *used -= at;
    if (r == 0 && fflush(stdout) != 0)
        return bg_err_errno(err, -errno, "standard output");
    return r;
}

/* Prints until the guest or the sandbox ends. */
static int print_all(int fd, bool json, struct bg_err *err)
{
    BG_AUTOFREE uint8_t *input = malloc(INPUT_SIZE);
    size_t used = 0;
    if (!input)
        return bg_err_errno(err, -ENOMEM, "watch");
    for (;;) {
        ssize_t n = read(fd, input + used, INPUT_SIZE - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return bg_err_errno(err, -errno, "from the guest");
        if (n == 0)
            return used == 0 ? 0 : bg_err_set(err, -ECONNRESET, "the guest broke off in a frame");
        used += (size_t)n;
        int r = print_frames(input, &used, json, err);
        if (r < 0)
            return r;
    }
}

static int watch_one(struct app *app, const struct args *args, struct bg_err *err)
{
    BG_AUTOFREE char *name = NULL;
    const char *path = "/";
    struct life life;
    if (!grammar_split_path(args->operands[0], &name, &path))
        name = strdup(args->operands[0]);
    else if (args->operand_count > 1)
        return bg_err_set(err, -EINVAL, "two paths: NAME:PATH or NAME PATH");
    if (!name)
        return bg_err_errno(err, -ENOMEM, "watch");
    if (args->operand_count > 1)
        path = args->operands[1];
    int r = life_open_running(app, name, &life, err);
    if (r < 0)
        return r;
    int fd = -1;
    r = open_stream(app, &life.sandbox, path[0] != '\0' ? path : "/", &fd, err);
    BG_AUTOCLOSE int stream = fd;
    if (r == 0) {
        app_note("watching %s: Ctrl-C ends it", name);
        r = print_all(stream, args_flag(args, OPTION_JSON), err);
    }
    if (r == 0)
        app_note("sandbox '%s' has ended", name);
    life_done(&life);
    return r;
}

static int run_watch(struct app *app, const struct args *args)
{
    struct bg_err err;
    return watch_one(app, args, &err) < 0 ? app_fail(&err) : app_printed(0);
}

const struct command cmd_watch = {
    .name = "watch",
    .summary = "show what happens to a sandbox's files",
    .forms = forms,
    .options = watch_options,
    .details =
        "One line for each thing that happens below PATH (/ if there is none): created, moved, "
        "modified, attributes, written (closed after writing), deleted. It has none of inotify's "
        "limits: whole trees are watched, new folders too. With --json each line is an object with "
        "kind, path, old_path (moved; without path or old_path, that end is not below PATH) and "
        "folder. What one process does to one file in quick succession comes once, and of a tree "
        "that is removed at least the top is told. `lost` says that more happened than could be "
        "told. Ends with Ctrl-C, or with the sandbox.",
    .examples = examples,
    .operands_min = 1,
    .operands_max = 2,
    .run = run_watch,
};
