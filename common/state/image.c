#include "common/state/image.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/limits.h"
#include "common/quote.h"

#define DIGEST_DIGITS     64
#define DIGEST_PREFIX_MIN 6
#define IMAGE_NAME_MAX    63

static const char hex_digits[] = "0123456789abcdef";
static const char *const image_files[] = {BG_IMAGE_DISK, BG_IMAGE_KERNEL, BG_IMAGE_MODULES};

bool bg_image_name_ok(const char *name)
{
    static const char first[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    static const char later[] = "abcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t size = strlen(name);
    return size >= 1 && size <= IMAGE_NAME_MAX && strchr(first, name[0]) &&
           strspn(name, later) == size;
}

static bool is_digest(const char *text)
{
    return strlen(text) == DIGEST_DIGITS && strspn(text, hex_digits) == DIGEST_DIGITS;
}

/* Opens DATA/images. Errors: -ENOENT there is none yet (no text set). */
static int open_store(const struct bg_paths *paths, int *ret_fd, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s/images", paths->data) < 0)
        return bg_err_errno(err, -ENOMEM, "images");
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return -ENOENT;
    if (fd < 0)
        return bg_err_errno(err, -errno, "%s", path);
    *ret_fd = fd;
    return 0;
}

/* Names in a folder below store_fd that pass the filter: heap array of heap strings, sorted. A
 * folder that is not there has none. */
static int list_names(int store_fd, const char *folder, bool (*wanted)(const char *name),
                      char ***ret_names, size_t *ret_count, struct bg_err *err)
{
    struct dirent **entries = NULL;
    int count = scandirat(store_fd, folder, &entries, NULL, alphasort);
    if (count < 0 && errno == ENOENT) {
        *ret_names = NULL;
        *ret_count = 0;
        return 0;
    }
    if (count < 0)
        return bg_err_errno(err, -errno, "images: %s", folder);
    char **names = calloc((size_t)count + 1, sizeof *names);
    size_t kept = 0;
    int r = names ? 0 : -ENOMEM;
    for (int i = 0; i < count; i++) {
        if (r == 0 && wanted(entries[i]->d_name)) {
            names[kept] = strdup(entries[i]->d_name);
            r = names[kept] ? 0 : -ENOMEM;
            kept += names[kept] != NULL;
        }
        free(entries[i]);
    }
    free(entries);
    if (r < 0) {
        for (size_t i = 0; i < kept; i++)
            free(names[i]);
        free(names);
        return bg_err_errno(err, r, "images: %s", folder);
    }
    *ret_names = names;
    *ret_count = kept;
    return 0;
}

static void names_free(char **names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(names[i]);
    free(names);
}

/* The digest that a tag points to. Errors: -ENOENT no such tag (no text set); -EUCLEAN. */
static int read_tag(int store_fd, const char *name, char ret_digest[DIGEST_DIGITS + 1],
                    struct bg_err *err)
{
    char path[sizeof "tags/" + IMAGE_NAME_MAX];
    (void)snprintf(path, sizeof path, "tags/%s", name); /* fits: the name was checked */
    char target[sizeof "../" + DIGEST_DIGITS + 1];
    ssize_t n = readlinkat(store_fd, path, target, sizeof target);
    if (n < 0 && errno == ENOENT)
        return -ENOENT;
    if (n == sizeof "../" - 1 + DIGEST_DIGITS) {
        target[n] = '\0';
        if (strncmp(target, "../", 3) == 0 && is_digest(target + 3)) {
            memcpy(ret_digest, target + 3, DIGEST_DIGITS + 1);
            return 0;
        }
    }
    return bg_err_set(err, -EUCLEAN,
                      "image '%s': its tag is damaged; remove it with `bellglass image rm %s` and "
                      "build or import the image again",
                      name, name);
}

/* Sets *ret_name to a heap copy of the first tag that points to the digest, or "". */
static int find_tag_of(int store_fd, const char *digest, char **ret_name, struct bg_err *err)
{
    char **names;
    size_t count;
    int r = list_names(store_fd, "tags", bg_image_name_ok, &names, &count, err);
    if (r < 0)
        return r;
    const char *found = "";
    for (size_t i = 0; i < count && !found[0]; i++) {
        char target[DIGEST_DIGITS + 1];
        if (read_tag(store_fd, names[i], target, NULL) == 0 && strcmp(target, digest) == 0)
            found = names[i];
    }
    char *name = strdup(found);
    names_free(names, count);
    if (!name)
        return bg_err_errno(err, -ENOMEM, "image");
    *ret_name = name;
    return 0;
}

/* A string of the manifest that must be there and consist of the given characters only. */
static bool take_text(const json_t *object, const char *key, const char *characters, char **ret)
{
    const char *text = json_string_value(json_object_get(object, key));
    if (!text || !text[0] || strlen(text) > BG_NAME_MAX || strspn(text, characters) != strlen(text))
        return false;
    *ret = strdup(text);
    return *ret;
}

static bool take_number(const json_t *object, const char *key, uint64_t *ret)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *ret = (uint64_t)json_integer_value(value);
    return true;
}

