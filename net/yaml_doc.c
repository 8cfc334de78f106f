#include "net/yaml_doc.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/quote.h"

#define NAME_SIZE 32 /* of a key that can be compared */

int yaml_doc_fail(const struct yaml_doc *doc, const yaml_node_t *node, struct bg_err *err,
                  const char *format, ...)
{
    char text[BG_ERR_TEXT_SIZE];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return bg_err_set(err, -EINVAL, "%s:%u: %s", doc->name, yaml_doc_line(node), text);
}

int yaml_doc_prefix(const struct yaml_doc *doc, const yaml_node_t *node, const char *key,
                    struct bg_err *err)
{
    (void)bg_err_prefix(err, "%s:%u: %s", doc->name, yaml_doc_line(node), key);
    return -EINVAL;
}

unsigned yaml_doc_line(const yaml_node_t *node)
{
    return (unsigned)node->start_mark.line + 1;
}

/* Aliases could make a small document a large or an endless one; nobody needs them here. libyaml's
 * document has none any more, so its events are looked at first. */
static int check_events(struct yaml_doc *doc, const char *text, size_t size, struct bg_err *err)
{
    yaml_parser_t parser;
    yaml_event_t event;
    int r = 0;
    bool end = false;
    unsigned documents = 0;
    if (!yaml_parser_initialize(&parser))
        return bg_err_errno(err, -ENOMEM, "%s", doc->name);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, size);
    while (r == 0 && !end) {
        if (!yaml_parser_parse(&parser, &event)) {
            r = parser.error == YAML_MEMORY_ERROR
                    ? bg_err_errno(err, -ENOMEM, "%s", doc->name)
                    : bg_err_set(err, -EINVAL, "%s:%zu: %s", doc->name,
                                 parser.problem_mark.line + 1,
                                 parser.problem ? parser.problem : "not YAML");
            break;
        }
        end = event.type == YAML_STREAM_END_EVENT;
        documents += event.type == YAML_DOCUMENT_START_EVENT;
        if (event.type == YAML_ALIAS_EVENT || documents > 1)
            r = bg_err_set(err, -EINVAL, "%s:%zu: %s", doc->name, event.start_mark.line + 1,
                           documents > 1 ? "a second document" : "aliases are not possible here");
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&parser);
    return r;
}

int yaml_doc_parse(struct yaml_doc *doc, const char *name, const char *text, size_t size,
                   struct bg_err *err)
{
    yaml_parser_t parser;
    doc->name = name;
    if (size > YAML_DOC_SIZE_MAX)
        return bg_err_set(err, -EINVAL, "%s: larger than %zu KiB", name, YAML_DOC_SIZE_MAX / 1024);
    int r = check_events(doc, text, size, err);
    if (r < 0)
        return r;
    if (!yaml_parser_initialize(&parser))
        return bg_err_errno(err, -ENOMEM, "%s", name);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, size);
    if (!yaml_parser_load(&parser, &doc->document))
        r = parser.error == YAML_MEMORY_ERROR
                ? bg_err_errno(err, -ENOMEM, "%s", name)
                : bg_err_set(err, -EINVAL, "%s:%zu: %s", name, parser.problem_mark.line + 1,
                             parser.problem ? parser.problem : "not YAML");
    yaml_parser_delete(&parser);
    return r;
}

void yaml_doc_done(struct yaml_doc *doc)
{
    yaml_document_delete(&doc->document);
}

yaml_node_t *yaml_doc_root(struct yaml_doc *doc)
{
    return yaml_document_get_root_node(&doc->document);
}

int yaml_doc_text(const struct yaml_doc *doc, const yaml_node_t *node, const char *key,
                  const char **ret, struct bg_err *err)
{
    if (node->type != YAML_SCALAR_NODE)
        return yaml_doc_fail(doc, node, err, "%s: want a single value", key);
    const char *text = (const char *)node->data.scalar.value;
    if (strlen(text) != node->data.scalar.length)
        return yaml_doc_fail(doc, node, err, "%s: a NUL byte is in it", key);
    *ret = text;
    return 0;
}

/* How many letters have to change, up to NAME_SIZE. */
static size_t edit_distance(const char *a, const char *b)
{
    size_t row[NAME_SIZE + 1], size = strlen(b);
    if (strlen(a) > NAME_SIZE || size > NAME_SIZE)
        return NAME_SIZE;
    for (size_t k = 0; k <= size; k++)
        row[k] = k;
    for (size_t i = 0; a[i]; i++) {
        size_t corner = row[0];
        row[0] = i + 1;
        for (size_t k = 0; k < size; k++) {
            size_t change = corner + (a[i] != b[k]);
            corner = row[k + 1];
            size_t less = (row[k] < row[k + 1] ? row[k] : row[k + 1]) + 1;
            row[k + 1] = change < less ? change : less;
        }
    }
    return row[size];
}

