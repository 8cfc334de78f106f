/* Makes a policy file out of what a sandbox asked for, as its audit log tells it: a proposal for a
 * person to read and cut. The log's texts are the guest's choice, so all of it is bounded, what was
 * asked for once only is proposed in a comment, and addresses that are not public are never
 * proposed. Pure. */
#pragma once

#include "net/buffer.h"
#include "net/destination.h"

#define LEARN_HOSTS_MAX 256
#define LEARN_PATHS_MAX 256 /* of a host; more: any path */
#define LEARN_NAMES_MAX 16  /* methods or placeholders of a host */

struct learn_path {
    char *text; /* normalized, as request_match.h has it */
    uint64_t count;
};

struct learn_host {
    struct destination to;
    bool tcp;                           /* it was not only HTTP */
    uint64_t allowed, refused, unclear; /* requests; those whose path has several readings */
    char *methods[LEARN_NAMES_MAX];
    char *placeholders[LEARN_NAMES_MAX]; /* of secrets that may not go there */
    struct learn_path *paths;
    size_t path_count;
    bool any_path;
};

struct learn {
    struct learn_host *hosts; /* owned */
    size_t count;
    uint64_t lines, further; /* further: requests to more hosts than fit */
    uint64_t never;          /* requests to addresses that are not public */
};

/* Takes a line of the audit log; what is no such line, or tells of no host, is passed over. Errors:
 * -ENOMEM. */
int learn_line(struct learn *learn, const char *line, size_t size) BG_MUST_CHECK;

/* Puts the policy file. */
void learn_put(const struct learn *learn, const char *sandbox, struct buffer *out);

void learn_done(struct learn *learn);
