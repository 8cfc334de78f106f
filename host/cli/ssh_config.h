/* ssh_config: the text of our ssh configuration, and our few lines in the user's own. Pure.
 *
 * The configuration is a file of ours that the user's ~/.ssh/config includes, in its first lines:
 * ssh takes the first value that it meets, so what we switch off for sandboxes stays off whatever
 * follows, and nothing of the user's text is read or changed. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"

struct ssh_config {
    const char *program;    /* bellglass, absolute */
    const char *const *env; /* "K=V" that it needs to find the sandboxes, NULL-terminated */
    const char *key;        /* the private key's file */
    const char *hosts;      /* the folder with a known_hosts file for each host */
};

/* *ret: heap, the caller's. Errors: -EINVAL a path that ssh cannot be given; -ENOMEM. */
int ssh_config_text(const struct ssh_config *config, char **ret, struct bg_err *err) BG_MUST_CHECK;

/* The lines that include our file, for the user's own. Errors: as above; also for characters that
 * ssh would take for a pattern. */
int ssh_config_include(const char *path, char **ret, struct bg_err *err) BG_MUST_CHECK;

/* Puts our lines (of ssh_config_include) in front of the user's text, instead of any that are in it
 * already. text: size bytes. *ret: heap, the caller's; *ret_changed: it differs from text. Errors:
 * -EUCLEAN our marks are in it, but not as we write them (names the line); -EINVAL not a text
 * file; -ENOMEM. */
int ssh_config_insert(const char *text, size_t size, const char *lines, char **ret,
                      bool *ret_changed, struct bg_err *err) BG_MUST_CHECK;
/* Takes them out again: what insert made of a text becomes that text, to the byte. */
int ssh_config_remove(const char *text, size_t size, char **ret, bool *ret_changed,
                      struct bg_err *err) BG_MUST_CHECK;
