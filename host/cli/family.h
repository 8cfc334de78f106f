/* family: sandboxes and snapshots as a tree of what goes on from what. Pure.
 *
 * What a sandbox or snapshot says its parent is may be gone. Then it hangs below the snapshot whose
 * disk is the longest beginning of its own; several that had the same parent stay together, below
 * an entry for what is gone. */
#pragma once

#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

#include "common/err.h"

enum family_kind {
    FAMILY_SANDBOX,
    FAMILY_SNAPSHOT,
    FAMILY_GONE, /* only known by what went on from it */
};

struct family_entry {
    enum family_kind kind;
    const char *name;   /* "web" or "web@1" */
    const char *parent; /* "NAME@TAG" or NULL */
    const char *state;  /* of a sandbox, or a snapshot's kind */
    const char *note;
    uint64_t created_ms;
    const char *const *layers; /* ids of the disk's frozen layers, bottom to top */
    size_t layer_count;
};

struct family;

/* NULL: out of memory. End it with family_free. */
struct family *family_new(void);
void family_free(struct family *family);

/* Everything in entry is copied. Errors: -ENOMEM. */
int family_add(struct family *family, const struct family_entry *entry) BG_MUST_CHECK;

/* After the last add, once: finds the parents. Errors: -ENOMEM. */
int family_link(struct family *family) BG_MUST_CHECK;

/* Prints the trees, or only those with something of that sandbox (name may be NULL). Returns how
 * many there were. */
size_t family_print(const struct family *family, const char *name, uint64_t now_ms, FILE *out);
/* The same as JSON: an array of objects with "children". NULL: out of memory. */
json_t *family_json(const struct family *family, const char *name);
