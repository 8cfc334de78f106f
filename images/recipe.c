#include "images/recipe.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cyaml/cyaml.h>

#include "common/checked.h"
#include "common/io.h"
#include "common/limits.h"
#include "common/quote.h"
#include "common/sha256.h"
#include "common/state/image.h"
#include "common/state/paths.h"

/* Raised when the builder itself comes to make something else of the same recipe, so that images
 * made before are not taken for it. */
#define FORMAT 1

#define DEFAULT_DISK   "10G"
#define DEFAULT_KERNEL "linux-image-cloud-amd64"

/* What libcyaml reports, gathered from its log. */
struct complaint {
    char text[160]; /* its first line: "Unexpected key: foo" */
    bool in_file;   /* it concerns an entry of `files` */
    unsigned line;  /* 0: unknown */
};

static const cyaml_schema_value_t text_schema = {
    CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char *, 1, RECIPE_SIZE_MAX),
};

static const cyaml_schema_field_t file_fields[] = {
    CYAML_FIELD_STRING_PTR("path", CYAML_FLAG_POINTER, struct recipe_file, path, 1,
                           BG_PATH_MAX - 1),
    CYAML_FIELD_STRING_PTR("mode", CYAML_FLAG_OPTIONAL, struct recipe_file, mode, 1, 5),
    CYAML_FIELD_STRING_PTR("owner", CYAML_FLAG_OPTIONAL, struct recipe_file, owner, 1, 32),
    CYAML_FIELD_STRING_PTR("content", CYAML_FLAG_OPTIONAL, struct recipe_file, content, 0,
                           RECIPE_SIZE_MAX),
    CYAML_FIELD_STRING_PTR("source", CYAML_FLAG_OPTIONAL, struct recipe_file, source, 1,
                           BG_PATH_MAX - 1),
    CYAML_FIELD_END,
};

static const cyaml_schema_value_t file_schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct recipe_file, file_fields),
};

/* Not CYAML_BOOL, which takes any word that is not a no for a yes. */
static const cyaml_strval_t yes_or_no[] = {{"false", 0}, {"no", 0}, {"true", 1}, {"yes", 1}};

static const cyaml_schema_field_t recipe_fields[] = {
    CYAML_FIELD_STRING_PTR("name", CYAML_FLAG_POINTER, struct recipe, name, 1, 63),
    CYAML_FIELD_STRING_PTR("suite", CYAML_FLAG_POINTER, struct recipe, suite, 1, 32),
    CYAML_FIELD_SEQUENCE("packages", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct recipe,
                         packages, &text_schema, 0, RECIPE_ITEMS_MAX),
    CYAML_FIELD_STRING_PTR("kernel", CYAML_FLAG_OPTIONAL, struct recipe, kernel, 1, 100),
    CYAML_FIELD_STRING_PTR("user", CYAML_FLAG_OPTIONAL, struct recipe, user, 1, 32),
    CYAML_FIELD_STRING_PTR("disk", CYAML_FLAG_OPTIONAL, struct recipe, disk, 1, 20),
    CYAML_FIELD_ENUM("docs", CYAML_FLAG_OPTIONAL | CYAML_FLAG_STRICT, struct recipe, docs,
                     yes_or_no, sizeof yes_or_no / sizeof yes_or_no[0]),
    CYAML_FIELD_SEQUENCE("files", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct recipe, files,
                         &file_schema, 0, RECIPE_ITEMS_MAX),
    CYAML_FIELD_SEQUENCE("run", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct recipe, run,
                         &text_schema, 0, RECIPE_ITEMS_MAX),
    CYAML_FIELD_END,
};

static const cyaml_schema_value_t recipe_schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct recipe, recipe_fields),
};

static void keep_complaint(cyaml_log_t level, void *arg, const char *format, va_list args)
    __attribute__((format(printf, 3, 0)));

/* libcyaml's log: the reason first, then a backtrace of "in mapping field 'files' (line: 3, ...".
 */
static void keep_complaint(cyaml_log_t level, void *arg, const char *format, va_list args)
{
    struct complaint *complaint = arg;
    char line[256];
    (void)level; /* only errors are asked for */
    (void)vsnprintf(line, sizeof line, format, args);
    line[strcspn(line, "\n")] = '\0';
    const char *text = strncmp(line, "Load: ", 6) == 0 ? line + 6 : line;
    if (!complaint->text[0])
        (void)snprintf(complaint->text, sizeof complaint->text, "%.150s", text);
    if (strstr(text, "'files'"))
        complaint->in_file = true;
    const char *number = strstr(text, "line: ");
    if (number && complaint->line == 0)
        complaint->line = (unsigned)strtoul(number + 6, NULL, 10);
}

