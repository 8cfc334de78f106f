/* A policy file: YAML (docs/policy.md). Pure.
 *
 *   network:
 *     parent: http://HOST:PORT                parent_login: NAME (of a stored USER:PASSWORD)
 *     rules:
 *       - allow: HOST[:PORT] or a list          (or deny:; also a network)
 *         ports: [443]                          protocol: http | tcp | passthrough
 *         methods: [GET]                        paths: [/graphql]
 *         query: {state: [open, closed]}        query_keys: [page]
 *         headers: {content-type: '*json*'}     addresses: [192.0.2.7, 10.0.3.0/24]
 *         rate: 60/min                          requests: 500
 *         bytes: 10G                            max_body: 1M
 *       - preset: NAME or a list
 *   secrets:
 *     NAME:
 *       - host: HOST[:PORT] or a list
 *         in: [header, basic, query, path, body]      headers: [authorization]
 *         methods, paths, query, query_keys: as above
 *         body: {types: [json, form, multipart, text], max: 1M, decode: false}
 *         budget: 500
 *   audit: required | best-effort
 *
 * and the keys of project_file.h, which are passed over. */
#pragma once

#include "net/policy.h"
#include "net/secrets.h"

struct policy_secret {
    char *name;
    struct secret_rule rule;
};

struct policy_file {
    struct policy policy;
    struct destination parent;     /* a proxy that connections go through; port 0: none */
    char *parent_login;            /* owned; NULL: none */
    struct policy_secret *secrets; /* owned; one for each rule, so a name may come again */
    size_t secret_count;
    bool learn;             /* the last rule is that of policy_rule_learn */
    bool audit_best_effort; /* requests go out even while the audit log cannot be written */
};

/* Where presets come from. load: the text of a policy file (heap, taken) by its name, which is
 * [a-z0-9-]; errors: -ENOENT there is none. */
struct policy_presets {
    int (*load)(void *owner, const char *name, char **ret, size_t *ret_size, struct bg_err *err);
    void *owner;
};

/* name: the file's, for errors and audit. text: need not end in NUL. presets: NULL: there are none.
 * Errors: -EINVAL "NAME:LINE: ..." says what was expected; -E2BIG; -ENOMEM. */
int policy_file_parse(const char *name, const char *text, size_t size,
                      const struct policy_presets *presets, struct policy_file *ret,
                      struct bg_err *err) BG_MUST_CHECK;
void policy_file_done(struct policy_file *file);
