/* cp's table. The work is done by bellglass-copy, a program of its own: unpacking what a hostile
 * guest packed is best not done where everything else is, and libarchive, with all that it links,
 * would make each start of bellglass 3 ms slower. */
#include "host/cli/commands.h"

#include "host/cli/sandbox_options.h"

static const struct option_spec options[] = {
    {OPTION_USER, 'u', false, "user", "USER", "read or write there as USER [the image's]"},
    {0},
};

static const char *const forms[] = {"[OPTIONS] NAME:PATH LOCAL", "[OPTIONS] LOCAL NAME:PATH", NULL};

static const char *const examples[] = {
    "cp web:/var/log/app.log .",
    "cp -u root site web:/srv",
    "cp web:src - | tar t",
    NULL,
};

const struct command cmd_cp = {
    .name = "cp",
    .summary = "copy files and folders in or out",
    .forms = forms,
    .options = options,
    .details =
        "Into a folder that exists, the thing lands under its own name; else it gets the name that "
        "is given. A PATH that is not absolute is in the user's home. With - for LOCAL, a tar "
        "stream is read from standard input and unpacked in the folder PATH, or PATH is written to "
        "standard output as one.\n\n"
        "Owners, set-id bits, devices and sockets are not copied. What comes out of a sandbox "
        "stays "
        "below LOCAL, whatever names and links it has.",
    .examples = examples,
    .operands_min = 2,
    .operands_max = 2,
    .helper = "bellglass-copy",
};
