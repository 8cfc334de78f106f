/* The table of mcp. The work is done by bellglass-mcp, a program of its own. */
#include "host/cli/cmd_mcp.h"

#include "host/cli/commands.h"

static const struct option_spec options[] = {
    SANDBOX_SETTINGS,
    {MCP_MAX, 0, false, "max", "N", "how many sandboxes there may be at a time [4]"},
    {MCP_PREFIX, 0, false, "prefix", "NAME", "what the names of sandboxes begin with [mcp]"},
    {MCP_RUN_TIMEOUT, 0, false, "run-timeout", "TIME", "how long a command may run [10m]"},
    {MCP_SANDBOX, 0, true, "sandbox", "NAME",
     "let it use this sandbox too, as it is; it is not removed"},
    {MCP_KEEP, 0, false, "keep", NULL, "leave its sandboxes and snapshots there when it ends"},
    {0},
};

static const char *const forms[] = {"[OPTIONS]", NULL};

static const char *const examples[] = {
    "mcp",
    "mcp --memory 2G --allow pypi.org --allow '*.pythonhosted.org' --mount .:ro",
    "mcp --max 0 --sandbox web",
    NULL,
};

const struct command cmd_mcp = {
    .name = "mcp",
    .summary = "give sandboxes to an AI model, over the Model Context Protocol",
    .forms = forms,
    .options = options,
    .details =
        "Speaks the protocol on stdin and stdout, and logs on stderr: a client of the protocol "
        "starts it. Its tools create sandboxes, run commands in them, read and write files, fork, "
        "snapshot, restore, suspend and remove.\n\n"
        "The options are the limits: all sandboxes are made with these settings, and no tool "
        "changes them. It sees the sandboxes and snapshots that it made and those that --sandbox "
        "names, no others. What it made is removed when it ends, even if it is killed; with --keep "
        "it stays, and --sandbox names it to the next one.",
    .examples = examples,
    .helper = "bellglass-mcp",
    .helper_verb = true,
};
