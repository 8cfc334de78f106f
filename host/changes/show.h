/* How changes are printed. Everything of the guest's is escaped when it goes to a terminal. */
#pragma once

#include <jansson.h>

#include "host/changes/session.h"

enum show_form { SHOW_SUMMARY, SHOW_PATCH, SHOW_STAT, SHOW_NAMES, SHOW_JSON };

/* Prints those without a reason (plan.h), and in the summary the others with theirs; reasons NULL:
 * all. Not for SHOW_JSON. *ret_count: how many. */
int show_changes(FILE *out, const struct session *session, enum show_form form,
                 const char *const *reasons, size_t *ret_count, struct bg_err *err) BG_MUST_CHECK;

/* The same as JSON: a new reference, NULL when memory is out. */
json_t *show_json(const struct session *session, const char *const *reasons);
