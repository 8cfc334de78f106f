/* The error object: a negative errno and one line for a person. It lives on the caller's stack and
 * never allocates, so it works when memory is out. Texts read outside in and name the thing, the
 * value and, if there is one, the way out. */
#pragma once

#include <errno.h>

#include "common/cleanup.h"

#define BG_ERR_TEXT_SIZE 512

struct bg_err {
    int code; /* 0 or negative errno */
    char text[BG_ERR_TEXT_SIZE];
};

/* Sets *err (may be NULL) and returns code, so that callers can `return bg_err_set(...)`.
 * code: negative errno. A text that does not fit is cut. */
int bg_err_set(struct bg_err *err, int code, const char *format, ...) BG_PRINTF(3, 4);

/* bg_err_set with ": " and strerror(-code) appended. */
int bg_err_errno(struct bg_err *err, int code, const char *format, ...) BG_PRINTF(3, 4);

/* Puts "text: " before what err says already and returns err->code. err may be NULL (returns 0). */
int bg_err_prefix(struct bg_err *err, const char *format, ...) BG_PRINTF(2, 3);
