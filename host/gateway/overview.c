#include "host/gateway/overview.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/checked.h"
#include "common/io.h"
#include "common/state/snapshot.h"
#include "host/cli/client.h"
#include "host/cli/family_store.h"
#include "host/cli/output.h"

#define STATUS_TIMEOUT_MS 500  /* a supervisor that hangs costs everybody so long */
#define PROC_MAX          4096 /* of a file of /proc */

int overview_parse_stat(const char *text, uint64_t *ret_ticks)
{
    /* The name in front is in parentheses and may have anything in it. Then come the state, the
     * third field, and utime and stime, the 14th and 15th (proc(5)). */
    const char *at = strrchr(text, ')');
    uint64_t ticks[2];
    for (int spaces = 0; at && spaces < 14 - 2; spaces++)
        at = strchr(at + 1, ' ');
    for (size_t i = 0; i < 2; i++) {
        char number[24];
        size_t size = at ? strcspn(at + 1, " ") : 0;
        if (size == 0 || size >= sizeof number)
            return -EPROTO;
        (void)snprintf(number, sizeof number, "%.*s", (int)size, at + 1);
        if (bg_parse_u64(number, 0, INT64_MAX / 2, &ticks[i]) < 0)
            return -EPROTO;
        at = strchr(at + 1, ' ');
    }
    *ret_ticks = ticks[0] + ticks[1];
    return 0;
}

static int read_proc(json_int_t pid, const char *file, char **ret)
{
    char path[64];
    size_t size;
    struct bg_err err;
    (void)snprintf(path, sizeof path, "/proc/%" JSON_INTEGER_FORMAT "/%s", pid, file);
    return bg_read_file(AT_FDCWD, path, PROC_MAX, ret, &size, &err);
}

/* What QEMU's process uses; one that has ended meanwhile uses nothing. */
static int add_usage(json_t *json, json_int_t pid)
{
    BG_AUTOFREE char *stat = NULL, *statm = NULL;
    uint64_t ticks = 0, pages = 0;
    if (pid > 0 && read_proc(pid, "stat", &stat) == 0 && read_proc(pid, "statm", &statm) == 0) {
        char *rest = statm;
        (void)strsep(&rest, " "); /* the second number is what is in memory (proc(5)) */
        const char *number = strsep(&rest, " ");
        if (overview_parse_stat(stat, &ticks) < 0 || !number ||
            bg_parse_u64(number, 0, INT64_MAX >> 16, &pages) < 0)
            ticks = pages = 0;
    }
    uint64_t hz = (uint64_t)sysconf(_SC_CLK_TCK), page = (uint64_t)sysconf(_SC_PAGESIZE);
    return json_object_set_new(json, "cpu_ms", json_integer((json_int_t)(ticks * 1000 / hz))) < 0 ||
                   json_object_set_new(json, "rss_bytes",
                                       json_integer((json_int_t)(pages * page))) < 0
               ? -ENOMEM
               : 0;
}

static int add_running(const struct reach *reach, const struct life *life, json_t *json)
{
    struct bg_err err;
    json_auto_t *request = json_pack("{s:s}", "op", "status"), *status = NULL;
    if (!request)
        return -ENOMEM;
    if (client_request(&reach->app->paths, &life->sandbox, request, STATUS_TIMEOUT_MS, &status,
                       &err) < 0)
        return 0; /* it has ended, or hangs: what it uses is not known */
    static const char *const copied[] = {"accel", "uptime_ms"};
    for (size_t i = 0; i < sizeof copied / sizeof *copied; i++) {
        json_t *value = json_object_get(status, copied[i]);
        if (value && json_object_set(json, copied[i], value) < 0)
            return -ENOMEM;
    }
    return add_usage(json, json_integer_value(json_object_get(status, "qemu_pid")));
}

/* When it ends at the latest, whoever sees to that; 0: never by itself. */
static uint64_t ends_ms(const struct bg_sandbox *s, const struct record *record)
{
    const uint64_t all[] = {s->expires_ms, record->stop_at_ms, record->ends_by_ms};
    uint64_t first = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i] > 0 && (first == 0 || all[i] < first))
            first = all[i];
    return first;
}

