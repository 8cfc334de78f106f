/* Speaks the stream protocol to an agent on a Unix socket, blocking, for the tests. Every wait has
 * SO_RCVTIMEO as its deadline; what fails, fails the test. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/wire.h"

/* A development agent in a process of its own, with a cgroup tree if this machine lets us. */
struct test_agent {
    pid_t pid;
    char folder[64]; /* of the test's own, with the socket in it */
    char socket_path[96];
    char cgroup_path[128]; /* "": none */
};

/* network: an egress socket, for an agent that turns its network namespace into a sandbox's. */
void test_agent_start(struct test_agent *agent, const char *network);

/* SIGTERM; the agent must end by itself with status 0 (under ASan: without leaks). */
void test_agent_stop(struct test_agent *agent);

int client_connect(const struct test_agent *agent);
void client_write(int fd, const void *bytes, size_t size);
void client_read(int fd, void *bytes, size_t size);
bool client_at_end(int fd); /* the next thing is the end of the stream, or its reset */

/* Sends header and body. */
void client_open(int fd, uint16_t kind, const void *body, size_t size);

/* Reads the reply. Returns the status; body: BG_REPLY_TEXT_MAX + 1 bytes, gets a NUL. */
int client_reply(int fd, char *body);

void client_frame(int fd, uint8_t type, const void *payload, size_t size);

/* Reads a frame; payload: BG_FRAME_SIZE_MAX bytes. Returns its type. */
uint8_t client_next(int fd, void *payload, size_t *ret_size);

/* An exec request in body (BG_STREAM_BODY_MAX at most). argv, env: NULL at the end; env may be
 * NULL. user "root" if this is root, else the caller. Returns the size. */
struct exec_args {
    const char *const *argv, *const *env;
    const char *cwd, *user;
    uint32_t flags;
    uint16_t rows, columns;
};
size_t client_exec_body(const struct exec_args *args, uint8_t *body, size_t body_size);

/* What an exec did. out, err: heap, NUL-terminated. */
struct exec_result {
    int status; /* of the reply */
    char reply[BG_REPLY_TEXT_MAX + 1];
    char *out, *err;
    size_t out_size, err_size;
    uint32_t how, value; /* EXIT */
};
void exec_result_done(struct exec_result *result);

/* Starts the exec and reads the reply. Returns the stream. */
int client_exec_start(const struct test_agent *agent, const struct exec_args *args,
                      struct exec_result *result);

/* Reads on until EXIT and the end of the stream. */
void client_exec_finish(int fd, struct exec_result *result);

/* Both, with input (may be NULL) and its end. */
void client_exec(const struct test_agent *agent, const struct exec_args *args, const char *input,
                 struct exec_result *result);
