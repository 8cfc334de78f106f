/* project: the options that a project's file (bellglass.yaml) stands for. */
#pragma once

#include "host/cli/args.h"

struct project {
    struct args args; /* the file's options, then the command line's; operands are borrowed */
    char **texts;     /* what the file's point to */
    size_t text_count;
};

/* Reads the file of --file: with it, ret->args are as if its options stood first on the command
 * line; without it they are args as they are. Folders in it are from the file's own, and must be in
 * it: a project that somebody else wrote does not choose what of the user's is shared. Errors:
 * -EINVAL with the file's line; -EPERM a folder elsewhere; -ENOENT. */
int project_read(const struct args *args, struct project *ret, struct bg_err *err) BG_MUST_CHECK;
void project_done(struct project *project);
