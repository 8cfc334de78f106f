#include "host/gateway/rule_edit.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "common/quote.h"
#include "host/cli/grammar.h"

#define RULE_CHARS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.*:[]"

void rule_edited_done(struct rule_edited *edited)
{
    for (size_t i = 0; i < edited->allow_count; i++)
        free(edited->allow[i]);
    free(edited->allow);
    free(edited->policy);
    free(edited->rule);
    *edited = (struct rule_edited){0};
}

/* "HOST" or "HOST:PORT", heap. */
static int make_rule(const struct rule_edit_opts *o, char **ret, struct bg_err *err)
{
    char quoted[256];
    bool six = strchr(o->host, ':') != NULL, web = o->port == 0 || o->port == 80 || o->port == 443;
    char port[16] = "";
    BG_AUTOFREE char *rule = NULL;
    if (!web)
        (void)snprintf(port, sizeof port, ":%u", o->port);
    if (asprintf(&rule, "%s%s%s%s", six ? "[" : "", o->host, six ? "]" : "", port) < 0)
        return bg_err_errno(err, -ENOMEM, "rule");
    if (!grammar_host_ok(rule, strlen(rule) - strlen(port)) || o->port > 65535 ||
        strspn(rule, RULE_CHARS) != strlen(rule))
        return bg_err_set(err, -EINVAL, "host %s: want a name or an address",
                          bg_quote(o->host, quoted, sizeof quoted));
    *ret = BG_TAKE(rule);
    return 0;
}

/* Size of a rule of --allow without its =ADDRESSES. */
static size_t host_size(const char *allow)
{
    return strcspn(allow, "=");
}

static bool is_rule(const char *allow, const char *rule)
{
    return host_size(allow) == strlen(rule) && strncasecmp(allow, rule, strlen(rule)) == 0;
}

/* "*.suffix", with the same port. */
static bool is_above(const char *allow, const char *rule)
{
    size_t size = host_size(allow), whole = strlen(rule);
    return size > 2 && allow[0] == '*' && allow[1] == '.' && whole > size - 1 &&
           strncasecmp(rule + whole - (size - 1), allow + 1, size - 1) == 0;
}

/* ---- the text ---- */

static bool has_word(const char *line, size_t size, size_t indent, const char *word)
{
    size_t n = strlen(word);
    return size >= indent + n && memcmp(line + indent, word, n) == 0;
}

static size_t indent_of(const char *line, size_t size)
{
    size_t n = 0;
    while (n < size && line[n] == ' ')
        n++;
    return n;
}

/* Nothing but a comment is in it from there on. */
static bool is_blank(const char *line, size_t size, size_t from)
{
    while (from < size && (line[from] == ' ' || line[from] == '\t' || line[from] == '\r'))
        from++;
    return from >= size || line[from] == '#';
}

struct place {
    size_t offset; /* where lines are put in */
    size_t indent; /* of an item of the list */
    bool has_network, has_rules;
    bool has_items;
    size_t rules_indent, rules_offset; /* of the line `rules:` */
};

struct line {
    const char *text;
    size_t size; /* without its newline */
};

/* The next line of the text; false at the end. */
static bool next_line(const char **at, struct line *ret)
{
    if (**at == '\0')
        return false;
    ret->text = *at;
    ret->size = strcspn(*at, "\n");
    *at += ret->size + ((*at)[ret->size] == '\n');
    return true;
}

static int unclear(struct bg_err *err)
{
    return bg_err_set(err, -EOPNOTSUPP,
                      "the policy's `network` is not written line by line as docs/policy.md has "
                      "it, so a button cannot change it: edit its text");
}

/* Where the first rule is, or would be. */
static int find_place(const char *policy, struct place *ret, struct bg_err *err)
{
    struct place p = {.offset = strlen(policy), .indent = 4, .rules_indent = 2};
    const char *at = policy;
    bool inside = false, first_child = false;
    for (struct line l; next_line(&at, &l);) {
        size_t indent = indent_of(l.text, l.size);
        if (is_blank(l.text, l.size, 0))
            continue;
        if (p.has_rules) { /* the first line behind it tells how deep its items are */
            p.has_items = l.text[indent] == '-' && indent >= p.rules_indent;
            if (p.has_items)
                p.indent = indent;
            break;
        }
        if (has_word(l.text, l.size, 0, "network:")) {
            if (!is_blank(l.text, l.size, strlen("network:")))
                return unclear(err);
            inside = first_child = p.has_network = true;
            p.offset = (size_t)(at - policy);
            continue;
        }
        if (indent == 0)
            inside = false;
        if (inside && first_child) {
            p.rules_indent = indent;
            p.indent = indent + 2;
            first_child = false;
        }
        if (inside && indent == p.rules_indent && has_word(l.text, l.size, indent, "rules:")) {
            if (!is_blank(l.text, l.size, indent + strlen("rules:")))
                return unclear(err);
            p.has_rules = true;
            p.indent = indent + 2;
            p.rules_offset = (size_t)(l.text - policy);
            p.offset = (size_t)(at - policy);
        }
    }
    *ret = p;
    return 0;
}

/* A line as put_rules writes one that denies this. */
static bool denies(const struct line *l, const char *rule)
{
    char want[512];
    size_t indent = indent_of(l->text, l->size);
    int n = snprintf(want, sizeof want, "- deny: \"%s\"", rule);
    return n > 0 && (size_t)n < sizeof want && l->size - indent == (size_t)n &&
           strncasecmp(l->text + indent, want, (size_t)n) == 0;
}

