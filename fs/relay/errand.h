/* What the relay does with the server on its own: reads a small file, or writes one. Each step is
 * one request; its answer leads to the next one. An errand may stand for a request of the kernel,
 * which then waits for its end and has its deadline, counted from the errand's start: the steps
 * together have no more time than one. */
#pragma once

#include "fs/relay/state.h"

struct fs_errand {
    enum { FS_ERRAND_FETCH, FS_ERRAND_STORE } kind;
    uint64_t kernel_unique; /* 0: nobody waits */
    uint32_t kernel_opcode;
    uint64_t started_ms;
    struct fs_rnode *folder; /* referenced */
    char *name;
    uint64_t target; /* for on_done: a guarded node's id */
    /* For on_done: what is renamed to name when it is read. Referenced, owned; NULL: nothing. */
    struct fs_rnode *from;
    char *from_name;
    uint64_t flags;
    mode_t mode;    /* STORE */
    uint8_t *bytes; /* FETCH: what came; STORE: what goes */
    size_t size, done;
    struct fs_attr attr;             /* FETCH: of the file, as the guest says */
    uint64_t server_node, server_fh; /* held while not 0; held while open */
    bool open;
    /* error 0: all of it is read, or written. Must answer the kernel if it waits. The errand is
     * freed afterwards. */
    void (*on_done)(struct fs_relay *relay, struct fs_errand *errand, int error, uint64_t now_ms);
};

/* Starts one, as opts says, for name in opts->folder; opts->bytes and
 * opts->from_name are taken in every case. Errors,
 * without a call of on_done: -EIO the stream is down, too many; -ENOMEM. */
int fs_errand_start(struct fs_relay *relay, const struct fs_errand *opts, const char *name,
                    uint64_t now_ms) BG_MUST_CHECK;

/* An answer to pending, which has an errand. */
void fs_errand_reply(struct fs_relay *relay, struct fs_pending *pending,
                     const struct fs_reply *reply, uint64_t now_ms);
void fs_errand_free(struct fs_relay *relay, struct fs_errand *errand); /* NULL: no-op */
