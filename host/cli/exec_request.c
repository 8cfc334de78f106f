#include "host/cli/exec_request.h"

#include "common/wire.h"

int exec_request_emit(const struct exec_request *request, uint8_t **ret_bytes, size_t *ret_size,
                      struct bg_err *err)
{
    const struct exec_request *q = request;
    if (q->argc + q->envc > BG_EXEC_STRINGS_MAX)
        return bg_err_set(err, -E2BIG, "%zu arguments and variables: at most %d can be passed",
                          q->argc + q->envc, BG_EXEC_STRINGS_MAX);
    if (strlen(q->user) > BG_NAME_MAX || strlen(q->cwd) >= BG_PATH_MAX)
        return bg_err_set(err, -E2BIG, "the user's or the folder's name is too long");
    BG_AUTOFREE uint8_t *bytes = malloc(BG_STREAM_BODY_MAX);
    if (!bytes)
        return bg_err_errno(err, -ENOMEM, "exec request");
    struct bg_writer w = bg_writer_init(bytes, BG_STREAM_BODY_MAX);
    bg_writer_u32le(&w, (q->tty ? BG_EXEC_TTY : 0) | (q->clear_env ? BG_EXEC_CLEAR_ENV : 0) |
                            (q->detach ? BG_EXEC_DETACH : 0) | (q->alone ? BG_EXEC_ALONE : 0));
    bg_writer_u16le(&w, q->rows);
    bg_writer_u16le(&w, q->columns);
    bg_writer_text32le(&w, q->user);
    bg_writer_text32le(&w, q->cwd);
    bg_writer_u32le(&w, (uint32_t)q->argc);
    bg_writer_u32le(&w, (uint32_t)q->envc);
    for (size_t i = 0; i < q->argc; i++)
        bg_writer_text32le(&w, q->argv[i]);
    for (size_t i = 0; i < q->envc; i++)
        bg_writer_text32le(&w, q->env[i]);
    if (!bg_writer_ok(&w))
        return bg_err_set(err, -E2BIG,
                          "arguments and variables of more than %d bytes: pass them "
                          "on stdin or in a file",
                          BG_STREAM_BODY_MAX);
    *ret_size = w.used;
    *ret_bytes = BG_TAKE(bytes);
    return 0;
}
