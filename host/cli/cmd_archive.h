/* What export and import's tables and their program share. */
#pragma once

#include "host/cli/sandbox_options.h"

enum {
    ARCHIVE_NO_BASE = OPTION_OWN,
    ARCHIVE_FORCE,
    ARCHIVE_ANYWAY,
    ARCHIVE_TRUST,
};
