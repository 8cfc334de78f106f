/* Random sequences of the verbs around snapshots, against a model of what must be there: which
 * sandboxes and snapshots, in which state, and in each guest two marks, one in its memory and one
 * on its disk, and a program that knows whether both are of one instant (tests/lib/oracle.h).
 *
 * BG_TEST_SEED chooses the sequence, BG_TEST_STEPS its length; `tests/run --soak` goes on with new
 * ones for as long as it is told to. */
#include "tests/lib/vm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/oracle.h"

#define SEED          7
#define STEPS         40
#define SANDBOXES_MAX 5
#define RUNNING_MAX   3
#define SNAPSHOTS_MAX 8
#define NO_MARK       0u

/* What a guest has at an instant. */
struct instant {
    bool memory;        /* it is one of memory too, else of a disk alone */
    unsigned in_memory; /* the marks; NO_MARK: none */
    unsigned on_disk;
    long records; /* the oracle has at least so many; -1: it does not run */
};

struct sandbox {
    const char *name; /* NULL: none */
    enum { RUNNING, SUSPENDED, STOPPED } state;
    struct instant now;
};

struct snapshot {
    const char *name, *tag; /* NAME@TAG; NULL: none */
    struct instant then;
};

struct model {
    struct vm *vm;
    uint64_t random;
    unsigned marks, tags;
    struct sandbox sandboxes[SANDBOXES_MAX];
    struct snapshot snapshots[SNAPSHOTS_MAX];
};

/* ---- chance ---- */

static unsigned below(struct model *m, unsigned end)
{
    m->random = m->random * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
    return (unsigned)(m->random >> 33) % end;
}

static struct sandbox *some_sandbox(struct model *m, unsigned states)
{
    struct sandbox *found[SANDBOXES_MAX];
    unsigned count = 0;
    for (size_t i = 0; i < SANDBOXES_MAX; i++)
        if (m->sandboxes[i].name && (states & 1u << m->sandboxes[i].state))
            found[count++] = &m->sandboxes[i];
    return count > 0 ? found[below(m, count)] : NULL;
}

#define ANY         (1u << RUNNING | 1u << SUSPENDED | 1u << STOPPED)
#define NOT_RUNNING (1u << SUSPENDED | 1u << STOPPED)

static struct snapshot *some_snapshot(struct model *m, const char *of)
{
    struct snapshot *found[SNAPSHOTS_MAX];
    unsigned count = 0;
    for (size_t i = 0; i < SNAPSHOTS_MAX; i++) {
        struct snapshot *s = &m->snapshots[i];
        if (s->name &&
            (!of || (strncmp(s->name, of, strlen(of)) == 0 && s->name[strlen(of)] == '@')))
            found[count++] = s;
    }
    return count > 0 ? found[below(m, count)] : NULL;
}

static struct sandbox *free_sandbox(struct model *m)
{
    for (size_t i = 0; i < SANDBOXES_MAX; i++)
        if (!m->sandboxes[i].name)
            return &m->sandboxes[i];
    return NULL;
}

static bool may_run(const struct model *m)
{
    unsigned running = 0;
    for (size_t i = 0; i < SANDBOXES_MAX; i++)
        running += m->sandboxes[i].name && m->sandboxes[i].state == RUNNING;
    return running < RUNNING_MAX;
}

static void lose_memory(struct instant *instant)
{
    instant->memory = false;
    instant->in_memory = NO_MARK;
    instant->records = -1;
}

/* ---- looking ---- */

static unsigned number_in(struct vm *vm, const char *name, const char *file)
{
    return (unsigned)strtoul(vm_guest(vm, name, "cat %s 2>/dev/null || echo 0", file), NULL, 10);
}

