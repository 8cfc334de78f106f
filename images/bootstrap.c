#include "images/bootstrap.h"

#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/quote.h"
#include "images/argv.h"

#define APT_TEXT_MAX (4u * 1024u * 1024u)  /* what apt says about its configuration; refused */
#define LOG_MAX      (16u * 1024u * 1024u) /* of mmdebstrap; a longer one is only shown */
#define KEYRING      "/usr/share/keyrings/debian-archive-keyring.gpg"
#define SETUP        "bellglass-setup" /* folder with our scripts, in the work folder and the root */
#define APT_CONFIG   "etc/apt/apt.conf.d/00bellglass-build"

/* Said by our script in the log, with the step's number behind. */
static const char run_step_failed[] = "bellglass: failed run step ";

/* Runs in the host's shell with the root as $1, since mmdebstrap's apt does too and may need the
 * host's logins. %s: the kernel's package. A meta package is followed to the real one. */
static const char fetch_kernel[] =
    "--customize-hook=set -eu; export APT_CONFIG=\"$MMDEBSTRAP_APT_CONFIG\"; package=%s; "
    "real=$(apt-cache depends --no-recommends --no-suggests \"$package\" | "
    "sed -n 's/^ *Depends: \\(linux-image-.*\\)/\\1/p' | head -n 1); "
    "package=${real:-$package}; mkdir -p \"$1/" SETUP "/kernel\"; cd \"$1/" SETUP "/kernel\"; "
    "apt-get -o APT::Sandbox::User=root download \"$package\"; "
    "printf '%%s=%%s\\n' \"$package\" \"$(dpkg-deb -f ./*.deb Version)\" >../kernel.version; "
    "mv ./*.deb ../kernel.deb";

static const char list_packages[] =
    "--customize-hook=chroot \"$1\" dpkg-query -W -f '${Package}=${Version}\\n' | LC_ALL=C sort "
    ">\"$1/" SETUP "/packages\"";

/* Leaves nothing of the host: its mirrors, resolver and name. The agent makes its own resolv.conf
 * and host name at each start. */
static const char clean_up[] =
    "--customize-hook=set -eu; cd \"$1\"; rm -rf " SETUP " " APT_CONFIG " etc/apt/sources.list "
    "etc/apt/sources.list.d/*; printf 'Types: deb\\nURIs: http://deb.debian.org/debian\\n"
    "Suites: %1$s %1$s-updates\\nComponents: main\\nSigned-By: " KEYRING "\\n\\n"
    "Types: deb\\nURIs: http://deb.debian.org/debian-security\\nSuites: %1$s-security\\n"
    "Components: main\\nSigned-By: " KEYRING "\\n' >etc/apt/sources.list.d/debian.sources; "
    "rm -f etc/resolv.conf; : >etc/resolv.conf; printf 'bellglass\\n' >etc/hostname; "
    "printf '127.0.0.1 localhost\\n::1 localhost ip6-localhost ip6-loopback\\n' >etc/hosts; "
    ": >etc/machine-id";

static bool in_path(const char *program)
{
    const char *path = getenv("PATH");
    while (path && *path) {
        size_t size = strcspn(path, ":");
        BG_AUTOFREE char *file = NULL;
        if (asprintf(&file, "%.*s/%s", (int)size, path, program) < 0)
            return false;
        if (access(file, X_OK) == 0)
            return true;
        path += size + (path[size] == ':');
    }
    return false;
}

/* True if /etc/subuid (or subgid) gives the user a range. */
static bool has_range(const char *file, const char *user)
{
    BG_AUTOFREE char *text = NULL;
    size_t size, user_size = strlen(user);
    if (bg_read_file(AT_FDCWD, file, BG_MANIFEST_MAX, &text, &size, NULL) < 0)
        return false;
    for (const char *line = text; line && *line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, user, user_size) == 0 && line[user_size] == ':')
            return true;
    }
    return false;
}

