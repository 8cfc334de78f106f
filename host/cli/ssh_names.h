/* ssh_names: what sandboxes are called towards ssh, and how names and paths are written in its
 * files. Pure. */
#pragma once

#include <stdbool.h>

#include "common/err.h"
#include "common/state/sandbox.h"

/* The hosts of our ssh configuration are NAME and this. */
#define SSH_DOMAIN ".bellglass"

/* Who logs in where nobody is named. */
#define SSH_DEFAULT_USER "app"

/* The sandbox that a host means: "web" for "web.bellglass", in either case. Errors: -EINVAL: none
 * of ours. */
int ssh_names_sandbox(const char *host, char out[BG_SANDBOX_NAME_MAX + 1],
                      struct bg_err *err) BG_MUST_CHECK;

/* Splits [USER@]NAME. *ret_user: heap, the caller's, NULL if there is none; *ret_name: borrowed
 * from text. Errors: -EINVAL not a possible user; -ENOMEM. */
int ssh_names_split(const char *text, char **ret_user, const char **ret_name,
                    struct bg_err *err) BG_MUST_CHECK;

/* text as one word of a POSIX shell, and of fish: as it is if it is plain, else in single quotes.
 * Heap, the caller's; NULL when memory is out. */
char *ssh_names_shell_word(const char *text);

/* A path as a value in ssh's configuration: quoted, and "%" doubled where tokens is true (the
 * option expands them). Heap, the caller's. Errors: -EINVAL a byte in it that cannot be written
 * there: a control character, a quote, a backslash, "${"; -ENOMEM. */
int ssh_names_config_path(const char *path, bool tokens, char **ret,
                          struct bg_err *err) BG_MUST_CHECK;
