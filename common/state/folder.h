/* Folders of ours as wholes: taken away, made durable, and what taking them away would free. Names
 * are given below an open folder; symbolic links are never followed. */
#pragma once

#include <stdint.h>

#include "common/err.h"

/* Removes name and all below it, whatever it is; nothing if there is none. It may go away meanwhile
 * by somebody else's hand. Errors: errno. */
int bg_folder_remove(int parent_fd, const char *name) BG_MUST_CHECK;

/* Makes the files right in a folder durable, then the folder. Errors: errno. */
int bg_folder_sync(int dir_fd) BG_MUST_CHECK;

/* The bytes that only this folder's names hold: those of files with one link, below it too. Errors:
 * errno. */
int bg_folder_frees(int parent_fd, const char *name, uint64_t *ret) BG_MUST_CHECK;
