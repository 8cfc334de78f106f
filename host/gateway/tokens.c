#include "host/gateway/tokens.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/checked.h"
#include "common/io.h"
#include "common/limits.h"
#include "common/quote.h"

#define NAME_MAX_SIZE 63
#define LINE_SIZE     (NAME_MAX_SIZE + 2 * BG_SHA256_SIZE + 32 + QUOTA_TEXT_SIZE)
#define ALL           "all"
#define FILE_MAX      ((size_t)BG_GATEWAY_TOKENS_MAX * LINE_SIZE)
#define NAME_CHARS    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"

bool tokens_name_ok(const char *name)
{
    size_t size = strlen(name);
    return size > 0 && size <= NAME_MAX_SIZE && strspn(name, NAME_CHARS) == size;
}

struct token *tokens_named(const struct tokens *tokens, const char *name)
{
    for (size_t i = 0; i < tokens->count; i++)
        if (strcmp(tokens->list[i].name, name) == 0)
            return &tokens->list[i];
    return NULL;
}

static int add(struct tokens *tokens, const char *name, const uint8_t hash[BG_SHA256_SIZE],
               uint64_t created_ms, struct bg_err *err)
{
    if (!tokens_name_ok(name))
        return bg_err_set(err, -EINVAL, "a token's name has 1 to %d letters, digits, _ and -",
                          NAME_MAX_SIZE);
    if (tokens_named(tokens, name))
        return bg_err_set(err, -EEXIST, "there is a token '%s'", name);
    if (tokens->count >= BG_GATEWAY_TOKENS_MAX)
        return bg_err_set(err, -EMFILE, "more than %d tokens", BG_GATEWAY_TOKENS_MAX);
    struct token *grown = reallocarray(tokens->list, tokens->count + 1, sizeof *grown);
    if (!grown)
        return bg_err_errno(err, -ENOMEM, "tokens");
    tokens->list = grown;
    struct token *token = &grown[tokens->count];
    *token =
        (struct token){.name = strdup(name), .created_ms = created_ms, .quota = quota_default()};
    if (!token->name)
        return bg_err_errno(err, -ENOMEM, "tokens");
    memcpy(token->hash, hash, BG_SHA256_SIZE);
    tokens->count++;
    return 0;
}