static bool take_manifest(struct bg_image *image)
{
    static const char release_characters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.+~_-";
    static const char user_characters[] = "abcdefghijklmnopqrstuvwxyz0123456789_-";
    uint64_t version;
    const char *digest = json_string_value(json_object_get(image->manifest, "digest"));
    return take_number(image->manifest, "version", &version) && version == 1 && digest &&
           strcmp(digest, image->digest) == 0 &&
           take_number(image->manifest, "created_ms", &image->created_ms) &&
           take_number(image->manifest, "virtual_bytes", &image->virtual_bytes) &&
           take_text(image->manifest, "kernel_release", release_characters,
                     &image->kernel_release) &&
           take_text(image->manifest, "user", user_characters, &image->user);
}

/* Compares the files with the sizes that the manifest gives. */
static int check_files(int dir_fd, struct bg_image *image, struct bg_err *err)
{
    const json_t *files = json_object_get(image->manifest, "files");
    for (size_t i = 0; i < sizeof image_files / sizeof image_files[0]; i++) {
        const char *file = image_files[i];
        uint64_t size;
        if (!take_number(json_object_get(files, file), "size", &size))
            return bg_err_set(err, -EUCLEAN, "%s does not say the size of %s", BG_IMAGE_MANIFEST,
                              file);
        struct stat st;
        if (fstatat(dir_fd, file, &st, AT_SYMLINK_NOFOLLOW) < 0)
            return errno == ENOENT ? bg_err_set(err, -EUCLEAN, "%s is missing", file)
                                   : bg_err_errno(err, -errno, "%s", file);
        if (!S_ISREG(st.st_mode))
            return bg_err_set(err, -EUCLEAN, "%s is not a file", file);
        if ((uint64_t)st.st_size != size)
            return bg_err_set(err, -EUCLEAN, "%s has %jd bytes, not %ju", file,
                              (intmax_t)st.st_size, (uintmax_t)size);
        image->stored_bytes += size;
    }
    return 0;
}

static int load_from_folder(int dir_fd, struct bg_image *image, struct bg_err *err)
{
    BG_AUTOFREE char *text = NULL;
    size_t size;
    int r = bg_read_file(dir_fd, BG_IMAGE_MANIFEST, BG_MANIFEST_MAX, &text, &size, err);
    if (r == -ENOENT || r == -EFBIG)
        return bg_err_set(err, -EUCLEAN, "%s is %s", BG_IMAGE_MANIFEST,
                          r == -ENOENT ? "missing" : "too large");
    if (r < 0)
        return r;
    json_error_t where;
    image->manifest = json_loadb(text, size, JSON_REJECT_DUPLICATES, &where);
    if (!image->manifest)
        return bg_err_set(err, -EUCLEAN, "%s: line %d: not the JSON that was written",
                          BG_IMAGE_MANIFEST, where.line);
    if (!take_manifest(image))
        return bg_err_set(err, -EUCLEAN, "%s: a field is missing or wrong", BG_IMAGE_MANIFEST);
    return check_files(dir_fd, image, err);
}

/* Reads DATA/images/DIGEST. name: the tag it was asked for by, or NULL. label: how errors call the
 * image. */
