/* A sandbox's folder. It appears and vanishes by one rename each: made as ".new-ID" beside its
 * final place, removed by way of ".old-ID". So a reader sees all of it or nothing, and what a
 * killed process left half-way has a name that no sandbox can have (sweep() takes it away later).
 *
 * The lock is an open file description lock (fcntl(2), F_OFD_SETLK): it goes with the fd through
 * fork and exec, ends with the last copy of it, and can be asked about without taking it, so a
 * process that only looks never makes one that wants the lock fail. state.json is a hint beside it:
 * whether a sandbox runs is what the lock says. Who runs it has the whole file locked; who has to
 * do with the disk of one that does not run, its first byte only. So neither gets it beside the
 * other, and whoever asks is told by the lock's size who it is. */
#include "common/state/sandbox.h"

#include <assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include <jansson.h>

#include "common/fault.h"
#include "common/io.h"
#include "common/limits.h"
#include "common/quote.h"
#include "common/sha256.h"
#include "common/state/folder.h"
#include "common/state/pool.h"
#include "common/state/sandbox_json.h"

#define CONFIG_FILE    "sandbox.json"
#define STATE_FILE     "state.json"
#define LOCK_FILE      "lock"
#define NEW_PREFIX     ".new-"
#define OLD_PREFIX     ".old-"
#define LEFTOVER_AGE_S 60 /* create and remove take well under a second */

static const char name_chars[] = "abcdefghijklmnopqrstuvwxyz0123456789._-";

static uint64_t unix_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now); /* cannot fail with this clock */
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

bool bg_sandbox_name_ok(const char *name)
{
    size_t size = strlen(name);
    return size > 0 && size <= BG_SANDBOX_NAME_MAX && !strchr("._-", name[0]) &&
           strspn(name, name_chars) == size;
}

static char *folder_path(const struct bg_paths *paths, const char *name)
{
    char *path = NULL;
    return asprintf(&path, "%s/sandboxes%s%s", paths->state, *name ? "/" : "", name) < 0 ? NULL
                                                                                         : path;
}

/* As root the proxy, which runs as another user, must read it; the environment in it is nobody
 * else's business. */
static int write_config(int dir_fd, const char *file, const struct bg_sandbox *s,
                        struct bg_err *err)
{
    BG_AUTOFREE char *text = sandbox_json_emit(s);
    if (!text)
        return bg_err_errno(err, -ENOMEM, "%s", CONFIG_FILE);
    if (strlen(text) > BG_MANIFEST_MAX)
        return bg_err_set(err, -E2BIG, "options of %zu bytes: at most %d fit a sandbox",
                          strlen(text), BG_MANIFEST_MAX);
    BG_AUTOCLOSE int fd =
        openat(dir_fd, file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, geteuid() == 0 ? 0640 : 0600);
    if (fd < 0)
        return bg_err_errno(err, -errno, "%s", CONFIG_FILE);
    unsigned uid, gid;
    bg_runner_ids(&uid, &gid);
    int r = bg_write_full(fd, text, strlen(text));
    if (r == 0 && geteuid() == 0 && fchown(fd, (uid_t)-1, gid) < 0)
        r = -errno;
    /* One that goes away with its command need not outlive a power cut. */
    if (r == 0 && !s->ephemeral && fsync(fd) < 0)
        r = -errno;
    return r < 0 ? bg_err_errno(err, r, "%s", CONFIG_FILE) : 0;
}

