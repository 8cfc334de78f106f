/* Which CA each running sandbox was started with: its launcher notes the certificate in the
 * sandbox's folder. Who runs keeps its CA, whatever `bellglass ca rotate` does; the last one takes
 * it away. */
#pragma once

#include "common/err.h"
#include "common/state/sandbox.h"
#include "net/tls_ca.h"

struct ca_user {
    char *sandbox; /* name; owned */
    struct tls_ca_facts ca;
};

struct ca_users {
    struct ca_user *items; /* owned; by name */
    size_t count;
};

/* The sandboxes that run, but those that note none. Errors: -EUCLEAN a note is damaged; errno of
 * the calls; -ENOMEM. */
int ca_users_load(const struct bg_paths *paths, struct ca_users *ret,
                  struct bg_err *err) BG_MUST_CHECK;
void ca_users_done(struct ca_users *users);

/* The certificate that a sandbox's launcher noted, heap; *ret NULL: none. */
int ca_users_of(const struct bg_sandbox *sandbox, char **ret, struct bg_err *err) BG_MUST_CHECK;

/* Removes the CAs before the present one that no running sandbox has. */
int ca_users_forget(const struct bg_paths *paths, struct bg_err *err) BG_MUST_CHECK;
