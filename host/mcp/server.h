/* server: the Model Context Protocol on stdin and stdout, until they end or a signal comes. */
#pragma once

#include "common/err.h"
#include "common/log.h"
#include "host/cli/app.h"
#include "host/mcp/boxes.h"

struct server_opts {
    struct app *app; /* borrowed, as all here; with its paths */
    const struct bg_log *log;
    struct boxes *boxes;
    const char *program; /* path of bellglass */
    int hold_fd;         /* as struct calls has it */
    unsigned timeout_s_max;
};

/* Errors: -ENOMEM; errno of stdin and stdout. */
int server_run(const struct server_opts *opts, struct bg_err *err) BG_MUST_CHECK;
