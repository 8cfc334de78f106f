#include "host/gateway/quota.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/checked.h"
#include "common/quote.h"

struct quota quota_default(void)
{
    return (struct quota){.sandboxes = QUOTA_UNLIMITED,
                          .memory_bytes = QUOTA_UNLIMITED,
                          .lifetime_ms = QUOTA_UNLIMITED};
}

/* "NAME=" before a number: the number's text, or NULL. */
static const char *after(const char *word, const char *name)
{
    size_t size = strlen(name);
    return strncmp(word, name, size) == 0 && word[size] == '=' ? word + size + 1 : NULL;
}

int quota_parse_word(const char *word, struct quota *quota, struct bg_err *err)
{
    const struct {
        const char *name;
        uint64_t *value;
    } numbers[] = {{"sandboxes", &quota->sandboxes},
                   {"memory_bytes", &quota->memory_bytes},
                   {"lifetime_ms", &quota->lifetime_ms}};
    char quoted[128];
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        const char *text = after(word, numbers[i].name);
        uint64_t value = 0;
        if (text && bg_parse_u64(text, 0, INT64_MAX, &value) == 0) {
            *numbers[i].value = value;
            return 0;
        }
    }
    if (strcmp(word, "nested") == 0)
        quota->nested = true;
    else if (strcmp(word, "metrics") == 0)
        quota->metrics = true;
    else
        return bg_err_set(err, -EINVAL, "%s is nothing that a token can have",
                          bg_quote(word, quoted, sizeof quoted));
    return 0;
}

void quota_emit(const struct quota *quota, char out[QUOTA_TEXT_SIZE])
{
    const struct {
        const char *name;
        uint64_t value;
    } numbers[] = {{"sandboxes", quota->sandboxes},
                   {"memory_bytes", quota->memory_bytes},
                   {"lifetime_ms", quota->lifetime_ms}};
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (numbers[i].value != QUOTA_UNLIMITED)
            used += (size_t)snprintf(out + used, QUOTA_TEXT_SIZE - used, " %s=%" PRIu64,
                                     numbers[i].name, numbers[i].value);
    (void)snprintf(out + used, QUOTA_TEXT_SIZE - used, "%s%s", quota->nested ? " nested" : "",
                   quota->metrics ? " metrics" : "");
}

uint64_t quota_ends_by(const struct quota *quota, uint64_t created_ms)
{
    return quota->lifetime_ms == QUOTA_UNLIMITED ? 0 : created_ms + quota->lifetime_ms;
}

int quota_check_stop(const struct quota *quota, const char *name, uint64_t created_ms,
                     uint64_t stop_at_ms, struct bg_err *err)
{
    uint64_t by_ms = quota_ends_by(quota, created_ms);
    if (by_ms == 0 || stop_at_ms <= by_ms)
        return 0;
    return bg_err_set(err, -ERANGE,
                      "a sandbox of token '%s' may live for %" PRIu64
                      " s: ask for less, or let the gateway's owner raise it "
                      "(bellglass serve token set %s --max-lifetime TIME)",
                      name, quota->lifetime_ms / 1000, name);
}

int quota_admit(const struct quota *quota, const char *name, const struct quota_use *use,
                const struct quota_ask *ask, struct bg_err *err)
{
    uint64_t had = use->memory_bytes, max = quota->memory_bytes;
    if (quota->sandboxes == 0)
        return bg_err_set(err, -EDQUOT,
                          "token '%s' makes no sandboxes (bellglass serve token set %s "
                          "--max-sandboxes N)",
                          name, name);
    if (use->sandboxes >= quota->sandboxes)
        return bg_err_set(err, -EDQUOT,
                          "token '%s' has %" PRIu64
                          " sandboxes and may have no more: end one first",
                          name, use->sandboxes);
    if (max != QUOTA_UNLIMITED && (had > max || ask->memory_bytes > max - had))
        return bg_err_set(err, -EDQUOT,
                          "token '%s' may have %" PRIu64 " MiB of memory in all, has %" PRIu64
                          " and wants %" PRIu64 " more: end a sandbox first, or ask for less",
                          name, max >> 20, had >> 20, ask->memory_bytes >> 20);
    return quota_check_stop(quota, name, ask->now_ms, ask->stop_at_ms, err);
}