static void look_into(struct model *m, struct sandbox *s)
{
    assert_int_equal(number_in(m->vm, s->name, "/dev/shm/mark"), s->now.in_memory);
    assert_int_equal(number_in(m->vm, s->name, "mark"), s->now.on_disk);
    if (s->now.records < 0) {
        assert_string_equal(vm_guest(m->vm, s->name, "pgrep -c python3 || true"), "0\n");
        return;
    }
    long records = oracle_ask(m->vm, s->name);
    assert_true(records >= s->now.records);
    s->now.records = records;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static const char *sorted(struct vm *vm, const char **names, size_t count)
{
    const char *text = "";
    qsort(names, count, sizeof *names, by_text);
    for (size_t i = 0; i < count; i++)
        text = vm_text(vm, "%s%s\n", text, names[i]);
    return text;
}

/* The store has what it must have and nothing else. */
static void look_at_store(struct model *m)
{
    static const char *const states[] = {"running", "suspended", "stopped"};
    const char *names[SANDBOXES_MAX + SNAPSHOTS_MAX],
        *state = vm_text(m->vm, "%s/state", m->vm->home);
    size_t count = 0;
    for (size_t i = 0; i < SANDBOXES_MAX; i++)
        if (m->sandboxes[i].name)
            names[count++] = m->sandboxes[i].name;
    assert_string_equal(vm_host(m->vm, "LC_ALL=C ls -A %s/sandboxes", state),
                        sorted(m->vm, names, count));
    count = 0;
    for (size_t i = 0; i < SNAPSHOTS_MAX; i++)
        if (m->snapshots[i].name)
            names[count++] = m->snapshots[i].name;
    assert_string_equal(
        vm_host(m->vm, "mkdir -p %s/snapshots; LC_ALL=C ls -A %s/snapshots", state, state),
        sorted(m->vm, names, count));
    for (size_t i = 0; i < SANDBOXES_MAX; i++) {
        const struct sandbox *s = &m->sandboxes[i];
        if (!s->name)
            continue;
        assert_string_equal(vm_state(m->vm, s->name), states[s->state]);
        /* What it would go on from is there when it sleeps, and only then. */
        assert_string_equal(
            vm_host(m->vm, "cd %s/sandboxes/%s; ls -d resume* *.tmp *.new 2>/dev/null || true",
                    state, s->name),
            s->state == SUSPENDED ? "resume\n" : "");
    }
}

/* ---- steps; each returns what it did, or NULL if it cannot be done now ---- */

static const char *create(struct model *m)
{
    struct sandbox *s = free_sandbox(m);
    if (!s || !may_run(m))
        return NULL;
    *s = (struct sandbox){.name = vm_name(m->vm), .now.records = -1, .now.memory = true};
    (void)vm_ok(m->vm, "create", "--memory", "256M", s->name, NULL);
    return vm_text(m->vm, "create %s", s->name);
}

static const char *mark(struct model *m)
{
    struct sandbox *s = some_sandbox(m, 1u << RUNNING);
    if (!s)
        return NULL;
    s->now.in_memory = s->now.on_disk = ++m->marks;
    (void)vm_guest(m->vm, s->name, "echo %u >/dev/shm/mark; echo %u >mark", m->marks, m->marks);
    if (s->now.records < 0) {
        oracle_start(m->vm, s->name, 20);
        s->now.records = 0;
    }
    return vm_text(m->vm, "mark %s with %u", s->name, m->marks);
}

static const char *look(struct model *m)
{
    struct sandbox *s = some_sandbox(m, 1u << RUNNING);
    if (!s)
        return NULL;
    look_into(m, s);
    return vm_text(m->vm, "look into %s: %ld records", s->name, s->now.records);
}

static const char *snapshot(struct model *m)
{
    struct sandbox *s = some_sandbox(m, ANY);
    struct snapshot *at = NULL;
    bool disk_only = below(m, 4) == 0;
    for (size_t i = 0; i < SNAPSHOTS_MAX; i++)
        if (!m->snapshots[i].name)
            at = &m->snapshots[i];
    if (!s || !at)
        return NULL;
    const char *tag = vm_text(m->vm, "s%u", ++m->tags);
    *at = (struct snapshot){
        .name = vm_text(m->vm, "%s@%s", s->name, tag), .tag = tag, .then = s->now};
    if (disk_only || s->state == STOPPED)
        lose_memory(&at->then);
    (void)vm_ok(m->vm, "snapshot", "-q", s->name, tag, disk_only ? "--disk-only" : NULL, NULL);
    vm_refused(m->vm, "choose another tag", "snapshot", "-q", s->name, tag, NULL);
    return vm_text(m->vm, "snapshot %s%s", at->name, disk_only ? " --disk-only" : "");
}

static const char *fork_one(struct model *m)
{
    struct sandbox *child = free_sandbox(m), *from = NULL;
    struct snapshot *at = NULL;
    bool start = may_run(m) && below(m, 4) > 0;
    if (below(m, 2) == 0)
        from = some_sandbox(m, ANY);
    else
        at = some_snapshot(m, NULL);
    if (!child || (!from && !at))
        return NULL;
    *child = (struct sandbox){.name = vm_name(m->vm), .now = from ? from->now : at->then};
    if (from && from->state == STOPPED)
        lose_memory(&child->now);
    child->state = start ? RUNNING : child->now.memory ? SUSPENDED : STOPPED;
    const char *source = from ? from->name : at->name;
    (void)vm_ok(m->vm, "fork", "-q", source, child->name, start ? NULL : "--no-start", NULL);
    if (child->state == RUNNING)
        child->now.memory = true;
    return vm_text(m->vm, "fork %s %s%s", source, child->name, start ? "" : " --no-start");
}

static const char *suspend(struct model *m)
{
    struct sandbox *s = some_sandbox(m, 1u << RUNNING);
    if (!s)
        return NULL;
    (void)vm_ok(m->vm, "suspend", "-q", s->name, NULL);
    s->state = SUSPENDED;
    return vm_text(m->vm, "suspend %s", s->name);
}

static const char *resume(struct model *m)
{
    struct sandbox *s = some_sandbox(m, 1u << SUSPENDED);
    if (!s || !may_run(m))
        return NULL;
    (void)vm_ok(m->vm, "resume", "-q", s->name, NULL);
    s->state = RUNNING;
    look_into(m, s);
    return vm_text(m->vm, "resume %s", s->name);
}

static const char *start(struct model *m)
{
    struct sandbox *s = some_sandbox(m, NOT_RUNNING);
    bool cold = below(m, 3) == 0;
    if (!s || !may_run(m))
        return NULL;
    (void)vm_ok(m->vm, "start", "-q", s->name, cold ? "--cold" : NULL, NULL);
    if (cold || s->state == STOPPED)
        lose_memory(&s->now);
    s->now.memory = true;
    s->state = RUNNING;
    look_into(m, s);
    return vm_text(m->vm, "start %s%s", s->name, cold ? " --cold" : "");
}

static const char *stop(struct model *m)
{
    struct sandbox *s = some_sandbox(m, 1u << RUNNING);
    if (!s)
        return NULL;
    (void)vm_ok(m->vm, "stop", "-t", VM_POWER_OFF_S, s->name, NULL);
    lose_memory(&s->now);
    s->state = STOPPED;
    return vm_text(m->vm, "stop %s", s->name);
}

static const char *restore(struct model *m)
{
    struct sandbox *s = some_sandbox(m, ANY);
    struct snapshot *at = s ? some_snapshot(m, s->name) : NULL;
    if (!at)
        return NULL;
    bool run = (s->state == RUNNING || may_run(m)) && below(m, 4) > 0;
    (void)vm_ok(m->vm, "restore", "-q", "-y", s->name, at->tag, run ? NULL : "--no-start", NULL);
    s->now = at->then;
    s->state = run ? RUNNING : s->now.memory ? SUSPENDED : STOPPED;
    if (run) {
        look_into(m, s);
        s->now.memory = true;
    }
    return vm_text(m->vm, "restore %s%s", at->name, run ? "" : " --no-start");
}

static const char *remove_sandbox(struct model *m)
{
    struct sandbox *s = some_sandbox(m, ANY);
    if (!s || below(m, 2) == 0)
        return NULL;
    const char *name = s->name;
    (void)vm_ok(m->vm, "rm", "--force", name, NULL);
    s->name = NULL;
    return vm_text(m->vm, "rm %s", name);
}

static const char *remove_snapshot(struct model *m)
{
    struct snapshot *at = some_snapshot(m, NULL);
    if (!at)
        return NULL;
    const char *name = at->name;
    (void)vm_ok(m->vm, "snapshot", "rm", "-q", name, NULL);
    at->name = NULL;
    return vm_text(m->vm, "snapshot rm %s", name);
}

static const char *flatten(struct model *m)
{
    struct sandbox *s = some_sandbox(m, 1u << RUNNING);
    if (!s)
        return NULL;
    (void)vm_ok(m->vm, "flatten", "-q", s->name, NULL);
    look_into(m, s);
    return vm_text(m->vm, "flatten %s", s->name);
}

static json_t *inspect_snapshot(struct model *m, const char *snapshot)
{
    json_auto_t *all = vm_json(m->vm, "snapshot", "inspect", snapshot, NULL);
    return json_incref(json_is_array(all) ? json_array_get(all, 0) : all);
}

static bool is_known(const struct model *m, const char *snapshot)
{
    for (size_t i = 0; i < SNAPSHOTS_MAX; i++)
        if (m->snapshots[i].name && strcmp(m->snapshots[i].name, snapshot) == 0)
            return true;
    return false;
}

/* The sandbox, whose disk may be flat since, came from the snapshot. */
static bool comes_from(struct model *m, const struct sandbox *s, const char *snapshot)
{
    json_error_t error;
    json_auto_t *disk = json_load_file(
        vm_text(m->vm, "%s/state/sandboxes/%s/disk.json", m->vm->home, s->name), 0, &error);
    const char *parent = json_string_value(json_object_get(disk, "parent"));
    for (int depth = 0; parent && depth < 1000; depth++) {
        if (strcmp(parent, snapshot) == 0)
            return true;
        if (!is_known(m, parent))
            return false;
        json_auto_t *one = inspect_snapshot(m, parent);
        const char *next = json_string_value(json_object_get(one, "parent"));
        parent = next ? vm_text(m->vm, "%s", next) : NULL;
    }
    return false;
}

/* The last layer of a snapshot's disk is below some sandbox's, or was. */
static bool stood_upon(struct model *m, const char *snapshot)
{
    for (size_t i = 0; i < SANDBOXES_MAX; i++)
        if (m->sandboxes[i].name && comes_from(m, &m->sandboxes[i], snapshot))
            return true;
    json_auto_t *one = inspect_snapshot(m, snapshot);
    const json_t *disk = json_object_get(one, "disk");
    const char *id =
        json_string_value(json_object_get(json_array_get(disk, json_array_size(disk) - 1), "id"));
    assert_non_null(id);
    return strtol(vm_host(m->vm,
                          "cat %s/state/sandboxes/*/disk.json 2>/dev/null | grep -c %s || true",
                          m->vm->home, id),
                  NULL, 10) > 0;
}

static const char *prune(struct model *m)
{
    bool all = below(m, 3) == 0;
    (void)vm_ok(m->vm, "prune", "--dry-run", "--all-snapshots", NULL);
    for (size_t i = 0; all && i < SNAPSHOTS_MAX; i++)
        if (m->snapshots[i].name && !stood_upon(m, m->snapshots[i].name))
            m->snapshots[i].name = NULL;
    (void)vm_ok(m->vm, "prune", "--yes", all ? "--all-snapshots" : NULL, NULL);
    return vm_text(m->vm, "prune%s", all ? " --all-snapshots" : "");
}

static const struct {
    const char *(*run)(struct model *m);
    unsigned weight;
} steps[] = {
    {create, 2},          {mark, 4},   {look, 2}, {snapshot, 5}, {fork_one, 5}, {suspend, 3},
    {resume, 3},          {start, 2},  {stop, 1}, {restore, 3},  {prune, 1},    {remove_sandbox, 2},
    {remove_snapshot, 2}, {flatten, 2}};

static const char *step(struct model *m)
{
    unsigned sum = 0;
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        sum += steps[i].weight;
    for (;;) {
        unsigned at = below(m, sum);
        size_t i = 0;
        while (at >= steps[i].weight)
            at -= steps[i++].weight;
        const char *did = steps[i].run(m);
        if (did)
            return did;
    }
}

static unsigned long long from_env(const char *name, unsigned long long otherwise)
{
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : otherwise;
}

static void sequences_of_verbs_do_what_the_model_says(void **state)
{
    struct model m = {.vm = *state, .random = from_env("BG_TEST_SEED", SEED)};
    unsigned long long count = from_env("BG_TEST_STEPS", STEPS);
    print_message("BG_TEST_SEED=%llu BG_TEST_STEPS=%llu\n", (unsigned long long)m.random, count);
    print_message("%s\n", create(&m));
    for (unsigned long long i = 1; i <= count; i++) {
        print_message("%llu: %s\n", i, step(&m));
        look_at_store(&m);
    }
    for (size_t i = 0; i < SANDBOXES_MAX; i++) {
        struct sandbox *s = &m.sandboxes[i];
        if (!s->name)
            continue;
        if (s->state != RUNNING)
            (void)vm_ok(m.vm, "start", "-q", s->name, NULL);
        look_into(&m, s);
        (void)vm_ok(m.vm, "rm", "--force", s->name, NULL);
        s->name = NULL;
    }
    (void)vm_ok(m.vm, "prune", "--yes", "--all-snapshots", NULL); /* nothing stands on any now */
    memset(m.snapshots, 0, sizeof m.snapshots);
    look_at_store(&m);
}

VM_MAIN(VM_NEEDS_VM, cmocka_unit_test(sequences_of_verbs_do_what_the_model_says))
