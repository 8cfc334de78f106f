#include "fs/relay/guard_state.h"

#include <stdlib.h>
#include <string.h>

#include "fs/guard/gitconfig.h"

/* ---- the host writes git's configuration ---- */

/* The host made its new file from what it was shown. What it was not shown is added before that
 * takes the place of the guest's, or the guest would lose it: read the guest's, write the sum to
 * the temporary file, let the rename go on. */

static void rename_on(struct fs_relay *relay, const struct fs_errand *errand, uint64_t now_ms)
{
    struct fs_pending *pending = calloc(1, sizeof *pending);
    bool good = pending && (pending->name = strdup(errand->from_name)) &&
                (pending->name2 = strdup(errand->name));
    if (!good) {
        if (pending)
            free(pending->name);
        free(pending);
        fs_relay_fail(relay, errand->kernel_unique, -ENOMEM);
        return;
    }
    pending->kernel_unique = errand->kernel_unique;
    pending->flags = errand->flags;
    pending->node = errand->from;
    pending->node2 = errand->folder;
    fs_tree_ref(pending->node);
    fs_tree_ref(pending->node2);
    struct fs_request request = {.opcode = errand->kernel_opcode,
                                 .node = pending->node->peer->id,
                                 .node2 = pending->node2->peer->id,
                                 .flags = errand->flags,
                                 .name = pending->name,
                                 .name_size = strlen(pending->name),
                                 .name2 = pending->name2,
                                 .name2_size = strlen(pending->name2)};
    fs_relay_send(relay, &request, pending, now_ms);
}

static void sum_stored(struct fs_relay *relay, struct fs_errand *errand, int error, uint64_t now_ms)
{
    struct fs_errand rename = {.kernel_unique = errand->kernel_unique,
                               .kernel_opcode = errand->kernel_opcode,
                               .folder = errand->from,
                               .name = errand->from_name,
                               .from = errand->folder,
                               .from_name = errand->name,
                               .flags = errand->flags};
    struct fs_gcopy *copy = fs_gcopy_at(relay->guard, errand->folder, errand->name);
    if (error == 0 && copy) {
        struct bg_sha256 hash;
        bg_sha256_init(&hash);
        bg_sha256_update(&hash, errand->bytes, errand->size);
        bg_sha256_final(&hash, copy->twin);
        copy->has_twin = true;
    }
    if (error < 0)
        fs_relay_fail(relay, errand->kernel_unique, error);
    else
        rename_on(relay, &rename, now_ms);
}

/* The sum of a new configuration and what the old one has hidden. *ret NULL: nothing to add. */
static int add_hidden(const struct fs_relay *relay, const struct fs_errand *errand,
                      const struct fs_gcopy *copy, uint8_t **ret, size_t *ret_size)
{
    struct guard_config_opts opts = {.depth = fs_tree_depth(errand->folder)};
    BG_AUTOFREE char *hidden = NULL;
    size_t size;
    struct bg_err err;
    (void)relay;
    *ret = NULL;
    int r = guard_config_hidden(errand->bytes, errand->size, copy->bytes, copy->size, &opts,
                                &hidden, &size, &err);
    if (r < 0 || size == 0 || copy->size + 1 + size > BG_GUARD_FILE_MAX)
        return r == -ENOMEM ? r : 0; /* one that git could not read has nothing to lose */
    uint8_t *sum = malloc(copy->size + 1 + size);
    if (!sum)
        return -ENOMEM;
    if (copy->size > 0)
        memcpy(sum, copy->bytes, copy->size);
    sum[copy->size] = '\n';
    memcpy(sum + copy->size + 1, hidden, size);
    *ret = sum;
    *ret_size = copy->size + 1 + size;
    return 0;
}

static void old_fetched(struct fs_relay *relay, struct fs_errand *errand, int error,
                        uint64_t now_ms)
{
    const struct fs_gcopy *copy = fs_gcopy_at(relay->guard, errand->from, errand->from_name);
    struct fs_errand sum = {.kind = FS_ERRAND_STORE,
                            .kernel_unique = errand->kernel_unique,
                            .kernel_opcode = errand->kernel_opcode,
                            .folder = errand->from,
                            .from = errand->folder,
                            .flags = errand->flags,
                            .mode = 0644,
                            .on_done = sum_stored};
    int r = error == 0 && copy ? add_hidden(relay, errand, copy, &sum.bytes, &sum.size) : 0;
    if (r == 0 && !sum.bytes) { /* also when there is none, or none that is a file */
        rename_on(relay, errand, now_ms);
        return;
    }
    if (r == 0) {
        sum.from_name = strdup(errand->name);
        if (sum.from_name)
            r = fs_errand_start(relay, &sum, errand->from_name, now_ms);
        else {
            free(sum.bytes);
            r = -ENOMEM;
        }
    }
    if (r < 0)
        fs_relay_fail(relay, errand->kernel_unique, r);
}

int fs_guard_write_config(struct fs_relay *relay, const struct fs_request *request,
                          struct fs_rnode *from, struct fs_rnode *to, uint64_t now_ms)
{
    struct fs_errand errand = {.kind = FS_ERRAND_FETCH,
                               .kernel_unique = request->unique,
                               .kernel_opcode = request->opcode,
                               .folder = to,
                               .from = from,
                               .from_name = strdup(request->name),
                               .flags = request->flags,
                               .on_done = old_fetched};
    return errand.from_name ? fs_errand_start(relay, &errand, request->name2, now_ms) : -ENOMEM;
}
