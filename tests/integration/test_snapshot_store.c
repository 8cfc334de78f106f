/* The commands around snapshots on a store whose sandboxes never ran: what they do with files, what
 * they say, and what they leave. No guest is started. */
#include "tests/lib/vm.h"

#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io.h"
#include "common/sha256.h"
#include "common/state/folder.h"
#include "common/state/resume.h"
#include "common/state/snapshot.h"

#define DIGEST "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define KEY    "00112233445566778899aabbccddeeff"
#define GOLDEN "golden-" KEY ".00000001"

static struct bg_paths paths_of(struct vm *vm)
{
    return (struct bg_paths){.data = strdup(vm_text(vm, "%s/data", vm->home)),
                             .state = strdup(vm_text(vm, "%s/state", vm->home)),
                             .runtime = strdup(vm_text(vm, "%s/run", vm->home))};
}

static void put(int dir_fd, const char *name, const char *text)
{
    BG_AUTOCLOSE int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(bg_write_full(fd, text, strlen(text)), 0);
}

static int below(int dir_fd, const char *name)
{
    if (mkdirat(dir_fd, name, 0700) < 0)
        assert_int_equal(errno, EEXIST);
    int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

/* A sandbox that has run and was stopped, or suspended. */
static const char *make(struct vm *vm, bool suspended)
{
    const char *name = vm_name(vm);
    struct bg_err err;
    struct bg_paths paths = paths_of(vm);
    (void)vm_ok(vm, "ls", NULL); /* the first command makes the folders */
    struct bg_sandbox s = {.name = strdup(name),
                           .image_name = strdup("debian"),
                           .image_digest = strdup(DIGEST),
                           .cpus = 1,
                           .memory_bytes = 512u << 20};
    assert_int_equal(bg_sandbox_create(&paths, &s, &err), 0);
    BG_AUTOCLOSE int dir = open(s.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    put(dir, BG_DISK_FIRST, "what it wrote");
    char id[BG_LAYER_ID_SIZE], memory_id[BG_LAYER_ID_SIZE], file[BG_LAYER_FILE_SIZE];
    bg_layer_new_id(id);
    bg_layer_new_id(memory_id);
    struct bg_disk disk = {.golden = strdup(GOLDEN), .top = !suspended};
    assert_int_equal(bg_disk_push(&disk, id, BG_DISK_FIRST, &err), 0);
    assert_int_equal(bg_disk_save(dir, &disk, &err), 0);
    bg_disk_done(&disk);
    if (suspended) {
        struct bg_snapshot m = {.kind = BG_SNAPSHOT_SUSPEND,
                                .source_name = strdup(name),
                                .image_name = strdup("debian"),
                                .image_digest = strdup(DIGEST),
                                .golden = strdup(GOLDEN),
                                .cpus = 1,
                                .memory_bytes = 512u << 20,
                                .qemu = "7.2.0",
                                .accel = "tcg",
                                .memory_count = 1,
                                .disk_count = 1,
                                .state_size = 7,
                                .sandbox = json_object()};
        BG_AUTOCLOSE int resume = below(dir, BG_RESUME_FOLDER);
        bg_layer_new_id(m.id);
        memcpy(m.source_id, s.id, sizeof m.source_id);
        memcpy(m.disk[0].id, id, sizeof id);
        memcpy(m.memory[0].id, memory_id, sizeof memory_id);
        bg_layer_memory_file(memory_id, file);
        put(resume, file, "pages");
        put(resume, BG_SNAPSHOT_STATE, "devices");
        bg_sha256_hex("devices", 7, m.state_sha256);
        assert_int_equal(bg_layer_measure(resume, file, &m.memory[0], &err), 0);
        assert_int_equal(bg_layer_measure(dir, BG_DISK_FIRST, &m.disk[0], &err), 0);
        assert_int_equal(bg_snapshot_write(resume, &m, &err), 0);
        bg_snapshot_done(&m);
        BG_AUTOCLOSE int lock = -1;
        assert_int_equal(bg_sandbox_lock(&s, &lock, &err), 0);
        assert_int_equal(bg_sandbox_set_state(&s, BG_SANDBOX_SUSPENDED, "", &err), 0);
    }
    bg_sandbox_done(&s);
    bg_paths_done(&paths);
    return name;
}

static const char *text_of(const json_t *json, const char *key)
{
    const char *text = json_string_value(json_object_get(json, key));
    assert_non_null(text);
    return text;
}

static const char *state_dir(struct vm *vm)
{
    return vm_text(vm, "%s/state", vm->home);
}

static void snapshots_are_taken_listed_and_removed(void **state)
{
    struct vm *vm = *state;
    const char *s = make(vm, false);
    assert_string_equal(vm_ok(vm, "snapshot", s, NULL), vm_text(vm, "%s@1\n", s));
    assert_string_equal(vm_ok(vm, "snapshot", s, "named", "--note", "a note", NULL),
                        vm_text(vm, "%s@named\n", s));
    json_auto_t *third = vm_json(vm, "snapshot", "--json", vm_text(vm, "%s@third", s), NULL);
    assert_string_equal(text_of(third, "name"), vm_text(vm, "%s@third", s));
    json_auto_t *list = vm_json(vm, "snapshot", "ls", "--json", s, NULL);
    assert_int_equal(json_array_size(list), 3);
    const json_t *named = json_array_get(list, 1);
    assert_string_equal(text_of(named, "note"), "a note");
    assert_string_equal(text_of(named, "kind"), "disk");
    assert_string_equal(text_of(named, "parent"), vm_text(vm, "%s@1", s));
    const char *table = vm_ok(vm, "snapshot", "ls", s, NULL);
    assert_non_null(strstr(table, "SNAPSHOT"));
    assert_non_null(strstr(table, "a note"));
    json_auto_t *one = vm_json(vm, "snapshot", "inspect", "named", NULL);
    assert_true(json_is_null(json_object_get(one, "damage")));
    vm_refused(vm, "named|another tag", "snapshot", s, "named", NULL);
    vm_refused(vm, "tag", "snapshot", s, "../x", NULL);
    vm_refused(vm, "no sandbox", "snapshot", "no-such", NULL);
    vm_refused(vm, "no snapshot", "snapshot", "rm", "no-such@1", NULL);
    (void)vm_ok(vm, "snapshot", "rm", vm_text(vm, "%s@1", s), "third", NULL);
    json_auto_t *left = vm_json(vm, "snapshot", "ls", "--json", s, NULL);
    assert_int_equal(json_array_size(left), 1);
    (void)vm_ok(vm, "rm", s, NULL);
    /* It outlives its sandbox. */
    assert_non_null(strstr(vm_ok(vm, "snapshot", "rm", vm_text(vm, "%s@named", s), NULL), "freed"));
}

static void a_damaged_one_is_told_and_can_be_removed(void **state)
{
    struct vm *vm = *state;
    const char *s = make(vm, true);
    (void)vm_ok(vm, "snapshot", s, "good", NULL);
    (void)vm_ok(vm, "snapshot", s, "bad", NULL);
    (void)vm_ok(vm, "snapshot", s, "worse", NULL);
    (void)vm_host(vm,
                  "cd '%s/snapshots' && cp %s@bad/state x && printf %%s dEvices >x && mv x "
                  "%s@bad/state && echo x >>%s@worse/manifest.json",
                  state_dir(vm), s, s, s);
    vm_refused(vm, "damaged|state|snapshot rm", "fork", vm_text(vm, "%s@bad", s), NULL);
    vm_refused(vm, "damaged|manifest.json|snapshot rm", "fork", vm_text(vm, "%s@worse", s), NULL);
    json_auto_t *bad = vm_json(vm, "snapshot", "inspect", vm_text(vm, "%s@bad", s), NULL);
    assert_non_null(strstr(text_of(bad, "damage"), "state"));
    assert_non_null(strstr(vm_ok(vm, "snapshot", "ls", NULL), "damaged"));
    (void)vm_ok(vm, "snapshot", "rm", vm_text(vm, "%s@bad", s), vm_text(vm, "%s@worse", s),
                vm_text(vm, "%s@good", s), NULL);
    (void)vm_ok(vm, "rm", s, NULL);
}

static void forks_share_files_with_what_they_are_from(void **state)
{
    struct vm *vm = *state;
    const char *s = make(vm, true), *child = vm_name(vm);
    json_auto_t *children = vm_json(vm, "fork", "--no-start", "--json", "-n", "3", s, child, NULL);
    assert_int_equal(json_array_size(children), 3);
    assert_string_equal(text_of(json_array_get(children, 0), "name"), child);
    assert_string_equal(vm_state(vm, child), "suspended");
    /* The snapshot that was taken for it is gone, and the files have a name in each. */
    assert_string_equal(vm_host(vm, "ls -A '%s/snapshots' | grep '^%s' || true", state_dir(vm), s),
                        "");
    assert_string_equal(vm_host(vm, "stat -c %%h '%s/sandboxes/%s/disk.qcow2'", state_dir(vm), s),
                        "4\n");
    json_auto_t *seen = vm_json(vm, "inspect", child, NULL);
    assert_string_equal(text_of(json_object_get(seen, "resume"), "kind"), "full");
    assert_string_equal(json_string_value(json_object_get(json_object_get(seen, "disk"), "golden")),
                        GOLDEN);
    json_auto_t *source = vm_json(vm, "inspect", s, NULL);
    assert_string_not_equal(text_of(seen, "id"), text_of(source, "id"));
    vm_refused(vm, "name in use", "fork", "--no-start", s, vm_name(vm), child, NULL);
    assert_string_equal(vm_host(vm, "stat -c %%h '%s/sandboxes/%s/disk.qcow2'", state_dir(vm), s),
                        "4\n");
    vm_refused(vm, "no sandbox", "fork", "no-such", NULL);
    vm_refused(vm, "-n", "fork", "-n", "0", s, NULL);
    vm_refused(vm, "2 names for 1", "fork", "-n", "1", s, "a", "b", NULL);
    for (size_t i = 0; i < 3; i++)
        (void)vm_ok(vm, "rm", text_of(json_array_get(children, i), "name"), NULL);
    (void)vm_ok(vm, "rm", s, NULL);
}

static void goes_back_in_place(void **state)
{
    struct vm *vm = *state;
    const char *s = make(vm, true), *other = make(vm, false);
    (void)vm_ok(vm, "snapshot", s, "first", NULL);
    (void)vm_ok(vm, "snapshot", "--disk-only", s, "disk", NULL);
    (void)vm_ok(vm, "restore", "--no-start", s, "disk", NULL);
    assert_string_equal(vm_state(vm, s), "stopped");
    json_auto_t *disk = vm_json(vm, "inspect", s, NULL);
    assert_null(json_object_get(disk, "resume"));
    (void)vm_ok(vm, "restore", "--no-start", vm_text(vm, "%s@first", s), NULL);
    assert_string_equal(vm_state(vm, s), "suspended");
    json_auto_t *full = vm_json(vm, "inspect", s, NULL);
    assert_non_null(json_object_get(full, "resume"));
    assert_string_equal(vm_host(vm, "cd '%s/sandboxes/%s' && ls disk* resume", state_dir(vm), s),
                        vm_host(vm,
                                "cd '%s/sandboxes/%s' && echo disk-*.qcow2 disk.json | tr ' ' "
                                "'\\n' | LC_ALL=C sort; echo; echo resume:; ls resume",
                                state_dir(vm), s));
    vm_refused(vm, "another sandbox|bellglass fork", "restore", other, vm_text(vm, "%s@first", s),
               NULL);
    vm_refused(vm, "no snapshot", "restore", s, "no-such", NULL);
    vm_refused(vm, "TAG", "restore", s, NULL);
    vm_refused(vm, "nothing to suspend", "suspend", other, NULL);
    vm_refused(vm, "not suspended|bellglass start", "resume", other, NULL);
    (void)vm_ok(vm, "rm", s, other, NULL);
    (void)vm_ok(vm, "snapshot", "rm", vm_text(vm, "%s@first", s), vm_text(vm, "%s@disk", s), NULL);
}

static void the_family_is_drawn(void **state)
{
    struct vm *vm = *state;
    const char *s = make(vm, true), *child = vm_name(vm);
    (void)vm_ok(vm, "snapshot", s, "one", NULL);
    (void)vm_ok(vm, "fork", "--no-start", vm_text(vm, "%s@one", s), child, NULL);
    (void)vm_ok(vm, "snapshot", child, "two", NULL);
    const char *text = vm_ok(vm, "tree", child, NULL);
    assert_non_null(strstr(text, vm_text(vm, "%s@one  full", s)));
    assert_non_null(strstr(text, vm_text(vm, "├─ %s@two", child)));
    json_auto_t *tree = vm_json(vm, "tree", "--json", s, NULL);
    assert_int_equal(json_array_size(tree), 1);
    assert_string_equal(text_of(json_array_get(tree, 0), "type"), "snapshot");
    assert_int_equal(json_array_size(json_object_get(json_array_get(tree, 0), "children")), 2);
    vm_refused(vm, "no sandbox or snapshot", "tree", "no-such", NULL);
    (void)vm_ok(vm, "rm", s, child, NULL);
    (void)vm_ok(vm, "snapshot", "rm", "one", "two", NULL);
}

/* A folder as the maker of a golden snapshot leaves it. */
static void make_golden(struct vm *vm, const char *tag, long long created_ms, bool chosen)
{
    (void)vm_host(vm,
                  "mkdir -p '%s/data/snapshots' && cd '%s/data/snapshots' && "
                  "mkdir golden-" KEY ".%s && cd golden-" KEY ".%s && echo memory >memory && "
                  "printf '{\"created_ms\":%lld,\"key\":{\"image\":\"" DIGEST
                  "\",\"cpus\":1,\"memory_bytes\":536870912}}' >manifest.json && cd .. && %s",
                  vm->home, vm->home, tag, tag, created_ms,
                  chosen ? vm_text(vm, "ln -sfn golden-" KEY ".%s golden-" KEY, tag) : "true");
}

static const char *prunable(struct vm *vm, const char *option)
{
    json_auto_t *json = option ? vm_json(vm, "prune", "--json", option, NULL)
                               : vm_json(vm, "prune", "--json", NULL);
    const char *names = "";
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(json, "items"), i, item) names =
        vm_text(vm, "%s%s:%s\n", names, text_of(item, "kind"), text_of(item, "name"));
    return names;
}

static void take_for_a_moment(struct vm *vm, const char *name, const char *tag)
{
    struct bg_sandbox s;
    struct bg_err err;
    struct bg_paths paths = paths_of(vm);
    BG_AUTOFREE char *taken = NULL;
    assert_int_equal(bg_sandbox_load(&paths, name, &s, &err), 0);
    assert_int_equal(
        bg_snapshot_of_folder(&paths, &s, tag, NULL, /* disk_only= */ false, &taken, &err), 0);
    (void)vm_host(vm, "touch -d '1 hour ago' '%s/snapshots/%s'", state_dir(vm), taken);
    bg_sandbox_done(&s);
    bg_paths_done(&paths);
}

static void prune_removes_only_what_nothing_needs(void **state)
{
    struct vm *vm = *state;
    struct bg_err err;
    struct bg_paths paths = paths_of(vm);
    const char *s = make(vm, true);
    assert_string_equal(prunable(vm, NULL), "");
    /* One that is being made, and one whose maker is gone. */
    BG_AUTOFREE char *made = NULL;
    BG_AUTOFREE char *left = NULL;
    int making = -1, dead = -1;
    assert_int_equal(bg_snapshot_begin(&paths, &making, &made, &err), 0);
    assert_int_equal(bg_snapshot_begin(&paths, &dead, &left, &err), 0);
    (void)close(dead);
    /* Golden ones: that which the sandbox stands on, and others of which one is the next's. */
    make_golden(vm, "00000001", 1000, false);
    make_golden(vm, "00000002", 2000, false);
    make_golden(vm, "00000003", 3000, true);
    const char *found = prunable(vm, NULL);
    assert_non_null(strstr(found, vm_text(vm, "unfinished:%s\n", left)));
    assert_null(strstr(found, made));
    assert_null(strstr(found, GOLDEN));
    assert_non_null(strstr(found, "golden:golden-" KEY ".00000002\n"));
    /* The image of these is not there, so no sandbox will be made from them. */
    assert_non_null(strstr(found, "golden:golden-" KEY ".00000003\n"));
    /* A damaged file may refer to any of them. */
    const char *broken = make(vm, false);
    (void)vm_host(vm, "echo >'%s/sandboxes/%s/disk.json'", state_dir(vm), broken);
    assert_null(strstr(prunable(vm, NULL), "golden:"));
    (void)vm_ok(vm, "rm", broken, NULL);
    /* Of a command that was killed; held by one that lives. */
    (void)vm_ok(vm, "snapshot", s, "mine", NULL);
    take_for_a_moment(vm, s, ".fork-1");
    take_for_a_moment(vm, s, ".fork-2");
    BG_AUTOCLOSE int held = open(vm_text(vm, "%s/snapshots/%s@.fork-2", state_dir(vm), s),
                                 O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(flock(held, LOCK_SH), 0);
    found = prunable(vm, "--all-snapshots");
    assert_non_null(strstr(found, ".fork-1"));
    assert_null(strstr(found, ".fork-2"));
    assert_null(strstr(found, "mine")); /* the sandbox stands on it */
    assert_string_equal(prunable(vm, "--older-than=30d"),
                        "golden:golden-" KEY ".00000002\ngolden:golden-" KEY ".00000003\n");
    (void)vm_ok(vm, "prune", NULL); /* tells only */
    assert_string_equal(prunable(vm, "--all-snapshots"), found);
    (void)vm_ok(vm, "prune", "--yes", NULL);
    assert_string_equal(prunable(vm, NULL), "");
    assert_string_equal(vm_host(vm, "ls '%s/data/snapshots'", vm->home), GOLDEN "\n");
    (void)vm_ok(vm, "rm", s, NULL);
    assert_non_null(strstr(prunable(vm, "--all-snapshots"), "snapshot:"));
    (void)vm_ok(vm, "prune", "--yes", "--all-snapshots", NULL);
    vm_refused(vm, "one of them", "prune", "--yes", "--dry-run", NULL);
    vm_refused(vm, "7d", "prune", "--older-than", "soon", NULL);
    (void)close(making);
    (void)vm_host(vm, "rm -rf '%s/snapshots' '%s/data/snapshots'", state_dir(vm), vm->home);
    bg_paths_done(&paths);
}

static const char *doctors_line(struct vm *vm, bool fix)
{
    struct vm_result *result =
        fix ? vm_call(vm, "doctor", "--fix", NULL) : vm_call(vm, "doctor", NULL);
    const char *line = strstr(result->out, " snapshots ");
    assert_non_null(line);
    return vm_text(vm, "%.*s", (int)strcspn(line, "\n"), line);
}

static void doctor_tells_what_is_damaged_or_left(void **state)
{
    struct vm *vm = *state;
    struct bg_err err;
    struct bg_paths paths = paths_of(vm);
    const char *s = make(vm, true);
    (void)vm_ok(vm, "snapshot", s, "one", NULL);
    assert_non_null(strstr(doctors_line(vm, false), "1, none of them damaged"));
    BG_AUTOFREE char *left = NULL;
    int dead = -1;
    assert_int_equal(bg_snapshot_begin(&paths, &dead, &left, &err), 0);
    (void)close(dead);
    (void)vm_host(vm,
                  "cd '%s' && cp snapshots/%s@one/state x && printf %%s dEvices >x && "
                  "cp x snapshots/%s@one/y && mv snapshots/%s@one/y snapshots/%s@one/state && "
                  "mv x sandboxes/%s/resume/state",
                  state_dir(vm), s, s, s, s, s);
    const char *line = doctors_line(vm, false);
    assert_non_null(strstr(line, "1 that were not finished; 1 damaged snapshots, 1 sandboxes"));
    assert_non_null(strstr(line, vm_text(vm, "%s@one, %s", s, s)));
    assert_non_null(strstr(doctors_line(vm, true), "removed 1 that"));
    assert_non_null(strstr(doctors_line(vm, false), "0 that were not finished; 1 damaged"));
    vm_refused(vm, "--disk-only", "snapshot", s, NULL);
    (void)vm_ok(vm, "snapshot", "--disk-only", s, "disk", NULL);
    (void)vm_ok(vm, "rm", s, NULL);
    (void)vm_ok(vm, "snapshot", "rm", vm_text(vm, "%s@one", s), vm_text(vm, "%s@disk", s), NULL);
    bg_paths_done(&paths);
}

static void run_and_create_go_on_from_a_snapshot_only_with_its_settings(void **state)
{
    struct vm *vm = *state;
    const char *s = make(vm, true);
    vm_refused(vm, "--memory|--from", "create", "--from", s, "--memory", "1G", vm_name(vm), NULL);
    vm_refused(vm, "no sandbox", "run", "--from", "no-such", "--", "true", NULL);
    vm_refused(vm, "no snapshot", "run", "--from", "no-such@1", "--", "true", NULL);
    (void)vm_ok(vm, "rm", s, NULL);
    assert_string_equal(vm_ok(vm, "snapshot", "ls", "--all", s, NULL), "");
}

/* The folder of an image, so far as an import looks at it, and the golden snapshot of make(). The
 * images that all test programs share are left alone. */
static void make_base(struct vm *vm)
{
    (void)vm_host(
        vm,
        "set -e; rm -f '%s/data/images' 2>/dev/null || true\n"
        "mkdir -p '%s/data/images/" DIGEST "' '%s/data/images/tags' '%s/data/snapshots'\n"
        "cd '%s/data/images'; ln -sfn ../" DIGEST " tags/debian; cd " DIGEST "\n"
        "for f in root.qcow2 vmlinuz modules.cpio; do echo x >$f; done\n"
        "cat >manifest.json <<'E'\n"
        "{\"version\":1,\"digest\":\"" DIGEST "\",\"created_ms\":1,\"virtual_bytes\":2,"
        "\"kernel_release\":\"6.1\",\"user\":\"app\",\"files\":{\"root.qcow2\":{\"size\":2},"
        "\"vmlinuz\":{\"size\":2},\"modules.cpio\":{\"size\":2}}}\nE\n"
        "cd '%s/data/snapshots'; mkdir -p " GOLDEN "; cd " GOLDEN "\n"
        "for f in disk.qcow2 initrd child.qcow2 state; do echo $f >$f; done\n"
        "truncate -s 512M memory; printf page | dd of=memory bs=1 seek=300000000 conv=notrunc "
        "2>/dev/null\n"
        "echo '{\"version\":1,\"files\":{\"state\":{\"sha256\":\"x\"}}}' >manifest.json",
        vm->home, vm->home, vm->home, vm->home, vm->home, vm->home);
}

static void an_export_is_imported_elsewhere(void **state)
{
    struct vm *vm = *state;
    const char *s = make(vm, true), *file = vm_path(vm, "one.bgs");
    const char *name = vm_text(vm, "%s@one", s);
    make_base(vm);
    (void)vm_ok(vm, "snapshot", s, "one", "--note", "a note", NULL);
    json_auto_t *said = vm_json(vm, "export", "--json", name, file, NULL);
    assert_string_equal(text_of(said, "snapshot"), name);
    vm_refused(vm, "there already|--force", "export", name, file, NULL);
    (void)vm_ok(vm, "export", "--force", name, file, NULL);
    /* It is a tar file, and its memory's holes are none of its bytes. */
    assert_string_equal(vm_host(vm, "tar --zstd -tf '%s' | sed -n 1,2p | tr '\\n' ' '", file),
                        "format snapshot/manifest.json ");
    assert_true(strtol(vm_host(vm, "stat -c %%s '%s'", file), NULL, 10) < 100000);
    vm_refused(vm, name, "import", "--anyway", file, NULL);
    /* As on another machine: neither the snapshot nor the golden one is there. */
    (void)vm_ok(vm, "snapshot", "rm", name, NULL);
    (void)vm_host(vm, "cd '%s/data/snapshots' && mv " GOLDEN " ../kept", vm->home);
    vm_refused(vm, "saved with|cannot be restored|--anyway", "import", file, NULL);
    assert_string_equal(vm_ok(vm, "import", "--anyway", file, NULL), vm_text(vm, "%s\n", name));
    assert_string_equal(vm_ok(vm, "import", "--anyway", file, "theirs@7", NULL), "theirs@7\n");
    (void)vm_host(vm,
                  "cd '%s/data' && for f in disk.qcow2 initrd child.qcow2 state memory; do "
                  "cmp kept/$f snapshots/" GOLDEN "/$f; done; "
                  "[ $(stat -c %%b snapshots/" GOLDEN "/memory) -lt 1000 ]",
                  vm->home);
    json_auto_t *got = vm_json(vm, "snapshot", "inspect", "theirs@7", NULL);
    assert_true(json_is_null(json_object_get(got, "damage")));
    assert_string_equal(text_of(got, "note"), "a note");
    (void)vm_ok(vm, "fork", "--no-start", "theirs@7", vm_name(vm), NULL);
    /* Through pipes; without the base, where it is and where it is not. */
    (void)vm_host(vm,
                  "'%s' export --no-base %s - >'%s.2' && cat '%s.2' | '%s' import --anyway - p@1",
                  vm->bellglass, name, file, file, vm->bellglass);
    (void)vm_host(vm, "rm -r '%s/data/snapshots/" GOLDEN "'", vm->home);
    vm_refused(vm, "golden|--no-base", "import", "--anyway", vm_text(vm, "%s.2", file), "q@1",
               NULL);
    (void)vm_host(vm, "mv '%s/data/images/tags' '%s/data/images/" DIGEST "' '%s/data'", vm->home,
                  vm->home, vm->home);
    vm_refused(vm, "image|debian|not here", "import", "--anyway", file, "q@1", NULL);
    assert_string_equal(vm_host(vm,
                                "cd '%s' && ls -A data/snapshots state/snapshots | grep tmp || "
                                "true",
                                vm->home),
                        "");
    (void)vm_host(vm, "rm -rf '%s/snapshots' '%s/data/snapshots' '%s/data/kept'", state_dir(vm),
                  vm->home, vm->home);
}

/* An export with one thing changed: script works in a folder with its entries. */
static const char *changed(struct vm *vm, const char *file, const char *script, const char *order)
{
    const char *to = vm_path(vm, "changed-%s.bgs", vm_name(vm));
    (void)vm_host(vm,
                  "set -e; d=$(mktemp -d); cd $d; tar --zstd -xf '%s'; %s\n"
                  "tar --zstd -cf '%s' %s; cd /; rm -r $d",
                  file, script, to, order);
    return to;
}

static void a_hostile_export_changes_nothing(void **state)
{
    struct vm *vm = *state;
    static const char order[] = "format snapshot/manifest.json snapshot/manifest.sha256 "
                                "snapshot/state $(ls snapshot/memory* snapshot/disk*) sums";
    static const struct {
        const char *script, *order, *words;
    } cases[] = {
        {"printf dEvices >snapshot/state", order, "state|checksum"},
        {"printf devices-and-more >snapshot/state", order, "state|bytes"},
        {"sed -i s/a.note/b-note/ snapshot/manifest.json", order, "manifest.json|checksum"},
        {"sed -i '/state/d' sums", order, "state|checksum"},
        {"echo >>sums", order, "sums"},
        {"echo 'bellglass snapshot 2' >format", order, "later bellglass"},
        {"true", "snapshot/manifest.json format", "manifest.json|expected"},
        {"true", "format snapshot/manifest.json snapshot/manifest.sha256 snapshot/state", "cut"},
        {"true",
         "--hard-dereference format snapshot/manifest.json snapshot/manifest.sha256 snapshot/state "
         "snapshot/state "
         "sums",
         "state|twice"},
        {"ln -sf /etc/passwd snapshot/state", order, "state|expected"},
        {"ln -f snapshot/manifest.json snapshot/state", order, "state|expected"},
        {"mkdir golden; echo x >golden/evil",
         "format snapshot/manifest.json snapshot/manifest.sha256 golden/evil", "evil|expected"},
        {"echo x >snapshot/disk-0000000000000000.qcow2",
         "format snapshot/manifest.json snapshot/manifest.sha256 "
         "snapshot/disk-0000000000000000.qcow2",
         "expected"},
        {"true", "-P --transform 's,^format,../../format,' format", "expected"},
        {"true", "format snapshot/manifest.json snapshot/manifest.sha256 snapshot/state sums",
         "missing"},
    };
    const char *s = make(vm, true), *file = vm_path(vm, "hostile.bgs");
    make_base(vm);
    (void)vm_ok(vm, "snapshot", s, "one", "--note", "a note", NULL);
    (void)vm_ok(vm, "export", "--no-base", vm_text(vm, "%s@one", s), file, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        vm_refused(vm, cases[i].words, "import", "--anyway",
                   changed(vm, file, cases[i].script, cases[i].order), "evil@1", NULL);
    vm_refused(vm, "export", "import", "/etc/passwd", NULL);
    (void)vm_host(vm, "head -c 700 '%s' >'%s.cut'", file, file);
    vm_refused(vm, "export", "import", "--anyway", vm_text(vm, "%s.cut", file), NULL);
    assert_string_equal(vm_host(vm,
                                "cd '%s' && ls -A state/snapshots data/snapshots | grep -E "
                                "'tmp|evil' || true",
                                vm->home),
                        "");
    (void)vm_host(vm, "rm -rf '%s/snapshots' '%s/data/snapshots' '%s/data/images'", state_dir(vm),
                  vm->home, vm->home);
}

/* What it was allowed there it is not here. */
static void an_import_has_no_rights(void **state)
{
    struct vm *vm = *state;
    struct bg_err err;
    struct bg_paths paths = paths_of(vm);
    struct bg_sandbox sandbox;
    const char *s = make(vm, false), *file = vm_path(vm, "rights.bgs");
    make_base(vm);
    assert_int_equal(bg_sandbox_load(&paths, s, &sandbox, &err), 0);
    sandbox.allow = calloc(1, sizeof *sandbox.allow);
    sandbox.allow[sandbox.allow_count++] = strdup("*.example.org");
    sandbox.policy = strdup("network:\n  default: learn\n");
    sandbox.shares = calloc(1, sizeof *sandbox.shares);
    sandbox.shares[sandbox.share_count++] =
        (struct bg_share){.id = 1, .host = strdup("/root"), .guest = strdup("/x")};
    assert_int_equal(bg_sandbox_save(&sandbox, &err), 0);
    bg_sandbox_done(&sandbox);
    (void)vm_ok(vm, "export", s, file, NULL);
    (void)vm_ok(vm, "import", file, "plain@1", NULL);
    (void)vm_ok(vm, "import", "--trust", file, "mine@1", NULL);
    const char *plain = vm_name(vm), *mine = vm_name(vm);
    (void)vm_ok(vm, "fork", "--no-start", "plain@1", plain, NULL);
    (void)vm_ok(vm, "fork", "--no-start", "mine@1", mine, NULL);
    assert_int_equal(bg_sandbox_load(&paths, plain, &sandbox, &err), 0);
    assert_int_equal(sandbox.allow_count + sandbox.share_count, 0);
    assert_null(sandbox.policy);
    bg_sandbox_done(&sandbox);
    assert_int_equal(bg_sandbox_load(&paths, mine, &sandbox, &err), 0);
    assert_int_equal(sandbox.allow_count + sandbox.share_count, 2);
    assert_non_null(sandbox.policy);
    bg_sandbox_done(&sandbox);
    bg_paths_done(&paths);
    (void)vm_host(vm, "rm -rf '%s/snapshots' '%s/data/snapshots' '%s/data/images'", state_dir(vm),
                  vm->home, vm->home);
}

VM_MAIN(0, cmocka_unit_test(snapshots_are_taken_listed_and_removed),
        cmocka_unit_test(a_damaged_one_is_told_and_can_be_removed),
        cmocka_unit_test(forks_share_files_with_what_they_are_from),
        cmocka_unit_test(goes_back_in_place), cmocka_unit_test(the_family_is_drawn),
        cmocka_unit_test(doctor_tells_what_is_damaged_or_left),
        cmocka_unit_test(run_and_create_go_on_from_a_snapshot_only_with_its_settings),
        cmocka_unit_test(an_export_is_imported_elsewhere),
        cmocka_unit_test(a_hostile_export_changes_nothing),
        cmocka_unit_test(an_import_has_no_rights),
        cmocka_unit_test(prune_removes_only_what_nothing_needs))
