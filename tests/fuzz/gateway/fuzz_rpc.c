/* A client's message, and the parameters in it, each taken as each type. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "host/gateway/rpc.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void read_all(const json_t *object)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, name, value)
    {
        struct rpc_params p = rpc_params(object);
        size_t text_size;
        (void)rpc_text(&p, name);
        (void)rpc_text_or_null(&p, name);
        (void)rpc_bytes(&p, name, &text_size);
        int64_t number = rpc_number(&p, name, 0, 100);
        assert(number >= 0 && number <= 100);
        (void)rpc_flag(&p, name, false);
        (void)rpc_texts(&p, name);
        (void)rpc_map(&p, name);
        (void)rpc_options(&p, name);
        assert(!rpc_params_ok(&p)); /* it cannot be all of those */
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct rpc_message message;
    struct bg_err err;
    if (rpc_parse((const char *)bytes, size, &message, &err) < 0)
        return 0;
    read_all(message.params);
    if (message.id) {
        char *text = rpc_result(message.id, json_null());
        assert(text);
        free(text);
    }
    rpc_message_done(&message);
    return 0;
}
