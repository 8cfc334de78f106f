/* A line of the audit file, whose texts are the guest's choice. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "host/cli/audit_line.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char text[AUDIT_LINE_SIZE], *json = NULL;
    struct bg_err err;
    if (audit_line_format((const char *)bytes, size, text, &err) == 0) {
        assert(strlen(text) < sizeof text);
        for (const char *p = text; *p != '\0'; p++)
            assert((unsigned char)*p >= 0x20 && *p != 0x7f);
    }
    if (audit_line_json((const char *)bytes, size, &json, &err) == 0)
        for (const char *p = json; *p != '\0'; p++)
            assert(*p >= 0x20 && *p < 0x7f);
    free(json);
    return 0;
}