static json_t *describe(const struct reach *reach, const struct life *life,
                        const struct record *record)
{
    const struct bg_sandbox *s = &life->sandbox;
    char reason[BG_ERR_TEXT_SIZE];
    enum bg_sandbox_state noted;
    (void)bg_sandbox_noted(s, &noted, reason);
    json_t *json = json_pack(
        "{s:s, s:s, s:o, s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:s?, s:I, s:O?, s:i}", "name", s->name,
        "state", bg_sandbox_state_name(life->state), "reason", output_text(reason), "image",
        s->image_name, "cpus", (int)s->cpus, "memory_bytes", (json_int_t)s->memory_bytes,
        "created_ms", (json_int_t)s->created_ms, "expires_ms", (json_int_t)s->expires_ms, "ends_ms",
        (json_int_t)ends_ms(s, record), "idle_suspend_s", (json_int_t)s->idle_suspend_s, "token",
        record->token, "stop_at_ms", (json_int_t)record->stop_at_ms, "labels", record->labels,
        "port", (int)record->port);
    if (json && life->state == BG_SANDBOX_RUNNING && add_running(reach, life, json) < 0) {
        json_decref(json);
        return NULL;
    }
    return json;
}

static int add_sandboxes(const struct reach *reach, json_t *array, struct bg_err *err)
{
    char **names;
    int r = bg_sandbox_names(&reach->app->paths, &names, err);
    if (r < 0)
        return r;
    for (size_t i = 0; r == 0 && names[i]; i++) {
        struct life life;
        struct record record;
        struct bg_err why;
        if (reach_sandbox(reach, names[i], &life, &record, &why) < 0)
            continue; /* another token's, removed meanwhile, or damaged: ls and doctor tell of it */
        if (json_array_append_new(array, describe(reach, &life, &record)) < 0)
            r = bg_err_errno(err, -ENOMEM, "overview");
        record_done(&record);
        life_done(&life);
    }
    bg_sandbox_names_free(names);
    return r;
}

static int add_snapshots(const struct reach *reach, json_t *array, struct bg_err *err)
{
    char **names;
    int r = bg_snapshot_names(&reach->app->paths, &names, err);
    if (r < 0)
        return r;
    for (size_t i = 0; r == 0 && names[i]; i++) {
        struct bg_snapshot s;
        struct bg_err why;
        const char *at = strchr(names[i], '@');
        /* Those that a command makes for a moment begin with a dot. */
        if ((at && at[1] == '.') || !reach_snapshot_ok(reach, names[i]) ||
            bg_snapshot_load(&reach->app->paths, names[i], &s, &why) < 0)
            continue;
        json_t *json =
            json_pack("{s:s, s:s, s:s, s:s?, s:o, s:I, s:I}", "name", names[i], "source",
                      s.source_name, "kind", bg_snapshot_kind_name(s.kind), "parent", s.parent,
                      "note", output_text(s.note ? s.note : ""), "created_ms",
                      (json_int_t)s.created_ms, "dirty_bytes", (json_int_t)s.dirty_bytes);
        if (json_array_append_new(array, json) < 0)
            r = bg_err_errno(err, -ENOMEM, "overview");
        bg_snapshot_done(&s);
    }
    bg_sandbox_names_free(names);
    return r;
}

/* Those that are in the two lists: nothing else is to be known of. */
struct known {
    const json_t *sandboxes, *snapshots;
};

static bool is_known(void *owner, const char *name)
{
    const struct known *known = owner;
    const json_t *list = strchr(name, '@') ? known->snapshots : known->sandboxes;
    for (size_t i = 0; i < json_array_size(list); i++)
        if (strcmp(json_string_value(json_object_get(json_array_get(list, i), "name")), name) == 0)
            return true;
    return false;
}

static int make_tree(const struct reach *reach, const struct known *known, json_t **ret,
                     struct bg_err *err)
{
    struct known copy = *known; /* the filter's owner is no const */
    const struct family_store_filter filter = {.wants = is_known, .owner = &copy};
    struct family *family = family_new();
    int r = family ? family_store_collect(reach->app, family, &filter, err)
                   : bg_err_errno(err, -ENOMEM, "tree");
    *ret = r == 0 ? family_json(family, NULL) : NULL;
    family_free(family);
    return r == 0 && !*ret ? bg_err_errno(err, -ENOMEM, "tree") : r;
}

int overview_make(const struct reach *reach, json_t **ret, struct bg_err *err)
{
    json_auto_t *sandboxes = json_array(), *snapshots = json_array(), *tree = NULL;
    int r = sandboxes && snapshots ? 0 : bg_err_errno(err, -ENOMEM, "overview");
    if (r == 0)
        r = add_sandboxes(reach, sandboxes, err);
    if (r == 0)
        r = add_snapshots(reach, snapshots, err);
    const struct known known = {.sandboxes = sandboxes, .snapshots = snapshots};
    if (r == 0)
        r = make_tree(reach, &known, &tree, err);
    if (r < 0)
        return r;
    json_t *json = json_pack("{s:I, s:O, s:O, s:O}", "now_ms", (json_int_t)output_now_ms(),
                             "sandboxes", sandboxes, "snapshots", snapshots, "tree", tree);
    if (!json)
        return bg_err_errno(err, -ENOMEM, "overview");
    *ret = json;
    return 0;
}
