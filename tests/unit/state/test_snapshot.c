#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/io.h"
#include "common/sha256.h"
#include "common/state/folder.h"
#include "common/state/resume.h"
#include "common/state/snapshot.h"
#include "tests/unit/state/home.h"

#define DIGEST "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define GOLDEN "golden-00112233445566778899aabbccddeeff.01234567"
#define ID_A   "aaaaaaaaaaaaaaaa"
#define ID_B   "bbbbbbbbbbbbbbbb"
#define ID_M   "cccccccccccccccc"

/* --- what is there to begin with --- */

static void put(int dir_fd, const char *name, const char *text)
{
    BG_AUTOCLOSE int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(bg_write_full(fd, text, strlen(text)), 0);
}

static struct bg_sandbox make_sandbox(struct fixture *f, const char *name)
{
    struct bg_sandbox s = {.name = strdup(name),
                           .image_name = strdup("debian"),
                           .image_digest = strdup(DIGEST),
                           .cpus = 1,
                           .memory_bytes = 512u << 20};
    struct bg_err err;
    assert_int_equal(bg_sandbox_create(&f->paths, &s, &err), 0);
    return s;
}

static int folder_of(const struct bg_sandbox *s)
{
    int fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void save_disk(int dir_fd, bool top, const char *first, const char *second)
{
    struct bg_disk disk = {.golden = strdup(GOLDEN), .top = top};
    struct bg_err err;
    assert_int_equal(bg_disk_push(&disk, first, BG_DISK_FIRST, &err), 0);
    if (second)
        assert_int_equal(bg_disk_push(&disk, second, NULL, &err), 0);
    assert_int_equal(bg_disk_save(dir_fd, &disk, &err), 0);
    bg_disk_done(&disk);
}

/* A sandbox that has run and stopped. */
static struct bg_sandbox stopped(struct fixture *f, const char *name)
{
    struct bg_sandbox s = make_sandbox(f, name);
    BG_AUTOCLOSE int dir = folder_of(&s);
    put(dir, BG_DISK_FIRST, "disk of web");
    save_disk(dir, true, ID_A, NULL);
    return s;
}

/* A manifest of a full one with a layer each, whose files are in dir_fd. */
static struct bg_snapshot full(int dir_fd, const char *name, enum bg_snapshot_kind kind)
{
    struct bg_snapshot s = {.id = "0123456789abcdef",
                            .tag = strdup(kind == BG_SNAPSHOT_SUSPEND ? "" : "1"),
                            .note = strdup("before \xc3\xa4"),
                            .created_ms = 1700000000000,
                            .kind = kind,
                            .source_name = strdup(name),
                            .source_id = "sbx_0123456789abcdefghij",
                            .image_name = strdup("debian"),
                            .image_digest = strdup(DIGEST),
                            .golden = strdup(GOLDEN),
                            .cpus = 2,
                            .memory_bytes = 512u << 20,
                            .qemu = "7.2.0",
                            .accel = "tcg",
                            .memory = {{.id = ID_M}},
                            .memory_count = 1,
                            .disk = {{.id = ID_A}},
                            .disk_count = 1,
                            .next_stream = 17,
                            .dirty_bytes = 4096,
                            .sandbox = json_pack("{s:s}", "name", name)};
    struct bg_err err;
    put(dir_fd, BG_SNAPSHOT_STATE, "devices");
    put(dir_fd, "memory-" ID_M ".mem", "pages");
    s.state_size = 7;
    bg_sha256_hex("devices", 7, s.state_sha256);
    assert_int_equal(bg_layer_measure(dir_fd, "memory-" ID_M ".mem", &s.memory[0], &err), 0);
    return s;
}

/* One that was suspended. */
static struct bg_sandbox suspended(struct fixture *f, const char *name)
{
    struct bg_sandbox s = stopped(f, name);
    struct bg_err err;
    BG_AUTOCLOSE int dir = folder_of(&s);
    save_disk(dir, false, ID_A, NULL);
    assert_int_equal(mkdirat(dir, BG_RESUME_FOLDER, 0700), 0);
    BG_AUTOCLOSE int resume = openat(dir, BG_RESUME_FOLDER, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct bg_snapshot m = full(resume, name, BG_SNAPSHOT_SUSPEND);
    assert_int_equal(bg_layer_measure(dir, BG_DISK_FIRST, &m.disk[0], &err), 0);
    assert_int_equal(bg_snapshot_write(resume, &m, &err), 0);
    bg_snapshot_done(&m);
    return s;
}

static int begin(struct fixture *f, char **ret_temp)
{
    int fd;
    struct bg_err err;
    assert_int_equal(bg_snapshot_begin(&f->paths, &fd, ret_temp, &err), 0);
    return fd;
}

/* A whole one in the store; its name: heap. */
static char *committed(struct fixture *f, const char *name, const char *tag)
{
    BG_AUTOFREE char *temp = NULL;
    char *ret = NULL;
    struct bg_err err;
    BG_AUTOCLOSE int fd = begin(f, &temp);
    struct bg_snapshot s = full(fd, name, BG_SNAPSHOT_FULL);
    put(fd, "disk-" ID_A ".qcow2", "frozen");
    assert_int_equal(bg_layer_measure(fd, "disk-" ID_A ".qcow2", &s.disk[0], &err), 0);
    assert_int_equal(bg_snapshot_write(fd, &s, &err), 0);
    assert_int_equal(bg_snapshot_commit(&f->paths, fd, temp, name, tag, &ret, &err), 0);
    bg_snapshot_done(&s);
    return ret;
}

static bool there(int dir_fd, const char *path)
{
    return faccessat(dir_fd, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static nlink_t links(int dir_fd, const char *path)
{
    struct stat st;
    assert_int_equal(fstatat(dir_fd, path, &st, AT_SYMLINK_NOFOLLOW), 0);
    return st.st_nlink;
}

static size_t store_count(struct fixture *f)
{
    char **names;
    size_t count = 0;
    struct bg_err err;
    assert_int_equal(bg_snapshot_names(&f->paths, &names, &err), 0);
    while (names[count])
        count++;
    bg_sandbox_names_free(names);
    return count;
}

static size_t leftovers(struct fixture *f)
{
    char **names;
    size_t count = 0;
    struct bg_err err;
    assert_int_equal(bg_snapshot_leftovers(&f->paths, &names, &err), 0);
    while (names[count])
        count++;
    bg_sandbox_names_free(names);
    return count;
}

/* --- names --- */

static void names_cannot_leave_the_folder(void **state)
{
    (void)state;
    static const char *const good[] = {"web@1", "a@b", "web@.fork-1a2b", "web.x@before-upgrade"};
    static const char *const bad[] = {
        "",    "web",   "@1",  "web@", "web@..",   "../a@1",        "a@b/c", "a@b@c", ".a@1",
        "a@.", "a@..b", "a@B", "a@ 1", "a/../b@1", ".tmp-01234567", "a@1\n", "a@-x",  "a@._x"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(bg_snapshot_name_ok(good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(bg_snapshot_name_ok(bad[i]));
    char longest[BG_SANDBOX_NAME_MAX + 2] = {0}, name[3 * BG_SANDBOX_NAME_MAX];
    memset(longest, 'a', BG_SANDBOX_NAME_MAX);
    (void)snprintf(name, sizeof name, "%s@.%s", longest, longest);
    assert_true(bg_snapshot_name_ok(name));
    assert_true(strlen(name) < BG_SNAPSHOT_NAME_SIZE);
    longest[BG_SANDBOX_NAME_MAX] = 'a';
    (void)snprintf(name, sizeof name, "%s@1", longest);
    assert_false(bg_snapshot_name_ok(name));
    (void)snprintf(name, sizeof name, "a@%s", longest);
    assert_false(bg_snapshot_name_ok(name));
}

/* --- manifests --- */

static void a_manifest_is_read_as_it_was_written(void **state)
{
    struct fixture *f = *state;
    BG_AUTOFREE char *name = committed(f, "web", "first");
    assert_string_equal(name, "web@first");
    struct bg_snapshot s;
    struct bg_err err;
    assert_int_equal(bg_snapshot_load(&f->paths, name, &s, &err), 0);
    assert_string_equal(s.name, "web@first");
    assert_string_equal(s.tag, "first");
    assert_string_equal(s.note, "before \xc3\xa4");
    assert_string_equal(s.id, "0123456789abcdef");
    assert_int_equal(s.kind, BG_SNAPSHOT_FULL);
    assert_int_equal(s.cpus, 2);
    assert_int_equal(s.memory_bytes, 512u << 20);
    assert_string_equal(s.accel, "tcg");
    assert_false(s.memory_base_none);
    assert_int_equal(s.memory_count, 1);
    assert_int_equal(s.memory[0].size, 5);
    assert_string_equal(s.disk[0].id, ID_A);
    assert_int_equal(s.next_stream, 17);
    assert_int_equal(s.dirty_bytes, 4096);
    assert_null(s.parent);
    BG_AUTOCLOSE int dir = open(s.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(bg_snapshot_check_files(&s, dir, &err), 0);
    bg_snapshot_done(&s);
}

/* Each field of a good one replaced by what it must not be. */
static void refuses_each_wrong_field(void **state)
{
    struct fixture *f = *state;
    BG_AUTOFREE char *temp = NULL;
    BG_AUTOCLOSE int fd = begin(f, &temp);
    struct bg_snapshot s = full(fd, "web", BG_SNAPSHOT_FULL), got;
    struct bg_err err;
    BG_AUTOFREE char *text = bg_snapshot_emit(&s);
    bg_snapshot_done(&s);
    assert_int_equal(bg_snapshot_parse(text, strlen(text), &got, &err), 0);
    bg_snapshot_done(&got);
    static const struct {
        const char *path, *value;
    } wrong[] = {
        {"version", "0"},
        {"version", "\"1\""},
        {"id", "\"../../../../../..\""},
        {"id", "\"0123456789ABCDEF\""},
        {"tag", "\"../x\""},
        {"tag", "\"\""},
        {"note", "7"},
        {"created_ms", "-1"},
        {"kind", "\"half\""},
        {"source.name", "\"a/b\""},
        {"source.id", "\"web\""},
        {"parent", "\"web\""},
        {"parent", "\"../x@1\""},
        {"parent", "3"},
        {"image.name", "\"../x\""},
        {"image.digest", "\"12\""},
        {"golden", "\"golden-../x\""},
        {"golden", "\"other\""},
        {"cpus", "0"},
        {"cpus", "65"},
        {"memory_bytes", "1"},
        {"memory_bytes", "9223372036854775807"},
        {"machine.qemu", "\"7\\n2\""},
        {"machine.accel", "\"twelve-letter\""},
        {"machine.cpu", "\"zz\""},
        {"memory.base", "\"other\""},
        {"memory.layers", "7"},
        {"memory.layers", "[{\"id\":\"" ID_A "\",\"size\":1}]"},
        {"memory.layers", "[{\"id\":\"x\",\"size\":1,\"mtime_ns\":1}]"},
        {"memory.layers", "[{\"id\":\"" ID_A "\",\"size\":-1,\"mtime_ns\":1}]"},
        {"memory.layers", "[{\"id\":\"" ID_A "\",\"size\":1,\"mtime_ns\":1},"
                          "{\"id\":\"" ID_A "\",\"size\":1,\"mtime_ns\":1}]"},
        {"memory", "null"},
        {"state.size", "0"},
        {"state.size", "99999999999"},
        {"state.sha256", "\"12\""},
        {"disk", "{}"},
        {"next_stream", "4294967296"},
        {"dirty_bytes", "-1"},
        {"sandbox", "[]"},
        {"extra", "1"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        json_auto_t *json = json_loads(text, 0, NULL);
        json_t *at = json;
        const char *dot = strchr(wrong[i].path, '.');
        char first[32];
        (void)snprintf(first, sizeof first, "%.*s", (int)strcspn(wrong[i].path, "."),
                       wrong[i].path);
        if (dot)
            at = json_object_get(json, first);
        assert_int_equal(json_object_set_new(at, dot ? dot + 1 : first,
                                             json_loads(wrong[i].value, JSON_DECODE_ANY, NULL)),
                         0);
        BG_AUTOFREE char *bad = json_dumps(json, 0);
        int r = bg_snapshot_parse(bad, strlen(bad), &got, &err);
        if (r != -EUCLEAN)
            fail_msg("%s = %s: %d", wrong[i].path, wrong[i].value, r);
        assert_true(err.text[0]);
    }
    json_auto_t *later = json_loads(text, 0, NULL);
    (void)json_object_set_new(later, "version", json_integer(2));
    (void)json_object_set_new(later, "new", json_true());
    BG_AUTOFREE char *later_text = json_dumps(later, 0);
    assert_int_equal(bg_snapshot_parse(later_text, strlen(later_text), &got, &err),
                     -EPROTONOSUPPORT);
    for (size_t size = 0; size < strlen(text); size++)
        assert_int_equal(bg_snapshot_parse(text, size, &got, &err), -EUCLEAN);
    bg_snapshot_abandon(&f->paths, temp);
}

static void refuses_too_many_layers(void **state)
{
    (void)state;
    struct bg_err err;
    struct bg_disk disk = {.golden = strdup(GOLDEN)}, got;
    for (unsigned i = 0; i < BG_DISK_LAYERS_MAX; i++) {
        char id[BG_LAYER_ID_SIZE];
        (void)snprintf(id, sizeof id, "%016x", i);
        assert_int_equal(bg_disk_push(&disk, id, NULL, &err), 0);
    }
    assert_int_equal(bg_disk_push(&disk, ID_A, NULL, &err), -EMLINK);
    BG_AUTOFREE char *text = bg_disk_emit(&disk);
    assert_int_equal(bg_disk_parse(text, strlen(text), &got, &err), 0);
    assert_int_equal(got.count, BG_DISK_LAYERS_MAX);
    bg_disk_done(&got);
    bg_disk_done(&disk);
    json_auto_t *json = json_loads(text, 0, NULL);
    (void)json_array_append_new(json_object_get(json, "layers"),
                                json_pack("{s:s, s:s}", "id", ID_A, "file", "disk-" ID_A ".qcow2"));
    BG_AUTOFREE char *more = json_dumps(json, 0);
    assert_int_equal(bg_disk_parse(more, strlen(more), &got, &err), -EUCLEAN);
}

static void refuses_a_changed_manifest(void **state)
{
    struct fixture *f = *state;
    free(committed(f, "web", NULL));
    BG_AUTOCLOSE int store = -1;
    struct bg_snapshot s;
    struct bg_err err;
    assert_int_equal(bg_snapshot_open_store(&f->paths, &store, &err), 0);
    BG_AUTOCLOSE int fd = openat(store, "web@1/manifest.json", O_WRONLY | O_APPEND | O_CLOEXEC);
    assert_int_equal(bg_write_full(fd, " ", 1), 0);
    assert_int_equal(bg_snapshot_load(&f->paths, "web@1", &s, &err), -EUCLEAN);
    assert_non_null(strstr(err.text, "checksum"));
    assert_non_null(strstr(err.text, "bellglass snapshot rm web@1"));
    assert_int_equal(unlinkat(store, "web@1/manifest.sha256", 0), 0);
    assert_int_equal(bg_snapshot_load(&f->paths, "web@1", &s, &err), -EUCLEAN);
    assert_int_equal(unlinkat(store, "web@1/manifest.json", 0), 0);
    assert_int_equal(bg_snapshot_load(&f->paths, "web@1", &s, &err), -EUCLEAN);
    /* One that stands under another's name. */
    BG_AUTOFREE char *other = committed(f, "web", NULL);
    assert_int_equal(renameat(store, other, store, "db@7"), 0);
    assert_int_equal(bg_snapshot_load(&f->paths, "db@7", &s, &err), -EUCLEAN);
}

static void sees_files_that_changed(void **state)
{
    struct fixture *f = *state;
    static const char *const files[] = {"state", "memory-" ID_M ".mem", "disk-" ID_A ".qcow2"};
    struct bg_err err;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        for (int missing = 0; missing < 2; missing++) {
            BG_AUTOFREE char *name = committed(f, "web", NULL);
            struct bg_snapshot s;
            assert_int_equal(bg_snapshot_load(&f->paths, name, &s, &err), 0);
            BG_AUTOCLOSE int dir = open(s.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            if (missing)
                assert_int_equal(unlinkat(dir, files[i], 0), 0);
            else
                put(dir, files[i], i == 0 ? "dEvices" : "longer than it was");
            assert_int_equal(bg_snapshot_check_files(&s, dir, &err), -EUCLEAN);
            assert_non_null(strstr(err.text, files[i]));
            assert_non_null(strstr(err.text, "bellglass snapshot rm"));
            bg_snapshot_done(&s);
        }
}

/* --- the store --- */

static void numbers_tags_and_refuses_one_in_use(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    for (int i = 1; i <= 11; i++) {
        char want[32];
        BG_AUTOFREE char *name = committed(f, "web", NULL);
        (void)snprintf(want, sizeof want, "web@%d", i);
        assert_string_equal(name, want);
    }
    BG_AUTOFREE char *other = committed(f, "web2", NULL);
    assert_string_equal(other, "web2@1");
    char **names;
    assert_int_equal(bg_snapshot_names(&f->paths, &names, &err), 0);
    assert_string_equal(names[1], "web@2"); /* by value, not by letter */
    assert_string_equal(names[10], "web@11");
    bg_sandbox_names_free(names);

    BG_AUTOFREE char *temp = NULL;
    BG_AUTOFREE char *name = NULL;
    BG_AUTOCLOSE int fd = begin(f, &temp);
    struct bg_snapshot s = full(fd, "web", BG_SNAPSHOT_FULL);
    assert_int_equal(bg_snapshot_write(fd, &s, &err), 0);
    assert_int_equal(bg_snapshot_commit(&f->paths, fd, temp, "web", "3", &name, &err), -EEXIST);
    assert_non_null(strstr(err.text, "web@3"));
    assert_int_equal(bg_snapshot_commit(&f->paths, fd, temp, "web", "../x", &name, &err), -EINVAL);
    assert_int_equal(bg_snapshot_commit(&f->paths, fd, temp, "db", "3", &name, &err), -EINVAL);
    bg_snapshot_abandon(&f->paths, temp);
    assert_int_equal(store_count(f), 12);
    bg_snapshot_done(&s);
}

static void finds_by_name_tag_and_id(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    free(committed(f, "web", "before"));
    free(committed(f, "db", "1"));
    free(committed(f, "web", "1"));
    BG_AUTOFREE char *found = NULL;
    assert_int_equal(bg_snapshot_resolve(&f->paths, "web@before", &found, &err), 0);
    assert_string_equal(found, "web@before");
    free(found);
    assert_int_equal(bg_snapshot_resolve(&f->paths, "before", &found, &err), 0);
    assert_string_equal(found, "web@before");
    free(found);
    found = NULL;
    assert_int_equal(bg_snapshot_resolve(&f->paths, "1", &found, &err), -EINVAL);
    assert_non_null(strstr(err.text, "db@1"));
    assert_non_null(strstr(err.text, "web@1"));
    assert_int_equal(bg_snapshot_resolve(&f->paths, "012345", &found, &err), -EINVAL);
    assert_int_equal(bg_snapshot_resolve(&f->paths, "01234", &found, &err), -ENOENT);
    assert_int_equal(bg_snapshot_resolve(&f->paths, "web@2", &found, &err), -ENOENT);
    assert_int_equal(bg_snapshot_resolve(&f->paths, "../web@1", &found, &err), -ENOENT);
    assert_int_equal(bg_snapshot_remove(&f->paths, "web@before", &err), 0);
    assert_int_equal(bg_snapshot_remove(&f->paths, "db@1", &err), 0);
    assert_int_equal(bg_snapshot_remove(&f->paths, "db@1", &err), -ENOENT);
    assert_int_equal(bg_snapshot_resolve(&f->paths, "0123456", &found, &err), 0);
    assert_string_equal(found, "web@1");
}

static void only_dead_makers_leave_leftovers(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    BG_AUTOFREE char *temp = NULL;
    BG_AUTOCLOSE int fd = begin(f, &temp);
    assert_int_equal(leftovers(f), 0);
    assert_int_equal(bg_snapshot_sweep(&f->paths, temp, &err), -EBUSY);
    /* A child of the maker has the lock as well. */
    pid_t child = fork();
    if (child == 0)
        _exit(bg_snapshot_sweep(&f->paths, temp, NULL) == -EBUSY ? 0 : 1);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    put(fd, "state", "half");
    (void)close(bg_take_fd(&fd)); /* the maker dies */
    assert_int_equal(leftovers(f), 1);
    assert_int_equal(store_count(f), 0);
    assert_int_equal(bg_snapshot_sweep(&f->paths, temp, &err), 0);
    assert_int_equal(leftovers(f), 0);
    assert_int_equal(bg_snapshot_sweep(&f->paths, temp, &err), 0);
    assert_int_equal(bg_snapshot_sweep(&f->paths, "web@1", &err), -EINVAL);
    assert_int_equal(bg_snapshot_sweep(&f->paths, "..", &err), -EINVAL);
}

/* --- links --- */

static void links_files_once_and_replaces_others(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    BG_AUTOCLOSE int dir = open(f->home, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    put(dir, "a", "one");
    put(dir, "b", "two");
    assert_int_equal(bg_layer_link(dir, "a", dir, "c", &err), 0);
    assert_int_equal(bg_layer_link(dir, "a", dir, "c", &err), 0);
    assert_int_equal(links(dir, "a"), 2);
    assert_int_equal(bg_layer_link(dir, "b", dir, "c", &err), 0);
    assert_int_equal(links(dir, "a"), 1);
    assert_int_equal(links(dir, "b"), 2);
    assert_int_equal(bg_layer_link(dir, "none", dir, "d", &err), -EUCLEAN);
}

static void another_file_system_is_said(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    BG_AUTOCLOSE int dir = open(f->home, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    BG_AUTOCLOSE int shm = open("/dev/shm", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct stat a, b;
    if (shm < 0 || fstat(shm, &a) < 0 || fstat(dir, &b) < 0 || a.st_dev == b.st_dev)
        skip();
    put(dir, "a", "one");
    assert_int_equal(bg_layer_link(dir, "a", shm, "bg-test-link", &err), -EXDEV);
    assert_non_null(strstr(err.text, "one file system"));
}

/* --- a sandbox that does not run becomes a snapshot --- */

static void a_stopped_one_becomes_a_disk(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    struct bg_sandbox s = stopped(f, "web");
    BG_AUTOCLOSE int dir = folder_of(&s);
    BG_AUTOFREE char *name = NULL;
    BG_AUTOFREE char *second = NULL;
    assert_int_equal(
        bg_snapshot_of_folder(&f->paths, &s, NULL, "a note", /* disk_only= */ false, &name, &err),
        0);
    assert_string_equal(name, "web@1");
    struct bg_snapshot got;
    assert_int_equal(bg_snapshot_load(&f->paths, name, &got, &err), 0);
    assert_int_equal(got.kind, BG_SNAPSHOT_DISK);
    assert_string_equal(got.note, "a note");
    assert_string_equal(got.source_id, s.id);
    assert_int_equal(got.disk_count, 1);
    assert_string_equal(json_string_value(json_object_get(got.sandbox, "id")), s.id);
    BG_AUTOCLOSE int snapshot = open(got.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(bg_snapshot_check_files(&got, snapshot, &err), 0);
    assert_int_equal(links(dir, BG_DISK_FIRST), 2);
    bg_snapshot_done(&got);
    struct bg_disk disk;
    assert_int_equal(bg_disk_load(dir, &disk, &err), 0);
    assert_false(disk.top);
    assert_string_equal(disk.parent, "web@1");
    bg_disk_done(&disk);
    assert_int_equal(
        bg_snapshot_of_folder(&f->paths, &s, "again", NULL, /* disk_only= */ false, &second, &err),
        0);
    assert_int_equal(bg_snapshot_load(&f->paths, second, &got, &err), 0);
    assert_string_equal(got.parent, "web@1");
    bg_snapshot_done(&got);
    assert_int_equal(links(dir, BG_DISK_FIRST), 3);
    /* A tag in use leaves all as it was. */
    char *none = NULL;
    assert_int_equal(
        bg_snapshot_of_folder(&f->paths, &s, "1", NULL, /* disk_only= */ false, &none, &err),
        -EEXIST);
    struct bg_sandbox of_volume = s; /* borrows all */
    memcpy(of_volume.root_volume, "vol_0123456789abcdefghij", BG_VOLUME_ID_SIZE);
    assert_int_equal(bg_snapshot_of_folder(&f->paths, &of_volume, NULL, NULL, /* disk_only= */ true,
                                           &none, &err),
                     -EOPNOTSUPP);
    assert_int_equal(links(dir, BG_DISK_FIRST), 3);
    assert_int_equal(leftovers(f), 0);
    /* And what is removed is gone, but not from below it. */
    assert_int_equal(bg_snapshot_remove(&f->paths, "web@1", &err), 0);
    assert_int_equal(links(dir, BG_DISK_FIRST), 2);
    bg_sandbox_done(&s);
}

static void a_suspended_one_becomes_a_full_one(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    struct bg_sandbox s = suspended(f, "web");
    BG_AUTOCLOSE int dir = folder_of(&s);
    BG_AUTOFREE char *name = NULL;
    BG_AUTOFREE char *disk_only = NULL;
    assert_int_equal(bg_snapshot_of_folder(&f->paths, &s, NULL, NULL, false, &name, &err), 0);
    struct bg_snapshot got;
    assert_int_equal(bg_snapshot_load(&f->paths, name, &got, &err), 0);
    assert_int_equal(got.kind, BG_SNAPSHOT_FULL);
    assert_int_equal(got.memory_count, 1);
    BG_AUTOCLOSE int snapshot = open(got.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(bg_snapshot_check_files(&got, snapshot, &err), 0);
    bg_snapshot_done(&got);
    assert_int_equal(links(dir, "resume/state"), 2);
    assert_int_equal(bg_snapshot_of_folder(&f->paths, &s, NULL, NULL, true, &disk_only, &err), 0);
    assert_int_equal(bg_snapshot_load(&f->paths, disk_only, &got, &err), 0);
    assert_int_equal(got.kind, BG_SNAPSHOT_DISK);
    bg_snapshot_done(&got);
    assert_true(bg_resume_present(dir)); /* it is suspended as before */
    /* Damaged memory: the disk still can be had. */
    put(dir, "resume/manifest.json", "{}");
    char *none = NULL;
    assert_int_equal(bg_snapshot_of_folder(&f->paths, &s, NULL, NULL, false, &none, &err),
                     -EUCLEAN);
    assert_non_null(strstr(err.text, "--disk-only"));
    assert_int_equal(bg_snapshot_of_folder(&f->paths, &s, NULL, NULL, true, &none, &err), 0);
    free(none);
    bg_sandbox_done(&s);
}

static void one_that_runs_or_never_ran_is_refused(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    struct bg_sandbox s = stopped(f, "web"), fresh = make_sandbox(f, "new");
    BG_AUTOCLOSE int lock = -1;
    char *name = NULL;
    assert_int_equal(bg_sandbox_lock(&s, &lock, &err), 0);
    assert_int_equal(bg_snapshot_of_folder(&f->paths, &s, NULL, NULL, false, &name, &err), -EBUSY);
    assert_int_equal(bg_snapshot_of_folder(&f->paths, &fresh, NULL, NULL, false, &name, &err),
                     -ENOENT);
    assert_non_null(strstr(err.text, "never started"));
    bg_sandbox_done(&s);
    bg_sandbox_done(&fresh);
}

/* --- and a snapshot a sandbox --- */

static int fill(void *owner, const struct bg_sandbox *sandbox, int dir_fd, struct bg_err *err)
{
    void **args = owner;
    (void)sandbox;
    const struct fixture *f = args[0];
    return bg_snapshot_fork_into(&f->paths, args[1], dir_fd, err);
}

static struct bg_sandbox forked(struct fixture *f, const char *snapshot, const char *name)
{
    struct bg_snapshot s;
    struct bg_err err;
    assert_int_equal(bg_snapshot_load(&f->paths, snapshot, &s, &err), 0);
    void *args[] = {f, &s};
    const struct bg_sandbox_filling filling = {fill, args};
    struct bg_sandbox child = {.name = strdup(name),
                               .image_name = strdup("debian"),
                               .image_digest = strdup(DIGEST),
                               .cpus = 1,
                               .memory_bytes = 512u << 20};
    assert_int_equal(bg_sandbox_create_filled(&f->paths, &child, &filling, &err), 0);
    bg_snapshot_done(&s);
    return child;
}

static void a_fork_goes_on_from_its_snapshot(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    BG_AUTOFREE char *name = committed(f, "web", NULL);
    struct bg_sandbox child = forked(f, name, "child");
    BG_AUTOCLOSE int dir = folder_of(&child);
    struct bg_disk disk;
    struct bg_snapshot s;
    assert_int_equal(bg_disk_load(dir, &disk, &err), 0);
    assert_false(disk.top);
    assert_string_equal(disk.parent, "web@1");
    assert_int_equal(disk.count, 1);
    assert_int_equal(bg_resume_load(dir, &disk, &s, &err), 0);
    assert_string_equal(s.source_name, "web");
    BG_AUTOCLOSE int resume = openat(dir, BG_RESUME_FOLDER, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(bg_snapshot_check_memory(&s, resume, &err), 0);
    bg_snapshot_done(&s);
    /* The snapshot goes; its files stay below the child. */
    assert_int_equal(links(dir, "disk-" ID_A ".qcow2"), 2);
    assert_int_equal(bg_snapshot_remove(&f->paths, name, &err), 0);
    assert_int_equal(links(dir, "disk-" ID_A ".qcow2"), 1);
    assert_int_equal(links(dir, "resume/memory-" ID_M ".mem"), 1);
    /* A start that had put its layer on top and was killed before the guest ran. */
    assert_int_equal(bg_disk_push(&disk, ID_B, NULL, &err), 0);
    disk.top = true;
    put(dir, "disk-" ID_B ".qcow2", "");
    assert_int_equal(bg_disk_save(dir, &disk, &err), 0);
    assert_int_equal(bg_resume_settle(dir, &err), 0);
    assert_int_equal(bg_resume_load(dir, &disk, &s, &err), 0);
    bg_snapshot_done(&s);
    bg_disk_done(&disk);
    /* A snapshot of it is of that instant, without that layer. */
    BG_AUTOFREE char *again = NULL;
    assert_int_equal(bg_snapshot_of_folder(&f->paths, &child, NULL, NULL, true, &again, &err), 0);
    assert_false(there(dir, "disk-" ID_B ".qcow2"));
    assert_true(bg_resume_present(dir));
    bg_sandbox_done(&child);
}

static void a_fork_of_a_disk_has_no_memory(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    struct bg_sandbox s = stopped(f, "web");
    BG_AUTOFREE char *name = NULL;
    assert_int_equal(bg_snapshot_of_folder(&f->paths, &s, NULL, NULL, false, &name, &err), 0);
    struct bg_sandbox child = forked(f, name, "child");
    BG_AUTOCLOSE int dir = folder_of(&child);
    assert_false(bg_resume_present(dir));
    assert_true(there(dir, "disk-" ID_A ".qcow2"));
    bg_sandbox_done(&child);
    bg_sandbox_done(&s);
}

/* Whatever step was the last, the sandbox goes on from one instant, the old or the new. */
static void a_half_replaced_instant_is_settled(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    for (int step = 0; step < 5; step++) {
        char name[16];
        (void)snprintf(name, sizeof name, "web%d", step);
        struct bg_sandbox s = suspended(f, name);
        BG_AUTOCLOSE int dir = folder_of(&s);
        assert_int_equal(mkdirat(dir, "resume.next", 0700), 0);
        BG_AUTOCLOSE int next = openat(dir, "resume.next", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct bg_snapshot m = full(next, "db", BG_SNAPSHOT_FULL), got;
        memcpy(m.disk[0].id, ID_B, sizeof ID_B);
        put(dir, "disk-" ID_B ".qcow2", "of db");
        bool new = step >= 2;
        if (step >= 1)
            assert_int_equal(bg_snapshot_write(next, &m, &err), 0);
        if (step >= 2) {
            struct bg_disk disk = {.golden = strdup(GOLDEN), .parent = strdup("db@1")};
            assert_int_equal(bg_disk_push(&disk, ID_B, NULL, &err), 0);
            assert_int_equal(bg_disk_save(dir, &disk, &err), 0);
            bg_disk_done(&disk);
        }
        if (step >= 3)
            assert_int_equal(renameat2(dir, "resume.next", dir, "resume", RENAME_EXCHANGE), 0);
        if (step >= 4) /* the old one is half gone */
            assert_int_equal(unlinkat(dir, "resume.next/manifest.json", 0), 0);
        bg_snapshot_done(&m);
        assert_int_equal(bg_resume_settle(dir, &err), 0);
        assert_false(there(dir, "resume.next"));
        struct bg_disk disk;
        assert_int_equal(bg_disk_load(dir, &disk, &err), 0);
        assert_int_equal(bg_resume_load(dir, &disk, &got, &err), 0);
        assert_string_equal(got.source_name, new ? "db" : name);
        bg_snapshot_done(&got);
        bg_disk_done(&disk);
        bg_sandbox_done(&s);
    }
}

/* A disk that was made from the very snapshot, and written since, is not the one that a killed
 * restore was about to put there. */
static void a_restore_that_had_not_begun_changes_nothing(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    struct bg_sandbox s = suspended(f, "web");
    BG_AUTOCLOSE int dir = folder_of(&s);
    struct bg_disk disk;
    struct bg_snapshot got;
    assert_int_equal(mkdirat(dir, "resume.next", 0700), 0);
    BG_AUTOCLOSE int next = openat(dir, "resume.next", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct bg_snapshot m = full(next, "web", BG_SNAPSHOT_FULL);
    assert_int_equal(bg_snapshot_write(next, &m, &err), 0);
    assert_int_equal(bg_resume_drop(dir, &err), 0); /* it runs */
    struct bg_disk written = {.golden = strdup(GOLDEN), .parent = strdup("web@1")};
    for (size_t i = 0; i < m.disk_count; i++)
        assert_int_equal(bg_disk_push(&written, m.disk[i].id, NULL, &err), 0);
    assert_int_equal(bg_disk_push(&written, ID_B, NULL, &err), 0);
    written.top = true;
    put(dir, "disk-" ID_B ".qcow2", "written since");
    assert_int_equal(bg_disk_save(dir, &written, &err), 0);
    bg_disk_done(&written);
    assert_int_equal(bg_resume_settle(dir, &err), 0);
    assert_false(there(dir, "resume.next"));
    assert_false(bg_resume_present(dir));
    assert_int_equal(bg_disk_load(dir, &disk, &err), 0);
    assert_int_equal(bg_resume_load(dir, &disk, &got, &err), -ENOENT);
    bg_disk_done(&disk);
    bg_snapshot_done(&m);
    bg_sandbox_done(&s);
}

static void a_damaged_snapshot_is_not_forked(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    BG_AUTOFREE char *name = committed(f, "web", NULL);
    struct bg_snapshot s;
    assert_int_equal(bg_snapshot_load(&f->paths, name, &s, &err), 0);
    BG_AUTOCLOSE int dir = open(s.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    put(dir, "state", "dEvices");
    void *args[] = {f, &s};
    const struct bg_sandbox_filling filling = {fill, args};
    struct bg_sandbox child = {.name = strdup("child"),
                               .image_name = strdup("debian"),
                               .image_digest = strdup(DIGEST),
                               .cpus = 1,
                               .memory_bytes = 512u << 20};
    assert_int_equal(bg_sandbox_create_filled(&f->paths, &child, &filling, &err), -EUCLEAN);
    char **names;
    assert_int_equal(bg_sandbox_names(&f->paths, &names, &err), 0);
    assert_null(names[0]);
    bg_sandbox_names_free(names);
    bg_sandbox_done(&child);
    bg_snapshot_done(&s);
}

/* --- what else is on the disk --- */

static void disks_from_before_disk_json_are_read(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    struct bg_sandbox s = make_sandbox(f, "web");
    BG_AUTOCLOSE int dir = folder_of(&s);
    struct bg_disk disk;
    assert_int_equal(bg_disk_load(dir, &disk, &err), -ENOENT);
    put(dir, BG_DISK_FIRST, "x");
    put(dir, "golden", GOLDEN);
    assert_int_equal(bg_disk_load(dir, &disk, &err), 0);
    assert_true(disk.top);
    assert_string_equal(disk.golden, GOLDEN);
    assert_int_equal(bg_disk_save(dir, &disk, &err), 0);
    assert_false(there(dir, "golden"));
    bg_disk_done(&disk);
    put(dir, BG_DISK_FILE, "{}");
    assert_int_equal(bg_disk_load(dir, &disk, &err), -EUCLEAN);
    bg_sandbox_done(&s);
}

static void suspended_is_a_state_of_rest(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    struct bg_sandbox s = make_sandbox(f, "web");
    enum bg_sandbox_state is;
    int pid;
    {
        BG_AUTOCLOSE int lock = -1;
        assert_int_equal(bg_sandbox_lock(&s, &lock, &err), 0);
        assert_int_equal(bg_sandbox_set_state(&s, BG_SANDBOX_SUSPENDED, "", &err), 0);
        assert_int_equal(bg_sandbox_state(&s, &is, &pid, &err), 0);
        assert_int_equal(is, BG_SANDBOX_STARTING);
    }
    assert_int_equal(bg_sandbox_state(&s, &is, &pid, &err), 0);
    assert_int_equal(is, BG_SANDBOX_SUSPENDED);
    assert_int_equal(pid, 0);
    assert_string_equal(bg_sandbox_state_name(is), "suspended");
    bg_sandbox_done(&s);
}

static void removal_says_what_it_frees(void **state)
{
    struct fixture *f = *state;
    struct bg_err err;
    uint64_t first, second, all;
    BG_AUTOFREE char *name = committed(f, "web", NULL);
    BG_AUTOCLOSE int store = -1;
    assert_int_equal(bg_snapshot_open_store(&f->paths, &store, &err), 0);
    assert_int_equal(bg_folder_size(store, name, &all, &first), 0);
    struct bg_sandbox child = forked(f, name, "child");
    assert_int_equal(bg_folder_size(store, name, &all, &second), 0);
    assert_true(first > 0);
    assert_true(all >= first);
    assert_int_equal(second, 0); /* all of it is the child's too */
    bg_sandbox_done(&child);
}

/* Files of layers that a disk has not are found and removed, and nothing else is. */
static void a_disk_is_tidied(void **state)
{
    static const char *const kept[] = {"disk.qcow2",       "disk-" ID_A ".qcow2",
                                       "disk.json",        "disk-" ID_B ".qcow2.old",
                                       "disk-short.qcow2", "console.log"};
    struct fixture *f = *state;
    struct bg_err err;
    struct bg_disk disk = {.golden = strdup(GOLDEN), .top = true};
    size_t count = 99;
    BG_AUTOCLOSE int dir = open(f->home, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(dir >= 0);
    assert_int_equal(bg_disk_push(&disk, ID_M, BG_DISK_FIRST, &err), 0);
    assert_int_equal(bg_disk_push(&disk, ID_A, NULL, &err), 0);
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        put(dir, kept[i], "x");
    assert_int_equal(bg_disk_strays(dir, &disk, false, &count, &err), 0);
    assert_int_equal(count, 0);
    put(dir, "disk-" ID_B ".qcow2", "x");
    put(dir, "disk-" ID_M ".qcow2", "x"); /* that layer is the disk's by its other name */
    assert_int_equal(bg_disk_strays(dir, &disk, false, &count, &err), 0);
    assert_int_equal(count, 2);
    assert_int_equal(faccessat(dir, "disk-" ID_B ".qcow2", F_OK, 0), 0);
    assert_int_equal(bg_disk_tidy(dir, &disk, &err), 0);
    assert_int_equal(bg_disk_strays(dir, &disk, true, &count, &err), 0);
    assert_int_equal(count, 0);
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        assert_int_equal(faccessat(dir, kept[i], F_OK, 0), 0);
    bg_disk_done(&disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_cannot_leave_the_folder),
        cmocka_unit_test_setup_teardown(a_manifest_is_read_as_it_was_written, home_setup,
                                        home_teardown),
        cmocka_unit_test_setup_teardown(refuses_each_wrong_field, home_setup, home_teardown),
        cmocka_unit_test(refuses_too_many_layers),
        cmocka_unit_test_setup_teardown(refuses_a_changed_manifest, home_setup, home_teardown),
        cmocka_unit_test_setup_teardown(sees_files_that_changed, home_setup, home_teardown),
        cmocka_unit_test_setup_teardown(numbers_tags_and_refuses_one_in_use, home_setup,
                                        home_teardown),
        cmocka_unit_test_setup_teardown(finds_by_name_tag_and_id, home_setup, home_teardown),
        cmocka_unit_test_setup_teardown(only_dead_makers_leave_leftovers, home_setup,
                                        home_teardown),
        cmocka_unit_test_setup_teardown(links_files_once_and_replaces_others, home_setup,
                                        home_teardown),
        cmocka_unit_test_setup_teardown(another_file_system_is_said, home_setup, home_teardown),
        cmocka_unit_test_setup_teardown(a_stopped_one_becomes_a_disk, home_setup, home_teardown),
        cmocka_unit_test_setup_teardown(a_suspended_one_becomes_a_full_one, home_setup,
                                        home_teardown),
        cmocka_unit_test_setup_teardown(one_that_runs_or_never_ran_is_refused, home_setup,
                                        home_teardown),
        cmocka_unit_test_setup_teardown(a_fork_goes_on_from_its_snapshot, home_setup,
                                        home_teardown),
        cmocka_unit_test_setup_teardown(a_fork_of_a_disk_has_no_memory, home_setup, home_teardown),
        cmocka_unit_test_setup_teardown(a_half_replaced_instant_is_settled, home_setup,
                                        home_teardown),
        cmocka_unit_test_setup_teardown(a_restore_that_had_not_begun_changes_nothing, home_setup,
                                        home_teardown),
        cmocka_unit_test_setup_teardown(a_damaged_snapshot_is_not_forked, home_setup,
                                        home_teardown),
        cmocka_unit_test_setup_teardown(disks_from_before_disk_json_are_read, home_setup,
                                        home_teardown),
        cmocka_unit_test_setup_teardown(suspended_is_a_state_of_rest, home_setup, home_teardown),
        cmocka_unit_test_setup_teardown(removal_says_what_it_frees, home_setup, home_teardown),
        cmocka_unit_test_setup_teardown(a_disk_is_tidied, home_setup, home_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
