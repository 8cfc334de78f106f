/* grammar: the small languages of option values. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

/* HOST of a rule or of a secret: a name, "*.suffix", an address; IPv6 in brackets. */
bool grammar_host_ok(const char *text, size_t size);

/* --allow HOST[:PORT][=ADDRESS[,ADDRESS...]]. The proxy has the last word; this catches what it
 * would refuse later. Errors: -EINVAL with the text quoted. */
int grammar_check_allow(const char *text, struct bg_err *err) BG_MUST_CHECK;

/* NAME of a secret or variable: [A-Za-z_][A-Za-z0-9_]*. */
bool grammar_name_ok(const char *text, size_t size);

struct grammar_secret {
    char *name;   /* owned */
    char **hosts; /* owned, in lower case */
    size_t host_count;
};

/* --secret NAME@HOST[,HOST...]. Errors: -EINVAL; -ENOMEM. */
int grammar_parse_secret(const char *text, struct grammar_secret *ret,
                         struct bg_err *err) BG_MUST_CHECK;
void grammar_secret_done(struct grammar_secret *secret);

/* -e K=V, or K alone: the value that getenv_fn gives. *ret: heap "K=V", the caller's. Errors:
 * -EINVAL no name, or not set here; -ENOMEM. */
int grammar_parse_env(const char *text, char *(*getenv_fn)(const char *name), char **ret,
                      struct bg_err *err) BG_MUST_CHECK;

/* A length of time: "90s", "10m", "12h", "7d". Errors: -EINVAL with what it should be. */
int grammar_parse_duration(const char *text, uint64_t *ret_ms, struct bg_err *err) BG_MUST_CHECK;

/* NAME:PATH of cp and mount; false if text has no sandbox in it ("./a:b", "/x", "-", "plain").
 * *ret_name: heap, the caller's; *ret_path: borrowed from text. */
bool grammar_split_path(const char *text, char **ret_name, const char **ret_path);
