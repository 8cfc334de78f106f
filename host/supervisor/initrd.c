#include "host/supervisor/initrd.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "common/cpio.h"
#include "common/io.h"

#define AGENT_SIZE_MAX   (64u << 20)
#define MODULES_SIZE_MAX (64u << 20)

int initrd_write(const char *modules_path, const char *agent_path, int out_fd, struct bg_err *err)
{
    BG_AUTOFREE char *modules = NULL, *agent = NULL;
    size_t modules_size, agent_size;
    int r = bg_read_file(AT_FDCWD, modules_path, MODULES_SIZE_MAX, &modules, &modules_size, err);
    if (r == 0)
        r = bg_read_file(AT_FDCWD, agent_path, AGENT_SIZE_MAX, &agent, &agent_size, err);
    if (r < 0)
        return r;
    if (modules_size % 4 != 0)
        return bg_err_set(err, -EUCLEAN, "%s: size %zu is not a multiple of 4", modules_path,
                          modules_size);
    r = bg_write_full(out_fd, modules, modules_size);
    struct bg_cpio cpio = bg_cpio_init(out_fd);
    if (r == 0)
        r = bg_cpio_file(&cpio, "init", 0755, agent, agent_size);
    if (r == 0)
        r = bg_cpio_end(&cpio);
    return r < 0 ? bg_err_errno(err, r, "cannot write the initramfs") : 0;
}
