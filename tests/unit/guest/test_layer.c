/* The layer of a copy-on-write share, on this kernel's overlayfs: what lands in it, and what the
 * guest's programs see when things are taken out of it. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/io.h"
#include "guest/layer.h"

#define SHARE   3
#define LOG_MAX 65536

struct fixture {
    char folder[64], base[80], target[80];
    struct layer layer;
    bool can;          /* this machine lets us mount */
    char log[LOG_MAX]; /* what the sink was sent, a line each */
    size_t used;
    uint8_t items[LOG_MAX]; /* the same as records */
    size_t items_size;
};

/* In the fixture's folder: base/3/lower is "lower", the sum is "seen". */
static void script(struct fixture *f, const char *text)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (chdir(f->folder) == 0)
            (void)execl("/bin/bash", "bash", "-ec", text, NULL);
        _exit(127);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void remove_all(const char *path)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)execl("/bin/rm", "rm", "-rf", path, NULL);
        _exit(127);
    }
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static int start(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    struct bg_err err = {0};
    (void)snprintf(f->folder, sizeof f->folder, "/var/tmp/bellglass-layer-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    (void)snprintf(f->base, sizeof f->base, "%s/base", f->folder);
    (void)snprintf(f->target, sizeof f->target, "%s/seen", f->folder);
    script(f, "mkdir -p base/3/lower; ln -s base/3/lower lower; ln -s base/3/upper upper; cd lower;"
              "mkdir -p src/deep doc; echo one >one; echo two >two; echo a >src/a; echo b >src/b;"
              "echo c >src/deep/c; echo d >doc/d; ln -s one link");
    const struct layer_opts opts = {.base = f->base,
                                    .share = SHARE,
                                    .target = f->target,
                                    .uid = getuid(),
                                    .gid = getgid(),
                                    .empty = true};
    int r = layer_mount(&opts, &err);
    f->can = r == 0;
    if (r == 0)
        assert_int_equal(layer_open(f->base, SHARE, &f->layer, &err), 0);
    else
        assert_true(r == -EPERM || r == -ENODEV);
    *state = f;
    return 0;
}

static int stop(void **state)
{
    struct fixture *f = *state;
    if (f->can) {
        layer_close(&f->layer);
        assert_int_equal(layer_unmount(f->base, SHARE, f->target, /* lazily= */ false, NULL), 0);
    }
    remove_all(f->folder);
    free(f);
    return 0;
}

#define NEEDS(f)                                                                                   \
    if (!(f)->can)                                                                                 \
    skip()

/* ---- the sink ---- */

static int log_record(void *owner, const struct bg_change *c)
{
    struct fixture *f = owner;
    int n = snprintf(f->log + f->used, sizeof f->log - f->used, "%c%s %s%s%s\n", "?fdlrs"[c->type],
                     c -> flags &BG_CHANGE_OPAQUE     ? "o"
                          : c->flags &BG_CHANGE_NEWER ? "n"
                          : c->flags &BG_CHANGE_BUSY  ? "b"
                                                      : "",
                     c->path, *c->target ? " -> " : "", c->target);
    assert_true(n > 0 && f->used + (size_t)n < sizeof f->log);
    f->used += (size_t)n;
    struct bg_writer w = bg_writer_init(f->items + f->items_size, sizeof f->items - f->items_size);
    bg_change_emit(c, &w);
    assert_true(bg_writer_ok(&w));
    f->items_size += w.used;
    return 0;
}

static int log_bytes(void *owner, const void *bytes, size_t size)
{
    struct fixture *f = owner;
    assert_true(f->used + size < sizeof f->log);
    memcpy(f->log + f->used, bytes, size);
    f->used += size;
    return 0;
}

static struct layer_sink sink(struct fixture *f)
{
    memset(f->log, 0, sizeof f->log);
    f->used = 0;
    f->items_size = 0;
    return (struct layer_sink){.record = log_record, .bytes = log_bytes, .owner = f};
}

static int compare_lines(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The layer's records, sorted, as text. */
static const char *list(struct fixture *f)
{
    struct bg_err err = {0};
    struct layer_sink s = sink(f);
    assert_int_equal(layer_list(&f->layer, &s, &err), 0);
    char *lines[256], *copy = strdup(f->log);
    size_t count = 0;
    for (char *rest = copy, *line; (line = strsep(&rest, "\n"));)
        if (*line)
            lines[count++] = line;
    qsort(lines, count, sizeof *lines, compare_lines);
    f->used = 0;
    for (size_t i = 0; i < count; i++)
        f->used += (size_t)snprintf(f->log + f->used, sizeof f->log - f->used, "%s\n", lines[i]);
    free(copy);
    return f->log;
}

/* The records of the layer that name path, as items. */
static size_t items_of(struct fixture *f, const char *path, uint8_t *out)
{
    struct bg_err err = {0};
    struct layer_sink s = sink(f);
    assert_int_equal(layer_list(&f->layer, &s, &err), 0);
    struct bg_reader in = bg_reader_init(f->items, f->items_size);
    struct bg_change c;
    size_t used = 0;
    while (in.left > 0) {
        size_t size;
        const uint8_t *record = bg_reader_blob32le(&in, BG_CHANGE_RECORD_MAX, &size);
        assert_int_equal(bg_change_parse(record, size, &c, &err), 0);
        if (path && strcmp(c.path, path) != 0)
            continue;
        struct bg_writer w = bg_writer_init(out + used, LOG_MAX - used);
        bg_change_emit(&c, &w);
        used += w.used;
    }
    return used;
}

static const char *settle(struct fixture *f, const char *path)
{
    static uint8_t items[LOG_MAX];
    struct bg_err err = {0};
    size_t size = items_of(f, path, items);
    assert_true(size > 0);
    struct layer_sink s = sink(f);
    assert_int_equal(layer_settle(&f->layer, items, size, &s, &err), 0);
    return f->log;
}

static const char *discard(struct fixture *f, const char *path)
{
    static uint8_t items[LOG_MAX];
    struct bg_err err = {0};
    size_t size = items_of(f, path, items);
    assert_true(size > 0);
    struct layer_sink s = sink(f);
    assert_int_equal(layer_discard(&f->layer, items, size, &s, &err), 0);
    return f->log;
}

/* ---- what lands in it ---- */

static void an_unchanged_share_has_an_empty_layer(void **state)
{
    struct fixture *f = *state;
    NEEDS(f);
    script(f, "cat seen/src/a; ls -R seen >/dev/null");
    assert_string_equal(list(f), "");
}

static void every_kind_of_change_has_its_record(void **state)
{
    struct fixture *f = *state;
    NEEDS(f);
    script(f, "cd seen; echo more >>one; rm two; mkdir new; echo n >new/n; ln -s ../one new/l;"
              "rm -r doc; mkdir doc; chmod 700 src/a; mv src/deep src/moved; mkfifo pipe");
    assert_string_equal(list(f), "d new\nd src\nd src/moved\ndo doc\nf new/n\nf one\nf src/a\n"
                                 "f src/moved/c\nl new/l -> ../one\nr src/deep\nr two\ns pipe\n");
    script(
        f,
        "cd lower; test \"$(cat one two src/deep/c doc/d)\" = \"$(printf 'one\\ntwo\\nc\\nd')\"");
}

static void contents_come_with_their_state(void **state)
{
    struct fixture *f = *state;
    NEEDS(f);
    static uint8_t items[LOG_MAX];
    struct bg_err err = {0};
    script(f, "cd seen; printf hello >hello; rm two");
    size_t size = items_of(f, NULL, items);
    struct layer_sink s = sink(f);
    assert_int_equal(layer_fetch(&f->layer, items, size, &s, &err), 0);
    const char expected[] = "f hello\nhello";
    assert_int_equal(f->used, sizeof expected); /* and the state, a zero byte */
    assert_memory_equal(f->log, expected, sizeof expected);
    /* What is gone by then is left out. */
    script(f, "rm seen/hello");
    s = sink(f);
    assert_int_equal(layer_fetch(&f->layer, items, size, &s, &err), 0);
    assert_int_equal(f->used, 0);
}

struct writer {
    struct fixture *f;
    unsigned times;
};

static int touch_it(void *owner, const struct bg_change *c)
{
    struct writer *w = owner;
    (void)c;
    w->times++;
    script(w->f, "echo more >>seen/busy");
    return 0;
}

static int count_torn(void *owner, const void *bytes, size_t size)
{
    (void)owner;
    if (size == 1)
        assert_int_equal(*(const uint8_t *)bytes, BG_CHANGE_READ_TORN);
    return 0;
}

static void a_file_that_is_being_written_is_torn(void **state)
{
    struct fixture *f = *state;
    NEEDS(f);
    static uint8_t items[LOG_MAX];
    struct bg_err err = {0};
    struct writer w = {.f = f};
    script(f, "echo long enough >seen/busy");
    size_t size = items_of(f, "busy", items);
    struct layer_sink s = {.record = touch_it, .bytes = count_torn, .owner = &w};
    assert_int_equal(layer_fetch(&f->layer, items, size, &s, &err), 0);
    assert_int_equal(w.times, 3);
}

/* ---- settle ---- */

static void what_the_share_has_by_now_is_settled(void **state)
{
    struct fixture *f = *state;
    NEEDS(f);
    /* The guest makes, changes and removes; it has asked for names that were not there. */
    script(f, "cd seen; ! cat fresh 2>/dev/null; echo more >>one; rm two src/a src/b; mkdir new; "
              "echo n >new/n");
    /* The host does the same, and goes on. */
    script(f, "cd lower; echo more >>one; rm two src/a src/b; mkdir new; echo n >new/n");
    assert_string_equal(settle(f, NULL), "");
    assert_string_equal(list(f), "d new\nd src\n"); /* a folder alone hides nothing */
    script(f, "cd lower; echo host >>one; echo again >two; echo m >new/m; echo f >fresh");
    script(
        f,
        "cd seen; test \"$(cat one two new/n new/m)\" = \"$(cat ../lower/{one,two,new/n,new/m})\"");
    script(f, "grep -q host seen/one && grep -q again seen/two && grep -q m seen/new/m");
}

static void a_newer_change_is_not_settled(void **state)
{
    struct fixture *f = *state;
    NEEDS(f);
    static uint8_t items[LOG_MAX];
    struct bg_err err = {0};
    script(f, "echo guest >seen/one; echo guest >lower/one");
    size_t size = items_of(f, "one", items);
    script(f, "echo newer >seen/one");
    struct layer_sink s = sink(f);
    assert_int_equal(layer_settle(&f->layer, items, size, &s, &err), 0);
    assert_string_equal(f->log, "fn one\n");
    script(f, "grep -q newer seen/one");
}

static void a_file_in_use_is_not_settled(void **state)
{
    struct fixture *f = *state;
    NEEDS(f);
    script(f, "echo guest >seen/one; echo guest >lower/one");
    char path[128];
    (void)snprintf(path, sizeof path, "%s/one", f->target);
    BG_AUTOCLOSE int fd = open(path, O_RDWR | O_APPEND | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_string_equal(settle(f, "one"), "fb one\n");
    /* What is written to it still lands where all see it. */
    assert_int_equal(write(fd, "late\n", 5), 5);
    script(f, "grep -q late seen/one; ! grep -q late lower/one");
    assert_string_equal(list(f), "f one\n");
}

static void a_new_folder_in_use_keeps_its_files(void **state)
{
    struct fixture *f = *state;
    NEEDS(f);
    script(f, "mkdir seen/new; echo n >seen/new/n");
    char path[128];
    (void)snprintf(path, sizeof path, "%s/new", f->target);
    BG_AUTOCLOSE int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(folder >= 0);
    script(f, "mkdir lower/new; echo n >lower/new/n");
    (void)settle(f, NULL); /* kept or not: what counts is that it is still there */
    assert_int_equal(faccessat(folder, "n", F_OK, 0), 0);
    script(f, "grep -q n seen/new/n");
}

/* ---- discard ---- */

static void discarded_changes_show_the_share_again(void **state)
{
    struct fixture *f = *state;
    NEEDS(f);
    script(f,
           "cd seen; echo more >>one; rm two; mkdir new; echo n >new/n; rm -r doc; mkdir doc;"
           "echo other >doc/other; chmod 700 src; mv src/deep src/moved; rm link; ln -s two link");
    /* Backwards, as the host sends them: what is in a folder before the folder. */
    static const char *const order[] = {"two",  "src/moved/c", "src/moved", "src/deep",
                                        "src",  "one",         "new/n",     "new",
                                        "link", "doc/other",   "doc"};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        assert_string_equal(discard(f, order[i]), "");
    script(f, "diff -r --no-dereference lower/ seen/; test $(stat -c %a seen/src) = 755;"
              "test \"$(ls -A seen)\" = \"$(ls -A lower/)\"");
    script(f, "echo host >>lower/one; grep -q host seen/one");
}

static void a_discarded_file_shows_until_it_is_closed(void **state)
{
    struct fixture *f = *state;
    NEEDS(f);
    script(f, "echo guest >seen/one");
    char path[128], bytes[8] = "";
    (void)snprintf(path, sizeof path, "%s/one", f->target);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_string_equal(discard(f, "one"), "fb one\n");
    assert_int_equal(read(fd, bytes, sizeof bytes), 6);
    assert_string_equal(bytes, "guest\n");
    assert_int_equal(close(fd), 0);
    assert_string_equal(list(f), "");
    script(f, "grep -qx one seen/one");
}

static void a_missing_layer_is_said(void **state)
{
    struct fixture *f = *state;
    struct layer layer;
    struct bg_err err = {0};
    assert_int_equal(layer_open(f->base, 4, &layer, &err), -ENOENT);
    assert_non_null(strstr(err.text, "share 4"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, start, stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_unchanged_share_has_an_empty_layer),
        TEST(every_kind_of_change_has_its_record),
        TEST(contents_come_with_their_state),
        TEST(a_file_that_is_being_written_is_torn),
        TEST(what_the_share_has_by_now_is_settled),
        TEST(a_newer_change_is_not_settled),
        TEST(a_file_in_use_is_not_settled),
        TEST(a_new_folder_in_use_keeps_its_files),
        TEST(discarded_changes_show_the_share_again),
        TEST(a_discarded_file_shows_until_it_is_closed),
        TEST(a_missing_layer_is_said),
    };
    return cmocka_run_group_tests_name("layer", tests, NULL, NULL);
}
