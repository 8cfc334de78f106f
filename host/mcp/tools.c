#include "host/mcp/tools.h"

#include <stdio.h>
#include <string.h>

#include "common/limits.h"
#include "common/quote.h"
#include "common/state/sandbox.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

#define NAME_MAX_SIZE BG_SANDBOX_NAME_MAX
#define PATH_MAX_SIZE (BG_PATH_MAX - 1)

#define ARG_SANDBOX                                                                                \
    {                                                                                              \
        "sandbox", TOOL_ARG_TEXT, true, 1, NAME_MAX_SIZE, NULL,                                    \
            "Name of the sandbox, as create_sandbox or list_sandboxes returned it."                \
    }
#define ARG_NAME                                                                                   \
    {                                                                                              \
        "name", TOOL_ARG_TEXT, false, 1, NAME_MAX_SIZE, NULL,                                      \
            "A short name for the new sandbox: a-z, 0-9, '.', '_' and '-'. The server puts its "   \
            "prefix in front. Left out: one is made up."                                           \
    }
#define ARG_SNAPSHOT(why)                                                                          \
    {                                                                                              \
        "snapshot", TOOL_ARG_TEXT, true, 1, 2 * NAME_MAX_SIZE + 1, NULL, why                       \
    }

#define OUTPUT_SANDBOX                                                                             \
    "{\"type\":\"object\",\"properties\":{\"sandbox\":{\"type\":\"string\",\"description\":"       \
    "\"Its name, for the other tools.\"},\"state\":{\"type\":\"string\"}},"                        \
    "\"required\":[\"sandbox\",\"state\"]}"
#define OUTPUT_REMOVED                                                                             \
    "{\"type\":\"object\",\"properties\":{\"removed\":{\"type\":\"string\"}},"                     \
    "\"required\":[\"removed\"]}"

static const char *const encodings[] = {"utf-8", "base64", NULL};

static const struct tool_arg create_args[] = {ARG_NAME};

static const struct tool_arg run_args[] = {
    ARG_SANDBOX,
    {"command", TOOL_ARG_TEXT, false, 1, BG_MCP_COMMAND_MAX, NULL,
     "Shell text, run by `/bin/sh -c`: pipes, redirections and several lines are fine. Give either "
     "this or argv."},
    {"argv", TOOL_ARG_TEXTS, false, 1, BG_MCP_STRINGS_MAX, NULL,
     "The program and its arguments, passed as they are, without a shell."},
    {"cwd", TOOL_ARG_TEXT, false, 1, PATH_MAX_SIZE, NULL,
     "Absolute path of the folder to run in. Default: the user's home."},
    {"env", TOOL_ARG_MAP, false, 0, BG_MCP_STRINGS_MAX, NULL,
     "Environment variables for this command, beside the sandbox's own."},
    {"stdin", TOOL_ARG_BYTES, false, 0, BG_MCP_CONTENT_MAX, NULL,
     "Text for its standard input. Default: empty."},
    {"user", TOOL_ARG_TEXT, false, 1, BG_NAME_MAX, NULL,
     "User to run as, such as \"root\" to install packages. Default: the image's plain user."},
    {"timeout_seconds", TOOL_ARG_INTEGER, false, 1, BG_MCP_TIMEOUT_S_MAX, NULL,
     "End the command after so long. Default, and most: the server's limit, see list_sandboxes."},
    {"output_bytes_max", TOOL_ARG_INTEGER, false, BG_MCP_OUTPUT_MIN, BG_MCP_OUTPUT_MAX, NULL,
     "How much of stdout and of stderr to return, each; of longer ones the beginning and the end. "
     "Default: 32768."},
};

static const char run_output[] =
    "{\"type\":\"object\",\"properties\":{"
    "\"exit_code\":{\"type\":\"integer\",\"description\":\"As a shell gives it; 128+N when signal "
    "N "
    "ended it.\"},"
    "\"signal\":{\"type\":\"string\",\"description\":\"The signal that ended it, if one did.\"},"
    "\"stdout\":{\"type\":\"string\"},\"stderr\":{\"type\":\"string\"},"
    "\"stdout_bytes\":{\"type\":\"integer\",\"description\":\"Bytes written, returned or not.\"},"
    "\"stderr_bytes\":{\"type\":\"integer\"},"
    "\"truncated\":{\"type\":\"boolean\",\"description\":\"The middle of an output was left "
    "out.\"},"
    "\"timed_out\":{\"type\":\"boolean\"},\"duration_ms\":{\"type\":\"integer\"}},"
    "\"required\":[\"stdout\",\"stderr\",\"stdout_bytes\",\"stderr_bytes\",\"truncated\","
    "\"timed_out\",\"duration_ms\"]}";