static int unknown_key(const struct yaml_doc *doc, const yaml_node_t *node, const char *what,
                       const char *name, const struct yaml_key *keys, struct bg_err *err)
{
    char shown[80], list[256] = "";
    size_t used = 0, best = 3; /* further apart is no slip */
    const char *nearest = NULL;
    for (const struct yaml_key *k = keys; k->name; k++) {
        size_t distance = edit_distance(name, k->name);
        if (distance < best) {
            best = distance;
            nearest = k->name;
        }
        int n = snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", k->name);
        used += n > 0 && (size_t)n < sizeof list - used ? (size_t)n : 0;
    }
    (void)bg_quote(name, shown, sizeof shown);
    if (nearest)
        return yaml_doc_fail(doc, node, err, "%s is no key of %s; did you mean '%s'?", shown, what,
                             nearest);
    return yaml_doc_fail(doc, node, err, "%s is no key of %s, which has: %s", shown, what, list);
}

static int check_twice(struct yaml_doc *doc, yaml_node_t *node, const yaml_node_t *key,
                       const yaml_node_pair_t *pair, struct bg_err *err)
{
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < pair; p++) {
        const yaml_node_t *other = yaml_document_get_node(&doc->document, p->key);
        if (other->data.scalar.length == key->data.scalar.length &&
            memcmp(other->data.scalar.value, key->data.scalar.value, key->data.scalar.length) == 0)
            return yaml_doc_fail(doc, key, err, "'%s' is there twice",
                                 (const char *)key->data.scalar.value);
    }
    return 0;
}

int yaml_doc_mapping(struct yaml_doc *doc, yaml_node_t *node, const char *what,
                     const struct yaml_key *keys, void *owner, struct bg_err *err)
{
    if (node->type != YAML_MAPPING_NODE)
        return yaml_doc_fail(doc, node, err, "want the keys of %s", what);
    for (yaml_node_pair_t *pair = node->data.mapping.pairs.start;
         pair < node->data.mapping.pairs.top; pair++) {
        yaml_node_t *key = yaml_document_get_node(&doc->document, pair->key);
        yaml_node_t *value = yaml_document_get_node(&doc->document, pair->value);
        const char *name;
        int r = yaml_doc_text(doc, key, "key", &name, err);
        if (r == 0)
            r = check_twice(doc, node, key, pair, err);
        if (r < 0)
            return r;
        const struct yaml_key *found = keys;
        while (found->name && strcmp(found->name, name) != 0)
            found++;
        if (!found->name)
            return unknown_key(doc, key, what, name, keys, err);
        r = found->read(owner, doc, value, err);
        if (r < 0)
            return r;
    }
    return 0;
}

int yaml_doc_pairs(struct yaml_doc *doc, yaml_node_t *node, const char *what, const char *example,
                   int (*read)(void *owner, struct yaml_doc *doc, yaml_node_t *key,
                               const char *name, yaml_node_t *value, struct bg_err *err),
                   void *owner, struct bg_err *err)
{
    if (node->type != YAML_MAPPING_NODE)
        return yaml_doc_fail(doc, node, err, "%s: want %s", what, example);
    for (yaml_node_pair_t *pair = node->data.mapping.pairs.start;
         pair < node->data.mapping.pairs.top; pair++) {
        yaml_node_t *key = yaml_document_get_node(&doc->document, pair->key);
        yaml_node_t *value = yaml_document_get_node(&doc->document, pair->value);
        const char *name;
        int r = yaml_doc_text(doc, key, what, &name, err);
        if (r == 0)
            r = check_twice(doc, node, key, pair, err);
        if (r == 0)
            r = read(owner, doc, key, name, value, err);
        if (r < 0)
            return r;
    }
    return 0;
}

int yaml_doc_list(struct yaml_doc *doc, yaml_node_t *node, const char *key,
                  int (*read)(void *owner, struct yaml_doc *doc, yaml_node_t *item,
                              struct bg_err *err),
                  void *owner, struct bg_err *err)
{
    if (node->type == YAML_SCALAR_NODE)
        return read(owner, doc, node, err);
    if (node->type != YAML_SEQUENCE_NODE)
        return yaml_doc_fail(doc, node, err, "%s: want a value or a list of them", key);
    for (yaml_node_item_t *item = node->data.sequence.items.start;
         item < node->data.sequence.items.top; item++) {
        int r = read(owner, doc, yaml_document_get_node(&doc->document, *item), err);
        if (r < 0)
            return r;
    }
    return 0;
}
