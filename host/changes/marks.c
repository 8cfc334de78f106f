#include "host/changes/marks.h"

#include <fnmatch.h>
#include <string.h>

/* Names in any folder, case folded. What is below such a folder counts too. "A/B": B in A. */
static const char *const trusted[] = {
    ".git/hooks",
    ".git/config*",
    ".git/info",
    ".git/modules",
    ".git/worktrees",
    ".git/commondir",
    ".git/gitdir",
    ".gitmodules",
    ".githooks",
    ".husky",
    ".pre-commit-config.yaml",
    ".envrc",
    ".autoenv*",
    "mise.toml",
    ".mise.toml",
    ".tool-versions",
    ".vscode",
    "*.code-workspace",
    ".devcontainer",
    ".devcontainer.json",
    ".idea",
    ".fleet",
    ".zed",
    ".vimrc",
    ".exrc",
    ".nvim.lua",
    ".nvimrc",
    ".dir-locals.el",
    ".projectile",
    "*.sublime-project",
    ".gdbinit",
    ".lldbinit",
    ".cargo",
    "rust-toolchain*",
    ".clangd",
    ".ccls",
    ".yarnrc*",
    ".pnp.*",
    "pip.conf",
    "sitecustomize.py",
    ".mcp.json",
    "claude.md",
    "agents.md",
    ".claude",
    ".cursor",
};

static const char *const secret[] = {
    ".env",
    ".env.*",
    "*.pem",
    "*.key",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    "*.p12",
    "*.pfx",
    "*.kdbx",
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
};

/* Templates that have no secrets in them. */
static const char *const harmless[] = {".env.example", ".env.sample", ".env.template"};

struct components {
    char text[BG_PATH_MAX];
    const char *list[BG_CHANGES_DEPTH_MAX];
    size_t count;
};

static bool cut(const char *path, struct components *ret)
{
    if ((size_t)snprintf(ret->text, sizeof ret->text, "%s", path) >= sizeof ret->text)
        return false;
    ret->count = 0;
    for (char *rest = ret->text, *name; (name = strsep(&rest, "/"));) {
        if (ret->count == BG_CHANGES_DEPTH_MAX)
            return false;
        ret->list[ret->count++] = name;
    }
    return true;
}

static bool names(const char *pattern, size_t size, const char *name)
{
    char copy[64];
    if ((size_t)snprintf(copy, sizeof copy, "%.*s", (int)size, pattern) >= sizeof copy)
        return false;
    return fnmatch(copy, name, FNM_CASEFOLD) == 0;
}

static bool matches_at(const char *pattern, const struct components *c, size_t at)
{
    const char *slash = strchr(pattern, '/');
    if (!slash)
        return names(pattern, strlen(pattern), c->list[at]);
    return at + 1 < c->count && names(pattern, (size_t)(slash - pattern), c->list[at]) &&
           names(slash + 1, strlen(slash + 1), c->list[at + 1]);
}

static bool listed(const char *const *patterns, size_t count, const struct components *c, size_t at)
{
    for (size_t i = 0; i < count; i++)
        if (matches_at(patterns[i], c, at))
            return true;
    return false;
}

#define LISTED(patterns, c, at) listed(patterns, sizeof(patterns) / sizeof *(patterns), c, at)

/* ---- text ---- */

