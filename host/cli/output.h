/* output: how commands print data: as a table for people, as JSON for programs. Everything is
 * escaped: names, guest text and damaged files cannot move the cursor. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

#include "common/state/sandbox.h"

/* A table of text, its columns as wide as their longest cell. */
#define TABLE_COLUMNS_MAX 16
struct table {
    char **cells; /* row by row, owned; the first row is the heading */
    size_t columns, count;
    bool failed; /* memory ran out: table_print says so */
};

void table_init(struct table *table, size_t columns);
/* Appends one cell, escaped. */
void table_add(struct table *table, const char *text);
/* Prints it, without the heading if there is nothing else. Returns 0 or -ENOMEM. */
int table_print(const struct table *table, FILE *out) BG_MUST_CHECK;
void table_done(struct table *table);

/* "12s", "5m", "3h", "12d": how long ago. */
#define OUTPUT_AGE_SIZE 24
void output_age(uint64_t then_ms, uint64_t now_ms, char out[OUTPUT_AGE_SIZE]);
/* "512M", "1.5G". */
#define OUTPUT_SIZE_SIZE 24
void output_size(uint64_t bytes, char out[OUTPUT_SIZE_SIZE]);

/* CLOCK_REALTIME in milliseconds. */
uint64_t output_now_ms(void);

/* A JSON string; what is not UTF-8 in it is escaped. NULL when memory is out. */
json_t *output_text(const char *text);
/* An array of them. NULL: out of memory. */
json_t *output_texts(char *const *list, size_t count);

/* What was asked of a sandbox, as `inspect` and `create --json` show it. NULL when memory is out.
 */
json_t *output_sandbox(const struct bg_sandbox *sandbox);

/* json as printable ASCII, heap, the caller's; NULL when memory is out. flags: jansson's, such as
 * JSON_COMPACT. */
char *output_json_text(const json_t *json, size_t flags);

/* Prints json (NULL: memory was out) on stdout as ASCII. Returns the exit status. */
int output_json(const json_t *json);