int bootstrap_check(struct bg_err *err)
{
    static const struct {
        const char *program, *package;
    } needs[] = {{"mmdebstrap", "mmdebstrap"},
                 {"apt-get", "apt"},
                 {"dpkg-deb", "dpkg"},
                 {"depmod", "kmod"},
                 {"supermin", "supermin"},
                 {"qemu-img", "qemu-utils"},
                 {"qemu-system-x86_64", "qemu-system-x86"}};
    for (size_t i = 0; i < sizeof needs / sizeof needs[0]; i++)
        if (!in_path(needs[i].program))
            return bg_err_set(err, -ENOENT, "%s is not installed: apt-get install %s",
                              needs[i].program, needs[i].package);
    if (access(KEYRING, R_OK) < 0)
        return bg_err_set(err, -ENOENT, "%s is missing: apt-get install debian-archive-keyring",
                          KEYRING);
    /* supermin looks at its owner, even though the modules come from elsewhere. A machine with a
     * kernel of its own has it; a container may not. */
    if (access("/lib/modules", F_OK) < 0 && mkdir("/lib/modules", 0755) < 0 && errno != EEXIST)
        return bg_err_set(err, -ENOENT,
                          "libguestfs needs a folder /lib/modules: run `mkdir /lib/modules` as "
                          "root once");
    if (geteuid() == 0)
        return 0;
    if (!in_path("newuidmap"))
        return bg_err_set(err, -ENOENT, "newuidmap is not installed: apt-get install uidmap");
    const struct passwd *pw = getpwuid(geteuid());
    if (!pw)
        return bg_err_set(err, -ENOENT, "uid %u has no entry in /etc/passwd", geteuid());
    if (!has_range("/etc/subuid", pw->pw_name) || !has_range("/etc/subgid", pw->pw_name))
        return bg_err_set(err, -EPERM,
                          "user '%s' has no subordinate uids: as root, usermod --add-subuids "
                          "100000-165535 --add-subgids 100000-165535 %s",
                          pw->pw_name, pw->pw_name);
    return 0;
}

/* Runs a program of apt and hands back what it says. */
static int ask_apt(struct jobs *jobs, const struct bootstrap *bootstrap, char *const *argv,
                   char **ret_text, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/apt-says", bootstrap->folder) < 0)
        return bg_err_errno(err, -ENOMEM, "apt");
    BG_AUTOCLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return bg_err_errno(err, -errno, "%s", path);
    int r = job_run(
        jobs, &(struct job){.name = "apt", .argv = argv, .log = bootstrap->log, .out_fd = fd}, err);
    size_t size;
    return r < 0 ? r : bg_read_file(AT_FDCWD, path, APT_TEXT_MAX, ret_text, &size, err);
}

/* True for "bookworm", "bookworm-updates" and "bookworm-security"; also for "bookworm/updates". */
static bool is_of_suite(const char *release, const char *suite)
{
    size_t size = strlen(suite);
    return strncmp(release, suite, size) == 0 &&
           (!release[size] || strcmp(release + size, "-updates") == 0 ||
            strcmp(release + size, "-security") == 0);
}

/* Adds the lines of sources.list that the root is made from. */
static int add_sources(struct jobs *jobs, const struct bootstrap *bootstrap, const char *suite,
                       struct argv *argv, struct bg_err *err)
{
    char *const question[] = {(char[]){"apt-get"},
                              (char[]){"indextargets"},
                              (char[]){"--format"},
                              (char[]){"$(REPO_URI) $(RELEASE) $(COMPONENT)"},
                              (char[]){"Created-By: Packages"},
                              NULL};
    BG_AUTOFREE char *text = NULL;
    int r = ask_apt(jobs, bootstrap, question, &text, err);
    if (r < 0)
        return r;
    bool has_suite = false;
    size_t first = argv->count;
    char *rest = text, *line;
    while ((line = strsep(&rest, "\n"))) {
        char uri[1024], release[64], component[64];
        if (sscanf(line, "%1023s %63s %63s", uri, release, component) != 3 ||
            strcmp(component, "main") != 0 || !is_of_suite(release, suite))
            continue;
        has_suite |= strcmp(release, suite) == 0;
        argv_add(argv, "deb [signed-by=" KEYRING "] %s %s main", uri, release);
    }
    if (has_suite)
        return 0;
    while (argv->count > first)
        free(argv->at[--argv->count]);
    static const char base[] = "deb [signed-by=" KEYRING "] http://deb.debian.org/";
    argv_add(argv, "%sdebian %s main", base, suite);
    argv_add(argv, "%sdebian %s-updates main", base, suite);
    argv_add(argv, "%sdebian-security %s-security main", base, suite);
    return 0;
}

