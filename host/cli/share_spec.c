#include "host/cli/share_spec.h"

#include <stdlib.h>
#include <string.h>

#include "common/limits.h"
#include "common/quote.h"

#define QUOTED_SIZE 512

static int refuse(const char *text, const char *why, struct bg_err *err)
{
    char quoted[QUOTED_SIZE];
    return bg_err_set(err, -EINVAL, "%s: %s", bg_quote(text, quoted, sizeof quoted), why);
}

/* True if path is folder or in it. */
static bool is_in(const char *path, const char *folder)
{
    size_t size = strcmp(folder, "/") == 0 ? 0 : strlen(folder);
    return strncmp(path, folder, size) == 0 && (path[size] == '/' || path[size] == '\0');
}

int share_spec_guest(const char *text, char **ret, struct bg_err *err)
{
    static const char *const taken[] = {"/proc", "/sys", "/dev", "/run/bellglass",
                                        "/var/lib/bellglass"};
    if (text[0] != '/')
        return refuse(text, "the folder in the sandbox must be an absolute path", err);
    if (strlen(text) >= BG_PATH_MAX)
        return refuse(text, "the path is too long", err);
    BG_AUTOFREE char *plain = malloc(strlen(text) + 2);
    if (!plain)
        return bg_err_errno(err, -ENOMEM, "share");
    size_t used = 0;
    for (const char *at = text; *at;) {
        at += strspn(at, "/");
        size_t size = strcspn(at, "/");
        if (size == 2 && strncmp(at, "..", 2) == 0)
            return refuse(text, "'..' in the path in the sandbox", err);
        if (size > 0 && !(size == 1 && *at == '.')) {
            plain[used++] = '/';
            memcpy(plain + used, at, size);
            used += size;
        }
        at += size;
    }
    plain[used] = '\0';
    if (used == 0)
        return refuse(text, "the sandbox's root cannot be a share", err);
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
        if (is_in(plain, taken[i]))
            return refuse(text, "the sandbox itself needs that place", err);
    *ret = BG_TAKE(plain);
    return 0;
}

int share_spec_parse(const char *text, struct share_spec *ret, struct bg_err *err)
{
    struct share_spec spec = {.mode = BG_SHARE_RW, .dir = strdup(text)};
    if (!spec.dir)
        return bg_err_errno(err, -ENOMEM, "share");
    int r = 0;
    char *colon = strrchr(spec.dir, ':');
    if (colon && colon[1] != '/') {
        if (bg_share_mode_parse(colon + 1, &spec.mode) < 0)
            r = refuse(text, "want DIR[:GUESTDIR][:ro|rw|cow], GUESTDIR an absolute path", err);
        *colon = '\0';
        colon = strrchr(spec.dir, ':');
    }
    if (r == 0 && colon && colon[1] == '/') {
        *colon = '\0';
        r = share_spec_guest(colon + 1, &spec.guest, err);
    }
    if (r == 0 && spec.dir[0] == '\0')
        r = refuse(text, "no folder: want DIR[:GUESTDIR][:ro|rw|cow]", err);
    if (r < 0) {
        share_spec_done(&spec);
        return r;
    }
    *ret = spec;
    return 0;
}

void share_spec_done(struct share_spec *spec)
{
    free(spec->dir);
    free(spec->guest);
    *spec = (struct share_spec){0};
}

static int forbid(const char *dir, const char *what, struct bg_err *err)
{
    char quoted[QUOTED_SIZE];
    return bg_err_set(err, -EPERM,
                      "%s is %s: share a folder below it, or give --share-anyway if you mean it",
                      bg_quote(dir, quoted, sizeof quoted), what);
}

int share_spec_allowed(const char *dir, const struct share_places *places, struct bg_err *err)
{
    static const char *const kernels[] = {"/proc", "/sys", "/dev", "/run"};
    const char *const ours[] = {places->data, places->state, places->runtime};
    if (strcmp(dir, "/") == 0)
        return forbid(dir, "everything on this machine", err);
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
        if (is_in(dir, kernels[i]))
            return forbid(dir, "a place of the running system", err);
    if (places->home && strcmp(dir, places->home) == 0)
        return forbid(dir, "your home folder, with all that is private in it", err);
    if (places->home && is_in(places->home, dir))
        return forbid(dir, "above your home folder", err);
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) {
        if (ours[i] && is_in(ours[i], dir))
            return forbid(dir, "where bellglass keeps secrets and sandboxes", err);
        if (ours[i] && is_in(dir, ours[i]))
            return forbid(dir, "bellglass's own", err);
    }
    return 0;
}
