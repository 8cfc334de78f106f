/* A file server's client for programs: one request at a time, with a deadline. What the server says
 * is checked as far as it is used: names are names, sizes have a maximum. */
#pragma once

#include "fs/proto/proto.h"

struct trust_client;

/* Exchanges hellos over fd, which is borrowed. Errors: -ENOMEM; -EPROTO; -ETIME; -ECONNRESET. */
int trust_client_new(int fd, struct trust_client **ret, struct bg_err *err) BG_MUST_CHECK;
void trust_client_free(struct trust_client *client);

/* A file or folder of the server's; given back by trust_client_forget. */
struct trust_node {
    uint64_t id;
    uint64_t mode; /* with its type */
};

/* Name in parent (1: the root). Errors: -ENOENT and others of the server's; as above. */
int trust_client_look_up(struct trust_client *client, uint64_t parent, const char *name,
                         struct trust_node *ret, struct bg_err *err) BG_MUST_CHECK;
int trust_client_forget(struct trust_client *client, uint64_t node,
                        struct bg_err *err) BG_MUST_CHECK;

/* All of a file of less than BG_GUARD_FILE_MAX bytes. *ret: heap. Errors: -EFBIG; as above. */
int trust_client_read(struct trust_client *client, uint64_t node, uint8_t **ret, size_t *ret_size,
                      struct bg_err *err) BG_MUST_CHECK;

/* Calls each for every name of a folder but "." and ".."; type: DT_*, as the server says. each must
 * not call the client. Errors: -ELOOP it does not end; as above. */
int trust_client_list(struct trust_client *client, uint64_t node,
                      int (*each)(void *owner, const char *name, uint32_t type), void *owner,
                      struct bg_err *err) BG_MUST_CHECK;