#define ARG_PATH(what)                                                                             \
    {                                                                                              \
        "path", TOOL_ARG_TEXT, true, 1, PATH_MAX_SIZE, NULL,                                       \
            what ", absolute or from the user's home."                                             \
    }

static const struct tool_arg read_args[] = {
    ARG_SANDBOX,
    ARG_PATH("The file"),
    {"offset", TOOL_ARG_INTEGER, false, 0, INT64_MAX, NULL, "Byte to begin at. Default: 0."},
    {"bytes_max", TOOL_ARG_INTEGER, false, 1, BG_MCP_CONTENT_MAX, NULL,
     "How much to return at most. Default: 262144. If there is more, next_offset says where."},
    {"encoding", TOOL_ARG_TEXT, false, 0, 0, encodings,
     "\"utf-8\" (default; refused if the file is no such text) or \"base64\" for any bytes."},
};

static const char read_output[] =
    "{\"type\":\"object\",\"properties\":{"
    "\"path\":{\"type\":\"string\"},\"content\":{\"type\":\"string\"},"
    "\"encoding\":{\"type\":\"string\"},\"offset\":{\"type\":\"integer\"},"
    "\"bytes\":{\"type\":\"integer\",\"description\":\"Of the file, in content.\"},"
    "\"next_offset\":{\"type\":\"integer\",\"description\":\"Where the rest begins, if there is "
    "more.\"}},"
    "\"required\":[\"path\",\"content\",\"encoding\",\"offset\",\"bytes\"]}";

static const struct tool_arg write_args[] = {
    ARG_SANDBOX,
    ARG_PATH("The file"),
    {"content", TOOL_ARG_BYTES, true, 0, BG_MCP_LINE_MAX, NULL, "What it shall hold."},
    {"encoding", TOOL_ARG_TEXT, false, 0, 0, encodings,
     "\"utf-8\" (default): content as it is; or \"base64\": the bytes that it stands for."},
    {"append", TOOL_ARG_FLAG, false, 0, 0, NULL,
     "Add to the end of the file instead of replacing what it holds."},
    {"executable", TOOL_ARG_FLAG, false, 0, 0, NULL, "Make it a program (mode 0755)."},
    {"create_folders", TOOL_ARG_FLAG, false, 0, 0, NULL, "Also make the folders it is in."},
};

static const char write_output[] =
    "{\"type\":\"object\",\"properties\":{\"path\":{\"type\":\"string\"},"
    "\"bytes\":{\"type\":\"integer\",\"description\":\"Written.\"}},"
    "\"required\":[\"path\",\"bytes\"]}";

static const struct tool_arg list_files_args[] = {ARG_SANDBOX, ARG_PATH("The folder")};

static const char list_files_output[] =
    "{\"type\":\"object\",\"properties\":{\"path\":{\"type\":\"string\"},"
    "\"entries\":{\"type\":\"array\",\"items\":{\"type\":\"object\",\"properties\":{"
    "\"name\":{\"type\":\"string\"},"
    "\"type\":{\"enum\":[\"file\",\"folder\",\"symlink\",\"other\"]},"
    "\"size\":{\"type\":\"integer\"},\"mode\":{\"type\":\"string\",\"description\":\"In octal.\"},"
    "\"modified\":{\"type\":\"string\",\"format\":\"date-time\"}},"
    "\"required\":[\"name\",\"type\"]}},"
    "\"total\":{\"type\":\"integer\",\"description\":\"Entries of the folder, listed or not.\"}},"
    "\"required\":[\"path\",\"entries\",\"total\"]}";

static const struct tool_arg fork_args[] = {
    {"from", TOOL_ARG_TEXT, true, 1, 2 * NAME_MAX_SIZE + 1, NULL,
     "A sandbox, or a snapshot that snapshot_sandbox returned."},
    ARG_NAME,
};

