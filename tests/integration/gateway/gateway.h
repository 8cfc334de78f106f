/* What the tests of `bellglass serve` have together. */
#pragma once

#include "tests/lib/vm.h"

struct gateway {
    struct vm_process *process;
    const char *url;
    unsigned port;
    bool tls;
};

/* Starts one on a free port; options: NULL-terminated. */
struct gateway gateway_serve(struct vm *vm, const char *const *options);

const char *gateway_token(struct vm *vm);
const char *gateway_sources(void); /* this folder */

/* A copy of a script beside node_modules, where Node looks for the package. */
const char *gateway_script(struct vm *vm, const char *name);

/* What the gateway made, as `bellglass ls` names it. */
size_t gateway_sandboxes(struct vm *vm);
bool gateway_empty(void *arg); /* for vm_wait; arg: struct vm */

/* Tests of other files, for the one table. */
void a_token_has_its_limits(void **state);
void a_pool_has_sandboxes_ready(void **state);
void a_sandbox_sleeps_until_it_is_asked_for(void **state);
void tls_is_spoken_with_a_certificate(void **state);
