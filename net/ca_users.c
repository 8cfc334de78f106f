#include "net/ca_users.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/io.h"
#include "common/limits.h"

int ca_users_of(const struct bg_sandbox *sandbox, char **ret, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    size_t size;
    if (asprintf(&path, "%s/ca.pem", sandbox->dir) < 0) {
        path = NULL;
        return bg_err_errno(err, -ENOMEM, "CA");
    }
    int r = bg_read_file(AT_FDCWD, path, BG_MANIFEST_MAX, ret, &size, err);
    if (r == -ENOENT)
        *ret = NULL;
    return r == -ENOENT ? 0 : r;
}

static int add(struct ca_users *users, const struct bg_sandbox *sandbox, const char *pem,
               struct bg_err *err)
{
    struct ca_user *items = reallocarray(users->items, users->count + 1, sizeof *items);
    if (!items)
        return bg_err_errno(err, -ENOMEM, "CA");
    users->items = items;
    struct ca_user *user = &items[users->count];
    int r = tls_ca_facts(pem, &user->ca, err);
    if (r < 0)
        return bg_err_set(err, r, "%s/ca.pem is damaged; stop and start '%s'", sandbox->dir,
                          sandbox->name);
    user->sandbox = strdup(sandbox->name);
    if (!user->sandbox)
        return bg_err_errno(err, -ENOMEM, "CA");
    users->count++;
    return 0;
}

/* Adds the sandbox if it runs. */
static int look_at(const struct bg_paths *paths, const char *name, struct ca_users *users,
                   struct bg_err *err)
{
    struct bg_sandbox s = {0};
    enum bg_sandbox_state state = BG_SANDBOX_STOPPED;
    BG_AUTOFREE char *pem = NULL;
    /* Its sandbox.json may be damaged; it may run all the same. */
    int r = bg_sandbox_locate(paths, name, &s, err);
    if (r == 0)
        r = bg_sandbox_state(&s, &state, NULL, err);
    if (r == 0 && !bg_sandbox_rests(state))
        r = ca_users_of(&s, &pem, err);
    if (r == 0 && pem)
        r = add(users, &s, pem, err);
    bg_sandbox_done(&s);
    return r == -ENOENT ? 0 : r; /* removed meanwhile */
}

int ca_users_load(const struct bg_paths *paths, struct ca_users *ret, struct bg_err *err)
{
    char **names;
    struct ca_users users = {0};
    int r = bg_sandbox_names(paths, &names, err);
    if (r < 0)
        return r;
    for (char **name = names; r == 0 && *name; name++)
        r = look_at(paths, *name, &users, err);
    bg_sandbox_names_free(names);
    if (r < 0) {
        ca_users_done(&users);
        return r;
    }
    *ret = users;
    return 0;
}

void ca_users_done(struct ca_users *users)
{
    for (size_t i = 0; i < users->count; i++)
        free(users->items[i].sandbox);
    free(users->items);
    *users = (struct ca_users){0};
}

struct asked {
    const struct bg_paths *paths;
    struct ca_users users;
    bool loaded;
    int r;
    struct bg_err *err;
};

/* Who runs is looked up under the CA's lock: a rotate that came before has its new one in place, so
 * whoever noted the one before is seen. */
static bool is_used(void *owner, const char *sha256)
{
    struct asked *asked = owner;
    if (!asked->loaded) {
        asked->r = ca_users_load(asked->paths, &asked->users, asked->err);
        asked->loaded = true;
    }
    for (size_t i = 0; i < asked->users.count; i++)
        if (strcmp(asked->users.items[i].ca.sha256, sha256) == 0)
            return true;
    return asked->r < 0; /* who knows */
}

int ca_users_forget(const struct bg_paths *paths, struct bg_err *err)
{
    BG_AUTOFREE char *old = NULL;
    struct asked asked = {.paths = paths, .err = err};
    if (asprintf(&old, "%s/ca/old", paths->data) < 0) {
        old = NULL;
        return bg_err_errno(err, -ENOMEM, "CA");
    }
    if (access(old, F_OK) < 0)
        return 0; /* nearly always: nothing was ever rotated */
    int r = tls_ca_forget(paths->data, is_used, &asked, err);
    ca_users_done(&asked.users);
    return asked.r < 0 ? asked.r : r;
}