/* Writes down the host's ways to the mirrors (proxies, logins, certificates) for mmdebstrap. */
static int write_apt_config(struct jobs *jobs, const struct bootstrap *bootstrap,
                            struct bg_err *err)
{
    char *const question[] = {(char[]){"apt-config"}, (char[]){"dump"}, NULL};
    BG_AUTOFREE char *text = NULL;
    BG_AUTOFREE char *path = NULL;
    int r = ask_apt(jobs, bootstrap, question, &text, err);
    if (r < 0)
        return r;
    if (asprintf(&path, "%s/apt.conf", bootstrap->folder) < 0)
        return bg_err_errno(err, -ENOMEM, "apt");
    BG_AUTOCLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    FILE *out = fd < 0 ? NULL : fdopen(fd, "w");
    if (!out)
        return bg_err_errno(err, -errno, "%s", path);
    (void)bg_take_fd(&fd); /* it is out's */
    (void)fprintf(out, "Dir::Etc::netrc \"/etc/apt/auth.conf\";\n"
                       "Dir::Etc::netrcparts \"/etc/apt/auth.conf.d\";\n");
    char *rest = text, *line;
    while ((line = strsep(&rest, "\n")))
        if (strncmp(line, "Acquire::", strlen("Acquire::")) == 0)
            (void)fprintf(out, "%s\n", line);
    (void)fprintf(out, "Acquire::Languages \"none\";\n");
    bool failed = ferror(out);
    return fclose(out) != 0 || failed ? bg_err_errno(err, -EIO, "%s", path) : 0;
}

static void print_quoted(FILE *out, const char *text)
{
    (void)fputc('\'', out);
    for (; *text; text++)
        if (*text == '\'')
            (void)fputs("'\\''", out);
        else
            (void)fputc(*text, out);
    (void)fputc('\'', out);
}

/* The script that runs in the new root. */
static void print_script(FILE *out, const struct recipe *recipe)
{
    (void)fputs("set -eu\n"
                "export HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive\n"
                "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
                "unset TMPDIR XDG_RUNTIME_DIR\ncd /\n",
                out);
    if (recipe->user) {
        (void)fprintf(out, "useradd --create-home --uid 1000 --user-group --shell /bin/bash %s\n",
                      recipe->user);
        (void)fprintf(out,
                      "if [ -d /etc/sudoers.d ]; then printf '%%s ALL=(ALL) NOPASSWD:ALL\\n' %s "
                      ">/etc/sudoers.d/%s; chmod 0440 /etc/sudoers.d/%s; fi\n",
                      recipe->user, recipe->user, recipe->user);
    }
    for (unsigned i = 0; i < recipe->files_count; i++) {
        const struct recipe_file *file = &recipe->files[i];
        const char *owner = file->owner ? file->owner : "root";
        (void)fprintf(out, "install -D -m %s -o %s -g %s /" SETUP "/file-%u ",
                      file->mode ? file->mode : "0644", owner, owner, i);
        print_quoted(out, file->path);
        (void)fputc('\n', out);
    }
    for (unsigned i = 0; i < recipe->run_count; i++)
        (void)fprintf(out,
                      "echo 'bellglass: run step %u of the recipe'\n"
                      "sh -eu /" SETUP "/run-%u || { echo '%s%u'; exit 1; }\n",
                      i + 1, i, run_step_failed, i + 1);
}

