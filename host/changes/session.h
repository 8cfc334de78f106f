/* One copy-on-write share while a command works on it: all three sides, and the view of them. */
#pragma once

#include "host/changes/link.h"
#include "host/changes/view.h"

struct session {
    struct link link;
    struct store store;
    int root; /* the host's folder */
    struct entries base, host, guest;
    struct entries shown; /* the layer as it was when it was last shown */
    bool has_shown;
    struct view view;
};

/* Opens and locks the share; nothing is read yet. Errors: as store_open; errno of the folder. */
int session_open(struct app *app, const struct bg_sandbox *sandbox, const struct bg_share *share,
                 struct session *ret, struct bg_err *err) BG_MUST_CHECK;
void session_close(struct session *session);

/* Reads all sides and makes the view. paths: only of these (NULL-terminated; empty: all) are the
 * contents fetched. progress: on stderr. Also brings the base up to date. */
int session_load(struct session *session, const char *const *paths, bool contents, bool progress,
                 struct bg_err *err) BG_MUST_CHECK;

/* After changes to the host's folder: looks at it again, tells the guest to drop what the host has
 * by now, and brings the base up to date. *ret_kept: how many stay in the layer for now. */
int session_settle(struct session *session, size_t *ret_kept, struct bg_err *err) BG_MUST_CHECK;

/* True if the guest's entry is as it was when it was last shown. */
bool session_was_shown(const struct session *session, const struct entry *guest);

/* What is loaded counts as shown. */
int session_note_shown(struct session *session, struct bg_err *err) BG_MUST_CHECK;

/* Contents of one side, whole: heap, the caller's; NULL if they are more than BG_CHANGES_TEXT_MAX
 * or cannot be read. */
char *session_read_host(const struct session *session, const struct entry *entry);
char *session_read_guest(const struct session *session, const struct entry *entry);
/* The hash of a host's file. Errors: errno. */
int session_hash_host(const struct session *session, const struct entry *entry,
                      uint8_t ret[BG_SHA256_SIZE]) BG_MUST_CHECK;
