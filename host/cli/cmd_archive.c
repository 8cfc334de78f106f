/* The tables of export and import. The work is done by bellglass-archive, a program of its own:
 * unpacking what came from anywhere is best not done where everything else is. */
#include "host/cli/cmd_archive.h"
#include "host/cli/commands.h"

static const struct option_spec export_options[] = {
    {ARCHIVE_NO_BASE, 0, false, "no-base", NULL,
     "without the golden snapshot below it: for a machine that has it"},
    {ARCHIVE_FORCE, 'f', false, "force", NULL, "replace FILE"},
    {OPTION_QUIET, 'q', false, "quiet", NULL, "no progress on stderr"},
    {OPTION_JSON, 0, false, "json", NULL, "print what was written, as JSON"},
    {0},
};

static const struct option_spec import_options[] = {
    {ARCHIVE_ANYWAY, 0, false, "anyway", NULL,
     "also if this machine cannot restore its memory: its disk can be booted"},
    {ARCHIVE_TRUST, 0, false, "trust", NULL,
     "keep what it may reach, its secrets and shared folders: only of a file of your own"},
    {OPTION_QUIET, 'q', false, "quiet", NULL, "no progress on stderr"},
    {OPTION_JSON, 0, false, "json", NULL, "print the snapshot's name as JSON"},
    {0},
};

static const char *const export_forms[] = {"[OPTIONS] SNAPSHOT|SANDBOX FILE", NULL};
static const char *const import_forms[] = {"[OPTIONS] FILE [NAME@TAG]", NULL};
static const char *const export_examples[] = {"export web@before-upgrade web.bgs",
                                              "export web - | ssh host bellglass import -", NULL};
static const char *const import_examples[] = {"import web.bgs", "import web.bgs theirs@1", NULL};

const struct command cmd_export = {
    .name = "export",
    .summary = "write a snapshot to one file",
    .forms = export_forms,
    .options = export_options,
    .details =
        "With all it stands on but the image: a tar file (pax, sparse) packed by zstd, with a "
        "checksum of each file in it. Of a sandbox, as it is now. FILE appears whole or not at "
        "all; - is standard output.\n\n"
        "What is in it: all that was in the sandbox's memory and on its disk. Secrets are not, "
        "since no sandbox has them.",
    .examples = export_examples,
    .operands_min = 2,
    .operands_max = 2,
    .helper = "bellglass-archive",
    .helper_verb = true,
};

const struct command cmd_import = {
    .name = "import",
    .summary = "take a snapshot in that was exported",
    .forms = import_forms,
    .options = import_options,
    .details =
        "This machine must have the image that it stands on (the same digest), and to restore its "
        "memory the same version of QEMU, accelerator and CPU model. Prints the snapshot's name: "
        "its own, or the one that is given. - is standard input.\n\n"
        "What is made from it may reach nothing, and has no secrets and no shared folders: its "
        "file could ask for yours. --trust keeps what it had, and is for files of your own.\n\n"
        "A file that is damaged, or is not what it says, changes nothing here.",
    .examples = import_examples,
    .operands_min = 1,
    .operands_max = 2,
    .helper = "bellglass-archive",
    .helper_verb = true,
};
