#include "host/cli/exec_list.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "common/io.h"

#define PATIENCE_S 30

static int read_all(int fd, void *bytes, size_t size, struct bg_err *err)
{
    int r = bg_read_full(fd, bytes, size);
    if (r == -EAGAIN)
        return bg_err_set(err, -ETIME, "no answer from the sandbox within %d s", PATIENCE_S);
    if (r == -ENODATA || r == -ECONNRESET || r == -EPIPE)
        return bg_err_set(err, -ECONNRESET, "the sandbox stopped or crashed");
    return r < 0 ? bg_err_errno(err, r, "stream to the sandbox") : 0;
}

/* One frame. Returns its type. */
static int read_frame(int fd, uint8_t *payload, size_t room, size_t *ret_size, struct bg_err *err)
{
    uint8_t bytes[BG_FRAME_HEADER_SIZE];
    struct bg_frame_header header;
    int r = read_all(fd, bytes, sizeof bytes, err);
    if (r == 0)
        r = bg_frame_header_parse(bytes, sizeof bytes, (uint32_t)room, &header, err);
    if (r == 0)
        r = read_all(fd, payload, header.size, err);
    if (r < 0)
        return r;
    *ret_size = header.size;
    return header.type;
}

static int oldest_first(const void *a, const void *b)
{
    const struct bg_exec_info *x = a, *y = b;
    return x->age_ms < y->age_ms ? 1 : x->age_ms > y->age_ms ? -1 : 0;
}

int exec_list_read(int fd, struct bg_exec_info **ret, size_t *ret_count, struct bg_err *err)
{
    const struct timeval patience = {.tv_sec = PATIENCE_S};
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    uint8_t payload[sizeof(struct bg_exec_info) + 64];
    size_t count = 0, size;
    BG_AUTOFREE struct bg_exec_info *infos = NULL;
    int type;
    while ((type = read_frame(fd, payload, sizeof payload, &size, err)) == BG_FRAME_EXEC_INFO) {
        if (count == BG_AGENT_EXECS_MAX)
            return bg_err_set(err, -EPROTO, "more than %d commands", BG_AGENT_EXECS_MAX);
        struct bg_exec_info *grown = reallocarray(infos, count + 1, sizeof *infos);
        if (!grown)
            return bg_err_errno(err, -ENOMEM, "commands");
        infos = grown;
        int r = bg_exec_info_parse(payload, size, &infos[count++], err);
        if (r < 0)
            return r;
    }
    if (type < 0)
        return type;
    if (type != BG_FRAME_END || size != 4)
        return bg_err_set(err, -EPROTO, "frame type %d of %zu bytes in a list of commands", type,
                          size);
    if (count > 1)
        qsort(infos, count, sizeof *infos, oldest_first);
    *ret_count = count;
    *ret = BG_TAKE(infos);
    return 0;
}
