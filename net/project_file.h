/* project_file: what a bellglass.yaml says of its sandbox beside the policy (docs/policy.md, "A
 * project's file"). Here it is only cut up: what the values mean is the command line's to say.
 * Pure.
 *
 *   image: NAME           cpus: N               memory: SIZE
 *   ttl: TIME             idle_suspend: TIME
 *   env: {NAME: TEXT}     mounts: [DIR[:GUESTDIR][:ro|rw|cow]] */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"

/* The keys with a single text; NULL in texts: not there. */
enum project_text {
    PROJECT_IMAGE,
    PROJECT_CPUS,
    PROJECT_MEMORY,
    PROJECT_TTL,
    PROJECT_IDLE_SUSPEND,
    PROJECT_TEXTS
};

struct project_file {
    char *texts[PROJECT_TEXTS]; /* owned, as is all of it */
    char **env;                 /* "NAME=TEXT" */
    size_t env_count;
    char **mounts;
    size_t mount_count;
    bool has_policy; /* one of the policy's keys is there (policy_file.h) */
};

/* name: the file's, for errors. text: need not end in NUL. The policy's keys are not looked into.
 * Errors: -EINVAL "NAME:LINE: ..."; -ENOMEM. */
int project_file_parse(const char *name, const char *text, size_t size, struct project_file *ret,
                       struct bg_err *err) BG_MUST_CHECK;
void project_file_done(struct project_file *file);
