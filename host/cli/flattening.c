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
    if (bg_sandbox_rests(life->state))
        return bg_err_set(err, -ENOTCONN,
                          "sandbox '%s' is %s: its disk is flattened while it runs: bellglass "
                          "start %s",
                          sandbox->name, bg_sandbox_state_name(life->state), sandbox->name);
    if (life->state != BG_SANDBOX_RUNNING)
        return bg_err_set(err, -EAGAIN, "sandbox '%s' is %s: try again in a moment", sandbox->name,
                          bg_sandbox_state_name(life->state));
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