static int write_text(int dir_fd, const char *name, const char *text, struct bg_err *err)
{
    BG_AUTOCLOSE int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return bg_err_errno(err, -errno, SETUP "/%s", name);
    int r = bg_write_full(fd, text, strlen(text));
    return r < 0 ? bg_err_errno(err, r, SETUP "/%s", name) : 0;
}

static int write_setup(const struct bootstrap *bootstrap, const struct recipe *recipe,
                       struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/" SETUP, bootstrap->folder) < 0)
        return bg_err_errno(err, -ENOMEM, "setup");
    if (mkdir(path, 0755) < 0)
        return bg_err_errno(err, -errno, "%s", path);
    BG_AUTOCLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return bg_err_errno(err, -errno, "%s", path);
    BG_AUTOFREE char *script = NULL;
    size_t size;
    FILE *out = open_memstream(&script, &size);
    if (!out)
        return bg_err_errno(err, -ENOMEM, "setup");
    print_script(out, recipe);
    bool failed = ferror(out);
    if (fclose(out) != 0 || failed)
        return bg_err_errno(err, -ENOMEM, "setup");
    int r = write_text(fd, "script", script, err);
    char name[32];
    for (unsigned i = 0; r == 0 && i < recipe->files_count; i++) {
        if (!recipe->files[i].content)
            continue;
        (void)snprintf(name, sizeof name, "file-%u", i);
        r = write_text(fd, name, recipe->files[i].content, err);
    }
    for (unsigned i = 0; r == 0 && i < recipe->run_count; i++) {
        (void)snprintf(name, sizeof name, "run-%u", i);
        r = write_text(fd, name, recipe->run[i], err);
    }
    return r;
}

static void add_download(struct argv *argv, const struct bootstrap *bootstrap, const char *file)
{
    char prefix[64];
    (void)snprintf(prefix, sizeof prefix, "--customize-hook=download /" SETUP "/%s ", file);
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/%s", bootstrap->folder, file) < 0) {
        argv->failed = true;
        return;
    }
    argv_add_quoted(argv, prefix, path, "");
}

static void add_include(struct argv *argv, const struct recipe *recipe)
{
    BG_AUTOFREE char *list = strdup("--include=");
    for (unsigned i = 0; list && i < recipe->packages_count; i++) {
        char *longer;
        if (asprintf(&longer, "%s%s%s", list, i ? "," : "", recipe->packages[i]) < 0)
            longer = NULL;
        free(list);
        list = longer;
    }
    if (list && recipe->packages_count > 0)
        argv_add(argv, "%s", list);
    argv->failed |= !list;
}

/* The hooks that make a root folder into what the recipe says. */
static void add_setup_hooks(struct argv *argv, const struct bootstrap *bootstrap,
                            const struct recipe *recipe)
{
    BG_AUTOFREE char *setup = NULL;
    if (asprintf(&setup, "%s/" SETUP, bootstrap->folder) < 0) {
        setup = NULL;
        argv->failed = true;
        return;
    }
    argv_add_quoted(argv, "--customize-hook=copy-in ", setup, " /");
    for (unsigned i = 0; i < recipe->files_count; i++) {
        char suffix[64];
        (void)snprintf(suffix, sizeof suffix, " /" SETUP "/file-%u", i);
        if (recipe->files[i].source)
            argv_add_quoted(argv, "--customize-hook=upload ", recipe->files[i].source, suffix);
    }
    argv_add(argv, "--customize-hook=chroot \"$1\" /bin/sh -eu /" SETUP "/script");
    argv_add(argv, "%s", list_packages);
    add_download(argv, bootstrap, BOOTSTRAP_PACKAGES);
}

