/* guard/gitconfig: git's configuration with only what cannot make git run anything. The guest's
 * text is parsed as git does; keys that are on the list and whose values are harmless are written
 * anew, quoted; everything else is left out. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/limits.h"

#define GUARD_CONFIG_NAME_MAX  256u  /* section, subsection and key each, with their NUL */
#define GUARD_CONFIG_VALUE_MAX 4096u /* with its NUL */

/* One "key = value". Section and key are lower case. */
struct guard_setting {
    char section[GUARD_CONFIG_NAME_MAX], subsection[GUARD_CONFIG_NAME_MAX],
        key[GUARD_CONFIG_NAME_MAX];
    char value[GUARD_CONFIG_VALUE_MAX]; /* "true" if there is no "=" */
    bool has_subsection;
};

struct guard_config {
    const uint8_t *at, *end; /* borrowed */
    struct guard_setting setting;
    size_t line;
};

void guard_config_init(struct guard_config *config, const uint8_t *text, size_t size);

/* Reads the next setting into config->setting. Returns 1, 0 at the end, or -EPROTO: not a
 * configuration that git would take. */
int guard_config_next(struct guard_config *config, struct bg_err *err) BG_MUST_CHECK;

struct guard_config_opts {
    unsigned depth; /* of the git folder, below the mount's root: core.worktree stays inside */
};

/* Whether a setting may be shown. */
bool guard_config_allows(const struct guard_setting *setting, const struct guard_config_opts *opts);

/* Writes the allowed settings of text. *ret: heap, NUL-terminated; *ret_dropped: how many are left
 * out. Errors: -EPROTO malformed; -E2BIG more than BG_GUARD_FILE_MAX or BG_GUARD_SETTINGS_MAX;
 * -ENOMEM. */
int guard_config_filter(const uint8_t *text, size_t size, const struct guard_config_opts *opts,
                        char **ret, size_t *ret_size, size_t *ret_dropped,
                        struct bg_err *err) BG_MUST_CHECK;

/* Writes the settings of guest that are not allowed, and that host does not have likewise: what
 * would be lost in the guest if its file became the host's, which was made from the allowed ones.
 * *ret: heap; "" if there are none. Errors: as guard_config_filter. */
int guard_config_hidden(const uint8_t *guest, size_t guest_size, const uint8_t *host,
                        size_t host_size, const struct guard_config_opts *opts, char **ret,
                        size_t *ret_size, struct bg_err *err) BG_MUST_CHECK;
