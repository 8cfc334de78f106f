/* Finds the strings of JSON (RFC 8259, strictly; several values may follow each other, as in lines
 * of JSON; a byte order mark may stand before them). Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define JSON_SCAN_DEPTH_MAX 512 /* arrays and objects inside of each other; deeper is an error */

struct json_scan {
    const char *text; /* borrowed */
    size_t size, at;
    enum json_scan_want {
        JSON_VALUE,
        JSON_VALUE_OR_END, /* behind '[' */
        JSON_NAME,
        JSON_NAME_OR_END, /* behind '{' */
        JSON_COLON,
        JSON_NEXT, /* a comma, or the end of the array or object */
    } want;
    uint8_t objects[JSON_SCAN_DEPTH_MAX / 8]; /* a bit a level: an object, else an array */
    size_t depth;
};

/* What stands between a string's quotes. */
struct json_string {
    size_t start, end; /* offsets */
    bool is_name;      /* of an object's member */
};

/* text: untrusted, borrowed. */
void json_scan_init(struct json_scan *scan, const char *text, size_t size);

/* The next string: 1 and *ret; 0 there is none, and all of it is JSON. Errors: -EPROTO it is not.
 */
int json_scan_next(struct json_scan *scan, struct json_string *ret) BG_MUST_CHECK;
