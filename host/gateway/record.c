#include "host/gateway/record.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/io.h"
#include "common/limits.h"

static bool texts_only(const json_t *object, bool nulls)
{
    const char *key;
    json_t *value;
    if (!json_is_object(object))
        return false;
    json_object_foreach((json_t *)(uintptr_t)object, key,
                        value) if (!json_is_string(value) &&
                                   !(nulls && json_is_null(value))) return false;
    return true;
}

int record_parse(const char *text, size_t size, struct record *ret, struct bg_err *err)
{
    json_auto_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
    const char *token;
    json_int_t stop_at_ms, ends_by_ms = 0;
    json_t *labels, *env;
    int version, port;
    if (json_unpack(root, "{s:i, s:s, s:I, s?I, s:o, s:o, s:i !}", "version", &version, "token",
                    &token, "stop_at_ms", &stop_at_ms, "ends_by_ms", &ends_by_ms, "labels", &labels,
                    "env", &env, "port", &port) < 0 ||
        version != 1 || stop_at_ms < 0 || ends_by_ms < 0 || port < 0 || port > UINT16_MAX ||
        !texts_only(labels, false) || !texts_only(env, true))
        return bg_err_set(err, -EINVAL, RECORD_FILE ": not a record of the gateway");
    char *copy = strdup(token);
    if (!copy)
        return bg_err_errno(err, -ENOMEM, RECORD_FILE);
    *ret = (struct record){.token = copy,
                           .stop_at_ms = (uint64_t)stop_at_ms,
                           .ends_by_ms = (uint64_t)ends_by_ms,
                           .labels = json_incref(labels),
                           .env = json_incref(env),
                           .port = (uint16_t)port};
    return 0;
}

char *record_emit(const struct record *record)
{
    json_auto_t *root = json_pack("{s:i, s:s, s:I, s:I, s:O, s:O, s:i}", "version", 1, "token",
                                  record->token, "stop_at_ms", (json_int_t)record->stop_at_ms,
                                  "ends_by_ms", (json_int_t)record->ends_by_ms, "labels",
                                  record->labels, "env", record->env, "port", (int)record->port);
    return root ? json_dumps(root, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;
}

void record_done(struct record *record)
{
    free(record->token);
    json_decref(record->labels);
    json_decref(record->env);
    *record = (struct record){0};
}

int record_load(const char *dir, struct record *ret, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL, *text = NULL;
    size_t size;
    if (asprintf(&path, "%s/" RECORD_FILE, dir) < 0)
        return bg_err_errno(err, -ENOMEM, RECORD_FILE);
    int r = bg_read_file(AT_FDCWD, path, BG_MANIFEST_MAX, &text, &size, err);
    return r < 0 ? r : record_parse(text, size, ret, err);
}

int record_save(const char *dir, const struct record *record, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    BG_AUTOFREE char *text = record_emit(record);
    if (!text || asprintf(&path, "%s/" RECORD_FILE, dir) < 0)
        return bg_err_errno(err, -ENOMEM, RECORD_FILE);
    return bg_write_file(AT_FDCWD, path, text, strlen(text), 0600, err);
}
