/* rule_edit: what becomes of a sandbox's rules when one host is to be allowed or denied
 * (docs/dashboard.md, "Allow and deny"). Rules of --allow go before those of the policy's text: a
 * host that is allowed is added to them, one that is denied is taken out of them and refused by the
 * first rule of the text. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"

struct rule_edit_opts {
    bool deny;
    const char *host;   /* a name, or an address without brackets; checked here */
    unsigned port;      /* 0, 80 and 443: both of the web's */
    char *const *allow; /* as `--allow` takes them */
    size_t allow_count;
    const char *policy; /* the text, or NULL */
};

struct rule_edited {
    char **allow;
    size_t allow_count;
    char *policy; /* or NULL */
    char *rule;   /* "HOST" or "HOST:PORT": what was added or taken */
};

/* End *ret with rule_edited_done. Errors: -EINVAL the host; -EOPNOTSUPP the text, or a rule of
 * --allow, is written in a way that this cannot change; -ENOMEM. */
int rule_edit(const struct rule_edit_opts *opts, struct rule_edited *ret,
              struct bg_err *err) BG_MUST_CHECK;
void rule_edited_done(struct rule_edited *edited);
