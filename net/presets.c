#include "net/presets.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "common/io.h"
#include "common/state/paths.h"
#include "net/yaml_doc.h"

static int load(void *owner, const char *name, char **ret, size_t *ret_size, struct bg_err *err)
{
    char file[80];
    BG_AUTOFREE char *path = NULL;
    (void)owner;
    (void)snprintf(file, sizeof file, "policies/%s.yaml", name);
    int r = bg_data_path(file, &path, err);
    return r < 0 ? r : bg_read_file(AT_FDCWD, path, YAML_DOC_SIZE_MAX, ret, ret_size, err);
}

const struct policy_presets presets_installed = {.load = load};