/* The text with rules put in at its place: a denied one, then those that were above it. */
static int put_rules(const char *policy, const char *rule, char *const *above, size_t count,
                     char **ret, struct bg_err *err)
{
    struct place p;
    char *text = NULL;
    size_t size = 0;
    int r = find_place(policy, &p, err);
    if (r < 0)
        return r;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return bg_err_errno(err, -ENOMEM, "policy");
    (void)fwrite(policy, 1, p.offset, out); /* memory's lack is seen below, as of all these */
    if (p.offset > 0 && policy[p.offset - 1] != '\n')
        (void)fputc('\n', out);
    if (!p.has_network)
        (void)fputs("network:\n", out);
    if (!p.has_rules)
        (void)fprintf(out, "%*srules:\n", (int)p.rules_indent, "");
    (void)fprintf(out, "%*s- deny: \"%s\"\n", (int)p.indent, "", rule);
    for (size_t i = 0; i < count; i++)
        (void)fprintf(out, "%*s- allow: \"%s\"\n", (int)p.indent, "", above[i]);
    (void)fputs(policy + p.offset, out);
    bool failed = ferror(out);
    failed |= fclose(out) != 0;
    if (failed || !text) {
        free(text);
        return bg_err_errno(err, -ENOMEM, "policy");
    }
    *ret = text;
    return 0;
}

/* Takes size bytes at an offset out of the text. */
static void cut(char *text, size_t offset, size_t size)
{
    memmove(text + offset, text + offset + size, strlen(text + offset + size) + 1);
}

/* The text without the lines that deny this, heap; `rules:` goes too if nothing is left below it.
 */
static int without_denial(const char *policy, const char *rule, char **ret, struct bg_err *err)
{
    BG_AUTOFREE char *text = strdup(policy);
    struct place p;
    size_t offset = 0;
    bool found = false;
    if (!text)
        return bg_err_errno(err, -ENOMEM, "policy");
    for (const char *at = text; *at != '\0'; at = text + offset) {
        struct line l;
        (void)next_line(&at, &l); /* there is one */
        size_t whole = (size_t)(at - l.text);
        if (denies(&l, rule)) {
            cut(text, offset, whole);
            found = true;
        } else {
            offset += whole;
        }
    }
    int r = found ? find_place(text, &p, err) : 0;
    if (r < 0)
        return r;
    if (found && p.has_rules && !p.has_items)
        cut(text, p.rules_offset, p.offset - p.rules_offset);
    *ret = BG_TAKE(text);
    return 0;
}

/* ---- both together ---- */

static int add_text(char ***list, size_t *count, const char *text)
{
    char **grown = reallocarray(*list, *count + 1, sizeof *grown);
    if (!grown)
        return -ENOMEM;
    *list = grown;
    grown[*count] = strdup(text);
    return grown[*count] ? (void)(*count)++, 0 : -ENOMEM;
}

static int edit_allow(const struct rule_edit_opts *o, struct rule_edited *e, struct bg_err *err)
{
    bool there = false;
    int r = 0;
    for (size_t i = 0; r == 0 && i < o->allow_count; i++) {
        there |= strcasecmp(o->allow[i], e->rule) == 0;
        r = add_text(&e->allow, &e->allow_count, o->allow[i]);
    }
    if (r == 0 && !there)
        r = add_text(&e->allow, &e->allow_count, e->rule);
    if (r < 0)
        return bg_err_errno(err, r, "rules");
    return o->policy ? without_denial(o->policy, e->rule, &e->policy, err) : 0;
}

/* What allows more than this host moves behind the rule that denies it. */
static int edit_deny(const struct rule_edit_opts *o, struct rule_edited *e, struct bg_err *err)
{
    char quoted[256];
    BG_AUTOFREE char **above = calloc(o->allow_count + 1, sizeof *above);
    size_t count = 0;
    int r = above ? 0 : -ENOMEM;
    for (size_t i = 0; r == 0 && i < o->allow_count; i++) {
        if (is_rule(o->allow[i], e->rule))
            continue;
        if (!is_above(o->allow[i], e->rule))
            r = add_text(&e->allow, &e->allow_count, o->allow[i]);
        else if (strspn(o->allow[i], RULE_CHARS) != strlen(o->allow[i]))
            return bg_err_set(err, -EOPNOTSUPP, "%s allows it, with an address: edit the policy",
                              bg_quote(o->allow[i], quoted, sizeof quoted));
        else
            above[count++] = o->allow[i];
    }
    if (r < 0)
        return bg_err_errno(err, r, "rules");
    if (!o->policy && count == 0)
        return 0; /* nothing else allows it */
    BG_AUTOFREE char *rest = NULL;
    r = without_denial(o->policy ? o->policy : "", e->rule, &rest, err);
    return r < 0 ? r : put_rules(rest, e->rule, above, count, &e->policy, err);
}

int rule_edit(const struct rule_edit_opts *opts, struct rule_edited *ret, struct bg_err *err)
{
    struct rule_edited edited = {0};
    int r = make_rule(opts, &edited.rule, err);
    if (r == 0)
        r = opts->deny ? edit_deny(opts, &edited, err) : edit_allow(opts, &edited, err);
    if (r < 0)
        rule_edited_done(&edited);
    else
        *ret = edited;
    return r;
}
