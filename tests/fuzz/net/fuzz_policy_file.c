/* A policy file, then a request to it: the first line is the target, the rest the file. The request
 * has a header field of each name that rules look at, with a value of the first pattern. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "net/policy_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const char *text = (const char *)bytes;
    const char *line = size > 0 ? memchr(text, '\n', size) : NULL;
    struct policy_file file;
    struct bg_err err = {0};
    if (!line)
        return 0;
    size_t target = (size_t)(line - text);
    int r = policy_file_parse("p", line + 1, size - target - 1, NULL, &file, &err);
    if (r < 0) {
        assert(err.text[0]);
        return 0;
    }
    for (size_t i = 0; i < file.policy.count; i++) {
        const struct policy_rule *rule, *of_host = &file.policy.rules[i];
        struct destination to = of_host->host.host;
        if (to.port == 0)
            to.port = 443;
        if (of_host->host.kind == HOST_PATTERN_NETWORK) {
            to.is_address = true;
            to.address = of_host->host.network.first;
        }
        struct http_field fields[REQUEST_LIST_MAX];
        struct request_text request = {{"GET", 3}, {text, target}, fields, 0};
        for (size_t k = 0; k < of_host->match.header_count; k++) {
            const struct request_condition *c = &of_host->match.header[k];
            fields[request.field_count++] = (struct http_field){
                {c->name, strlen(c->name)}, {c->patterns[0], strlen(c->patterns[0])}};
        }
        enum policy_verdict verdict = policy_decide(&file.policy, &to, &request, &rule);
        assert((rule != NULL) == (verdict == POLICY_ALLOWED || verdict == POLICY_DENIED));
        /* A request that is allowed has a connection that is. */
        assert(verdict != POLICY_ALLOWED || policy_find(&file.policy, &to));
    }
    policy_file_done(&file);
    return 0;
}
