/* Folders of ours as wholes: taken away, made durable, and what taking them away would free. Names
 * are given below an open folder; symbolic links are never followed. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

/* Removes name and all below it, whatever it is; nothing if there is none. It may go away meanwhile
 * by somebody else's hand. Errors: errno. */
int bg_folder_remove(int parent_fd, const char *name) BG_MUST_CHECK;

/* Makes the files right in a folder durable, then the folder. Errors: errno. */
int bg_folder_sync(int dir_fd) BG_MUST_CHECK;

/* What a folder's files take on disk, below it too: all of them, and those with one link, which is
 * what its removal would free. Errors: errno. */
int bg_folder_size(int parent_fd, const char *name, uint64_t *ret_all,
                   uint64_t *ret_frees) BG_MUST_CHECK;

/* The names in a folder that pass and are no files', in the order of qsort's order: heap array of
 * heap strings, NULL-terminated. Errors: -ENOMEM; errno. */
int bg_folder_names(int dir_fd, bool (*wanted)(const char *name),
                    int (*order)(const void *a, const void *b), char ***ret) BG_MUST_CHECK;
void bg_folder_names_free(char **names); /* NULL: no-op */
