/* What the limits of a policy file have counted, in a file: the counts outlive the proxy, so that
 * neither a policy that is put in the place of another nor a crash gives a sandbox its budgets
 * anew.
 *
 * The file is mapped and counted in directly: nothing is written at the end, which a crash would
 * skip, and a proxy that lets its last requests end counts in the same place as the one that has
 * taken over. It is for this machine: the byte order is its own, and times are those of a clock
 * that begins at each start of the host, which may give less for a while and never more. */
#pragma once

#include "common/err.h"
#include "net/policy.h"

struct ledger;

/* Opens the file or makes it, for its owner only. Errors: -EINVAL it is damaged; -errno. */
int ledger_open(const char *path, struct ledger **ret, struct bg_err *err) BG_MUST_CHECK;

/* The same with a file that is open already, which need not have a name (memfd_create(2)). fd is
 * borrowed for the call; name: for errors. */
int ledger_open_fd(int fd, const char *name, struct ledger **ret, struct bg_err *err) BG_MUST_CHECK;

/* Only to look: nothing that is counted gets into the file. Errors: as above; -ENOENT. */
int ledger_open_copy(const char *path, struct ledger **ret, struct bg_err *err) BG_MUST_CHECK;

/* From here on the meter counts in the file: in the place of a meter with the same key, which is as
 * often there as it is attached, or in a new one. Counts that no meter had when room was needed are
 * forgotten. The meter must not be used after ledger_close. Errors: -E2BIG. */
int ledger_attach(struct ledger *ledger, struct policy_meter *meter,
                  struct bg_err *err) BG_MUST_CHECK;

/* NULL: no-op. */
void ledger_close(struct ledger *ledger);
