/* What diff, apply and discard take: for their tables and for bellglass-changes. */
#pragma once

enum {
    CHANGES_PATCH = 1,
    CHANGES_STAT,
    CHANGES_NAME_ONLY,
    CHANGES_JSON,
    CHANGES_EXIT_CODE,
    CHANGES_YES,
    CHANGES_FORCE,
    CHANGES_TRUSTED,
    CHANGES_RESUME,
};
