/* A client's pattern: a byte with its kind and options, its text, a NUL, and a path to match. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "host/gateway/path_text.h"
#include "host/gateway/pattern.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const char *const flags[] = {"", "i", "u", "v", "ms", "y", "iu", "g"};
    struct bg_err err;
    struct pattern *p = NULL;
    if (size < 2)
        return 0;
    char *text = calloc(1, size + 1);
    if (!text)
        return 0;
    memcpy(text, bytes + 1, size - 1);
    const char *path = text + strlen(text) + (strlen(text) < size - 1);
    const struct glob_opts opts = {.extended = (bytes[0] & 2) != 0,
                                   .globstar = (bytes[0] & 4) != 0,
                                   .case_insensitive = (bytes[0] & 8) != 0};
    int r = bytes[0] & 1 ? pattern_from_regexp(text, flags[bytes[0] >> 1 & 7], &p, &err)
                         : pattern_from_glob(text, &opts, &p, &err);
    if (r == 0)
        r = pattern_matches(p, path);
    assert(r <= 1);
    pattern_free(p);
    char *name = malloc(size + 1);
    if (name)
        glob_unescape(text, strlen(text), name);
    (void)glob_is_pattern(text, strlen(text));
    free(name);
    free(path_resolve(path, text));
    free(text);
    return 0;
}
