#include "host/cli/family.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/quote.h"
#include "host/cli/output.h"

#define NONE SIZE_MAX
#define LINE_SIZE                                                                                  \
    1024             /* of what stands before a name; deeper ones are drawn without more lines     \
                      */
#define CELL_BYTES 7 /* of "│  ", the longer of the two cells */

struct node {
    enum family_kind kind;
    char *name, *parent, *state, *note;
    uint64_t created_ms;
    char **layers;
    size_t layer_count;
    size_t up;             /* its parent's index, or NONE */
    size_t child, sibling; /* first child and next sibling, or NONE */
};

struct family {
    struct node *nodes;
    size_t count, root; /* root: the first of those without a parent */
};

struct family *family_new(void)
{
    struct family *family = calloc(1, sizeof *family);
    if (family)
        family->root = NONE;
    return family;
}

static void node_done(struct node *node)
{
    free(node->name);
    free(node->parent);
    free(node->state);
    free(node->note);
    for (size_t i = 0; node->layers && i < node->layer_count; i++)
        free(node->layers[i]);
    free(node->layers);
}

void family_free(struct family *family)
{
    for (size_t i = 0; family && i < family->count; i++)
        node_done(&family->nodes[i]);
    if (family)
        free(family->nodes);
    free(family);
}

/* NULL stays NULL. */
static bool copy(const char *text, char **ret)
{
    *ret = text ? strdup(text) : NULL;
    return *ret || !text;
}

int family_add(struct family *family, const struct family_entry *entry)
{
    struct node *grown = reallocarray(family->nodes, family->count + 1, sizeof *family->nodes);
    if (!grown)
        return -ENOMEM;
    family->nodes = grown;
    struct node node = {.kind = entry->kind,
                        .created_ms = entry->created_ms,
                        .layers = calloc(entry->layer_count + 1, sizeof(char *)),
                        .layer_count = entry->layer_count,
                        .up = NONE,
                        .child = NONE,
                        .sibling = NONE};
    bool whole = node.layers && copy(entry->name, &node.name) &&
                 copy(entry->parent, &node.parent) && copy(entry->state, &node.state) &&
                 copy(entry->note, &node.note);
    for (size_t i = 0; whole && i < entry->layer_count; i++)
        whole = copy(entry->layers[i], &node.layers[i]);
    if (!whole) {
        node_done(&node);
        return -ENOMEM;
    }
    family->nodes[family->count++] = node;
    return 0;
}

/* ---- who is whose ---- */

static size_t find(const struct family *family, const char *name)
{
    for (size_t i = 0; i < family->count; i++)
        if (family->nodes[i].kind != FAMILY_SANDBOX && strcmp(family->nodes[i].name, name) == 0)
            return i;
    return NONE;
}

static bool begins(const struct node *whole, const struct node *part)
{
    if (part->layer_count == 0 || part->layer_count > whole->layer_count)
        return false;
    for (size_t i = 0; i < part->layer_count; i++)
        if (strcmp(whole->layers[i], part->layers[i]) != 0)
            return false;
    return true;
}

/* The snapshot with the longest disk that this one's begins with; a snapshot is none of a disk as
 * long as its own, else two of one disk would be each other's. */
static size_t nearest(const struct family *family, size_t index)
{
    const struct node *node = &family->nodes[index];
    size_t best = NONE;
    for (size_t i = 0; i < family->count; i++) {
        const struct node *other = &family->nodes[i];
        if (i == index || other->kind != FAMILY_SNAPSHOT || !begins(node, other) ||
            (node->kind != FAMILY_SANDBOX && other->layer_count == node->layer_count))
            continue;
        if (best == NONE || other->layer_count > family->nodes[best].layer_count)
            best = i;
    }
    return best;
}

/* How many others say the same parent. */
static size_t brothers(const struct family *family, size_t index)
{
    size_t count = 0;
    for (size_t i = 0; i < family->count; i++)
        count += i != index && family->nodes[i].parent &&
                 strcmp(family->nodes[i].parent, family->nodes[index].parent) == 0;
    return count;
}

/* An entry for a parent that is gone, with so much of the child's disk as all its brothers share:
 * what their snapshot had. */
static int add_gone(struct family *family, size_t child, size_t *ret)
{
    const struct node *node = &family->nodes[child];
    size_t shared = node->layer_count;
    for (size_t i = 0; i < family->count; i++) {
        const struct node *other = &family->nodes[i];
        if (!other->parent || strcmp(other->parent, node->parent) != 0)
            continue;
        size_t same = 0;
        while (same < shared && same < other->layer_count &&
               strcmp(other->layers[same], node->layers[same]) == 0)
            same++;
        shared = same;
    }
    BG_AUTOFREE char *name = strdup(node->parent); /* family_add moves the nodes */
    BG_AUTOFREE const char **layers = calloc(shared + 1, sizeof *layers);
    if (!name || !layers)
        return -ENOMEM;
    for (size_t i = 0; i < shared; i++)
        layers[i] = node->layers[i];
    const struct family_entry gone = {
        .kind = FAMILY_GONE, .name = name, .layers = layers, .layer_count = shared};
    int r = family_add(family, &gone);
    if (r == 0)
        *ret = family->count - 1;
    return r;
}

static int find_parent(struct family *family, size_t index)
{
    size_t up = NONE;
    if (family->nodes[index].parent)
        up = find(family, family->nodes[index].parent);
    if (up == NONE && family->nodes[index].parent && brothers(family, index) > 0) {
        int r = add_gone(family, index, &up);
        if (r < 0)
            return r;
    }
    if (up == NONE)
        up = nearest(family, index);
    family->nodes[index].up = up == index ? NONE : up;
    return 0;
}