int bg_sandbox_save(const struct bg_sandbox *sandbox, struct bg_err *err)
{
    char file[32];
    BG_AUTOCLOSE int dir = open(sandbox->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return bg_err_errno(err, -errno, "%s", sandbox->dir);
    (void)snprintf(file, sizeof file, "%s.%d", CONFIG_FILE, getpid());
    (void)unlinkat(dir, file, 0); /* of a dead process that had our pid */
    int r = write_config(dir, file, sandbox, err);
    if (r == 0 && renameat(dir, file, dir, CONFIG_FILE) < 0)
        r = bg_err_errno(err, -errno, "%s", CONFIG_FILE);
    if (r < 0)
        (void)unlinkat(dir, file, 0);
    return r;
}

void bg_sandbox_machine_id(const struct bg_sandbox *sandbox, uint8_t ret[16])
{
    uint8_t digest[BG_SHA256_SIZE];
    struct bg_sha256 hash;
    bg_sha256_init(&hash);
    bg_sha256_update(&hash, "machine-id:", strlen("machine-id:"));
    bg_sha256_update(&hash, sandbox->id, strlen(sandbox->id));
    bg_sha256_final(&hash, digest);
    memcpy(ret, digest, 16);
    /* As those are that systemd makes: a UUID of version 4 (RFC 9562 §5.4). */
    ret[6] = (uint8_t)((ret[6] & 0x0f) | 0x40);
    ret[8] = (uint8_t)((ret[8] & 0x3f) | 0x80);
}

/* --- the folder of all --- */

/* Opens STATE/sandboxes, making it. */
static int open_base(const struct bg_paths *paths, int *ret_fd, struct bg_err *err)
{
    BG_AUTOFREE char *path = folder_path(paths, "");
    if (!path)
        return bg_err_errno(err, -ENOMEM, "sandboxes");
    bool made = mkdir(path, 0700) == 0;
    if (!made && errno != EEXIST)
        return bg_err_errno(err, -errno, "cannot make %s", path);
    BG_AUTOCLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || (made && geteuid() == 0 && fchmod(fd, 0711) < 0))
        return bg_err_errno(err, -errno, "%s", path);
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

/* Whoever makes a member, or has one, has its lock. */
static bool is_held(int base, const char *folder)
{
    char path[sizeof BG_POOL_PREFIX + 64];
    if ((size_t)snprintf(path, sizeof path, "%s/" LOCK_FILE, folder) >= sizeof path)
        return false;
    BG_AUTOCLOSE int fd = openat(base, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return fd >= 0 && fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

static bool is_leftover(int base, const char *name)
{
    struct stat st;
    bool member = bg_pool_folder_ok(name);
    if (!member && strncmp(name, NEW_PREFIX, strlen(NEW_PREFIX)) != 0 &&
        strncmp(name, OLD_PREFIX, strlen(OLD_PREFIX)) != 0)
        return false;
    return fstatat(base, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
           st.st_mtime + LEFTOVER_AGE_S <= time(NULL) && !(member && is_held(base, name));
}

int bg_sandbox_sweep(const struct bg_paths *paths, size_t *ret_count, struct bg_err *err)
{
    BG_AUTOCLOSE int base = -1;
    int r = open_base(paths, &base, err);
    if (r < 0)
        return r;
    int fd = openat(base, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        r = bg_err_errno(err, -errno, "%s/sandboxes", paths->state);
        if (fd >= 0)
            (void)close(fd); /* nothing was read */
        return r;
    }
    size_t count = 0;
    const struct dirent *entry;
    while (r == 0 && (entry = readdir(dir))) {
        if (!is_leftover(base, entry->d_name))
            continue;
        r = bg_folder_remove(base, entry->d_name);
        if (r < 0)
            bg_err_errno(err, r, "%s/sandboxes/%s", paths->state, entry->d_name);
        count++;
    }
    (void)closedir(dir); /* read only */
    if (r == 0 && ret_count)
        *ret_count = count;
    return r;
}

/* --- making one --- */

/* size characters of SANDBOX_ID_CHARS, each equally likely, and a NUL. */
static void random_text(char *out, size_t size)
{
    for (size_t at = 0; at < size;) {
        uint8_t byte;
        bg_random(&byte, sizeof byte);
        if (byte < 252) /* 7 * 36 */
            out[at++] = SANDBOX_ID_CHARS[byte % 36];
    }
    out[size] = '\0';
}

char *bg_sandbox_made_up_name(void)
{
    static const char *const colours[] = {
        "amber", "azure", "brisk",  "calm",   "clear", "coral", "crisp", "dusky",
        "early", "fern",  "foggy",  "gentle", "hazel", "ivory", "jolly", "keen",
        "lilac", "lucid", "mellow", "misty",  "noble", "ochre", "pale",  "quiet",
        "rapid", "rosy",  "sandy",  "solar",  "tidal", "umber", "vivid", "windy"};
    static const char *const animals[] = {
        "badger", "beaver", "bittern", "crane", "curlew", "dunlin", "egret",   "falcon",
        "finch",  "gecko",  "grebe",   "heron", "ibis",   "jackal", "kestrel", "lark",
        "lemur",  "lynx",   "marten",  "newt",  "ocelot", "otter",  "plover",  "puffin",
        "raven",  "robin",  "stoat",   "swift", "tapir",  "teal",   "vole",    "wren"};
    uint16_t dice[3];
    bg_random(dice, sizeof dice);
    char *name = NULL;
    return asprintf(&name, "%s-%s-%u", colours[dice[0] % 32], animals[dice[1] % 32],
                    dice[2] % 100u) < 0
               ? NULL
               : name;
}

/* Fills the folder: lock, sandbox.json, then what the caller wants in it. */
static int fill_folder(int base, const char *temp, const struct bg_sandbox *s,
                       const struct bg_sandbox_filling *filling, struct bg_err *err)
{
    BG_AUTOCLOSE int dir = openat(base, temp, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir < 0)
        return bg_err_errno(err, -errno, "%s", temp);
    /* Whatever the umask: as root the unprivileged helpers must pass through. */
    if (fchmod(dir, geteuid() == 0 ? 0711 : 0700) < 0)
        return bg_err_errno(err, -errno, "%s", temp);
    BG_AUTOCLOSE int lock = openat(dir, LOCK_FILE, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (lock < 0)
        return bg_err_errno(err, -errno, "%s", LOCK_FILE);
    int r = write_config(dir, CONFIG_FILE, s, err);
    if (r == 0 && filling)
        r = filling->fill(filling->owner, s, dir, err);
    if (r == 0 && !s->ephemeral && fsync(dir) < 0)
        r = bg_err_errno(err, -errno, "%s", temp);
    return r;
}

/* The folder under its final name, or no trace of it. */
static int make_folder(int base, const struct bg_sandbox *s,
                       const struct bg_sandbox_filling *filling, struct bg_err *err)
{
    char temp[64];
    (void)snprintf(temp, sizeof temp, NEW_PREFIX "%s", s->id);
    if (mkdirat(base, temp, 0700) < 0)
        return bg_err_errno(err, -errno, "sandbox '%s': cannot make its folder", s->name);
    int r = fill_folder(base, temp, s, filling, err);
    if (r < 0)
        (void)bg_err_prefix(err, "sandbox '%s'", s->name);
    if (r == 0 && (r = bg_fault("create-filled")) < 0)
        (void)bg_err_errno(err, r, "sandbox '%s'", s->name);
    /* A sandbox's folder is never empty, so this never replaces one: of two callers one wins. */
    if (r == 0 && renameat(base, temp, base, s->name) < 0)
        r = errno == EEXIST || errno == ENOTEMPTY || errno == ENOTDIR
                ? bg_err_set(err, -EEXIST,
                             "name in use: '%s'; choose another or remove it: bellglass rm %s",
                             s->name, s->name)
                : bg_err_errno(err, -errno, "sandbox '%s'", s->name);
    if (r < 0) {
        (void)(bg_folder_remove(base, temp) < 0); /* the sweep would take it as well */
        return r;
    }
    (void)bg_fault("create-renamed");
    if (!s->ephemeral && fsync(base) < 0)
        return bg_err_errno(err, -errno, "sandboxes");
    return 0;
}

void bg_sandbox_begin(struct bg_sandbox *s, const char *id)
{
    if (id) {
        (void)snprintf(s->id, sizeof s->id, "%s", id);
    } else {
        memcpy(s->id, "sbx_", 4);
        random_text(s->id + 4, 20);
    }
    s->created_ms = unix_ms();
    s->expires_ms = s->ttl_s > 0 ? s->created_ms + s->ttl_s * 1000 : 0;
    for (size_t i = 0; i < s->secret_count; i++) {
        uint8_t random[32];
        bg_random(random, sizeof random);
        size_t prefix = strlen(SANDBOX_PLACEHOLDER_PREFIX);
        memcpy(s->secrets[i].placeholder, SANDBOX_PLACEHOLDER_PREFIX, prefix);
        bg_hex(random, sizeof random, s->secrets[i].placeholder + prefix);
    }
}

int bg_sandbox_create_member(const struct bg_paths *paths, struct bg_sandbox *s, struct bg_err *err)
{
    BG_AUTOCLOSE int base = -1;
    int r = open_base(paths, &base, err);
    if (r < 0)
        return r;
    bg_sandbox_begin(s, /* id= */ NULL);
    if (asprintf(&s->name, BG_POOL_PREFIX "%s", s->id) < 0 ||
        !(s->dir = folder_path(paths, s->name)))
        return bg_err_errno(err, -ENOMEM, "member of a pool");
    return make_folder(base, s, /* filling= */ NULL, err);
}

int bg_sandbox_create(const struct bg_paths *paths, struct bg_sandbox *sandbox, struct bg_err *err)
{
    return bg_sandbox_create_filled(paths, sandbox, /* filling= */ NULL, err);
}

int bg_sandbox_create_filled(const struct bg_paths *paths, struct bg_sandbox *sandbox,
                             const struct bg_sandbox_filling *filling, struct bg_err *err)
{
    struct bg_sandbox *s = sandbox;
    bool named = s->name != NULL;
    if (named && !bg_sandbox_name_ok(s->name)) {
        char quoted[BG_SANDBOX_NAME_MAX + 32];
        return bg_err_set(err, -EINVAL,
                          "%s: not a possible name; use a-z, 0-9, '.', '_', '-', at most %d, and "
                          "begin with a letter or digit",
                          bg_quote(s->name, quoted, sizeof quoted), BG_SANDBOX_NAME_MAX);
    }
    BG_AUTOCLOSE int base = -1;
    int r = open_base(paths, &base, err);
    if (r == 0)
        r = bg_sandbox_sweep(paths, NULL, err);
    if (r < 0)
        return r;
    bg_sandbox_begin(s, /* id= */ NULL);
    for (int attempt = 0;; attempt++) {
        if (!named) {
            free(s->name);
            s->name = bg_sandbox_made_up_name();
            if (!s->name)
                return bg_err_errno(err, -ENOMEM, "sandbox name");
        }
        r = make_folder(base, s, filling, err);
        if (named || r != -EEXIST || attempt == 100)
            break;
    }
    char *dir = r == 0 ? folder_path(paths, s->name) : NULL;
    if (r == 0 && !dir)
        r = bg_err_errno(err, -ENOMEM, "sandbox '%s'", s->name);
    if (r < 0) {
        if (!named) {
            free(s->name);
            s->name = NULL;
        }
        return r;
    }
    free(s->dir);
    s->dir = dir;
    return 0;
}

/* --- finding them --- */

int bg_sandbox_locate(const struct bg_paths *paths, const char *name, struct bg_sandbox *ret,
                      struct bg_err *err)
{
    char quoted[BG_SANDBOX_NAME_MAX + 32];
    BG_AUTOFREE char *dir = folder_path(paths, name);
    BG_AUTOFREE char *own_name = strdup(name);
    if (!dir || !own_name)
        return bg_err_errno(err, -ENOMEM, "sandbox");
    struct stat st;
    if (!bg_sandbox_name_ok(name) || stat(dir, &st) < 0 || !S_ISDIR(st.st_mode))
        return bg_err_set(err, -ENOENT, "no sandbox %s: see bellglass ls",
                          bg_quote(name, quoted, sizeof quoted));
    *ret = (struct bg_sandbox){.name = BG_TAKE(own_name), .dir = BG_TAKE(dir)};
    return 0;
}

int bg_sandbox_load(const struct bg_paths *paths, const char *name, struct bg_sandbox *ret,
                    struct bg_err *err)
{
    struct bg_sandbox found = {0}, s = {0};
    int r = bg_sandbox_locate(paths, name, &found, err);
    if (r < 0)
        return r;
    assert(found.dir);
    BG_AUTOCLOSE int dir = open(found.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    BG_AUTOFREE char *text = NULL;
    size_t size = 0;
    r = dir < 0 ? bg_err_errno(err, -errno, "%s", found.dir)
                : bg_read_file(dir, CONFIG_FILE, BG_MANIFEST_MAX, &text, &size, err);
    if (r == 0) {
        r = sandbox_json_parse(text, size, name, &s, err);
        if (r < 0)
            (void)bg_err_prefix(err, "%s", CONFIG_FILE);
    }
    if (r == 0) {
        s.dir = BG_TAKE(found.dir);
        *ret = s;
        s = (struct bg_sandbox){0};
    } else if (r != -ENOMEM && r != -EACCES) {
        (void)bg_err_prefix(err, "sandbox '%s' is damaged", name);
        r = -EUCLEAN;
        if (err) {
            err->code = r;
            size_t used = strlen(err->text);
            (void)snprintf(err->text + used, sizeof err->text - used,
                           "; remove it: bellglass rm -f %s", name);
        }
    }
    bg_sandbox_done(&s);
    bg_sandbox_done(&found);
    return r;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int bg_sandbox_names(const struct bg_paths *paths, char ***ret_names, struct bg_err *err)
{
    int fd = -1;
    int r = open_base(paths, &fd, err);
    BG_AUTOCLOSE int base = fd;
    if (r < 0)
        return r;
    r = bg_folder_names(base, bg_sandbox_name_ok, by_name, ret_names);
    return r < 0 ? bg_err_errno(err, r, "%s/sandboxes", paths->state) : 0;
}

void bg_sandbox_names_free(char **names)
{
    bg_folder_names_free(names);
}

/* --- state and lock --- */

static const char *const state_names[] = {
    [BG_SANDBOX_STOPPED] = "stopped", [BG_SANDBOX_STARTING] = "starting",
    [BG_SANDBOX_RUNNING] = "running", [BG_SANDBOX_STOPPING] = "stopping",
    [BG_SANDBOX_CRASHED] = "crashed", [BG_SANDBOX_SUSPENDED] = "suspended",
};

const char *bg_sandbox_state_name(enum bg_sandbox_state state)
{
    return state_names[state];
}

bool bg_sandbox_rests(enum bg_sandbox_state state)
{
    return state == BG_SANDBOX_STOPPED || state == BG_SANDBOX_CRASHED ||
           state == BG_SANDBOX_SUSPENDED;
}

/* The part of the lock that is for the disk alone. */
#define DISK_LOCK_SIZE 1

int bg_sandbox_use(const struct bg_sandbox *sandbox, enum bg_sandbox_use *ret, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/%s", sandbox->dir, LOCK_FILE) < 0)
        return bg_err_errno(err, -ENOMEM, "%s", LOCK_FILE);
    BG_AUTOCLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return bg_err_errno(err, -errno, "%s", path);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
        return bg_err_errno(err, -errno, "%s", path);
    *ret = lock.l_type == F_UNLCK         ? BG_SANDBOX_UNUSED
           : lock.l_len != DISK_LOCK_SIZE ? BG_SANDBOX_OWNED
           : lock.l_type == F_RDLCK       ? BG_SANDBOX_READ
                                          : BG_SANDBOX_WRITTEN;
    return 0;
}

/* What state.json says; its reason in reason (reason_size >= 1), cut. One that is missing is that
 * of a sandbox that never ran; one that cannot be read is that of a crash. */
static enum bg_sandbox_state written_state(const struct bg_sandbox *sandbox, int *ret_pid,
                                           char *reason, size_t reason_size)
{
    BG_AUTOFREE char *path = NULL;
    BG_AUTOFREE char *text = NULL;
    size_t size;
    *ret_pid = 0;
    reason[0] = '\0';
    if (asprintf(&path, "%s/%s", sandbox->dir, STATE_FILE) < 0)
        return BG_SANDBOX_CRASHED;
    int r = bg_read_file(AT_FDCWD, path, BG_MANIFEST_MAX, &text, &size, NULL);
    if (r < 0)
        return r == -ENOENT ? BG_SANDBOX_STOPPED : BG_SANDBOX_CRASHED;
    json_auto_t *json = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
    const char *state, *why = "";
    int version, pid = 0;
    if (!json ||
        json_unpack(json, "{s:i, s:s, s?:s, s?:i}", "version", &version, "state", &state, "reason",
                    &why, "launcher_pid", &pid) < 0 ||
        version != 1 || pid < 0)
        return BG_SANDBOX_CRASHED;
    for (size_t i = 0; i < sizeof state_names / sizeof *state_names; i++)
        if (strcmp(state, state_names[i]) == 0) {
            *ret_pid = pid;
            (void)snprintf(reason, reason_size, "%s", why); /* cut is fine */
            return (enum bg_sandbox_state)i;
        }
    return BG_SANDBOX_CRASHED;
}

bool bg_sandbox_noted(const struct bg_sandbox *sandbox, enum bg_sandbox_state *ret,
                      char reason[BG_ERR_TEXT_SIZE])
{
    int pid;
    *ret = written_state(sandbox, &pid, reason, BG_ERR_TEXT_SIZE);
    return reason[0] != '\0';
}

static bool has_resume(const struct bg_sandbox *sandbox)
{
    BG_AUTOFREE char *path = NULL;
    return asprintf(&path, "%s/resume/manifest.json", sandbox->dir) >= 0 && access(path, F_OK) == 0;
}

int bg_sandbox_state(const struct bg_sandbox *sandbox, enum bg_sandbox_state *ret,
                     int *ret_launcher_pid, struct bg_err *err)
{
    enum bg_sandbox_use use = BG_SANDBOX_UNUSED;
    int pid;
    char reason[1];
    /* The file before the lock: an orderly end between the two looks like what it is. The other way
     * round, it would look like a crash. */
    enum bg_sandbox_state before = written_state(sandbox, &pid, reason, sizeof reason);
    int r = bg_sandbox_use(sandbox, &use, err);
    if (r == -ENOENT && access(sandbox->dir, F_OK) < 0)
        return bg_err_set(err, -ENOENT, "no sandbox '%s': it was removed just now", sandbox->name);
    if (r < 0 && r != -ENOENT)
        return r;
    enum bg_sandbox_state state = before;
    if (use != BG_SANDBOX_OWNED) {
        state = written_state(sandbox, &pid, reason,
                              sizeof reason); /* again: what the launcher wrote last stands */
        pid = 0;
        /* What was cut short after its memory was whole, or before its CPUs ran, can go on. */
        if (!bg_sandbox_rests(state))
            state = has_resume(sandbox) ? BG_SANDBOX_SUSPENDED : BG_SANDBOX_CRASHED;
    } else if (bg_sandbox_rests(state)) {
        state = BG_SANDBOX_STARTING; /* it has the lock and has not written yet */
    }
    *ret = state;
    if (ret_launcher_pid)
        *ret_launcher_pid = pid;
    return 0;
}

int bg_sandbox_set_state(const struct bg_sandbox *sandbox, enum bg_sandbox_state state,
                         const char *reason, struct bg_err *err)
{
    bool runs = !bg_sandbox_rests(state);
    char escaped[BG_ERR_TEXT_SIZE];
    json_auto_t *why = json_string(reason ? reason : "");
    if (!why && reason) { /* it is not UTF-8 */
        bg_escape(reason, strlen(reason), escaped, sizeof escaped);
        why = json_string(escaped);
    }
    json_auto_t *json = json_pack("{s:i, s:s, s:O, s:I, s:i}", "version", 1, "state",
                                  bg_sandbox_state_name(state), "reason", why, "changed_ms",
                                  (json_int_t)unix_ms(), "launcher_pid", runs ? (int)getpid() : 0);
    BG_AUTOFREE char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    BG_AUTOFREE char *path = NULL;
    BG_AUTOFREE char *temp = NULL;
    if (!text || asprintf(&path, "%s/%s", sandbox->dir, STATE_FILE) < 0 ||
        asprintf(&temp, "%s.tmp", path) < 0)
        return bg_err_errno(err, -ENOMEM, "%s", STATE_FILE);
    /* Replaced whole, but not synced: after a power cut the lock is free whatever stands here. The
     * temporary name can be fixed, since one process holds the lock. */
    BG_AUTOCLOSE int fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    int r = fd < 0 ? -errno : bg_write_full(fd, text, strlen(text));
    if (r == 0 && rename(temp, path) < 0)
        r = -errno;
    return r < 0 ? bg_err_errno(err, r, "%s", path) : 0;
}

/* Why the lock was not to be had. */
static int in_use(const struct bg_sandbox *sandbox, struct bg_err *err)
{
    enum bg_sandbox_use use = BG_SANDBOX_UNUSED;
    if (bg_sandbox_use(sandbox, &use, NULL) == 0 &&
        (use == BG_SANDBOX_READ || use == BG_SANDBOX_WRITTEN))
        return bg_err_set(err, -EBUSY,
                          "its files are mounted or being copied: bellglass ls shows where");
    return bg_err_set(err, -EBUSY, "in use: another command or its supervisor holds it");
}

static int take_lock(const struct bg_sandbox *sandbox, short type, off_t size, int *ret_fd,
                     struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/%s", sandbox->dir, LOCK_FILE) < 0)
        return bg_err_errno(err, -ENOMEM, "%s", LOCK_FILE);
    BG_AUTOCLOSE int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    /* A damaged folder without a lock can still be locked, to be removed. */
    if (fd < 0 && errno == ENOENT && access(sandbox->dir, F_OK) == 0)
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return errno == ENOENT
                   ? bg_err_set(err, -ENOENT, "no sandbox '%s': see bellglass ls", sandbox->name)
                   : bg_err_errno(err, -errno, "%s", path);
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_len = size};
    if (fcntl(fd, F_OFD_SETLK, &lock) < 0)
        return errno == EAGAIN || errno == EACCES ? in_use(sandbox, err)
                                                  : bg_err_errno(err, -errno, "%s", path);
    struct stat ours, named;
    if (fstat(fd, &ours) < 0)
        return bg_err_errno(err, -errno, "%s", path);
    if (stat(path, &named) < 0 || ours.st_ino != named.st_ino || ours.st_dev != named.st_dev)
        return bg_err_set(err, -ENOENT, "no sandbox '%s': it was removed just now", sandbox->name);
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

int bg_sandbox_lock(const struct bg_sandbox *sandbox, int *ret_fd, struct bg_err *err)
{
    return take_lock(sandbox, F_WRLCK, /* to the end= */ 0, ret_fd, err);
}

int bg_sandbox_lock_disk(const struct bg_sandbox *sandbox, bool write, int *ret_fd,
                         struct bg_err *err)
{
    return take_lock(sandbox, write ? F_WRLCK : F_RDLCK, DISK_LOCK_SIZE, ret_fd, err);
}

int bg_sandbox_remove(const struct bg_sandbox *sandbox, struct bg_err *err)
{
    BG_AUTOFREE char *parent = strdup(sandbox->dir);
    if (!parent)
        return bg_err_errno(err, -ENOMEM, "sandbox '%s'", sandbox->name);
    char *slash = strrchr(parent, '/');
    if (!slash)
        return bg_err_set(err, -EINVAL, "%s: not a sandbox's folder", sandbox->dir);
    *slash = '\0';
    BG_AUTOCLOSE int base = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (base < 0)
        return bg_err_errno(err, -errno, "%s", parent);
    char temp[64], tag[21];
    random_text(tag, sizeof tag - 1);
    (void)snprintf(temp, sizeof temp, OLD_PREFIX "%s", tag);
    if (renameat(base, slash + 1, base, temp) < 0)
        return bg_err_errno(err, -errno, "sandbox '%s': cannot remove it", sandbox->name);
    int r = bg_folder_remove(base, temp);
    return r < 0 ? bg_err_errno(err, r, "%s/%s: cannot remove what sandbox '%s' left", parent, temp,
                                sandbox->name)
                 : 0;
}

/* --- the control socket --- */

/* The address of RUNTIME/ID.sock. A path too long for sun_path goes through *ret_dir_fd, which must
 * stay open until the address was used; the caller closes it. */
static int socket_address(const struct bg_paths *paths, const struct bg_sandbox *sandbox,
                          struct sockaddr_un *ret, int *ret_dir_fd, struct bg_err *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int n = snprintf(address.sun_path, sizeof address.sun_path, "%s/%s.sock", paths->runtime,
                     sandbox->id);
    int dir_fd = -1;
    if (n < 0 || (size_t)n >= sizeof address.sun_path) {
        dir_fd = open(paths->runtime, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (dir_fd < 0)
            return bg_err_errno(err, -errno, "%s", paths->runtime);
        (void)snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s.sock",
                       dir_fd, sandbox->id);
    }
    *ret = address;
    *ret_dir_fd = dir_fd;
    return 0;
}

int bg_sandbox_connect(const struct bg_paths *paths, const struct bg_sandbox *sandbox, int *ret_fd,
                       struct bg_err *err)
{
    BG_AUTOCLOSE int dir_fd = -1;
    struct sockaddr_un address;
    int r = socket_address(paths, sandbox, &address, &dir_fd, err);
    if (r < 0)
        return r;
    BG_AUTOCLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return bg_err_errno(err, -errno, "socket");
    do {
        r = connect(fd, (const struct sockaddr *)&address, sizeof address) < 0 ? -errno : 0;
    } while (r == -EINTR);
    if (r == -ENOENT || r == -ECONNREFUSED)
        return bg_err_set(err, -ENOTCONN, "sandbox '%s' is not running: bellglass start %s",
                          sandbox->name, sandbox->name);
    if (r < 0)
        return bg_err_errno(err, r, "sandbox '%s': its control socket", sandbox->name);
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

int bg_sandbox_listen(const struct bg_paths *paths, const struct bg_sandbox *sandbox, int *ret_fd,
                      struct bg_err *err)
{
    BG_AUTOCLOSE int dir_fd = -1;
    struct sockaddr_un address;
    int r = socket_address(paths, sandbox, &address, &dir_fd, err);
    if (r < 0)
        return r;
    BG_AUTOCLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return bg_err_errno(err, -errno, "socket");
    /* The mode of an unbound socket is that of the file it will get: never open to others. */
    if (fchmod(fd, 0600) < 0 || (unlink(address.sun_path) < 0 && errno != ENOENT) ||
        bind(fd, (const struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 128) < 0)
        return bg_err_errno(err, -errno, "sandbox '%s': control socket %s/%s.sock", sandbox->name,
                            paths->runtime, sandbox->id);
    *ret_fd = bg_take_fd(&fd);
    return 0;
}

void bg_sandbox_unlisten(const struct bg_paths *paths, const struct bg_sandbox *sandbox)
{
    BG_AUTOCLOSE int dir_fd = -1;
    struct sockaddr_un address;
    if (socket_address(paths, sandbox, &address, &dir_fd, NULL) == 0)
        (void)unlink(address.sun_path); /* a dead socket left behind does no harm */
}