static const struct tool_arg snapshot_args[] = {
    ARG_SANDBOX,
    {"tag", TOOL_ARG_TEXT, false, 1, NAME_MAX_SIZE, NULL,
     "What to call it, such as before-upgrade. Left out: one is made up."},
    {"note", TOOL_ARG_TEXT, false, 0, BG_SNAPSHOT_NOTE_MAX, NULL, "What to remember about it."},
};

static const char snapshot_output[] =
    "{\"type\":\"object\",\"properties\":{\"snapshot\":{\"type\":\"string\",\"description\":"
    "\"Its name, for restore_sandbox and fork_sandbox.\"}},\"required\":[\"snapshot\"]}";

static const struct tool_arg restore_args[] = {
    ARG_SANDBOX,
    ARG_SNAPSHOT("A snapshot of this same sandbox, as snapshot_sandbox returned it."),
};

static const struct tool_arg sandbox_args[] = {ARG_SANDBOX};

static const struct tool_arg remove_snapshot_args[] = {
    ARG_SNAPSHOT("As snapshot_sandbox returned it."),
};

static const char list_output[] =
    "{\"type\":\"object\",\"properties\":{"
    "\"sandboxes\":{\"type\":\"array\",\"items\":{\"type\":\"object\",\"properties\":{"
    "\"sandbox\":{\"type\":\"string\"},\"state\":{\"type\":\"string\"},"
    "\"image\":{\"type\":\"string\"},\"created\":{\"type\":\"string\",\"format\":\"date-time\"},"
    "\"parent\":{\"type\":\"string\",\"description\":\"What it was forked from.\"},"
    "\"removable\":{\"type\":\"boolean\"}},\"required\":[\"sandbox\",\"state\",\"removable\"]}},"
    "\"snapshots\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}},"
    "\"limits\":{\"type\":\"object\"}},"
    "\"required\":[\"sandboxes\",\"snapshots\",\"limits\"]}";