static bool parse_hash(const char *text, uint8_t hash[BG_SHA256_SIZE])
{
    if (strlen(text) != (size_t)2 * BG_SHA256_SIZE)
        return false;
    for (size_t i = 0; i < BG_SHA256_SIZE; i++) {
        int high = bg_hex_digit(text[2 * i]), low = bg_hex_digit(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        hash[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static int parse_word(const char *word, struct token *token, struct bg_err *err)
{
    if (strcmp(word, ALL) != 0)
        return quota_parse_word(word, &token->quota, err);
    token->all = true;
    return 0;
}

/* NAME HASH CREATED_MS, and a word for each thing that is not as of quota_default */
static int parse_line(char *line, struct tokens *tokens, struct bg_err *err)
{
    char *rest = line;
    const char *name = strsep(&rest, " "), *hex = strsep(&rest, " ");
    uint8_t hash[BG_SHA256_SIZE];
    const char *created = strsep(&rest, " ");
    uint64_t created_ms = 0;
    if (!hex || !created || !parse_hash(hex, hash) ||
        bg_parse_u64(created, 0, INT64_MAX, &created_ms) < 0)
        return bg_err_set(err, -EINVAL, "line %zu is not NAME HASH TIME", tokens->count + 1);
    int r = add(tokens, name, hash, created_ms, err);
    for (const char *word; r == 0 && (word = strsep(&rest, " "));)
        r = parse_word(word, &tokens->list[tokens->count - 1], err);
    return r;
}

int tokens_parse(const char *text, size_t size, struct tokens *ret, struct bg_err *err)
{
    struct tokens tokens = {0};
    BG_AUTOFREE char *copy = strndup(text, size);
    if (!copy)
        return bg_err_errno(err, -ENOMEM, "tokens");
    for (char *rest = copy, *line; (line = strsep(&rest, "\n"));) {
        int r = *line ? parse_line(line, &tokens, err) : 0;
        if (r < 0) {
            tokens_done(&tokens);
            return r;
        }
    }
    *ret = tokens;
    return 0;
}

char *tokens_emit(const struct tokens *tokens)
{
    size_t size = tokens->count * LINE_SIZE + 1, used = 0;
    char *text = malloc(size), hex[2 * BG_SHA256_SIZE + 1], quota[QUOTA_TEXT_SIZE];
    if (!text)
        return NULL;
    text[0] = '\0';
    for (size_t i = 0; i < tokens->count; i++) {
        const struct token *token = &tokens->list[i];
        bg_hex(token->hash, BG_SHA256_SIZE, hex);
        quota_emit(&token->quota, quota);
        used += (size_t)snprintf(text + used, size - used, "%s %s %" PRIu64 "%s%s\n", token->name,
                                 hex, token->created_ms, token->all ? " " ALL : "", quota);
    }
    return text;
}

void tokens_done(struct tokens *tokens)
{
    for (size_t i = 0; i < tokens->count; i++)
        free(tokens->list[i].name);
    free(tokens->list);
    *tokens = (struct tokens){0};
}

static void hash_of(const char *text, uint8_t hash[BG_SHA256_SIZE])
{
    struct bg_sha256 state;
    bg_sha256_init(&state);
    bg_sha256_update(&state, text, strlen(text));
    bg_sha256_final(&state, hash);
    explicit_bzero(&state, sizeof state);
}

int tokens_add(struct tokens *tokens, const char *name, uint64_t now_ms, char text[TOKEN_SIZE],
               struct bg_err *err)
{
    uint8_t bytes[32], hash[BG_SHA256_SIZE];
    bg_random(bytes, sizeof bytes);
    (void)snprintf(text, TOKEN_SIZE, TOKEN_PREFIX);
    bg_hex(bytes, sizeof bytes, text + sizeof TOKEN_PREFIX - 1);
    explicit_bzero(bytes, sizeof bytes);
    hash_of(text, hash);
    return add(tokens, name, hash, now_ms, err);
}

int tokens_get(struct tokens *tokens, const char *name, struct token **ret, struct bg_err *err)
{
    char quoted[128];
    struct token *found = tokens_named(tokens, name);
    if (!found)
        return bg_err_set(err, -ENOENT, "no token %s: see bellglass serve token ls",
                          bg_quote(name, quoted, sizeof quoted));
    *ret = found;
    return 0;
}

int tokens_remove(struct tokens *tokens, const char *name, struct bg_err *err)
{
    struct token *found;
    int r = tokens_get(tokens, name, &found, err);
    if (r < 0)
        return r;
    size_t index = (size_t)(found - tokens->list);
    free(tokens->list[index].name);
    tokens->count--;
    memmove(&tokens->list[index], &tokens->list[index + 1],
            (tokens->count - index) * sizeof *tokens->list);
    return 0;
}

const struct token *tokens_find(const struct tokens *tokens, const char *text)
{
    uint8_t hash[BG_SHA256_SIZE];
    const struct token *found = NULL;
    hash_of(text, hash);
    for (size_t i = 0; i < tokens->count; i++) {
        unsigned difference = 0;
        for (size_t j = 0; j < BG_SHA256_SIZE; j++)
            difference |= (unsigned)(hash[j] ^ tokens->list[i].hash[j]);
        if (difference == 0)
            found = &tokens->list[i];
    }
    return found;
}

int tokens_check_stray(const struct tokens *tokens, const char *text, struct bg_err *err)
{
    char copy[TOKEN_SIZE];
    const struct token *found = NULL;
    for (const char *at = text; !found && (at = strstr(at, TOKEN_PREFIX)); at++) {
        (void)snprintf(copy, sizeof copy, "%s", at); /* what stands behind it is cut off */
        found = tokens_find(tokens, copy);
        if (found && found->quota.nested)
            found = NULL;
    }
    explicit_bzero(copy, sizeof copy);
    return found ? bg_err_set(err, -EKEYREJECTED,
                              "token '%s' of this gateway may not be put into a sandbox; make one "
                              "for that: bellglass serve token add NAME --nested yes",
                              found->name)
                 : 0;
}

struct quota tokens_quota(const struct tokens *tokens, const char *name)
{
    const struct token *found = tokens_named(tokens, name);
    return found ? found->quota : (struct quota){0};
}

int tokens_load(const char *path, struct tokens *ret, struct bg_err *err)
{
    BG_AUTOFREE char *text = NULL;
    struct stat st;
    size_t size;
    if (stat(path, &st) < 0) {
        if (errno != ENOENT)
            return bg_err_errno(err, -errno, "%s", path);
        *ret = (struct tokens){0};
        return 0;
    }
    if (st.st_mode & 077)
        return bg_err_set(err, -EPERM, "%s: others may read or write it; chmod 600 %s", path, path);
    int r = bg_read_file(AT_FDCWD, path, FILE_MAX, &text, &size, err);
    if (r == 0)
        r = tokens_parse(text, size, ret, err);
    return r < 0 && r != -ENOMEM ? bg_err_prefix(err, "%s", path) : r;
}

int tokens_save(const char *path, const struct tokens *tokens, struct bg_err *err)
{
    BG_AUTOFREE char *text = tokens_emit(tokens);
    if (!text)
        return bg_err_errno(err, -ENOMEM, "tokens");
    return bg_write_file(AT_FDCWD, path, text, strlen(text), 0600, err);
}

int token_file_refresh(struct token_file *file, struct bg_err *err)
{
    struct stat now = {0};
    struct tokens tokens;
    (void)stat(file->path, &now); /* tokens_load says what is wrong with it */
    if (now.st_ino == file->seen.st_ino && now.st_size == file->seen.st_size &&
        now.st_mtim.tv_sec == file->seen.st_mtim.tv_sec &&
        now.st_mtim.tv_nsec == file->seen.st_mtim.tv_nsec)
        return 0;
    int r = tokens_load(file->path, &tokens, err);
    if (r < 0)
        return r;
    tokens_done(&file->tokens);
    file->tokens = tokens;
    file->seen = now;
    return 0;
}

void token_file_done(struct token_file *file)
{
    tokens_done(&file->tokens);
}
