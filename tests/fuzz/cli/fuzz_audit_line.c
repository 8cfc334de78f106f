/* A line of the audit file, whose texts are the guest's choice. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "host/cli/audit_filter.h"
#include "host/cli/audit_har.h"
#include "host/cli/audit_line.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void check_ascii(const char *text)
{
    for (const char *p = text; *p != '\0'; p++)
        assert((unsigned char)*p >= 0x20 && (unsigned char)*p < 0x7f);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const char *const words[] = {
        [AUDIT_FILTER_SINCE] = "2020-01-01T00:00:00Z",
        [AUDIT_FILTER_UNTIL] = "1h",
        [AUDIT_FILTER_HOST] = "*.example.org",
        [AUDIT_FILTER_DECISION] = "deny",
        [AUDIT_FILTER_REASON] = "host-not-allowed",
        [AUDIT_FILTER_METHOD] = "GET",
        [AUDIT_FILTER_STATUS] = "4xx",
    };
    char text[AUDIT_LINE_SIZE], *har;
    json_t *json = audit_line_load((const char *)bytes, size);
    if (!json)
        return 0;
    audit_line_format(json, text);
    assert(strlen(text) < sizeof text);
    for (const char *p = text; *p != '\0'; p++)
        assert((unsigned char)*p >= 0x20 && *p != 0x7f);
    if (audit_har_entry(json, &har) == 0 && har)
        check_ascii(har);
    free(har);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        struct audit_filter filter = {0};
        struct bg_err err;
        assert(audit_filter_add(&filter, (enum audit_filter_key)i, words[i], 1800000000000, &err) ==
               0);
        (void)audit_filter_matches(&filter, json);
    }
    json_decref(json);
    return 0;
}