/* Damaged files may say that two are each other's parents. */
static void break_circles(struct family *family)
{
    for (size_t i = 0; i < family->count; i++) {
        size_t steps = 0;
        for (size_t at = family->nodes[i].up; at != NONE; at = family->nodes[at].up)
            if (at == i || ++steps > family->count) {
                family->nodes[i].up = NONE;
                break;
            }
    }
}

/* The oldest first, snapshots before sandboxes of the same time. */
static bool comes_before(const struct node *a, const struct node *b)
{
    if (a->kind != b->kind && (a->kind == FAMILY_SANDBOX || b->kind == FAMILY_SANDBOX))
        return a->kind != FAMILY_SANDBOX;
    if (a->created_ms != b->created_ms)
        return a->created_ms < b->created_ms;
    return strverscmp(a->name, b->name) < 0;
}

static void hang(struct family *family, size_t index)
{
    struct node *node = &family->nodes[index];
    size_t *at = node->up == NONE ? &family->root : &family->nodes[node->up].child;
    while (*at != NONE && comes_before(&family->nodes[*at], node))
        at = &family->nodes[*at].sibling;
    node->sibling = *at;
    *at = index;
}

int family_link(struct family *family)
{
    /* Those that are gone are added at the end, and looked at too. */
    for (size_t i = 0; i < family->count; i++) {
        int r = find_parent(family, i);
        if (r < 0)
            return r;
    }
    break_circles(family);
    for (size_t i = 0; i < family->count; i++)
        hang(family, i);
    return 0;
}

/* ---- showing ---- */

static bool is_of(const struct node *node, const char *name)
{
    size_t size = strlen(name);
    return strncmp(node->name, name, size) == 0 &&
           (node->name[size] == '\0' || node->name[size] == '@');
}

static bool has(const struct family *family, size_t index, const char *name)
{
    const struct node *node = &family->nodes[index];
    if (!name || is_of(node, name))
        return true;
    for (size_t child = node->child; child != NONE; child = family->nodes[child].sibling)
        if (has(family, child, name))
            return true;
    return false;
}

/* A snapshot that a command made for a moment. */
static bool was_momentary(const struct node *node)
{
    const char *at = strchr(node->name, '@');
    return at && at[1] == '.';
}

static void print_name(const struct node *node, uint64_t now_ms, FILE *out)
{
    char age[OUTPUT_AGE_SIZE], note[256];
    if (node->kind == FAMILY_GONE) {
        int size = (int)strcspn(node->name, "@");
        if (was_momentary(node))
            (void)fprintf(out, "(an instant of %.*s)\n", size, node->name);
        else
            (void)fprintf(out, "%s (removed)\n", node->name);
        return;
    }
    output_age(node->created_ms, now_ms, age);
    bg_escape(node->note ? node->note : "", node->note ? strlen(node->note) : 0, note, sizeof note);
    (void)fprintf(out, "%s  %s, %s%s%s\n", node->name, node->state ? node->state : "?", age,
                  note[0] ? "  " : "", note);
}

/* before: what stands left of its children's lines. */
static void print_below(const struct family *family, size_t index, char before[LINE_SIZE],
                        size_t used, uint64_t now_ms, FILE *out)
{
    for (size_t child = family->nodes[index].child; child != NONE;) {
        size_t next = family->nodes[child].sibling;
        (void)fprintf(out, "%s%s", before, next == NONE ? "└─ " : "├─ ");
        print_name(&family->nodes[child], now_ms, out);
        size_t more = used;
        if (used + CELL_BYTES < LINE_SIZE)
            more += (size_t)snprintf(before + used, LINE_SIZE - used, "%s",
                                     next == NONE ? "   " : "│  ");
        print_below(family, child, before, more, now_ms, out);
        before[used] = '\0';
        child = next;
    }
}

size_t family_print(const struct family *family, const char *name, uint64_t now_ms, FILE *out)
{
    size_t count = 0;
    for (size_t root = family->root; root != NONE; root = family->nodes[root].sibling) {
        char before[LINE_SIZE] = "";
        if (!has(family, root, name))
            continue;
        print_name(&family->nodes[root], now_ms, out);
        print_below(family, root, before, 0, now_ms, out);
        count++;
    }
    return count;
}

static const char *type_name(const struct node *node)
{
    switch (node->kind) {
    case FAMILY_SANDBOX:
        return "sandbox";
    case FAMILY_SNAPSHOT:
        return "snapshot";
    case FAMILY_GONE:
        break;
    }
    return was_momentary(node) ? "instant" : "removed";
}

static json_t *to_json(const struct family *family, size_t index)
{
    const struct node *node = &family->nodes[index];
    json_t *children = json_array();
    for (size_t child = node->child; children && child != NONE;
         child = family->nodes[child].sibling)
        if (json_array_append_new(children, to_json(family, child)) < 0) {
            json_decref(children);
            return NULL;
        }
    bool gone = node->kind == FAMILY_GONE;
    return json_pack("{s:s, s:s, s:o*, s:s*, s:o*, s:o}", "name", node->name, "type",
                     type_name(node), "created_ms",
                     gone ? NULL : json_integer((json_int_t)node->created_ms),
                     node->kind == FAMILY_SANDBOX ? "state" : "kind", node->state, "note",
                     node->note ? output_text(node->note) : NULL, "children", children);
}

json_t *family_json(const struct family *family, const char *name)
{
    json_t *array = json_array();
    for (size_t root = family->root; array && root != NONE; root = family->nodes[root].sibling)
        if (has(family, root, name) && json_array_append_new(array, to_json(family, root)) < 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}
