/* bellglass-archive: `bellglass export` and `bellglass import`, which become this program with
 * their verb and arguments as they are. */
#include <string.h>

#include "host/cli/archiving.h"
#include "host/cli/commands.h"

int main(int argc, char **argv)
{
    struct app app = {.version = BELLGLASS_VERSION};
    if (!app_start() || argc < 2)
        return APP_FAILED;
    bool import = strcmp(argv[1], cmd_import.name) == 0;
    int status = command_run(&app, import ? &cmd_import : &cmd_export,
                             import ? archive_import : archive_export, argc - 2, argv + 2);
    app_done(&app);
    return status;
}
