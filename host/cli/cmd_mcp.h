/* What mcp takes beside the settings of a sandbox: for its table and for bellglass-mcp. */
#pragma once

#include "host/cli/sandbox_options.h"

enum {
    MCP_MAX = OPTION_OWN,
    MCP_PREFIX,
    MCP_SANDBOX,
    MCP_KEEP,
    MCP_RUN_TIMEOUT,
};
