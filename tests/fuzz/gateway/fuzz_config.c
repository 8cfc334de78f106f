/* What a client wants of a sandbox; and targets, hosts and origins. The input is JSON, which is
 * given both as it is and as base64. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/base64.h"
#include "host/gateway/create_config.h"
#include "host/gateway/route.h"
#include "host/gateway/tokens.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void parse(const char *text, size_t size)
{
    struct create_config config;
    struct bg_err err;
    if (create_config_parse(text, size, 1000, &config, &err) < 0)
        return;
    for (size_t i = 0; i < config.secret_count; i++)
        assert(config.secrets[i].host_count > 0 && *config.secrets[i].value);
    create_config_done(&config);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char *text = malloc(size + 1), *encoded = malloc(BG_BASE64_SIZE(size) + 1);
    assert(text && encoded);
    if (size > 0)
        memcpy(text, bytes, size);
    text[size] = '\0';
    bg_base64_encode(bytes, size, encoded);
    parse(text, size);
    parse(encoded, BG_BASE64_SIZE(size));

    struct route route = route_find("GET", text);
    assert(!route.id[0] || route_id_ok(route.id));
    json_t *labels = NULL;
    if (route_labels(text, &labels) == 0)
        json_decref(labels);
    static const char *const names[] = {"box.lan", NULL};
    char id[ROUTE_ID_SIZE] = "";
    assert(route_host(text, names, id) != ROUTE_HOST_SANDBOX || route_id_ok(id));
    (void)route_origin_ok(text, "localhost:8787");

    struct tokens tokens;
    struct bg_err err;
    if (tokens_parse(text, size, &tokens, &err) == 0)
        tokens_done(&tokens);
    free(text);
    free(encoded);
    return 0;
}
