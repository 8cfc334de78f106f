#include "common/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int bg_err_set(struct bg_err *err, int code, const char *format, ...)
{
    if (!err)
        return code;
    err->code = code;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(err->text, sizeof err->text, format, args); /* cut is fine */
    va_end(args);
    return code;
}

int bg_err_errno(struct bg_err *err, int code, const char *format, ...)
{
    if (!err)
        return code;
    err->code = code;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    size_t used = strlen(err->text);
    (void)snprintf(err->text + used, sizeof err->text - used, ": %s", strerror(-code));
    return code;
}

int bg_err_prefix(struct bg_err *err, const char *format, ...)
{
    if (!err)
        return 0;
    char rest[BG_ERR_TEXT_SIZE];
    memcpy(rest, err->text, sizeof rest);
    va_list args;
    va_start(args, format);
    (void)vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    size_t used = strlen(err->text);
    (void)snprintf(err->text + used, sizeof err->text - used, ": %s", rest);
    return err->code;
}
