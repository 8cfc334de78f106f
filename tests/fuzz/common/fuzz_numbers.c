/* Numbers that users and files give as text: what is accepted lies in the range, and both parsers
 * agree on plain digits. */
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char *text = strndup((const char *)bytes, size);
    if (!text)
        return 0;
    uint64_t number = 0, count = 0;
    int a = bg_parse_u64(text, 10, UINT64_C(1) << 40, &number);
    int b = bg_parse_bytes(text, 10, UINT64_C(1) << 40, &count);
    if (a == 0 && (b != 0 || number != count))
        abort();
    if (b == 0 && (count < 10 || count > UINT64_C(1) << 40))
        abort();
    free(text);
    return 0;
}