static int build_argv(struct jobs *jobs, const struct bootstrap *bootstrap,
                      const struct recipe *recipe, struct argv *argv, struct bg_err *err)
{
    static const char *const without_docs[] = {
        "path-exclude=/usr/share/man/*", "path-exclude=/usr/share/info/*",
        "path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright",
        "path-exclude=/usr/share/locale/*"};
    argv_add(argv, "mmdebstrap");
    argv_add(argv, "--mode=%s", geteuid() == 0 ? "root" : "unshare");
    argv_add(argv, "--variant=%s", bootstrap->kernel_only ? "custom" : "minbase");
    argv_add(argv, "--format=%s", bootstrap->kernel_only ? "null" : "tar");
    BG_AUTOFREE char *config = NULL;
    if (asprintf(&config, "%s/apt.conf", bootstrap->folder) < 0) {
        config = NULL;
        return bg_err_errno(err, -ENOMEM, "mmdebstrap");
    }
    argv_add_quoted(argv, "--setup-hook=upload ", config, " /" APT_CONFIG);
    if (!bootstrap->kernel_only) {
        add_include(argv, recipe);
        for (size_t i = 0; !recipe->docs && i < sizeof without_docs / sizeof without_docs[0]; i++)
            argv_add(argv, "--dpkgopt=%s", without_docs[i]);
        add_setup_hooks(argv, bootstrap, recipe);
    }
    argv_add(argv, fetch_kernel, json_string_value(json_object_get(recipe->canonical, "kernel")));
    add_download(argv, bootstrap, BOOTSTRAP_KERNEL);
    add_download(argv, bootstrap, BOOTSTRAP_VERSION);
    if (!bootstrap->kernel_only)
        argv_add(argv, clean_up, recipe->suite);
    argv_add(argv, "%s", recipe->suite);
    if (bootstrap->kernel_only)
        argv_add(argv, "-");
    else
        argv_add(argv, "%s/" BOOTSTRAP_TAR, bootstrap->folder);
    int r = add_sources(jobs, bootstrap, recipe->suite, argv, err);
    if (r == 0 && !argv_ok(argv))
        r = bg_err_errno(err, -ENOMEM, "mmdebstrap");
    return r;
}

/* If a run step ended mmdebstrap, says which. */
static void name_run_step(const struct bootstrap *bootstrap, const struct recipe *recipe,
                          struct bg_err *err)
{
    BG_AUTOFREE char *text = NULL;
    size_t size;
    if (bg_read_file(AT_FDCWD, bootstrap->log, LOG_MAX, &text, &size, NULL) < 0)
        return;
    const char *found = memmem(text, size, run_step_failed, strlen(run_step_failed));
    unsigned long step = found ? strtoul(found + strlen(run_step_failed), NULL, 10) : 0;
    if (step == 0 || step > recipe->run_count)
        return;
    const char *command = recipe->run[step - 1];
    char shown[128];
    bg_escape(command, strcspn(command, "\n"), shown, sizeof shown);
    (void)bg_err_set(err, err->code, "run step %lu failed: %s", step, shown);
}

int bootstrap_run(struct jobs *jobs, const struct bootstrap *bootstrap, const struct recipe *recipe,
                  struct bg_err *err)
{
    int r = write_apt_config(jobs, bootstrap, err);
    if (r == 0 && !bootstrap->kernel_only)
        r = write_setup(bootstrap, recipe, err);
    struct argv argv = {0}, env = {0};
    if (r == 0)
        r = build_argv(jobs, bootstrap, recipe, &argv, err);
    argv_add(&env, "TMPDIR=%s", bootstrap->tmp);
    argv_add(&env, "LC_ALL=C.UTF-8");
    if (r == 0 && !argv_ok(&env))
        r = bg_err_errno(err, -ENOMEM, "mmdebstrap");
    if (r == 0)
        r = job_run(
            jobs,
            &(struct job){
                .name = "mmdebstrap", .argv = argv.at, .env = env.at, .log = bootstrap->log},
            err);
    if (r == -EREMOTEIO)
        name_run_step(bootstrap, recipe, err);
    argv_done(&argv);
    argv_done(&env);
    return r;
}
