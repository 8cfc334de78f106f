/* Any bytes as a DNS query: the answer fits, is an answer to it, and the table of names survives.
 */
#include <stdlib.h>

#include "guest/dns.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct names *names = names_new();
    uint8_t *out = malloc(DNS_ANSWER_MAX); /* exact, so that a sanitizer sees one byte too many */
    if (names && out) {
        size_t used = dns_answer(names, "host", bytes, size, out);
        if (used > DNS_ANSWER_MAX || (used > 0 && used < 12) || (size < 12 && used != 0))
            abort();
        if (used > 0 && (out[0] != bytes[0] || out[1] != bytes[1] || !(out[2] & 0x80)))
            abort();
    }
    free(out);
    names_free(names);
    return 0;
}
