#include "net/store.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/quote.h"
#include "net/locked.h"
#include "net/secrets.h"

static int check_name(const char *name, struct bg_err *err)
{
    char shown[160];
    if (secret_name_ok(name))
        return 0;
    return bg_err_set(err, -EINVAL,
                      "%s is no name for a secret: letters, digits and _, no digit in front",
                      bg_quote(name, shown, sizeof shown));
}

static int open_folder(const char *data_dir, bool make, int *ret_fd, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/secrets", data_dir) < 0)
        return bg_err_errno(err, -ENOMEM, "secrets");
    if (make && mkdir(path, 0700) < 0 && errno != EEXIST)
        return bg_err_errno(err, -errno, "cannot make %s", path);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return bg_err_errno(err, -errno, "%s", path);
    struct stat st;
    if (fstat(fd, &st) < 0 || st.st_uid != geteuid() || (st.st_mode & 077)) {
        (void)close(fd); /* only looked at */
        return bg_err_set(err, -EPERM,
                          "%s: must be a folder of yours that nobody else can open "
                          "(chmod 700)",
                          path);
    }
    *ret_fd = fd;
    return 0;
}

static int no_such(const char *name, struct bg_err *err)
{
    return bg_err_set(err, -ENOENT, "no secret '%s'; set it with 'bellglass secret set %s'", name,
                      name);
}

int store_set(const char *data_dir, const char *name, const void *value, size_t size,
              struct bg_err *err)
{
    BG_AUTOCLOSE int dir = -1;
    int r = check_name(name, err);
    if (r == 0)
        r = secret_value_check(value, size, err);
    if (r == 0)
        r = open_folder(data_dir, /* make= */ true, &dir, err);
    if (r == 0)
        r = bg_write_file(dir, name, value, size, 0600, err);
    return r;
}

/* Straight into the locked memory: no copy stays behind anywhere else. */
static int read_value(int fd, size_t size, void **ret_value, bool *ret_locked, const char *name,
                      struct bg_err *err)
{
    void *value = locked_new(size, ret_locked);
    if (!value)
        return bg_err_errno(err, -ENOMEM, "secret %s", name);
    int r = bg_read_full(fd, value, size);
    if (r == 0)
        r = secret_value_check(value, size, err);
    else
        (void)bg_err_errno(err, r, "cannot read it");
    if (r < 0) {
        locked_free(value, size);
        (void)bg_err_prefix(err, "secret %s", name);
        return r;
    }
    *ret_value = value;
    return 0;
}

int store_get(const char *data_dir, const char *name, void **ret_value, size_t *ret_size,
              bool *ret_locked, struct bg_err *err)
{
    BG_AUTOCLOSE int dir = -1;
    int r = check_name(name, err);
    if (r == 0)
        r = open_folder(data_dir, /* make= */ false, &dir, err);
    if (r < 0)
        return r == -ENOENT ? no_such(name, err) : r;
    BG_AUTOCLOSE int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY);
    if (fd < 0)
        return errno == ENOENT ? no_such(name, err) : bg_err_errno(err, -errno, "secret %s", name);
    struct stat st;
    if (fstat(fd, &st) < 0)
        return bg_err_errno(err, -errno, "secret %s", name);
    if (!S_ISREG(st.st_mode) || (st.st_mode & 077) || st.st_uid != geteuid())
        return bg_err_set(err, -EPERM, "secret %s: its file may be read by others; set it anew",
                          name);
    if (st.st_size <= 0 || st.st_size > BG_SECRET_SIZE_MAX)
        return bg_err_set(err, -EINVAL, "secret %s: its file is damaged; set it anew", name);
    r = read_value(fd, (size_t)st.st_size, ret_value, ret_locked, name, err);
    if (r == 0)
        *ret_size = (size_t)st.st_size;
    return r;
}

int store_remove(const char *data_dir, const char *name, struct bg_err *err)
{
    BG_AUTOCLOSE int dir = -1;
    int r = check_name(name, err);
    if (r == 0)
        r = open_folder(data_dir, /* make= */ false, &dir, err);
    if (r == 0 && unlinkat(dir, name, 0) < 0)
        r = bg_err_errno(err, -errno, "secret %s", name);
    return r == -ENOENT
               ? bg_err_set(err, -ENOENT, "no secret '%s'; see 'bellglass secret ls'", name)
               : r;
}

void store_list_free(struct store_entry *entries, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(entries[i].name);
    free(entries);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct store_entry *)a)->name, ((const struct store_entry *)b)->name);
}

static int add_entry(int dir, const char *name, struct store_entry **entries, size_t *count)
{
    struct stat st;
    if (!secret_name_ok(name) || fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
        !S_ISREG(st.st_mode))
        return 0; /* a temporary file, or none of ours */
    struct store_entry *grown = reallocarray(*entries, *count + 1, sizeof *grown);
    if (!grown)
        return -ENOMEM;
    *entries = grown;
    char *copy = strdup(name);
    if (!copy)
        return -ENOMEM;
    grown[(*count)++] = (struct store_entry){
        .name = copy, .changed_ms = st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000};
    return 0;
}

int store_list(const char *data_dir, struct store_entry **ret, size_t *ret_count,
               struct bg_err *err)
{
    int fd;
    int r = open_folder(data_dir, /* make= */ false, &fd, err);
    if (r == -ENOENT) {
        *ret = NULL;
        *ret_count = 0;
        return 0;
    }
    if (r < 0)
        return r;
    DIR *folder = fdopendir(fd);
    if (!folder) {
        (void)close(fd); /* only looked at */
        return bg_err_errno(err, -ENOMEM, "secrets");
    }
    struct store_entry *entries = NULL;
    size_t count = 0;
    const struct dirent *entry;
    while (r == 0 && (entry = readdir(folder)))
        r = add_entry(fd, entry->d_name, &entries, &count);
    (void)closedir(folder); /* only looked at */
    if (r < 0) {
        store_list_free(entries, count);
        return bg_err_errno(err, r, "secrets");
    }
    if (count > 0)
        qsort(entries, count, sizeof *entries, by_name);
    *ret = entries;
    *ret_count = count;
    return 0;
}
