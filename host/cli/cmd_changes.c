/* The tables of diff, apply and discard. The work is done by bellglass-changes, a program of its
 * own, since libgit2 and all that it links would make each start of bellglass slower. */
#include "host/cli/cmd_changes.h"

#include "host/cli/commands.h"

static const struct option_spec diff_options[] = {
    {CHANGES_PATCH, 'p', false, "patch", NULL, "as a patch that git apply takes"},
    {CHANGES_STAT, 0, false, "stat", NULL, "each file with its size before and after"},
    {CHANGES_NAME_ONLY, 0, false, "name-only", NULL, "the paths alone"},
    {CHANGES_JSON, 0, false, "json", NULL, "print JSON"},
    {CHANGES_EXIT_CODE, 0, false, "exit-code", NULL, "exit with 1 if there are changes"},
    {0},
};

static const struct option_spec apply_options[] = {
    {CHANGES_YES, 'y', false, "yes", NULL, "do not ask"},
    {CHANGES_FORCE, 0, false, "force", NULL,
     "over files that the host changed too, and links that lead out of the folder"},
    {CHANGES_TRUSTED, 0, false, "trusted", NULL,
     "files that host tools trust, and secret names, without naming them"},
    {CHANGES_RESUME, 0, false, "resume", NULL, "end an apply that was interrupted, and no more"},
    {0},
};

static const struct option_spec discard_options[] = {
    {CHANGES_YES, 'y', false, "yes", NULL, "do not ask"},
    {0},
};

static const char *const diff_forms[] = {"[OPTIONS] NAME [PATH...]", NULL};
static const char *const apply_forms[] = {"[OPTIONS] NAME [PATH...]", "--resume NAME", NULL};
static const char *const discard_forms[] = {"[OPTIONS] NAME [PATH...]", NULL};

static const char *const diff_examples[] = {"diff web", "diff -p web src | less",
                                            "diff --exit-code --name-only web", NULL};
static const char *const apply_examples[] = {"apply web src README.md", "apply --yes web", NULL};
static const char *const discard_examples[] = {"discard web build", NULL};

const struct command cmd_diff = {
    .name = "diff",
    .summary = "show what a sandbox changed in its copy-on-write shares",
    .forms = diff_forms,
    .options = diff_options,
    .details =
        "Compares the folder here, as it is now, with what the sandbox sees. A PATH is below the "
        "shared folder, or absolute: in the sandbox, or here. Marked are files that may be run, "
        "that host tools run or trust by their names (such as .git/hooks or .envrc), links, names "
        "with odd bytes, and large files. A conflict is a file that changed here too since the "
        "sandbox had its copy.\n\n"
        "What was shown is kept: `bellglass apply` writes exactly that, or says that it changed.",
    .examples = diff_examples,
    .operands_min = 1,
    .operands_max = -1,
    .helper = "bellglass-changes",
    .helper_verb = true,
};

const struct command cmd_apply = {
    .name = "apply",
    .summary = "bring changes of a copy-on-write share to the folder here",
    .forms = apply_forms,
    .options = apply_options,
    .details =
        "Shows what it is going to write, asks, and writes: each file is the old or the new one at "
        "any moment, whatever happens; an interrupted apply is ended by the next one. Files that "
        "changed here too are left alone, links that lead out of the folder are refused, and what "
        "host tools trust is written only when it is named. Set-id bits, owners and special files "
        "never come out. The sandbox then sees the folder's files again.",
    .examples = apply_examples,
    .operands_min = 1,
    .operands_max = -1,
    .helper = "bellglass-changes",
    .helper_verb = true,
};

const struct command cmd_discard = {
    .name = "discard",
    .summary = "drop changes of a copy-on-write share",
    .forms = discard_forms,
    .options = discard_options,
    .details = "The sandbox then sees the folder's files as they are here. Programs in it that "
               "have such a file open keep what they have.",
    .examples = discard_examples,
    .operands_min = 1,
    .operands_max = -1,
    .helper = "bellglass-changes",
    .helper_verb = true,
};
