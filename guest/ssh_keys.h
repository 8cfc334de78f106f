/* Host keys for ssh that a fork has from its source: two machines with one key could stand for each
 * other. Those that `bellglass ssh` makes are below a folder with the sandbox's id for a name;
 * those of a sshd that somebody has installed are the machine's. */
#pragma once

#include <stdbool.h>

#include "common/err.h"

struct ssh_keys_paths {
    const char *ours; /* folder with one for each sandbox id */
    const char *etc;  /* folder of a sshd that was installed */
    const char *due;  /* made while keys are to be made in the place of those that were removed */
};

extern const struct ssh_keys_paths ssh_keys_here;

/* Removes the keys of other sandboxes than the one of that id, and all of etc if that is another
 * machine's. What is not there is no error. Errors: errno. */
int ssh_keys_forget(const struct ssh_keys_paths *paths, const char *sandbox_id, bool other_machine,
                    struct bg_err *err) BG_MUST_CHECK;

/* Whether keys were removed, or were to be made when the machine stopped. */
bool ssh_keys_due(void);

/* Makes new ones, with ssh-keygen; seconds. In a process of its own. Returns an exit status. */
int ssh_keys_make(void);
