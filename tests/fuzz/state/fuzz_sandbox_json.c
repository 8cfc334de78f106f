/* sandbox.json: ours, but a crash or a hand may have damaged it. What is accepted is written again
 * as something that is accepted. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/state/sandbox_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct bg_sandbox s, again;
    struct bg_err err;
    if (sandbox_json_parse((const char *)bytes, size, "web", &s, &err) < 0)
        return 0;
    char *text = sandbox_json_emit(&s);
    assert(text);
    int r = sandbox_json_parse(text, strlen(text), "web", &again, &err);
    assert(r == 0);
    assert(s.env_count == again.env_count && s.secret_count == again.secret_count);
    for (size_t i = 0; i < s.env_count; i++)
        assert(strcmp(s.env[i], again.env[i]) == 0);
    bg_sandbox_done(&s);
    bg_sandbox_done(&again);
    free(text);
    return 0;
}
