/* create_config: what a client asks a new sandbox to be, from the header x-deno-sandbox-config
 * (docs/deno-protocol.md, "Configuration"). Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "common/err.h"

struct create_secret {
    char *name, *value;
    char **hosts;
    size_t host_count;
};

struct create_volume {
    char *volume; /* id or slug */
    char *path;   /* in the guest: absolute, plain */
};

struct create_config {
    uint64_t stop_at_ms; /* Unix time; 0: it ends with its connection */
    uint64_t memory_bytes;
    json_t *labels;  /* an object of texts */
    bool restricted; /* allow is all that it may reach; else every public host, by HTTP(S) */
    char **allow;    /* rules as `--allow` takes them */
    size_t allow_count;
    struct create_secret *secrets;
    size_t secret_count;
    char *root;  /* id or slug of a bootable volume or snapshot; NULL: the gateway's image */
    json_t *env; /* an object of texts */
    struct create_volume *volumes; /* by path: what is above others comes first */
    size_t volume_count;
};

/* text: the header's value, base64 of JSON in Latin-1 or UTF-8. End *ret with create_config_done.
 * Errors: -EINVAL with what is wrong, for the client; -ENOMEM. */
int create_config_parse(const char *text, size_t size, uint64_t now_ms, struct create_config *ret,
                        struct bg_err *err) BG_MUST_CHECK;
void create_config_done(struct create_config *config);

/* A stop time, as create and PATCH take it. Errors: -EINVAL. */
int create_config_stop_at(const json_t *value, uint64_t now_ms, uint64_t *ret,
                          struct bg_err *err) BG_MUST_CHECK;
