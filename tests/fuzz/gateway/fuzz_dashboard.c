/* What the dashboard's requests bring: a target, a Cookie field, a policy's text and a host, each a
 * line; the text is the rest. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "host/gateway/extra_route.h"
#include "host/gateway/logins.h"
#include "host/gateway/rule_edit.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void edit(const char *host, char *allow, const char *policy, bool deny)
{
    struct rule_edited edited, again;
    struct bg_err err;
    char *list[] = {allow};
    const struct rule_edit_opts opts = {.deny = deny,
                                        .host = host,
                                        .port = 8080,
                                        .allow = list,
                                        .allow_count = 1,
                                        .policy = policy};
    if (rule_edit(&opts, &edited, &err) < 0)
        return;
    assert(!strpbrk(edited.rule, "\"\n #="));
    if (edited.policy) { /* what was changed once can be changed back */
        const struct rule_edit_opts back = {
            .deny = !deny, .host = host, .port = 8080, .policy = edited.policy};
        int r = rule_edit(&back, &again, &err);
        assert(r == 0 || r == -EOPNOTSUPP);
        if (r == 0)
            rule_edited_done(&again);
    }
    rule_edited_done(&edited);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char *text = strndup((const char *)bytes, size), *rest = text;
    if (!text)
        return 0;
    const char *target = strsep(&rest, "\n"), *cookies = rest ? strsep(&rest, "\n") : "";
    const char *host = rest ? strsep(&rest, "\n") : "";
    char none[] = "*.test", *allow = rest ? strsep(&rest, "\n") : none;
    static const char *const methods[] = {"GET", "POST", "PUT", "DELETE"};
    for (size_t i = 0; i < 4; i++) {
        const struct extra_route route = extra_route_find(methods[i], target);
        assert(memchr(route.name, '\0', sizeof route.name) && !strchr(route.name, '/'));
        assert(route.name[0] != '-' && memchr(route.after, '\0', sizeof route.after));
    }
    const char *value;
    for (size_t n; logins_next_cookie(&cookies, "b", &value, &n);)
        assert(!memchr(value, ';', n) && !memchr(value, '\0', n));
    edit(host, allow, rest, true);
    edit(host, allow, rest, false);
    free(text);
    return 0;
}
