/* record: what the gateway knows about a sandbox beyond sandbox.json, kept as gateway.json in the
 * sandbox's folder (docs/protocol.md, "Gateway"), so that another gateway can go on with it. */
#pragma once

#include <stdint.h>

#include <jansson.h>

#include "common/err.h"

#define RECORD_FILE "gateway.json"

struct record {
    char *token;         /* name of the one that made it */
    uint64_t stop_at_ms; /* Unix time; 0: it ends with its connection */
    uint64_t ends_by_ms; /* Unix time at which it ends in any case, by its token; 0: none */
    json_t *labels;      /* an object of texts */
    json_t *env;         /* name -> text, or null: taken away */
    uint16_t port;       /* in the guest, that ID.localhost leads to; 0: none */
};

/* Errors: -EINVAL not a record; -ENOMEM. */
int record_parse(const char *text, size_t size, struct record *ret,
                 struct bg_err *err) BG_MUST_CHECK;
char *record_emit(const struct record *record); /* heap, the caller's; NULL: out of memory */
void record_done(struct record *record);

/* From and to dir/gateway.json. Errors: -ENOENT there is none; -EINVAL; errno. */
int record_load(const char *dir, struct record *ret, struct bg_err *err) BG_MUST_CHECK;
int record_save(const char *dir, const struct record *record, struct bg_err *err) BG_MUST_CHECK;
