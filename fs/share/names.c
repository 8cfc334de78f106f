#include "fs/share/names.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "common/fold.h"
#include "common/limits.h"
#include "common/quote.h"
#include "fs/server/share.h"
#include "fs/share/executed.h"

#define PARTS_MAX 8u /* names in one pattern */

const char *const share_names_hidden[] = {
    ".env*",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.kdbx",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    "id_xmss*",
    ".netrc",
    ".pgpass",
    ".git-credentials",
    ".npmrc",
    ".pypirc",
    ".aws",
    ".ssh",
    ".gnupg",
    ".kube",
    ".docker/config.json",
    ".config/gh",
    "*.tfstate*",
    "service-account*.json",
    NULL,
};

const char *const share_names_shown[] = {".env.example", ".env.sample", ".env.template", NULL};

struct pattern {
    char *text;                   /* folded; parts points into it */
    const char *parts[PARTS_MAX]; /* cut at the slashes */
    size_t count;
    bool from_root;
};

struct patterns {
    struct pattern *list;
    size_t count;
};

struct share_names {
    struct patterns hide, show, usual_hide, usual_show;
    bool unguarded;
};

/* ---- patterns ---- */

static int bad(const char *text, const char *why, struct bg_err *err)
{
    char quoted[256];
    return bg_err_set(err, -EINVAL, "pattern %s: %s", bg_quote(text, quoted, sizeof quoted), why);
}

static int pattern_init(struct pattern *pattern, const char *text, struct bg_err *err)
{
    size_t size = strlen(text);
    *pattern = (struct pattern){.from_root = text[0] == '/', .text = malloc(size + 1)};
    if (!pattern->text)
        return bg_err_errno(err, -ENOMEM, "patterns");
    char *out = pattern->text;
    for (const char *at = text + pattern->from_root; at;) {
        const char *slash = strchr(at, '/');
        size_t part = slash ? (size_t)(slash - at) : strlen(at);
        if (pattern->count == PARTS_MAX)
            return bad(text, "too many names in it", err);
        if (part == 0 || part > BG_FS_NAME_MAX || strncmp(at, "..", part) == 0)
            return bad(text, "want names with a '/' between them", err);
        pattern->parts[pattern->count++] = out;
        out += bg_fold_name(at, part, 1, out) + 1;
        at = slash ? slash + 1 : NULL;
    }
    return 0;
}

static void patterns_done(struct patterns *patterns)
{
    for (size_t i = 0; i < patterns->count; i++)
        free(patterns->list[i].text);
    free(patterns->list);
}

static int patterns_init(struct patterns *patterns, const char *const *texts, size_t count,
                         struct bg_err *err)
{
    patterns->list = calloc(count + 1, sizeof *patterns->list);
    if (!patterns->list)
        return bg_err_errno(err, -ENOMEM, "patterns");
    int r = 0;
    for (size_t i = 0; i < count && r == 0; i++)
        r = pattern_init(&patterns->list[patterns->count++], texts[i], err);
    return r;
}

static size_t count_of(const char *const *texts)
{
    size_t count = 0;
    while (texts[count])
        count++;
    return count;
}

int share_names_new(const struct share_names_opts *opts, struct share_names **ret,
                    struct bg_err *err)
{
    if (opts->hide_count > BG_SHARE_PATTERNS_MAX || opts->show_count > BG_SHARE_PATTERNS_MAX)
        return bg_err_set(err, -EINVAL, "more than %d patterns", BG_SHARE_PATTERNS_MAX);
    struct share_names *names = calloc(1, sizeof *names);
    if (!names)
        return bg_err_errno(err, -ENOMEM, "patterns");
    names->unguarded = opts->unguarded;
    int r = patterns_init(&names->hide, opts->hide, opts->hide_count, err);
    if (r == 0)
        r = patterns_init(&names->show, opts->show, opts->show_count, err);
    if (r == 0)
        r = patterns_init(&names->usual_hide, share_names_hidden, count_of(share_names_hidden),
                          err);
    if (r == 0)
        r = patterns_init(&names->usual_show, share_names_shown, count_of(share_names_shown), err);
    if (r < 0)
        share_names_free(names);
    else
        *ret = names;
    return r;
}

void share_names_free(struct share_names *names)
{
    if (!names)
        return;
    patterns_done(&names->hide);
    patterns_done(&names->show);
    patterns_done(&names->usual_hide);
    patterns_done(&names->usual_show);
    free(names);
}

/* ---- matching ---- */

/* Cheap where it can be: most names differ from most patterns in the first byte. */
static bool part_matches(const char *pattern, const char *name)
{
    char first = pattern[0];
    if (first != '*' && first != '?' && first != '[' && first != '\\' && first != name[0])
        return false;
    return fnmatch(pattern, name, 0) == 0;
}

/* The first `parts` names of the pattern are the last of the path. */
static bool ends_with(const struct pattern *pattern, size_t parts, const char *const *names,
                      size_t count)
{
    if (count < parts || (pattern->from_root && count != parts))
        return false;
    for (size_t i = parts; i > 0; i--)
        if (!part_matches(pattern->parts[i - 1], names[count - parts + i - 1]))
            return false;
    return true;
}

static bool matches(const struct patterns *patterns, const char *const *names, size_t count)
{
    for (size_t i = 0; i < patterns->count; i++)
        if (ends_with(&patterns->list[i], patterns->list[i].count, names, count))
            return true;
    return false;
}

/* The path is where a pattern of several names begins to match: what is in it would change its
 * meaning with its name. */
static bool begins(const struct patterns *patterns, const char *const *names, size_t count)
{
    for (size_t i = 0; i < patterns->count; i++)
        for (size_t parts = 1; parts < patterns->list[i].count; parts++)
            if (ends_with(&patterns->list[i], parts, names, count))
                return true;
    return false;
}

static bool is_hidden(const struct share_names *all, const char *const *names, size_t count)
{
    if (matches(&all->show, names, count))
        return false;
    if (matches(&all->hide, names, count))
        return true;
    return matches(&all->usual_hide, names, count) && !matches(&all->usual_show, names, count);
}

unsigned share_names_judge(const void *owner, const char *path)
{
    const struct share_names *all = owner;
    char folded[BG_PATH_MAX];
    const char *names[BG_FS_DEPTH_MAX + 1];
    size_t count = 0, used = 0;
    for (const char *at = path; at;) {
        const char *slash = strchr(at, '/');
        size_t size = slash ? (size_t)(slash - at) : strlen(at);
        if (count > BG_FS_DEPTH_MAX || size >= sizeof folded - used)
            return FS_SHARE_HIDDEN; /* nobody asks for such a path */
        names[count++] = folded + used;
        used += bg_fold_name(at, size, 1, folded + used) + 1;
        at = slash ? slash + 1 : NULL;
    }
    for (size_t i = 1; i <= count; i++)
        if (is_hidden(all, names, i))
            return FS_SHARE_HIDDEN;
    unsigned verdict = all->unguarded ? 0 : executed_judge(names, count);
    if (begins(&all->hide, names, count) || begins(&all->show, names, count) ||
        begins(&all->usual_hide, names, count))
        verdict |= FS_SHARE_ANCHORED;
    return verdict;
}
