/* What supervisors answer, and the kernel's list of mounts. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "host/cli/client.h"
#include "host/cli/launch.h"
#include "host/cli/mounts.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void check_text(const char *text)
{
    for (const char *p = text; *p != '\0'; p++)
        assert((unsigned char)*p >= 0x20 && *p != 0x7f);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const char *text = (const char *)bytes;
    json_t *json = NULL;
    struct bg_err err;
    int r = client_parse_answer(text, size, &json, &err);
    assert(r < 0 ? !json : json_is_true(json_object_get(json, "ok")));
    if (r < 0)
        check_text(err.text);
    json_decref(json);

    enum launch_line_kind kind;
    char progress[BG_ERR_TEXT_SIZE] = "";
    json = NULL;
    r = launch_parse_line(text, size, &kind, progress, &json, &err);
    check_text(r < 0 ? err.text : progress);
    json_decref(json);

    struct mount_list mounts;
    char *copy = malloc(size + 1);
    assert(copy);
    if (size > 0)
        memcpy(copy, bytes, size);
    copy[size] = '\0';
    if (mounts_parse(copy, &mounts, &err) == 0)
        mounts_done(&mounts);
    free(copy);
    return 0;
}