/* The size of the UTF-8 character at text and its number; 0 if it is none. */
static size_t decode(const unsigned char *text, size_t size, uint32_t *ret)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t want = text[0] < 0x80             ? 1
                  : (text[0] & 0xe0) == 0xc0 ? 2
                  : (text[0] & 0xf0) == 0xe0 ? 3
                  : (text[0] & 0xf8) == 0xf0 ? 4
                                             : 0;
    if (want == 0 || want > size)
        return 0;
    uint32_t c = want == 1 ? text[0] : text[0] & (0xffu >> (want + 1));
    for (size_t i = 1; i < want; i++) {
        if ((text[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (text[i] & 0x3f);
    }
    if (c < least[want] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
        return 0;
    *ret = c;
    return want;
}

bool marks_is_odd(const char *text, size_t size, size_t *ret_size)
{
    uint32_t c;
    size_t n = decode((const unsigned char *)text, size, &c);
    *ret_size = n > 0 ? n : 1;
    if (n == 0)
        return true;
    return (c < 0x20 && c != '\n' && c != '\t') || (c >= 0x7f && c < 0xa0) || c == 0xad ||
           c == 0x061c || c == 0x180e || (c >= 0x200b && c <= 0x200f) ||
           (c >= 0x2028 && c <= 0x202e) || (c >= 0x2060 && c <= 0x206f) || c == 0xfeff ||
           (c >= 0xfff9 && c <= 0xfffb) || (c >= 0xe0000 && c <= 0xe007f);
}

static bool odd_name(const char *path)
{
    size_t left = strlen(path), n;
    for (; left > 0; path += n, left -= n)
        if (marks_is_odd(path, left, &n) || *path == '\n' || *path == '\t')
            return true;
    return false;
}

/* ---- marks ---- */

unsigned marks_of_path(const char *path)
{
    struct components c;
    unsigned marks = odd_name(path) ? MARK_ODD_NAME : 0;
    if (!cut(path, &c))
        return marks | MARKS_NAMED_ONLY; /* nothing of ours has such a path */
    for (size_t i = 0; i < c.count; i++) {
        if (LISTED(trusted, &c, i))
            marks |= MARK_TRUSTED;
        if (LISTED(secret, &c, i) && !LISTED(harmless, &c, i))
            marks |= MARK_SECRET;
    }
    return marks;
}

bool marks_leads_out(const char *path, const char *target)
{
    /* How many ".." at the beginning still stay inside: those of the link's own folder. */
    size_t room = 0;
    for (const char *p = path; *p; p++)
        room += *p == '/';
    if (target[0] == '/')
        return true;
    bool named = false;
    while (*target) {
        size_t size = strcspn(target, "/");
        bool up = size == 2 && memcmp(target, "..", 2) == 0;
        bool none = size == 0 || (size == 1 && target[0] == '.');
        /* After a name, which may be a link itself, nobody knows where ".." is. */
        if (up && (named || room == 0))
            return true;
        room -= up;
        named = named || !(up || none);
        target += size + (target[size] == '/');
    }
    return false;
}

unsigned marks_of(const struct entry *guest, const struct entry *host)
{
    unsigned marks = marks_of_path(guest->path);
    bool is_file = guest->type == BG_CHANGE_FILE;
    if (is_file && (guest->mode & 0111))
        marks |= MARK_EXECUTABLE;
    if (is_file && guest->size > MARKS_LARGE)
        marks |= MARK_LARGE;
    if (is_file && guest->torn)
        marks |= MARK_TORN;
    if ((is_file || guest->type == BG_CHANGE_FOLDER) &&
        (guest->mode & 07000 & ~(host ? host->mode : 0u)))
        marks |= MARK_SET_ID;
    if ((is_file || guest->type == BG_CHANGE_FOLDER) &&
        (guest->mode & 022 & ~(host ? host->mode : 0u)))
        marks |= MARK_OPEN;
    if (guest->type == BG_CHANGE_SYMLINK)
        marks |= MARK_LINK | (marks_leads_out(guest->path, guest->target) ? MARK_LEADS_OUT : 0);
    if (guest->type == BG_CHANGE_SPECIAL)
        marks |= MARK_SPECIAL;
    return marks;
}

const char *marks_next(unsigned marks, unsigned *at)
{
    static const char *const words[] = {
        "executable",
        "trusted by host tools",
        "secret name",
        "link",
        "leads out",
        "odd name",
        "large",
        "special file",
        "set-id is dropped",
        "being written",
        "writable by others",
    };
    while (*at < sizeof words / sizeof *words) {
        unsigned index = (*at)++;
        if (marks & 1u << index)
            return words[index];
    }
    return NULL;
}
