#include "common/state/paths.h"

#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int make_folder(const char *path, struct bg_err *err)
{
    BG_AUTOFREE char *copy = strdup(path);
    if (!copy)
        return bg_err_errno(err, -ENOMEM, "%s", path);
    mode_t mode = geteuid() == 0 ? 0711 : 0700;
    for (char *p = copy + 1;; p++) {
        if (*p != '/' && *p != '\0')
            continue;
        char saved = *p;
        *p = '\0';
        if (mkdir(copy, mode) < 0 && errno != EEXIST)
            return bg_err_errno(err, -errno, "cannot make %s", copy);
        *p = saved;
        if (saved == '\0')
            return 0;
    }
}

/* One of the three folders: $variable/bellglass, else base + suffix. */
static char *choose(const char *variable, const char *base, const char *suffix)
{
    char *path = NULL;
    const char *value = getenv(variable);
    int n = value && value[0] == '/' ? asprintf(&path, "%s/bellglass", value)
                                     : asprintf(&path, "%s%s", base, suffix);
    return n < 0 ? NULL : path;
}

int bg_paths_init(struct bg_paths *paths, struct bg_err *err)
{
    struct bg_paths p = {0};
    const char *home = getenv("BELLGLASS_HOME");
    char runtime_base[64];
    if (home && home[0] == '/') {
        p = (struct bg_paths){.data = choose("", home, "/data"),
                              .state = choose("", home, "/state"),
                              .runtime = choose("", home, "/run")};
    } else if (home && home[0] != '\0') {
        return bg_err_set(err, -EINVAL, "BELLGLASS_HOME='%s': give an absolute path", home);
    } else if (geteuid() == 0) {
        p = (struct bg_paths){
            .data = choose("XDG_DATA_HOME", "/var/lib", "/bellglass"),
            .state = choose("XDG_STATE_HOME", "/var/lib", "/bellglass"),
            .runtime = choose("XDG_RUNTIME_DIR", "/run", "/bellglass"),
        };
    } else {
        const char *user_home = getenv("HOME");
        if (!user_home || user_home[0] != '/')
            return bg_err_set(err, -EINVAL, "HOME is not set: set it, or BELLGLASS_HOME");
        (void)snprintf(runtime_base, sizeof runtime_base, "/tmp/bellglass-%u", geteuid());
        p = (struct bg_paths){
            .data = choose("XDG_DATA_HOME", user_home, "/.local/share/bellglass"),
            .state = choose("XDG_STATE_HOME", user_home, "/.local/state/bellglass"),
            .runtime = choose("XDG_RUNTIME_DIR", runtime_base, ""),
        };
    }
    int r = p.data && p.state && p.runtime ? 0 : bg_err_errno(err, -ENOMEM, "paths");
    if (r == 0)
        r = make_folder(p.data, err);
    if (r == 0)
        r = make_folder(p.state, err);
    if (r == 0)
        r = make_folder(p.runtime, err);
    struct stat st;
    if (r == 0 && (lstat(p.runtime, &st) < 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid() ||
                   (st.st_mode & 022)))
        r = bg_err_set(err, -EPERM, "%s: must be a folder of yours that nobody else can write",
                       p.runtime);
    if (r < 0) {
        bg_paths_done(&p);
        return r;
    }
    *paths = p;
    return 0;
}

void bg_paths_done(struct bg_paths *paths)
{
    free(paths->data);
    free(paths->state);
    free(paths->runtime);
    *paths = (struct bg_paths){0};
}

#define SELF_SIZE 4096

/* Of the running program. */
static int own_folder(char self[SELF_SIZE], struct bg_err *err)
{
    ssize_t n = readlink("/proc/self/exe", self, SELF_SIZE - 1);
    if (n < 0)
        return bg_err_errno(err, -errno, "/proc/self/exe");
    self[n] = '\0';
    char *slash = strrchr(self, '/');
    if (slash)
        *slash = '\0';
    return 0;
}

int bg_helper_path(const char *program, char **ret_path, struct bg_err *err)
{
    char self[SELF_SIZE];
    int r = own_folder(self, err);
    if (r < 0)
        return r;
    const char *forced = getenv("BELLGLASS_HELPER_DIR");
    const char *const bases[] = {forced ? forced : self, self, self};
    static const char *const formats[] = {"", "", "/../libexec/bellglass"};
    for (size_t i = 0; i < 3; i++) {
        BG_AUTOFREE char *path = NULL;
        if (asprintf(&path, "%s%s/%s", bases[i], formats[i], program) < 0)
            return bg_err_errno(err, -ENOMEM, "%s", program);
        if (access(path, F_OK) == 0) {
            *ret_path = BG_TAKE(path);
            return 0;
        }
    }
    return bg_err_set(err, -ENOENT,
                      "%s: not found beside %s nor in ../libexec/bellglass; reinstall", program,
                      self);
}

int bg_program_path(char **ret_path, struct bg_err *err)
{
    char self[SELF_SIZE];
    int r = own_folder(self, err);
    static const char *const folders[] = {"", "/../../bin"};
    for (size_t i = 0; r == 0 && i < sizeof folders / sizeof *folders; i++) {
        BG_AUTOFREE char *path = NULL;
        if (asprintf(&path, "%s%s/bellglass", self, folders[i]) < 0)
            return bg_err_errno(err, -ENOMEM, "bellglass");
        if (access(path, X_OK) == 0) {
            *ret_path = BG_TAKE(path);
            return 0;
        }
    }
    return r < 0
               ? r
               : bg_err_set(err, -ENOENT,
                            "bellglass: not found beside %s nor in ../../bin from there; reinstall",
                            self);
}

int bg_data_path(const char *file, char **ret_path, struct bg_err *err)
{
    char self[SELF_SIZE];
    int r = own_folder(self, err);
    if (r < 0)
        return r;
    static const char *const folders[] = {"", "/../../share/bellglass"};
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        BG_AUTOFREE char *path = NULL;
        if (asprintf(&path, "%s%s/%s", self, folders[i], file) < 0)
            return bg_err_errno(err, -ENOMEM, "%s", file);
        if (access(path, R_OK) == 0) {
            *ret_path = BG_TAKE(path);
            return 0;
        }
    }
    return bg_err_set(err, -ENOENT,
                      "%s: not found beside %s nor in ../../share/bellglass from there; reinstall",
                      file, self);
}

void bg_runner_ids(unsigned *ret_uid, unsigned *ret_gid)
{
    *ret_uid = geteuid();
    *ret_gid = getegid();
    if (*ret_uid != 0)
        return;
    const struct passwd *pw = getpwnam("_bellglass");
    *ret_uid = pw ? pw->pw_uid : 65534;
    *ret_gid = pw ? pw->pw_gid : 65534;
}
