/* What comes on stdin: cut into lines in pieces, each line read as a message, and its arguments
 * checked for the tool that it names. The first byte says how large the pieces are. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "host/mcp/lines.h"
#include "host/mcp/message.h"
#include "host/mcp/tools.h"

#define LINE_MAX_SIZE 4096

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void take_call(const struct message *m)
{
    struct bg_err err;
    const json_t *args = json_object_get(m->params, "arguments");
    const char *name = json_string_value(json_object_get(m->params, "name"));
    const struct tool *tool = name ? tool_find(name) : NULL;
    if (!tool || tool_check(tool, args, &err) < 0)
        return;
    for (size_t i = 0; i < tool->arg_count; i++) {
        const struct tool_arg *arg = &tool->args[i];
        const char *text = tool_text(args, arg->name);
        int64_t number = tool_number(args, arg->name, arg->min);
        assert(arg->kind != TOOL_ARG_INTEGER || (number >= arg->min && number <= arg->max));
        assert(arg->kind != TOOL_ARG_TEXT || text || !arg->required);
    }
}

static void take_line(const char *line, size_t size)
{
    struct bg_err err;
    struct message m;
    json_t *value;
    assert(size <= LINE_MAX_SIZE);
    if (message_load(line, size, &value, &err) < 0)
        return;
    if (message_read(value, &m, &err) == 0) {
        if (m.kind == MESSAGE_REQUEST) {
            char *answer = message_result(m.id, message_complete(json_object(), m.version != NULL));
            assert(answer && strchr(answer, '\n') == answer + strlen(answer) - 1);
            free(answer);
        }
        take_call(&m);
    }
    json_decref(value);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct lines lines;
    if (size == 0)
        return 0;
    size_t piece = (size_t)bytes[0] + 1;
    const char *at = (const char *)bytes + 1;
    lines_init(&lines, LINE_MAX_SIZE);
    for (size_t left = size - 1; left > 0;) {
        size_t part = piece < left ? piece : left, line_size;
        const char *begin = at, *line;
        at += part;
        left -= part;
        for (enum lines_event event;
             (event = lines_next(&lines, &begin, &part, &line, &line_size)) != LINES_NEED_MORE;)
            if (event == LINES_LINE)
                take_line(line, line_size);
    }
    lines_done(&lines);
    return 0;
}