static int load(const struct bg_paths *paths, int store_fd, const char *digest, const char *name,
                const char *label, struct bg_image *ret, struct bg_err *err)
{
    struct bg_image image = {0};
    memcpy(image.digest, digest, DIGEST_DIGITS + 1);
    int r = 0;
    if (asprintf(&image.dir, "%s/images/%s", paths->data, digest) < 0) {
        image.dir = NULL;
        r = bg_err_errno(err, -ENOMEM, "image '%s'", label);
    }
    if (r == 0 && name) {
        image.name = strdup(name);
        r = image.name ? 0 : bg_err_errno(err, -ENOMEM, "image '%s'", label);
    } else if (r == 0) {
        r = find_tag_of(store_fd, digest, &image.name, err);
    }
    BG_AUTOCLOSE int dir_fd = -1;
    if (r == 0) {
        dir_fd = openat(store_fd, digest, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (dir_fd < 0)
            r = errno == ENOENT ? bg_err_set(err, -EUCLEAN, "its files are gone")
                                : bg_err_errno(err, -errno, "%s", image.dir);
        else
            r = load_from_folder(dir_fd, &image, err);
        if (r == -EUCLEAN) {
            struct bg_err damage = err ? *err : (struct bg_err){0};
            (void)bg_err_set(err, r,
                             "image '%s' is damaged: %s; remove it with `bellglass image rm %s` "
                             "and build or import it again",
                             label, damage.text, label);
        }
    }
    if (r < 0) {
        bg_image_done(&image);
        return r;
    }
    *ret = image;
    return 0;
}

static int find_prefix(int store_fd, const char *prefix, char ret_digest[DIGEST_DIGITS + 1],
                       struct bg_err *err)
{
    char **digests;
    size_t count;
    int r = list_names(store_fd, ".", is_digest, &digests, &count, err);
    if (r < 0)
        return r;
    size_t found = 0;
    for (size_t i = 0; i < count; i++) {
        if (strncmp(digests[i], prefix, strlen(prefix)) != 0)
            continue;
        memcpy(ret_digest, digests[i], DIGEST_DIGITS + 1);
        found++;
    }
    names_free(digests, count);
    if (found > 1)
        return bg_err_set(err, -EINVAL, "image '%s': %zu images begin so; give more digits", prefix,
                          found);
    return found == 1 ? 0 : -ENOENT;
}

int bg_image_resolve(const struct bg_paths *paths, const char *name, char ret_digest[65],
                     bool *ret_tagged, struct bg_err *err)
{
    char quoted[128];
    if (!bg_image_name_ok(name) && !is_digest(name))
        return bg_err_set(err, -EINVAL,
                          "image %s: not a name or digest; names are up to %d of a-z, 0-9, '.', "
                          "'_', '-'",
                          bg_quote(name, quoted, sizeof quoted), IMAGE_NAME_MAX);
    BG_AUTOCLOSE int store_fd = -1;
    int r = open_store(paths, &store_fd, err);
    bool tagged = false;
    if (r == 0 && bg_image_name_ok(name)) {
        r = read_tag(store_fd, name, ret_digest, err);
        tagged = r == 0;
    } else if (r == 0) {
        r = -ENOENT;
    }
    if (r == -ENOENT && store_fd >= 0 && strlen(name) >= DIGEST_PREFIX_MIN &&
        strspn(name, hex_digits) == strlen(name))
        r = find_prefix(store_fd, name, ret_digest, err);
    if (r == -ENOENT)
        return bg_err_set(err, r,
                          "image '%s': no such image; `bellglass image ls` lists them, `bellglass "
                          "image build` makes 'debian'",
                          name);
    if (r == 0)
        *ret_tagged = tagged;
    return r;
}

int bg_image_find(const struct bg_paths *paths, const char *name, struct bg_image *ret,
                  struct bg_err *err)
{
    char digest[DIGEST_DIGITS + 1];
    bool tagged;
    int r = bg_image_resolve(paths, name, digest, &tagged, err);
    if (r < 0)
        return r;
    BG_AUTOCLOSE int store_fd = -1;
    r = open_store(paths, &store_fd, err);
    if (r < 0)
        return bg_err_errno(err, r, "image '%s'", name);
    return load(paths, store_fd, digest, tagged ? name : NULL, name, ret, err);
}

void bg_image_done(struct bg_image *image)
{
    free(image->name);
    free(image->dir);
    free(image->kernel_release);
    free(image->user);
    json_decref(image->manifest);
    *image = (struct bg_image){0};
}

static int newest_first(const void *left, const void *right)
{
    const struct bg_image *a = left, *b = right;
    if (a->created_ms != b->created_ms)
        return a->created_ms < b->created_ms ? 1 : -1;
    return strcmp(a->digest, b->digest);
}

int bg_image_list(const struct bg_paths *paths, struct bg_image **ret, size_t *ret_count,
                  size_t *ret_damaged, struct bg_err *err)
{
    BG_AUTOCLOSE int store_fd = -1;
    char **digests = NULL;
    size_t digest_count = 0, count = 0, damaged = 0;
    int r = open_store(paths, &store_fd, err);
    if (r == 0)
        r = list_names(store_fd, ".", is_digest, &digests, &digest_count, err);
    else if (r == -ENOENT)
        r = 0; /* nothing was ever built */
    if (r < 0)
        return r;
    struct bg_image *images = calloc(digest_count + 1, sizeof *images);
    if (!images)
        r = bg_err_errno(err, -ENOMEM, "images");
    for (size_t i = 0; r == 0 && i < digest_count; i++) {
        r = load(paths, store_fd, digests[i], NULL, digests[i], &images[count], err);
        if (r == -EUCLEAN) {
            damaged++;
            r = 0;
        } else if (r == 0) {
            count++;
        }
    }
    names_free(digests, digest_count);
    if (r < 0) {
        bg_image_list_free(images, count);
        return r;
    }
    qsort(images, count, sizeof *images, newest_first);
    *ret = images;
    *ret_count = count;
    *ret_damaged = damaged;
    return 0;
}

void bg_image_list_free(struct bg_image *images, size_t count)
{
    for (size_t i = 0; i < count; i++)
        bg_image_done(&images[i]);
    free(images);
}
