/* bellglass: the command. See commands.c for what there is. */
#include "host/cli/commands.h"

int main(int argc, char **argv)
{
    struct app app = {.version = BELLGLASS_VERSION};
    if (!app_start())
        return APP_FAILED;
    int status = commands_run(&app, argc - 1, argv + 1);
    app_done(&app);
    return status;
}
