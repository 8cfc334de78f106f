/* session_tree: what walk and expandGlob share. */
#pragma once

#include "host/gateway/session_state.h"
#include "host/gateway/tree_walk.h"

/* One entry as one chunk of a stream. Errors: -ENOMEM. */
int session_tell_entry(struct session *s, struct outbound *out,
                       const struct tree_entry *entry) BG_MUST_CHECK;
/* What a client is told of a walk's status. NULL: out of memory. */
json_t *session_tree_fault(int status, const char *doing);
/* What a path leads to. Errors: -ENAMETOOLONG; as guest_files_call. */
int session_stat(struct guest_files *files, const char *path, guest_files_answer *on_answer,
                 void *owner) BG_MUST_CHECK;
