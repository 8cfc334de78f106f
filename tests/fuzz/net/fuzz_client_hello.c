/* The first bytes of a connection: what is taken has a canonical name, and more bytes behind a
 * whole ClientHello change nothing. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "net/client_hello.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct client_hello hello, again;
    int r = client_hello_parse(bytes, size, &hello, NULL);
    assert(r == 0 || r == -EAGAIN || r == -EPROTO || r == -EMSGSIZE);
    if (r < 0)
        return 0;
    if (hello.has_server_name) {
        struct destination d;
        assert(destination_parse_host(hello.server_name.host, strlen(hello.server_name.host), &d,
                                      NULL) == 0);
        assert(destination_same_host(&d, &hello.server_name));
    }
    uint8_t *longer = malloc(size + 1);
    if (!longer)
        abort();
    memcpy(longer, bytes, size);
    longer[size] = 0;
    r = client_hello_parse(longer, size + 1, &again, NULL);
    assert(r == 0 && hello.alpn_ours == again.alpn_ours);
    free(longer);
    return 0;
}
