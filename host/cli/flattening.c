#include "host/cli/flattening.h"

#include <stdio.h>

#include "common/limits.h"
#include "host/cli/client.h"

#define FLATTEN_MS (4 * 3600 * 1000) /* for all of a large disk to a slow one */

static unsigned number_of(const json_t *answer, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(answer, key));
    return value > 0 && value <= BG_DISK_LAYERS_MAX ? (unsigned)value : 0;
}

int flattening_run(struct app *app, const struct life *life, bool quiet, struct flattened *ret,
                   struct bg_err *err)
{
    const struct bg_sandbox *sandbox = &life->sandbox;
    char note[128];
    json_auto_t *answer = NULL;
    json_auto_t *request = json_pack("{s:s}", "op", "flatten");
    if (!request)
        return bg_err_errno(err, -ENOMEM, "flatten");
    (void)snprintf(note, sizeof note, "flattening the disk of '%.63s'", sandbox->name);
    int r = client_request_noted(&app->paths, sandbox, request, FLATTEN_MS, quiet ? NULL : note,
                                 &answer, err);
    if (r < 0)
        return r;
    ret->layers_before = number_of(answer, "layers_before");
    ret->layers = number_of(answer, "layers");
    return 0;
}