static const struct tool tools[TOOL_COUNT] = {
    [TOOL_CREATE] =
        {.name = "create_sandbox",
         .title = "Create a sandbox",
         .help = "Makes and starts a sandbox: a virtual machine with Linux of its own, where "
                 "commands may be run and files written without any effect on the user's machine. "
                 "Its files and background processes stay until it is removed. It takes some "
                 "seconds; use one sandbox for many commands.",
         .args = create_args,
         .arg_count = COUNT(create_args),
         .output = OUTPUT_SANDBOX},
    [TOOL_RUN] =
        {.name = "run",
         .title = "Run a command in a sandbox",
         .help = "Runs a command to its end and returns its exit code, stdout and stderr. A "
                 "non-zero exit code is a result, not an error. What it starts in the background "
                 "(with its output redirected) goes on after it. A suspended sandbox is resumed "
                 "first. There is no terminal: give programs their non-interactive options.",
         .args = run_args,
         .arg_count = COUNT(run_args),
         .output = run_output,
         .destroys = true,
         .open_world = true},
    [TOOL_READ] = {.name = "read_file",
                   .title = "Read a file of a sandbox",
                   .help = "Returns what a regular file in a sandbox holds, or a part of it.",
                   .args = read_args,
                   .arg_count = COUNT(read_args),
                   .output = read_output,
                   .reads = true,
                   .repeats = true},
    [TOOL_WRITE] = {.name = "write_file",
                    .title = "Write a file of a sandbox",
                    .help = "Writes a file in a sandbox: makes it, replaces what it holds, or adds "
                            "to its end.",
                    .args = write_args,
                    .arg_count = COUNT(write_args),
                    .output = write_output,
                    .destroys = true},
    [TOOL_LIST_FILES] = {.name = "list_files",
                         .title = "List a folder of a sandbox",
                         .help =
                             "Returns what is in a folder of a sandbox, sorted by name. Folders "
                             "in it are not entered: use run with find for that.",
                         .args = list_files_args,
                         .arg_count = COUNT(list_files_args),
                         .output = list_files_output,
                         .reads = true,
                         .repeats = true},
    [TOOL_FORK] =
        {.name = "fork_sandbox",
         .title = "Fork a sandbox",
         .help = "Makes a new sandbox that goes on from the memory and files of another one as it "
                 "is at this moment, or of a snapshot: to try something out, or several things "
                 "side by side. The source goes on unchanged; network connections are closed in "
                 "the fork.",
         .args = fork_args,
         .arg_count = COUNT(fork_args),
         .output = OUTPUT_SANDBOX},
    [TOOL_SNAPSHOT] = {.name = "snapshot_sandbox",
                       .title = "Take a snapshot of a sandbox",
                       .help =
                           "Keeps the memory and files of a sandbox as they are at this moment, "
                           "to go back to (restore_sandbox) or to make others from "
                           "(fork_sandbox). The sandbox goes on.",
                       .args = snapshot_args,
                       .arg_count = COUNT(snapshot_args),
                       .output = snapshot_output},
    [TOOL_RESTORE] = {.name = "restore_sandbox",
                      .title = "Take a sandbox back to a snapshot",
                      .help = "Takes a sandbox back to one of its own snapshots. What was done in "
                              "it since is lost, and commands that run in it end.",
                      .args = restore_args,
                      .arg_count = COUNT(restore_args),
                      .output = OUTPUT_SANDBOX,
                      .destroys = true,
                      .repeats = true},
    [TOOL_SUSPEND] = {.name = "suspend_sandbox",
                      .title = "Suspend a sandbox",
                      .help = "Writes a sandbox's memory to disk and stops it, so that it costs "
                              "nothing while it is not needed. Any tool that needs it resumes it, "
                              "with its processes. Refused while a command runs in it.",
                      .args = sandbox_args,
                      .arg_count = COUNT(sandbox_args),
                      .output = OUTPUT_SANDBOX,
                      .repeats = true},
    [TOOL_RESUME] = {.name = "resume_sandbox",
                     .title = "Resume a sandbox",
                     .help = "Lets a suspended sandbox go on. Seldom needed: run, read_file, "
                             "write_file and list_files do that by themselves.",
                     .args = sandbox_args,
                     .arg_count = COUNT(sandbox_args),
                     .output = OUTPUT_SANDBOX,
                     .repeats = true},
    [TOOL_LIST] = {.name = "list_sandboxes",
                   .title = "List the sandboxes",
                   .help = "Returns the sandboxes and snapshots that these tools can use, and the "
                           "limits: how many sandboxes, their memory, which hosts they may reach, "
                           "which folders are shared with them.",
                   .output = list_output,
                   .reads = true,
                   .repeats = true},
    [TOOL_REMOVE] = {.name = "remove_sandbox",
                     .title = "Remove a sandbox",
                     .help =
                         "Ends a sandbox and deletes all that is in it. Its snapshots stay. Only "
                         "those that were made by these tools can be removed.",
                     .args = sandbox_args,
                     .arg_count = COUNT(sandbox_args),
                     .output = OUTPUT_REMOVED,
                     .destroys = true},
    [TOOL_REMOVE_SNAPSHOT] = {.name = "remove_snapshot",
                              .title = "Remove a snapshot",
                              .help =
                                  "Deletes a snapshot. Sandboxes that were forked from it stay.",
                              .args = remove_snapshot_args,
                              .arg_count = COUNT(remove_snapshot_args),
                              .output = OUTPUT_REMOVED,
                              .destroys = true},
};

const struct tool *tool_find(const char *name)
{
    for (size_t i = 0; i < TOOL_COUNT; i++)
        if (strcmp(tools[i].name, name) == 0)
            return &tools[i];
    return NULL;
}

enum tool_id tool_id(const struct tool *tool)
{
    return (enum tool_id)(tool - tools);
}

/* ---- schemas ---- */

