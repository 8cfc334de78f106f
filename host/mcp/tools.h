/* tools: what a client's model may do, as one table that gives both the schemas that it is shown
 * and the check of the arguments that it sends. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "common/err.h"

enum tool_id {
    TOOL_CREATE,
    TOOL_RUN,
    TOOL_READ,
    TOOL_WRITE,
    TOOL_LIST_FILES,
    TOOL_FORK,
    TOOL_SNAPSHOT,
    TOOL_RESTORE,
    TOOL_SUSPEND,
    TOOL_RESUME,
    TOOL_LIST,
    TOOL_REMOVE,
    TOOL_REMOVE_SNAPSHOT,
    TOOL_COUNT
};

enum tool_arg_kind {
    TOOL_ARG_TEXT,    /* without NUL */
    TOOL_ARG_BYTES,   /* any text */
    TOOL_ARG_INTEGER, /* 3.0 is one too */
    TOOL_ARG_FLAG,
    TOOL_ARG_TEXTS, /* an array of them, without NUL */
    TOOL_ARG_MAP,   /* an object of them, likewise */
};

struct tool_arg {
    const char *name;
    enum tool_arg_kind kind;
    bool required;
    int64_t min, max;           /* of a number; of a text's bytes; of how many texts */
    const char *const *choices; /* the texts that it may be, NULL-terminated; NULL: any */
    const char *help;
};

struct tool {
    const char *name, *title, *help;
    const struct tool_arg *args;
    size_t arg_count;
    const char *output; /* the schema of structuredContent, as JSON */
    bool reads;         /* changes nothing */
    bool destroys;      /* what it changes may be lost */
    bool repeats;       /* done again with the same arguments, it changes no more */
    bool open_world;    /* may reach hosts outside, if the sandbox may */
};

const struct tool *tool_find(const char *name); /* NULL: there is none */
enum tool_id tool_id(const struct tool *tool);

/* For the result of `tools/list`: an array. NULL: out of memory. */
json_t *tools_list(void);

/* args: an object, or NULL for none. Errors: -EINVAL with what is wrong, for the model. */
int tool_check(const struct tool *tool, const json_t *args, struct bg_err *err) BG_MUST_CHECK;

/* Arguments that were checked. Borrowed; NULL, fallback or false: not given. */
const char *tool_text(const json_t *args, const char *name);
int64_t tool_number(const json_t *args, const char *name, int64_t fallback);
bool tool_flag(const json_t *args, const char *name);
