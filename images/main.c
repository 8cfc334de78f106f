/* bellglass-image: makes, lists and removes images; `bellglass image` runs it. A program of its
 * own since it alone links libguestfs and libcyaml. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "images/commands.h"

static const char usage_text[] = "usage: bellglass image VERB [OPTION...]\n"
                                 "\n"
                                 "  build [RECIPE]      build an image from a recipe\n"
                                 "  import FILE.qcow2   make an image of a disk\n"
                                 "  save NAME IMAGE     make an image of a sandbox's disk\n"
                                 "  ls                  list the images\n"
                                 "  inspect NAME        show all about an image\n"
                                 "  rm NAME             remove an image\n"
                                 "\n"
                                 "Each verb has --help.\n";

static const struct verb {
    const char *name;
    int (*run)(int argc, char **argv);
} verbs[] = {{"build", cmd_build}, {"import", cmd_import}, {"inspect", cmd_inspect},
             {"ls", cmd_ls},       {"rm", cmd_rm},         {"save", cmd_save}};

/* A plain user's PATH lacks where depmod and chroot are. */
static int extend_path(void)
{
    const char *path = getenv("PATH");
    BG_AUTOFREE char *longer = NULL;
    if (asprintf(&longer, "%s:/usr/sbin:/sbin", path && path[0] ? path : "/usr/bin:/bin") < 0) {
        longer = NULL;
        return -ENOMEM;
    }
    return setenv("PATH", longer, 1) < 0 ? -errno : 0;
}

int main(int argc, char **argv)
{
    if (extend_path() < 0)
        return fail(&(struct bg_err){.code = -ENOMEM, .text = "out of memory"});
    /* What we make is for QEMU to read, whatever uid it runs as; private files say so. */
    (void)umask(022);
    if (argc < 2)
        return usage(usage_text, /* asked= */ false);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0)
        return usage(usage_text, /* asked= */ true);
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
        if (strcmp(argv[1], verbs[i].name) == 0)
            return verbs[i].run(argc - 1, argv + 1);
    (void)fprintf(stderr, "bellglass image: no verb '%.40s'\n", argv[1]);
    return usage(usage_text, /* asked= */ false);
}
