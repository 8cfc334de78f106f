#include "host/gateway/reach.h"

#include <string.h>

#include "common/state/snapshot.h"

int reach_sandbox(const struct reach *reach, const char *name, struct life *ret_life,
                  struct record *ret_record, struct bg_err *err)
{
    struct life life;
    struct record record = {0};
    struct bg_err why;
    int r = life_open(reach->app, name, &life, err);
    if (r == -ENOENT)
        return bg_err_set(err, -ENOENT, "there is no sandbox '%s'", name);
    if (r < 0)
        return r;
    if (record_load(life.sandbox.dir, &record, &why) < 0)
        record = (struct record){0}; /* not a gateway's */
    if (!reach->all && (!record.token || strcmp(record.token, reach->token) != 0)) {
        record_done(&record);
        life_done(&life);
        return bg_err_set(err, -ENOENT, "there is no sandbox '%s'", name);
    }
    *ret_life = life;
    *ret_record = record;
    return 0;
}

bool reach_snapshot_ok(const struct reach *reach, const char *snapshot)
{
    char name[BG_SANDBOX_NAME_MAX + 1], tag[BG_SANDBOX_NAME_MAX + 2];
    struct life life;
    struct record record;
    struct bg_err why;
    if (reach->all)
        return true;
    if (!bg_snapshot_split(snapshot, name, tag) ||
        reach_sandbox(reach, name, &life, &record, &why) < 0)
        return false;
    record_done(&record);
    life_done(&life);
    return true;
}
