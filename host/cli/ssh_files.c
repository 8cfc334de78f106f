#include "host/cli/ssh_files.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io.h"
#include "common/quote.h"
#include "common/state/image.h"
#include "host/cli/process.h"
#include "host/cli/ssh_config.h"

#define FOLDER            "ssh"
#define KEY_FILE          "id_ed25519"
#define PUBLIC_FILE       KEY_FILE ".pub"
#define NEW_FILE          ".new" /* ssh-keygen appends .pub */
#define LOCK_FILE         "lock"
#define CONFIG_FILE       "config"
#define HOSTS_FOLDER      "known_hosts"
#define FILE_MAX          (16 * 1024) /* ours are below 4 KiB */
#define KEYGEN_TIMEOUT_MS 60000

/* Opens base/name, which is made if need be, for us alone. */
static int open_folder(const char *base, const char *name, int *ret_fd, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/%s", base, name) < 0)
        return bg_err_errno(err, -ENOMEM, "%s", name);
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return bg_err_errno(err, -errno, "%s", path);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return bg_err_errno(err, -errno, "%s", path);
    *ret_fd = fd;
    return 0;
}

static int read_public(int folder, char ret_public[SSH_KEY_SIZE])
{
    BG_AUTOFREE char *text = NULL;
    char key[SSH_KEY_SIZE];
    int r = faccessat(folder, KEY_FILE, R_OK, 0) < 0 ? -errno : 0;
    if (r == 0)
        r = bg_read_file(folder, PUBLIC_FILE, FILE_MAX, &text, NULL, NULL);
    if (r < 0)
        return r;
    text[strcspn(text, "\n")] = '\0';
    r = ssh_key_parse(text, key, NULL);
    if (r == 0 && ret_public)
        memcpy(ret_public, key, sizeof key);
    return r;
}

static int run_keygen(const char *path, struct bg_err *err)
{
    char program[] = "ssh-keygen", quiet[] = "-q", t[] = "-t", type[] = "ed25519", n[] = "-N",
         none[] = "", c[] = "-C", comment[] = "bellglass", f[] = "-f";
    BG_AUTOFREE char *copy = strdup(path);
    char said[512], text[256];
    int status;
    char *argv[] = {program, quiet, t, type, n, none, c, comment, f, copy, NULL};
    if (!copy)
        return bg_err_errno(err, -ENOMEM, "ssh-keygen");
    int r = process_output(argv, said, sizeof said, KEYGEN_TIMEOUT_MS, &status, err);
    if (r == -ENOENT)
        return bg_err_set(err, r, "there is no ssh-keygen here; install openssh-client");
    if (r == 0 && status != 0) {
        bg_escape(said, strcspn(said, "\n"), text, sizeof text);
        r = bg_err_set(err, -EIO, "ssh-keygen: %s", text[0] ? text : "failed");
    }
    return r;
}

static int make_key(int folder, const char *base, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/" FOLDER "/" NEW_FILE, base) < 0)
        return bg_err_errno(err, -ENOMEM, "ssh key");
    /* Of one that was killed: ssh-keygen would ask before it overwrites. */
    (void)unlinkat(folder, NEW_FILE, 0);
    (void)unlinkat(folder, NEW_FILE ".pub", 0);
    int r = run_keygen(path, err);
    if (r < 0)
        return r;
    /* The private half last: with it there, the public one is its. */
    if ((unlinkat(folder, KEY_FILE, 0) < 0 && errno != ENOENT) ||
        renameat(folder, NEW_FILE ".pub", folder, PUBLIC_FILE) < 0 ||
        renameat(folder, NEW_FILE, folder, KEY_FILE) < 0)
        return bg_err_errno(err, -errno, "%s", path);
    return 0;
}

