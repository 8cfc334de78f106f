/* initrd: puts the agent behind an image's modules as the initramfs's /init. */
#pragma once

#include "common/err.h"

/* Writes to out_fd, at its offset: the newc archive at modules_path, then one with the agent as
 * /init (archives may follow each other). Errors: errno of read and write; -EFBIG a file of over
 * 64 MiB; -EUCLEAN an archive that is not padded. */
int initrd_write(const char *modules_path, const char *agent_path, int out_fd,
                 struct bg_err *err) BG_MUST_CHECK;
