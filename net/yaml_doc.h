/* A YAML document with its places: who reads it can name the line of whatever is wrong. By
 * libyaml's document API and not libcyaml, which tells no line for what only its reader can check
 * (a host, a path). Pure. */
#pragma once

#include <stdbool.h>
#include <yaml.h>

#include "common/err.h"

#define YAML_DOC_SIZE_MAX ((size_t)256 * 1024)

struct yaml_doc {
    yaml_document_t document;
    const char *name; /* for errors; borrowed */
};

/* Parses one document. name, text: borrowed; name until yaml_doc_done. Errors: -EINVAL "NAME:LINE:
 * what is wrong" (also for anchors' aliases and more than YAML_DOC_SIZE_MAX bytes); -ENOMEM. */
int yaml_doc_parse(struct yaml_doc *doc, const char *name, const char *text, size_t size,
                   struct bg_err *err) BG_MUST_CHECK;
void yaml_doc_done(struct yaml_doc *doc);

/* NULL: the document is empty. */
yaml_node_t *yaml_doc_root(struct yaml_doc *doc);

unsigned yaml_doc_line(const yaml_node_t *node);

/* "NAME:LINE: text". Returns -EINVAL. */
int yaml_doc_fail(const struct yaml_doc *doc, const yaml_node_t *node, struct bg_err *err,
                  const char *format, ...) BG_PRINTF(4, 5);
/* Puts "NAME:LINE: KEY: " before the text that is there. Returns -EINVAL. */
int yaml_doc_prefix(const struct yaml_doc *doc, const yaml_node_t *node, const char *key,
                    struct bg_err *err);

/* The scalar's text, borrowed, without a NUL inside. Errors: -EINVAL it is something else. */
int yaml_doc_text(const struct yaml_doc *doc, const yaml_node_t *node, const char *key,
                  const char **ret, struct bg_err *err) BG_MUST_CHECK;

/* One key of a mapping and who reads its value. */
struct yaml_key {
    const char *name;
    int (*read)(void *owner, struct yaml_doc *doc, yaml_node_t *value, struct bg_err *err);
};

/* Reads a mapping: each key once, none but these (the array ends with a NULL name), in the order of
 * the document. A key that is wrong is told with the nearest right one. what: "a rule". */
int yaml_doc_mapping(struct yaml_doc *doc, yaml_node_t *node, const char *what,
                     const struct yaml_key *keys, void *owner, struct bg_err *err) BG_MUST_CHECK;

/* Reads a mapping whose keys are the user's: calls read for each, in the order of the document.
 * name: the key's text, borrowed. example: "KEY: PATTERN". */
int yaml_doc_pairs(struct yaml_doc *doc, yaml_node_t *node, const char *what, const char *example,
                   int (*read)(void *owner, struct yaml_doc *doc, yaml_node_t *key,
                               const char *name, yaml_node_t *value, struct bg_err *err),
                   void *owner, struct bg_err *err) BG_MUST_CHECK;

/* Calls read for each item of a sequence, or for the node itself if it is a scalar. */
int yaml_doc_list(struct yaml_doc *doc, yaml_node_t *node, const char *key,
                  int (*read)(void *owner, struct yaml_doc *doc, yaml_node_t *item,
                              struct bg_err *err),
                  void *owner, struct bg_err *err) BG_MUST_CHECK;
