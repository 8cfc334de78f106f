#include "host/cli/mounted.h"

#include <string.h>

#include "host/cli/mounts.h"
#include "host/cli/output.h"

static bool is_image(const struct mount_entry *entry)
{
    return strcmp(entry->id, BG_HELPER_IMAGE_ID) == 0;
}

static int print_json(const struct mount_list *mounts)
{
    json_auto_t *array = json_array();
    for (size_t i = 0; array && i < mounts->count; i++) {
        const struct mount_entry *e = &mounts->entries[i];
        json_t *one = json_pack("{s:o, s:b, s:o, s:b}", "name", output_text(e->sandbox), "image",
                                (int)is_image(e), "dir", output_text(e->path), "read_only",
                                (int)e->read_only);
        if (json_array_append_new(array, one) < 0) {
            json_decref(array);
            array = NULL;
        }
    }
    return output_json(array);
}

static int print_table(const struct mount_list *mounts)
{
    static const char *const heading[] = {"NAME", "KIND", "ACCESS", "FOLDER"};
    struct table table;
    struct bg_err err;
    table_init(&table, sizeof heading / sizeof *heading);
    for (size_t i = 0; i < table.columns; i++)
        table_add(&table, heading[i]);
    for (size_t i = 0; i < mounts->count; i++) {
        const struct mount_entry *e = &mounts->entries[i];
        table_add(&table, e->sandbox);
        table_add(&table, is_image(e) ? "image" : "sandbox");
        table_add(&table, e->read_only ? "read" : "write");
        table_add(&table, e->path);
    }
    int r = table_print(&table, stdout);
    table_done(&table);
    if (r == 0)
        return app_printed(0);
    (void)bg_err_errno(&err, r, "mount");
    return app_fail(&err);
}

int mounted_print(bool as_json)
{
    struct mount_list mounts;
    struct bg_err err;
    if (mounts_read(&mounts, &err) < 0)
        return app_fail(&err);
    int status = as_json ? print_json(&mounts) : print_table(&mounts);
    mounts_done(&mounts);
    return status;
}
