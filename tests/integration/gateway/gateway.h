/* What the tests of `bellglass serve` have together. */
#pragma once

#include "tests/lib/vm.h"

/* Below BG_TEST_SDK. */
#define GATEWAY_DENO "node_modules/@deno/linux-x64-glibc/deno"

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

/* A copy of a script beside node_modules, where Node and Deno look for the package. */
const char *gateway_script(struct vm *vm, const char *name);

/* Deno from npm, for this kind of machine; "": npm has none. */
const char *gateway_deno(struct vm *vm);
/* The command that runs ("run") a program, or one that is a script of tests ("test"): Node's, or
 * Deno's if BG_TEST_RUNTIME is set. */
const char *gateway_runs(struct vm *vm, const char *verb);
/* Runs a script of tests with this environment ("K=V K=V"); returns its output. */
const char *gateway_run(struct vm *vm, const struct gateway *g, const char *env, const char *name);

/* npm_folder_begin for the SDK. */
int gateway_sdk_begin(void);

/* What the gateway made, as `bellglass ls` names it. */
size_t gateway_sandboxes(struct vm *vm);
bool gateway_empty(void *arg); /* for vm_wait; arg: struct vm */

/* Tests of other files, for the tables. */
void the_sdk_works_unchanged(void **state);
void paths_are_matched_as_the_library_does(void **state);
void deno_runs_in_a_sandbox(void **state);
void volumes_and_snapshots_of_the_sdk_keep_what_is_written(void **state);
void a_token_has_its_limits(void **state);
void a_pool_has_sandboxes_ready(void **state);
void a_sandbox_sleeps_until_it_is_asked_for(void **state);
void a_port_is_reached_from_outside(void **state);
void tls_is_spoken_with_a_certificate(void **state);
