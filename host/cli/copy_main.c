/* bellglass-copy: `bellglass cp`, which becomes this program with its arguments as they are. */
#include "host/cli/commands.h"
#include "host/cli/copy.h"

int main(int argc, char **argv)
{
    struct app app = {.version = BELLGLASS_VERSION};
    if (!app_start())
        return APP_FAILED;
    int status = command_run(&app, &cmd_cp, copy_run, argc - 1, argv + 1);
    app_done(&app);
    return status;
}
