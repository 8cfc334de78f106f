#include "guest/env.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"

void env_done(struct env *env)
{
    for (size_t i = 0; i < env->count; i++)
        free(env->entries[i]);
    free(env->entries);
    *env = (struct env){0};
}

static char **find(const struct env *env, const char *name, size_t name_size)
{
    for (size_t i = 0; i < env->count; i++)
        if (strncmp(env->entries[i], name, name_size) == 0 && env->entries[i][name_size] == '=')
            return &env->entries[i];
    return NULL;
}

int env_put(struct env *env, const char *entry, size_t size)
{
    const char *equals = memchr(entry, '=', size);
    if (!equals || equals == entry)
        return 0;
    BG_AUTOFREE char *copy = strndup(entry, size);
    if (!copy)
        return -ENOMEM;
    char **old = find(env, entry, (size_t)(equals - entry));
    if (old) {
        free(*old);
        *old = BG_TAKE(copy);
        return 0;
    }
    if (env->count + 1 >= env->room) {
        size_t room = env->room ? 2 * env->room : 32;
        char **grown = reallocarray(env->entries, room, sizeof *grown);
        if (!grown)
            return -ENOMEM;
        env->entries = grown;
        env->room = room;
    }
    env->entries[env->count++] = BG_TAKE(copy);
    env->entries[env->count] = NULL;
    return 0;
}

int env_set(struct env *env, const char *name, const char *value)
{
    BG_AUTOFREE char *entry = NULL;
    int size = asprintf(&entry, "%s=%s", name, value);
    if (size < 0) {
        entry = NULL; /* asprintf leaves it undefined */
        return -ENOMEM;
    }
    return env_put(env, entry, (size_t)size);
}

int env_put_all(struct env *env, const struct env *from)
{
    int r = 0;
    for (size_t i = 0; i < from->count && r == 0; i++)
        r = env_put(env, from->entries[i], strlen(from->entries[i]));
    return r;
}

int env_put_blobs(struct env *env, const uint8_t *blobs, size_t size, uint32_t count)
{
    struct bg_reader in = bg_reader_init(blobs, size);
    int r = 0;
    for (uint32_t i = 0; i < count && r == 0; i++) {
        size_t entry_size;
        const uint8_t *entry = bg_reader_blob32le(&in, size, &entry_size);
        if (!entry)
            return -EPROTO;
        r = env_put(env, (const char *)entry, entry_size);
    }
    return r;
}

const char *env_get(const struct env *env, const char *name)
{
    char **entry = find(env, name, strlen(name));
    return entry ? *entry + strlen(name) + 1 : NULL;
}
