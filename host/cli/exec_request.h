/* exec_request: the body that asks for a command (docs/protocol.md, "Exec"). Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct exec_request {
    bool tty;
    bool clear_env; /* nothing but PATH and env */
    bool alone;     /* the stream ends with the reply, and the command goes on */
    bool detach;    /* when the stream ends early, it loses its pipes instead of being killed */
    uint16_t rows, columns;
    const char *user, *cwd; /* "": the guest's default */
    char *const *argv;      /* at least one */
    size_t argc;
    char *const *env; /* "K=V" */
    size_t envc;
};

/* *ret_bytes: heap, the caller's. Errors: -E2BIG more than the guest takes; -ENOMEM. */
int exec_request_emit(const struct exec_request *request, uint8_t **ret_bytes, size_t *ret_size,
                      struct bg_err *err) BG_MUST_CHECK;