static void list_keys(const cyaml_schema_field_t *field, char *out, size_t out_size)
{
    size_t used = 0;
    out[0] = '\0';
    for (; field->key; field++) {
        int n = snprintf(out + used, out_size - used, "%s%s", used ? ", " : "", field->key);
        if (n < 0 || (size_t)n >= out_size - used)
            return;
        used += (size_t)n;
    }
}

/* The line of text that a key stands on: libcyaml gives that of the value before it. 0: not found.
 */
static unsigned find_key(const char *text, size_t size, const char *key)
{
    unsigned number = 1;
    size_t key_size = strlen(key);
    for (const char *line = text, *end = text + size; line < end; number++) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        const char *at = line;
        while (at < end && strchr(" \t-\"'", *at))
            at++;
        if ((size_t)(end - at) > key_size && memcmp(at, key, key_size) == 0 &&
            strchr(": \"'", at[key_size]))
            return number;
        line = stop ? stop + 1 : end;
    }
    return 0;
}

static int explain(cyaml_err_t code, const struct complaint *complaint, const char *text,
                   size_t size, struct bg_err *err)
{
    static const char unknown_key[] = "Unexpected key: ";
    char reason[sizeof complaint->text * 4], keys[128], where[32] = "";
    unsigned line = complaint->line;
    bg_escape(complaint->text, strlen(complaint->text), reason, sizeof reason);
    if (code == CYAML_ERR_INVALID_KEY &&
        strncmp(complaint->text, unknown_key, strlen(unknown_key)) == 0)
        line = find_key(text, size, complaint->text + strlen(unknown_key));
    if (line > 0)
        (void)snprintf(where, sizeof where, "line %u: ", line);
    if (code == CYAML_ERR_OOM)
        return bg_err_errno(err, -ENOMEM, "recipe");
    if (code != CYAML_ERR_INVALID_KEY)
        return bg_err_set(err, -EINVAL, "%s%s", where, reason[0] ? reason : cyaml_strerror(code));
    list_keys(complaint->in_file ? file_fields : recipe_fields, keys, sizeof keys);
    return bg_err_set(err, -EINVAL, "%s%s; the keys %s are: %s", where, reason,
                      complaint->in_file ? "of a file" : "of a recipe", keys);
}

static bool consists_of(const char *text, const char *first, const char *later)
{
    return text[0] && strchr(first, text[0]) && strspn(text, later) == strlen(text);
}

#define LOWER  "abcdefghijklmnopqrstuvwxyz"
#define DIGITS "0123456789"

static bool package_ok(const char *name)
{
    return consists_of(name, LOWER DIGITS, LOWER DIGITS "+-.") && strlen(name) <= 100;
}

static bool path_ok(const char *path)
{
    if (path[0] != '/' || path[strlen(path) - 1] == '/' || strchr(path, '\n'))
        return false;
    for (const char *at = path; at; at = strchr(at + 1, '/'))
        if (strncmp(at, "//", 2) == 0 || strcmp(at, "/..") == 0 || strncmp(at, "/../", 4) == 0 ||
            strcmp(at, "/.") == 0 || strncmp(at, "/./", 3) == 0)
            return false;
    return true;
}

static int bad(struct bg_err *err, const char *key, const char *value, const char *want)
{
    char quoted[200];
    return bg_err_set(err, -EINVAL, "%s: %s: %s", key, bg_quote(value, quoted, sizeof quoted),
                      want);
}

static int hash_source(const struct recipe *recipe, struct recipe_file *file, struct bg_err *err)
{
    if (!recipe->folder)
        return bad(err, "files: source", file->source, "not possible in a recipe without a folder");
    BG_AUTOFREE char *path = NULL;
    if (asprintf(&path, "%s%s%s", file->source[0] == '/' ? "" : recipe->folder,
                 file->source[0] == '/' ? "" : "/", file->source) < 0)
        return bg_err_errno(err, -ENOMEM, "recipe");
    struct stat st;
    if (stat(path, &st) < 0)
        return bg_err_errno(err, -errno, "files: source: %s", path);
    if (!S_ISREG(st.st_mode) || st.st_size > RECIPE_SOURCE_MAX)
        return bad(err, "files: source", path, "must be a file of at most 64 MiB");
    int r = bg_sha256_file(AT_FDCWD, path, file->sha256, NULL, err);
    if (r < 0)
        return bg_err_prefix(err, "files: source");
    free(file->source);
    file->source = BG_TAKE(path);
    return 0;
}