static json_t *choices_json(const char *const *choices)
{
    json_t *array = json_array();
    for (; *choices; choices++)
        if (json_array_append_new(array, json_string(*choices)) < 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}

static json_t *arg_json(const struct tool_arg *arg)
{
    json_int_t min = (json_int_t)arg->min, max = (json_int_t)arg->max;
    switch (arg->kind) {
    case TOOL_ARG_TEXT:
        if (arg->choices)
            return json_pack("{s:s, s:o, s:s}", "type", "string", "enum",
                             choices_json(arg->choices), "description", arg->help);
        return json_pack("{s:s, s:I, s:I, s:s}", "type", "string", "minLength", min, "maxLength",
                         max, "description", arg->help);
    case TOOL_ARG_BYTES:
        return json_pack("{s:s, s:s}", "type", "string", "description", arg->help);
    case TOOL_ARG_INTEGER:
        /* The largest number of JSON's is no limit to speak of. */
        return json_pack("{s:s, s:I, s:o*, s:s}", "type", "integer", "minimum", min, "maximum",
                         arg->max < INT64_MAX ? json_integer(max) : NULL, "description", arg->help);
    case TOOL_ARG_FLAG:
        return json_pack("{s:s, s:s}", "type", "boolean", "description", arg->help);
    case TOOL_ARG_TEXTS:
        return json_pack("{s:s, s:{s:s}, s:I, s:I, s:s}", "type", "array", "items", "type",
                         "string", "minItems", min, "maxItems", max, "description", arg->help);
    case TOOL_ARG_MAP:
        return json_pack("{s:s, s:{s:s}, s:s}", "type", "object", "additionalProperties", "type",
                         "string", "description", arg->help);
    }
    return NULL;
}

static json_t *input_json(const struct tool *tool)
{
    json_auto_t *properties = json_object(), *required = json_array();
    for (size_t i = 0; i < tool->arg_count; i++) {
        const struct tool_arg *arg = &tool->args[i];
        if (json_object_set_new(properties, arg->name, arg_json(arg)) < 0 ||
            (arg->required && json_array_append_new(required, json_string(arg->name)) < 0))
            return NULL;
    }
    return json_pack("{s:s, s:O, s:O, s:b}", "type", "object", "properties", properties, "required",
                     required, "additionalProperties", 0);
}

static json_t *tool_json(const struct tool *tool)
{
    return json_pack("{s:s, s:s, s:s, s:o, s:o, s:{s:s, s:b, s:b, s:b, s:b}}", "name", tool->name,
                     "title", tool->title, "description", tool->help, "inputSchema",
                     input_json(tool), "outputSchema", json_loads(tool->output, 0, NULL),
                     "annotations", "title", tool->title, "readOnlyHint", tool->reads,
                     "destructiveHint", tool->destroys, "idempotentHint", tool->repeats,
                     "openWorldHint", tool->open_world);
}

json_t *tools_list(void)
{
    json_t *list = json_array();
    for (size_t i = 0; i < TOOL_COUNT; i++)
        if (json_array_append_new(list, tool_json(&tools[i])) < 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

/* ---- checks ---- */

static bool is_plain(const json_t *value)
{
    return json_is_string(value) && strlen(json_string_value(value)) == json_string_length(value);
}

static int check_text(const struct tool_arg *arg, const json_t *value, struct bg_err *err)
{
    size_t size = json_string_length(value);
    if (!json_is_string(value))
        return bg_err_set(err, -EINVAL, "%s: want a string", arg->name);
    if (arg->kind == TOOL_ARG_TEXT && !is_plain(value))
        return bg_err_set(err, -EINVAL, "%s: may not have a NUL in it", arg->name);
    if (arg->choices) {
        for (const char *const *choice = arg->choices; *choice; choice++)
            if (strcmp(*choice, json_string_value(value)) == 0)
                return 0;
        return bg_err_set(err, -EINVAL, "%s: want \"%s\" or \"%s\"", arg->name, arg->choices[0],
                          arg->choices[1]);
    }
    if (size < (size_t)arg->min)
        return bg_err_set(err, -EINVAL, "%s: may not be empty", arg->name);
    if (size > (size_t)arg->max)
        return bg_err_set(err, -EINVAL, "%s: %zu bytes; at most %lld", arg->name, size,
                          (long long)arg->max);
    return 0;
}

/* Some clients send 3.0 for 3. */
static bool whole_number(const json_t *value, int64_t *ret)
{
    double real = json_real_value(value);
    if (json_is_integer(value)) {
        *ret = json_integer_value(value);
        return true;
    }
    if (!json_is_real(value) || !(real >= -9e15 && real <= 9e15) || (double)(int64_t)real != real)
        return false;
    *ret = (int64_t)real;
    return true;
}

static int check_number(const struct tool_arg *arg, const json_t *value, struct bg_err *err)
{
    int64_t number;
    if (!whole_number(value, &number))
        return bg_err_set(err, -EINVAL, "%s: want a whole number", arg->name);
    if (number < arg->min || number > arg->max)
        return arg->max == INT64_MAX
                   ? bg_err_set(err, -EINVAL, "%s: want %lld or more", arg->name,
                                (long long)arg->min)
                   : bg_err_set(err, -EINVAL, "%s: want a number from %lld to %lld", arg->name,
                                (long long)arg->min, (long long)arg->max);
    return 0;
}

static int check_texts(const struct tool_arg *arg, const json_t *value, struct bg_err *err)
{
    size_t i;
    json_t *item;
    bool plain = json_is_array(value);
    json_array_foreach(value, i, item) plain = plain && is_plain(item);
    if (!plain)
        return bg_err_set(err, -EINVAL, "%s: want an array of strings without NUL", arg->name);
    size_t count = json_array_size(value);
    if (count < (size_t)arg->min || count > (size_t)arg->max)
        return bg_err_set(err, -EINVAL, "%s: want from %lld to %lld of them", arg->name,
                          (long long)arg->min, (long long)arg->max);
    return 0;
}

static int check_map(const struct tool_arg *arg, const json_t *value, struct bg_err *err)
{
    const char *key;
    json_t *item;
    bool plain = json_is_object(value);
    /* The iterator takes no const object, and changes none. */
    json_object_foreach((json_t *)(uintptr_t)value, key, item) plain = plain && is_plain(item);
    if (!plain)
        return bg_err_set(err, -EINVAL, "%s: want an object of strings without NUL", arg->name);
    return json_object_size(value) > (size_t)arg->max
               ? bg_err_set(err, -EINVAL, "%s: at most %lld", arg->name, (long long)arg->max)
               : 0;
}

static int check_arg(const struct tool_arg *arg, const json_t *value, struct bg_err *err)
{
    switch (arg->kind) {
    case TOOL_ARG_TEXT:
    case TOOL_ARG_BYTES:
        return check_text(arg, value, err);
    case TOOL_ARG_INTEGER:
        return check_number(arg, value, err);
    case TOOL_ARG_FLAG:
        return json_is_boolean(value)
                   ? 0
                   : bg_err_set(err, -EINVAL, "%s: want true or false", arg->name);
    case TOOL_ARG_TEXTS:
        return check_texts(arg, value, err);
    case TOOL_ARG_MAP:
        return check_map(arg, value, err);
    }
    return -EINVAL;
}

/* A misspelt argument must not pass for one that was left out. */
static int check_names(const struct tool *tool, const json_t *args, struct bg_err *err)
{
    const char *key;
    json_t *value;
    char quoted[128];
    json_object_foreach((json_t *)(uintptr_t)args, key, value)
    {
        bool known = false;
        for (size_t i = 0; i < tool->arg_count; i++)
            known = known || strcmp(key, tool->args[i].name) == 0;
        if (!known)
            return bg_err_set(err, -EINVAL, "%s has no argument %s", tool->name,
                              bg_quote(key, quoted, sizeof quoted));
    }
    return 0;
}

int tool_check(const struct tool *tool, const json_t *args, struct bg_err *err)
{
    if (args && !json_is_object(args))
        return bg_err_set(err, -EINVAL, "arguments: want an object");
    int r = check_names(tool, args, err);
    for (size_t i = 0; r == 0 && i < tool->arg_count; i++) {
        const json_t *value = json_object_get(args, tool->args[i].name);
        /* Some clients send null for what they leave out. */
        if (value && !json_is_null(value))
            r = check_arg(&tool->args[i], value, err);
        else if (tool->args[i].required)
            r = bg_err_set(err, -EINVAL, "%s is missing", tool->args[i].name);
    }
    return r;
}

const char *tool_text(const json_t *args, const char *name)
{
    return json_string_value(json_object_get(args, name));
}

int64_t tool_number(const json_t *args, const char *name, int64_t fallback)
{
    int64_t number = fallback;
    return whole_number(json_object_get(args, name), &number) ? number : fallback;
}

bool tool_flag(const json_t *args, const char *name)
{
    return json_is_true(json_object_get(args, name));
}
