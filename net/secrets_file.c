#include "net/secrets_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io.h"
#include "common/limits.h"
#include "net/locked.h"
#include "net/secrets.h"

/* One line, inside of the file's memory. */
struct entry {
    const char *name, *value;
    size_t name_size, value_size;
    unsigned line;
};

/* Moves *at behind the next line that says something. Returns false at the end. A line without '='
 * has no value (NULL). */
static bool next_entry(const struct secrets_file *file, size_t *at, struct entry *entry)
{
    const char *bytes = file->bytes;
    while (*at < file->size) {
        const char *line = bytes + *at, *end = memchr(line, '\n', file->size - *at);
        size_t size = end ? (size_t)(end - line) : file->size - *at;
        *at += size + (end ? 1 : 0);
        entry->line++;
        if (size == 0 || line[0] == '#')
            continue;
        const char *equals = memchr(line, '=', size);
        entry->name = line;
        entry->name_size = equals ? (size_t)(equals - line) : size;
        entry->value = equals ? equals + 1 : NULL;
        entry->value_size = equals ? size - entry->name_size - 1 : 0;
        return true;
    }
    return false;
}

static bool same_name(const struct entry *entry, const char *name)
{
    return strlen(name) == entry->name_size && memcmp(name, entry->name, entry->name_size) == 0;
}

/* Errors name the line and never what is in it: it may be a value that was put there by mistake. */
static int check(const struct secrets_file *file, struct bg_err *err)
{
    struct entry entry = {0}, other;
    for (size_t at = 0; next_entry(file, &at, &entry);) {
        char name[130];
        struct bg_err why;
        if (!entry.value || entry.name_size >= sizeof name)
            return bg_err_set(err, -EINVAL, "line %u: want NAME=VALUE", entry.line);
        memcpy(name, entry.name, entry.name_size);
        name[entry.name_size] = '\0';
        if (strlen(name) != entry.name_size || !secret_name_ok(name))
            return bg_err_set(err, -EINVAL,
                              "line %u: want NAME=VALUE, a name of letters, digits and _",
                              entry.line);
        if (secret_value_check(entry.value, entry.value_size, &why) < 0)
            return bg_err_set(err, -EINVAL, "line %u: %s: %s", entry.line, name, why.text);
        other = (struct entry){0};
        for (size_t k = 0; next_entry(file, &k, &other) && other.line < entry.line;)
            if (same_name(&other, name))
                return bg_err_set(err, -EINVAL, "line %u: %s is in line %u already", entry.line,
                                  name, other.line);
    }
    return 0;
}

static int read_all(int fd, struct secrets_file *file, bool *ret_locked, struct bg_err *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return bg_err_errno(err, -errno, "cannot read it");
    if (!S_ISREG(st.st_mode) || (st.st_mode & 077) || st.st_uid != geteuid())
        return bg_err_set(err, -EPERM,
                          "must be a file of yours that nobody else can read (chmod 600)");
    if (st.st_size > BG_SECRETS_FILE_MAX)
        return bg_err_set(err, -EFBIG, "larger than %d bytes", BG_SECRETS_FILE_MAX);
    if (st.st_size == 0)
        return 0;
    file->bytes = locked_new((size_t)st.st_size, ret_locked);
    if (!file->bytes)
        return bg_err_errno(err, -ENOMEM, "cannot read it");
    file->size = (size_t)st.st_size;
    int r = bg_read_full(fd, file->bytes, file->size);
    return r < 0 ? bg_err_errno(err, r, "cannot read it") : check(file, err);
}

int secrets_file_open(const char *path, struct secrets_file *ret, bool *ret_locked,
                      struct bg_err *err)
{
    struct secrets_file file = {0};
    BG_AUTOCLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    int r =
        fd < 0 ? bg_err_errno(err, -errno, "cannot open it") : read_all(fd, &file, ret_locked, err);
    if (r < 0) {
        secrets_file_close(&file);
        (void)bg_err_prefix(err, "secrets file %s", path);
        return r;
    }
    *ret = file;
    return 0;
}

void secrets_file_close(struct secrets_file *file)
{
    locked_free(file->bytes, file->size);
    *file = (struct secrets_file){0};
}

int secrets_file_get(const struct secrets_file *file, const char *name, void **ret_value,
                     size_t *ret_size)
{
    struct entry entry = {0};
    for (size_t at = 0; next_entry(file, &at, &entry);) {
        if (!entry.value || !same_name(&entry, name))
            continue;
        void *value = locked_new(entry.value_size, NULL);
        if (!value)
            return -ENOMEM;
        memcpy(value, entry.value, entry.value_size);
        *ret_value = value;
        *ret_size = entry.value_size;
        return 0;
    }
    return -ENOENT;
}
