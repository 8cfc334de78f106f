#include "host/gateway/logins.h"

#include <stdio.h>
#include <string.h>

#include "common/io.h"
#include "common/limits.h"

struct logins {
    struct login list[BG_GATEWAY_LOGINS_MAX];
    /* When the wrong tokens that are counted are forgotten, if there is none until then: each puts
     * it off. */
    uint64_t failures_over_ms;
};

struct logins *logins_new(void)
{
    return calloc(1, sizeof(struct logins));
}

void logins_free(struct logins *logins)
{
    if (logins)
        explicit_bzero(logins, sizeof *logins);
    free(logins);
}

static void hash_of(const char *text, size_t size, uint8_t hash[BG_SHA256_SIZE])
{
    struct bg_sha256 state;
    bg_sha256_init(&state);
    bg_sha256_update(&state, text, size);
    bg_sha256_final(&state, hash);
}

/* Takes as long whatever is in them. */
static bool same(const uint8_t a[BG_SHA256_SIZE], const uint8_t b[BG_SHA256_SIZE])
{
    unsigned difference = 0;
    for (size_t i = 0; i < BG_SHA256_SIZE; i++)
        difference |= (unsigned)(a[i] ^ b[i]);
    return difference == 0;
}

static void make_secret(char text[LOGINS_SECRET_SIZE], uint8_t hash[BG_SHA256_SIZE])
{
    uint8_t bytes[(LOGINS_SECRET_SIZE - 1) / 2];
    bg_random(bytes, sizeof bytes);
    bg_hex(bytes, sizeof bytes, text);
    explicit_bzero(bytes, sizeof bytes);
    hash_of(text, LOGINS_SECRET_SIZE - 1, hash);
}

void logins_open(struct logins *logins, const struct token *token, uint64_t now_ms,
                 struct login_secrets *ret)
{
    struct login *free_one = &logins->list[0];
    for (size_t i = 1; i < BG_GATEWAY_LOGINS_MAX; i++)
        if (logins->list[i].ends_ms < free_one->ends_ms)
            free_one = &logins->list[i]; /* empty, over, or the oldest */
    *free_one = (struct login){.ends_ms = now_ms + BG_GATEWAY_LOGIN_MS};
    (void)snprintf(free_one->token, sizeof free_one->token, "%s", token->name);
    memcpy(free_one->token_hash, token->hash, BG_SHA256_SIZE);
    make_secret(ret->cookie, free_one->cookie);
    make_secret(ret->key, free_one->key);
}

bool logins_next_cookie(const char **at, const char *name, const char **ret, size_t *ret_size)
{
    size_t name_size = strlen(name);
    while (**at != '\0') {
        const char *begin = *at + strspn(*at, "; \t");
        size_t size = strcspn(begin, ";");
        *at = begin + size;
        if (size <= name_size || memcmp(begin, name, name_size) != 0 || begin[name_size] != '=')
            continue;
        *ret = begin + name_size + 1;
        *ret_size = size - name_size - 1;
        while (*ret_size > 0 && ((*ret)[*ret_size - 1] == ' ' || (*ret)[*ret_size - 1] == '\t'))
            (*ret_size)--;
        return true;
    }
    return false;
}

const struct login *logins_find(const struct logins *logins, const char *cookies,
                                const char *cookie_name, const char *key, uint64_t now_ms)
{
    const char *text;
    const struct login *found = NULL;
    uint8_t cookie_hash[BG_SHA256_SIZE], key_hash[BG_SHA256_SIZE];
    size_t size;
    hash_of(key, strlen(key), key_hash);
    while (!found && logins_next_cookie(&cookies, cookie_name, &text, &size)) {
        hash_of(text, size, cookie_hash);
        for (size_t i = 0; i < BG_GATEWAY_LOGINS_MAX; i++) {
            const struct login *l = &logins->list[i];
            if (same(l->cookie, cookie_hash) && same(l->key, key_hash) && l->ends_ms > now_ms)
                found = l;
        }
    }
    return found;
}

void logins_close(struct logins *logins, const struct login *login)
{
    explicit_bzero(&logins->list[login - logins->list], sizeof *login);
}

/* Each wrong token costs a time, and so many of these may lie ahead. */
bool logins_may_try(const struct logins *logins, uint64_t now_ms)
{
    return logins->failures_over_ms <
           now_ms + (uint64_t)BG_GATEWAY_LOGIN_TRIES_MAX * BG_GATEWAY_LOGIN_TRY_MS;
}

void logins_failed(struct logins *logins, uint64_t now_ms)
{
    if (logins->failures_over_ms < now_ms)
        logins->failures_over_ms = now_ms;
    logins->failures_over_ms += BG_GATEWAY_LOGIN_TRY_MS;
}