static int check_file(const struct recipe *recipe, struct recipe_file *file, struct bg_err *err)
{
    if (!path_ok(file->path))
        return bad(err, "files: path", file->path, "give an absolute path without '..'");
    if (file->mode &&
        (strspn(file->mode, "01234567") != strlen(file->mode) || strlen(file->mode) < 3))
        return bad(err, "files: mode", file->mode, "give three or four octal digits, quoted");
    if (file->owner && strcmp(file->owner, "root") != 0 &&
        (!recipe->user || strcmp(file->owner, recipe->user) != 0))
        return bad(err, "files: owner", file->owner, "must be root or the recipe's user");
    if (!file->content == !file->source)
        return bad(err, "files", file->path, "needs either content or source");
    if (file->source)
        return hash_source(recipe, file, err);
    bg_sha256_hex(file->content, strlen(file->content), file->sha256);
    return 0;
}

static int check(struct recipe *recipe, struct bg_err *err)
{
    static const char name_rule[] = "a name of a-z, 0-9 and '-' is needed";
    if (!bg_image_name_ok(recipe->name))
        return bad(err, "name", recipe->name, "up to 63 of a-z, 0-9, '.', '_', '-' are possible");
    if (!consists_of(recipe->suite, LOWER, LOWER DIGITS "-"))
        return bad(err, "suite", recipe->suite, "give a release of Debian, such as bookworm");
    if (recipe->kernel && (!package_ok(recipe->kernel) ||
                           strncmp(recipe->kernel, "linux-image-", strlen("linux-image-")) != 0))
        return bad(err, "kernel", recipe->kernel, "give a package linux-image-...");
    if (recipe->user && !consists_of(recipe->user, LOWER "_", LOWER DIGITS "_-"))
        return bad(err, "user", recipe->user, name_rule);
    if (bg_parse_bytes(recipe->disk ? recipe->disk : DEFAULT_DISK, RECIPE_DISK_MIN, RECIPE_DISK_MAX,
                       &recipe->disk_bytes) < 0 ||
        recipe->disk_bytes % (1024 * 1024) != 0)
        return bad(err, "disk", recipe->disk, "give a size such as 10G, from 1G to 4T");
    for (unsigned i = 0; i < recipe->packages_count; i++)
        if (!package_ok(recipe->packages[i]))
            return bad(err, "packages", recipe->packages[i], "not a name of a Debian package");
    for (unsigned i = 0; i < recipe->files_count; i++) {
        int r = check_file(recipe, &recipe->files[i], err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int by_name(const void *left, const void *right)
{
    return strcmp(*(char *const *)left, *(char *const *)right);
}

/* Sorts the packages, since their order means nothing, and drops what is there twice. */
static void tidy_packages(struct recipe *recipe)
{
    if (recipe->packages_count == 0)
        return;
    qsort(recipe->packages, recipe->packages_count, sizeof *recipe->packages, by_name);
    unsigned kept = 1;
    for (unsigned i = 1; i < recipe->packages_count; i++) {
        if (strcmp(recipe->packages[i], recipe->packages[kept - 1]) == 0)
            free(recipe->packages[i]);
        else
            recipe->packages[kept++] = recipe->packages[i];
    }
    recipe->packages_count = kept;
}

static json_t *strings_json(char *const *strings, unsigned count)
{
    json_t *array = json_array();
    for (unsigned i = 0; array && i < count; i++)
        if (json_array_append_new(array, json_string(strings[i])) < 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}

static json_t *files_json(const struct recipe *recipe)
{
    json_t *array = json_array();
    for (unsigned i = 0; array && i < recipe->files_count; i++) {
        const struct recipe_file *file = &recipe->files[i];
        json_t *entry = json_pack("{s:s, s:s, s:s, s:s}", "path", file->path, "mode",
                                  file->mode ? file->mode : "0644", "owner",
                                  file->owner ? file->owner : "root", "sha256", file->sha256);
        if (json_array_append_new(array, entry) < 0) { /* also when entry is NULL */
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static int make_canonical(struct recipe *recipe, struct bg_err *err)
{
    recipe->canonical =
        json_pack("{s:i, s:s, s:o, s:s, s:s, s:I, s:b, s:o, s:o}", "format", FORMAT, "suite",
                  recipe->suite, "packages", strings_json(recipe->packages, recipe->packages_count),
                  "kernel", recipe->kernel ? recipe->kernel : DEFAULT_KERNEL, "user",
                  recipe->user ? recipe->user : "root", "disk_bytes",
                  (json_int_t)recipe->disk_bytes, "docs", recipe->docs, "files", files_json(recipe),
                  "run", strings_json(recipe->run, recipe->run_count));
    /* The parser let only UTF-8 pass, so a failure is a lack of memory. */
    return recipe->canonical ? 0 : bg_err_errno(err, -ENOMEM, "recipe");
}

static const cyaml_config_t quiet_config = {
    .mem_fn = cyaml_mem,
    .log_fn = keep_complaint,
    .log_level = CYAML_LOG_ERROR,
    .flags = CYAML_CFG_NO_ALIAS,
};

int recipe_parse(const char *text, size_t size, const char *folder, struct recipe **ret,
                 struct bg_err *err)
{
    struct complaint complaint = {0};
    struct recipe *recipe = NULL;
    cyaml_config_t config = quiet_config;
    config.log_ctx = &complaint;
    if (memchr(text, '\0', size))
        return bg_err_set(err, -EINVAL, "not a text: it has a NUL");
    cyaml_err_t code = cyaml_load_data((const uint8_t *)text, size, &config, &recipe_schema,
                                       (cyaml_data_t **)&recipe, NULL);
    if (code != CYAML_OK)
        return explain(code, &complaint, text, size, err);
    if (!recipe)
        return bg_err_set(err, -EINVAL, "the recipe is empty");
    if (recipe->user && strcmp(recipe->user, "root") == 0) { /* the same as none */
        free(recipe->user);
        recipe->user = NULL;
    }
    int r = 0;
    if (folder) {
        recipe->folder = strdup(folder);
        r = recipe->folder ? 0 : bg_err_errno(err, -ENOMEM, "recipe");
    }
    if (r == 0)
        r = check(recipe, err);
    if (r == 0) {
        tidy_packages(recipe);
        r = make_canonical(recipe, err);
    }
    if (r < 0) {
        recipe_free(recipe);
        return r;
    }
    *ret = recipe;
    return 0;
}

void recipe_free(struct recipe *recipe)
{
    if (!recipe)
        return;
    free(recipe->folder);
    json_decref(recipe->canonical);
    /* Fails only on a wrong schema, which is ours. */
    (void)cyaml_free(&quiet_config, &recipe_schema, recipe, 0);
}

static int find_recipe(const char *name, char **ret_path, struct bg_err *err)
{
    size_t size = strlen(name);
    char quoted[128];
    if (strchr(name, '/') || (size > 5 && strcmp(name + size - 5, ".yaml") == 0)) {
        *ret_path = strdup(name);
        return *ret_path ? 0 : bg_err_errno(err, -ENOMEM, "recipe");
    }
    static const char *const folders[] = {"", "recipes/"};
    for (size_t i = 0; bg_image_name_ok(name) && i < 2; i++) {
        char file[128];
        (void)snprintf(file, sizeof file, "%s%s.yaml", folders[i], name);
        if (bg_data_path(file, ret_path, NULL) == 0)
            return 0;
    }
    return bg_err_set(err, -ENOENT,
                      "recipe %s: no such recipe; give the path of a .yaml file, or 'debian'",
                      bg_quote(name, quoted, sizeof quoted));
}

int recipe_load(const char *name, struct recipe **ret, struct bg_err *err)
{
    BG_AUTOFREE char *path = NULL;
    BG_AUTOFREE char *text = NULL;
    size_t size;
    int r = find_recipe(name, &path, err);
    if (r < 0)
        return r;
    r = bg_read_file(AT_FDCWD, path, RECIPE_SIZE_MAX, &text, &size, err);
    if (r < 0)
        return bg_err_prefix(err, "recipe");
    BG_AUTOFREE char *folder = strdup(path);
    if (!folder)
        return bg_err_errno(err, -ENOMEM, "recipe");
    char *slash = strrchr(folder, '/');
    if (slash)
        slash[slash == folder] = '\0'; /* the root folder keeps its slash */
    r = recipe_parse(text, size, slash ? folder : ".", ret, err);
    return r < 0 ? bg_err_prefix(err, "recipe '%s'", path) : 0;
}