int ssh_files_key(struct app *app, char ret_public[SSH_KEY_SIZE], struct bg_err *err)
{
    BG_AUTOCLOSE int folder = -1;
    int r = app_paths(app, err);
    if (r == 0)
        r = open_folder(app->paths.data, FOLDER, &folder, err);
    if (r < 0)
        return r;
    if (read_public(folder, ret_public) == 0)
        return 0;
    BG_AUTOCLOSE int lock = openat(folder, LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (lock < 0 || flock(lock, LOCK_EX) < 0)
        return bg_err_errno(err, -errno, "%s/" FOLDER "/" LOCK_FILE, app->paths.data);
    if (read_public(folder, ret_public) == 0)
        return 0; /* made by whom we waited for */
    r = make_key(folder, app->paths.data, err);
    if (r < 0)
        return r;
    r = read_public(folder, ret_public);
    return r < 0 ? bg_err_errno(err, r, "%s/" FOLDER "/" PUBLIC_FILE, app->paths.data) : 0;
}

/* What the proxy command has to have in its environment to find the same folders as we did, from
 * wherever ssh is started. *ret: heap array of heap strings, NULL-terminated. */
static char **environment(void)
{
    static const char *const names[] = {"BELLGLASS_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME",
                                        "XDG_RUNTIME_DIR"};
    enum { COUNT = sizeof names / sizeof *names };
    char **env = calloc(COUNT + 1, sizeof *env);
    for (size_t i = 0, used = 0; env && i < COUNT; i++) {
        const char *value = getenv(names[i]);
        if (!value || value[0] != '/')
            continue;
        if (asprintf(&env[used], "%s=%s", names[i], value) < 0)
            env[used] = NULL; /* asprintf leaves it undefined; shows as a list that is cut */
        used++;
        if (i == 0)
            break; /* the others mean nothing beside it */
    }
    return env;
}

static void environment_free(char **env)
{
    for (size_t i = 0; env && env[i]; i++)
        free(env[i]);
    free(env);
}

static int config_text(struct app *app, char **ret, struct bg_err *err)
{
    BG_AUTOFREE char *program = process_self();
    BG_AUTOFREE char *key = NULL;
    BG_AUTOFREE char *hosts = NULL;
    char **env = environment();
    const char *borrowed[8] = {NULL};
    int r = 0;
    if (!program || !env || asprintf(&key, "%s/" FOLDER "/" KEY_FILE, app->paths.data) < 0 ||
        asprintf(&hosts, "%s/" FOLDER "/" HOSTS_FOLDER, app->paths.state) < 0)
        r = bg_err_errno(err, -ENOMEM, "ssh configuration");
    for (size_t i = 0; r == 0 && env[i]; i++)
        borrowed[i] = env[i];
    struct ssh_config config = {.program = program, .env = borrowed, .key = key, .hosts = hosts};
    if (r == 0)
        r = ssh_config_text(&config, ret, err);
    environment_free(env);
    return r;
}

/* Writes a file unless it has these bytes. */
static int update_file(int folder, const char *name, const char *text, struct bg_err *err)
{
    BG_AUTOFREE char *old = NULL;
    size_t size;
    if (bg_read_file(folder, name, FILE_MAX, &old, &size, NULL) == 0 && size == strlen(text) &&
        memcmp(old, text, size) == 0)
        return 0;
    return bg_write_file(folder, name, text, strlen(text), 0600, err);
}

int ssh_files_config(struct app *app, char **ret_path, char **ret_text, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    BG_AUTOFREE char *text = NULL;
    BG_AUTOCLOSE int folder = -1;
    int r = ssh_files_key(app, NULL, err);
    if (r == 0)
        r = config_text(app, &text, err);
    if (r == 0)
        r = open_folder(app->paths.data, FOLDER, &folder, err);
    if (r == 0 && asprintf(&path, "%s/" FOLDER "/" CONFIG_FILE, app->paths.data) < 0)
        r = bg_err_errno(err, -ENOMEM, "ssh configuration");
    if (r == 0)
        r = update_file(folder, CONFIG_FILE, text, err);
    if (r < 0)
        return r;
    *ret_path = BG_TAKE(path);
    if (ret_text)
        *ret_text = BG_TAKE(text);
    return 0;
}

char *ssh_files_user(struct app *app, const struct bg_sandbox *sandbox)
{
    struct bg_image image;
    char *user = NULL;
    if (bg_image_find(&app->paths, sandbox->image_digest, &image, NULL) < 0)
        return NULL;
    if (image.user && strcmp(image.user, SSH_DEFAULT_USER) != 0)
        user = strdup(image.user);
    bg_image_done(&image);
    return user;
}

static int open_hosts(struct app *app, int *ret_fd, struct bg_err *err)
{
    BG_AUTOCLOSE int folder = -1;
    int r = open_folder(app->paths.state, FOLDER, &folder, err);
    return r < 0 ? r : open_folder(app->paths.state, FOLDER "/" HOSTS_FOLDER, ret_fd, err);
}

int ssh_files_pin(struct app *app, const struct bg_sandbox *sandbox, const char key[SSH_KEY_SIZE],
                  struct bg_err *err)
{
    BG_AUTOFREE char *name = NULL;
    BG_AUTOFREE char *line = NULL;
    BG_AUTOCLOSE int folder = -1;
    /* The file is this sandbox's alone, so its pattern may be any: a port would change the name
     * that ssh looks for. The id is for people. */
    if (asprintf(&name, "%s" SSH_DOMAIN, sandbox->name) < 0 ||
        asprintf(&line, "* ssh-ed25519 %s %s\n", key, sandbox->id) < 0)
        return bg_err_errno(err, -ENOMEM, "known hosts");
    int r = open_hosts(app, &folder, err);
    return r < 0 ? r : update_file(folder, name, line, err);
}

void ssh_files_forget(struct app *app, const struct bg_sandbox *sandbox)
{
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/" FOLDER "/" HOSTS_FOLDER "/%s" SSH_DOMAIN, app->paths.state,
                 sandbox->name) >= 0)
        (void)unlink(path);
}
