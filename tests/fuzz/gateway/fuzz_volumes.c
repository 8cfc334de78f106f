/* Targets, queries and bodies of the volume routes: the input is each of them. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "host/gateway/volume_api.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const char *const methods[] = {"GET", "POST", "DELETE"};
    char *text = malloc(size + 1);
    assert(text);
    if (size > 0)
        memcpy(text, bytes, size);
    text[size] = '\0';
    struct bg_err err;
    for (size_t i = 0; i < 3; i++) {
        struct volume_target target;
        if (volume_target_find(methods[i], text, &target) == VOLUME_MATCH)
            assert(!strchr(target.name, '/') && !strchr(target.name, '.'));
    }
    struct volume_query query;
    if (volume_query_parse(text, &query, &err) == 0)
        assert(query.limit > 0 && strlen(query.search) < sizeof query.search);
    json_t *body = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
    struct volume_request request;
    if (volume_request_create(body, &request, &err) == 0)
        assert(bg_volume_slug_ok(request.slug) && request.capacity % 512 == 0);
    if (volume_request_snapshot(body, &request, &err) == 0)
        assert(bg_volume_slug_ok(request.slug));
    json_decref(body);
    free(text);
    return 0;
}
