#include "host/cli/output.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "common/quote.h"
#include "host/cli/app.h"

#define COLUMN_GAP 2

void table_init(struct table *table, size_t columns)
{
    assert(columns > 0 && columns <= TABLE_COLUMNS_MAX);
    *table = (struct table){.columns = columns};
}

void table_add(struct table *table, const char *text)
{
    size_t size = 4 * strlen(text) + 8;
    char *cell = malloc(size);
    char **grown = reallocarray(table->cells, table->count + 1, sizeof *table->cells);
    if (grown)
        table->cells = grown;
    if (!cell || !grown) {
        free(cell);
        table->failed = true;
        return;
    }
    bg_escape(text, strlen(text), cell, size);
    table->cells[table->count++] = cell;
}

/* Characters, as nearly all of them are one column wide. */
static size_t width(const char *text)
{
    size_t count = 0;
    for (; *text != '\0'; text++)
        count += ((unsigned char)*text & 0xc0) != 0x80;
    return count;
}

int table_print(const struct table *table, FILE *out)
{
    size_t widest[TABLE_COLUMNS_MAX] = {0};
    if (table->failed)
        return -ENOMEM;
    if (table->count <= table->columns)
        return 0;
    for (size_t i = 0; i < table->count; i++) {
        size_t size = width(table->cells[i]), *column = &widest[i % table->columns];
        *column = size > *column ? size : *column;
    }
    for (size_t i = 0; i < table->count; i++) {
        size_t column = i % table->columns;
        (void)fputs(table->cells[i], out);
        if (column + 1 == table->columns)
            (void)fputc('\n', out);
        else
            (void)fprintf(out, "%*s", (int)(widest[column] - width(table->cells[i]) + COLUMN_GAP),
                          "");
    }
    return 0;
}

void table_done(struct table *table)
{
    for (size_t i = 0; i < table->count; i++)
        free(table->cells[i]);
    free(table->cells);
    *table = (struct table){0};
}

void output_age(uint64_t then_ms, uint64_t now_ms, char out[OUTPUT_AGE_SIZE])
{
    uint64_t s = now_ms > then_ms ? (now_ms - then_ms) / 1000 : 0; /* the clock may be set back */
    if (s < 120)
        (void)snprintf(out, OUTPUT_AGE_SIZE, "%" PRIu64 "s", s);
    else if (s < 120 * 60)
        (void)snprintf(out, OUTPUT_AGE_SIZE, "%" PRIu64 "m", s / 60);
    else if (s < UINT64_C(48) * 3600)
        (void)snprintf(out, OUTPUT_AGE_SIZE, "%" PRIu64 "h", s / 3600);
    else
        (void)snprintf(out, OUTPUT_AGE_SIZE, "%" PRIu64 "d", s / 86400);
}

void output_size(uint64_t bytes, char out[OUTPUT_SIZE_SIZE])
{
    static const char units[] = "BKMGTPE";
    size_t unit = 0;
    uint64_t tenths = bytes < UINT64_MAX / 10 ? bytes * 10 : UINT64_MAX;
    while (tenths >= 10240 && units[unit + 1] != '\0') {
        tenths /= 1024;
        unit++;
    }
    if (tenths % 10 == 0 || tenths >= 1000)
        (void)snprintf(out, OUTPUT_SIZE_SIZE, "%" PRIu64 "%c", tenths / 10, units[unit]);
    else
        (void)snprintf(out, OUTPUT_SIZE_SIZE, "%" PRIu64 ".%" PRIu64 "%c", tenths / 10, tenths % 10,
                       units[unit]);
}

uint64_t output_now_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now); /* cannot fail with this clock */
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

json_t *output_text(const char *text)
{
    json_t *string = json_string(text);
    if (string)
        return string;
    size_t size = 4 * strlen(text) + 8;
    BG_AUTOFREE char *escaped = malloc(size);
    if (!escaped)
        return NULL;
    bg_escape(text, strlen(text), escaped, size);
    return json_string(escaped);
}

json_t *output_texts(char *const *list, size_t count)
{
    json_t *array = json_array();
    for (size_t i = 0; array && i < count; i++)
        if (json_array_append_new(array, output_text(list[i])) < 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}

static json_t *secrets(const struct bg_sandbox *s)
{
    json_t *array = json_array();
    for (size_t i = 0; array && i < s->secret_count; i++) {
        const struct bg_secret_use *use = &s->secrets[i];
        json_t *entry =
            json_pack("{s:s, s:o, s:s, s:o}", "name", use->name, "hosts",
                      output_texts(use->hosts, use->host_count), "placeholder", use->placeholder,
                      "inherited", output_texts(use->inherited, use->inherited_count));
        if (json_array_append_new(array, entry) < 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static json_t *volumes(const struct bg_sandbox *s)
{
    json_t *array = json_array();
    for (size_t i = 0; array && i < s->volume_count; i++)
        if (json_array_append_new(array, json_pack("{s:s, s:o}", "id", s->volumes[i].id, "path",
                                                   output_text(s->volumes[i].path))) < 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}

json_t *output_sandbox(const struct bg_sandbox *sandbox)
{
    const struct bg_sandbox *s = sandbox;
    return json_pack("{s:s, s:s, s:I, s:{s:s, s:s}, s:I, s:I, s:I, s:I, s:I, s:b, s:o, s:{s:o, "
                     "s:o, s:o}, s:o, s:o, s:s?, s:o}",
                     "id", s->id, "name", s->name, "created_ms", (json_int_t)s->created_ms, "image",
                     "name", s->image_name, "digest", s->image_digest, "cpus", (json_int_t)s->cpus,
                     "memory_bytes", (json_int_t)s->memory_bytes, "ttl_s", (json_int_t)s->ttl_s,
                     "expires_ms", (json_int_t)s->expires_ms, "idle_suspend_s",
                     (json_int_t)s->idle_suspend_s, "ephemeral", s->ephemeral, "env",
                     output_texts(s->env, s->env_count), "network", "allow",
                     output_texts(s->allow, s->allow_count), "upstream_ca",
                     s->upstream_ca ? output_text(s->upstream_ca) : json_null(), "policy",
                     s->policy ? output_text(s->policy) : json_null(), "secrets", secrets(s),
                     "volumes", volumes(s), "root_volume",
                     s->root_volume[0] ? s->root_volume : NULL, "dir", output_text(s->dir));
}

char *output_json_text(const json_t *json, size_t flags)
{
    BG_AUTOFREE char *text = json_dumps(json, flags | JSON_ENSURE_ASCII);
    if (!text)
        return NULL;
    /* jansson lets DEL through. It can only be inside a string. */
    size_t size = strlen(text), dels = 0, used = 0;
    for (size_t i = 0; i < size; i++)
        dels += text[i] == 0x7f;
    char *out = malloc(size + 5 * dels + 1);
    for (size_t i = 0; out && i < size; i++) {
        if (text[i] == 0x7f) {
            memcpy(out + used, "\\u007f", 6);
            used += 6;
        } else {
            out[used++] = text[i];
        }
    }
    if (out)
        out[used] = '\0';
    return out;
}

int output_json(const json_t *json)
{
    struct bg_err err;
    BG_AUTOFREE char *text = json ? output_json_text(json, JSON_INDENT(2)) : NULL;
    if (!text) {
        (void)bg_err_errno(&err, -ENOMEM, "output");
        return app_fail(&err);
    }
    (void)printf("%s\n", text);
    return app_printed(0);
}
