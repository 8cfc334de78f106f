/* What a person should look at before a file of a guest's comes into a folder of theirs. Pure. */
#pragma once

#include <stddef.h>

#include "host/changes/entry.h"

#define MARK_EXECUTABLE 1u    /* it may be run */
#define MARK_TRUSTED    2u    /* host tools run it or believe it by its name (.git/hooks, .envrc) */
#define MARK_SECRET     4u    /* a name that secrets have (.env, *.pem); hidden in shares */
#define MARK_LINK       8u    /* a symbolic link */
#define MARK_LEADS_OUT  16u   /* a symbolic link out of the folder, or one that may be */
#define MARK_ODD_NAME   32u   /* control bytes, direction overrides, or not UTF-8 */
#define MARK_LARGE      64u   /* above MARKS_LARGE */
#define MARK_SPECIAL    128u  /* a pipe, socket or device: is never applied */
#define MARK_SET_ID     256u  /* wants set-id or sticky bits, which it does not get */
#define MARK_TORN       512u  /* is being written to */
#define MARK_OPEN       1024u /* others may write to it, who could not before */

#define MARKS_LARGE (1u << 20)

/* Only when it is named is a file with one of these applied. */
#define MARKS_NAMED_ONLY (MARK_TRUSTED | MARK_SECRET)

/* The marks of a path alone: TRUSTED, SECRET, ODD_NAME. */
unsigned marks_of_path(const char *path);

/* Those of what the guest has; host: what is there now, or NULL. */
unsigned marks_of(const struct entry *guest, const struct entry *host);

/* True if a link at path with this target may lead out of the folder: it is absolute, or has a ".."
 * that names alone cannot answer. */
bool marks_leads_out(const char *path, const char *target);

/* A word for a mark: "executable". NULL after the last; *at starts at 0. */
const char *marks_next(unsigned marks, unsigned *at);

/* True if a byte sequence at text (up to its end) is what a terminal should not get: a control
 * byte but newline and tab, a direction override, something invisible, or no UTF-8. *ret_size: how
 * many bytes it, or the harmless character, has. text is not at its end. */
bool marks_is_odd(const char *text, size_t size, size_t *ret_size);
