/* A connect request, as the supervisor passes it on, and the same bytes as an authority: what is
 * taken has one form, which is read back as itself. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "common/wire.h"
#include "net/destination.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void check(const struct destination *d)
{
    struct destination again;
    char text[DESTINATION_TEXT_SIZE];
    destination_format(d, 0, text);
    assert(destination_parse(text, strlen(text), d->port, &again, NULL) == 0);
    assert(destination_same_host(d, &again) && again.port == d->port);
    assert(!d->is_address || address_equal(&d->address, &again.address));
    if (d->is_address)
        (void)address_classify(&d->address);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct bg_connect_request request;
    struct destination d;
    if (bg_connect_request_parse(bytes, size, &request, NULL) == 0 &&
        destination_parse_host(request.host, strlen(request.host), &d, NULL) == 0) {
        d.port = request.port;
        check(&d);
    }
    if (destination_parse((const char *)bytes, size, 443, &d, NULL) == 0)
        check(&d);
    return 0;
}
