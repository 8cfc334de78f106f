#include "host/cli/policy_helper.h"

#include <stdlib.h>
#include <string.h>

#include "common/state/paths.h"
#include "host/cli/process.h"

#define TIMEOUT_MS 30000

int policy_helper_ask(const char *option, char *verb, const char *path, char *out, size_t size,
                      struct bg_err *err)
{
    static const char prefix[] = "bellglass: ";
    BG_AUTOFREE char *helper = NULL;
    BG_AUTOFREE char *own_path = strdup(path);
    char end[] = "--";
    int status;
    if (!own_path)
        return bg_err_errno(err, -ENOMEM, "%s", option);
    int r = bg_helper_path("bellglass-policy", &helper, err);
    if (r < 0)
        return r;
    char *argv[] = {helper, end, verb, own_path, NULL};
    r = process_output(argv, out, size, TIMEOUT_MS, &status, err);
    if (r < 0)
        return bg_err_prefix(err, "%s", option);
    if (status == 0)
        return 0;
    out[strcspn(out, "\n")] = '\0';
    bool prefixed = strncmp(out, prefix, sizeof prefix - 1) == 0;
    return bg_err_set(err, -EINVAL, "%s: %s", option, prefixed ? out + sizeof prefix - 1 : out);
}
