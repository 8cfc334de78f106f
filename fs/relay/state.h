/* The relay's insides, for its own files: relay.c (life, deadlines), request.c (from the kernel),
 * reply.c (from the server), rebind.c (when the stream is lost and comes back). */
#pragma once

#include "fs/proto/proto.h"
#include "fs/relay/check.h"
#include "fs/relay/relay.h"
#include "fs/relay/tree.h"
#include "fs/relay/walks.h"

#define FS_HEAD_SIZE (BG_PATH_MAX + 1024u) /* header, fixed part, names or a link's text */

/* A file or folder that a process on the host has open. */
struct fs_rhandle {
    struct fs_link link;
    uint64_t id;           /* the kernel's: a counter */
    uint64_t server_fh;    /* the server's, any number */
    struct fs_rnode *node; /* referenced */
    uint64_t flags;        /* as it was opened */
    bool echo;             /* of an echo: the server knows nothing of it */
    bool bound;            /* the present server has it; else every request on it fails */
    bool lazy;             /* lazy.h: no server has been asked for it; not bound */
    bool lost_writes;      /* the next FSYNC or FLUSH says that some may be lost */
    bool quiet;            /* closing it can bring no error, says the server */
    unsigned errors_seen;  /* of gather->errors */
    uint8_t *ahead;        /* ahead.h: the file's first bytes; owned; NULL */
    size_t ahead_size;
    uint64_t ahead_ms;
    unsigned ahead_changes; /* node->changes then */
    uint64_t ahead_number;  /* of the last change when it was asked for */
    uint64_t entries;       /* read since the start of the folder */
    uint64_t waited_ms;     /* for answers to READDIR */
    bool ours;              /* the server's part of the folder has been read: the guard's comes */
};

/* A request that the server has and has not answered. */
struct fs_pending {
    struct fs_link by_unique, by_kernel;
    struct fs_pending *next, *previous; /* as they were sent, or began to wait */
    bool listed;                        /* in that list */
    uint64_t unique;                    /* ours; 0: not sent yet */
    uint64_t kernel_unique;             /* 0: our own request, nobody waits */
    uint32_t opcode;
    enum fs_class class;
    bool late;        /* the kernel has its answer; what comes is given back */
    bool interrupted; /* SETLKW: the caller wants out */
    bool rebinds;     /* our own LOOKUP of node, or OPEN for the handle fh */
    bool opens;       /* our OPEN for the lazy handle fh; the kernel's request, in again, waits */
    uint32_t writes;  /* FSYNC: the node's when it was sent */
    uint8_t *again;   /* the kernel's request, if it can be made twice; again_size bytes */
    size_t again_size;
    uint64_t sent_ms, interrupted_ms;
    struct fs_rnode *node, *node2; /* referenced; may be NULL */
    char *name, *name2;
    uint64_t fh, fh2;             /* the kernel's */
    uint64_t size, offset, flags; /* as asked */
    struct fs_errand *errand;     /* whose step it is; owned. NULL: none */
    uint64_t thread, since_ms;    /* READLINK: see walks.h */
    struct fs_request request;    /* what waits to be sent; SETLK, SETLKW: to undo it */

    /* ahead.h */
    bool reads_ahead;
    unsigned changes; /* node->changes when it was sent */

    /* gather.h */
    bool gathered;           /* a write that is or may be acknowledged before it is done */
    bool second;             /* it waits, or has waited, for node2's writes */
    struct fs_gather *queue; /* that it waits in, or NULL */
    struct fs_pending *queue_next, *queue_previous;
    uint8_t *data; /* request's, when it waits; owned */
    size_t data_room, charged;
    uint64_t change_number;   /* of the last change when it was sent */
    struct fs_rnode *written; /* node or node2, if the request changes its contents */
    bool pieces;              /* data is pieces, of which this is the last: */
    size_t piece_at;          /* its head, in data */
    uint64_t piece_offset, piece_size;
};

enum fs_walk_state { FS_WALK_NONE, FS_WALK_WAITS, FS_WALK_RUNS };

/* See changes.h. */
struct fs_changes {
    bool agreed, told; /* in the hellos; and the server still tells */
    bool epochs;       /* the kernel can forget all names at once */
    uint64_t number;   /* of the last change */
    uint64_t all;      /* of the last one that may have been to anything */
    uint64_t unknown;  /* of the last one to a node that was not known here */
    enum fs_walk_state walk;
    size_t walk_at, walk_size; /* in tree.by_id */
    uint64_t walked_ms;
    uint64_t second_ms, in_second; /* records taken */
};

/* See echo.h. */
struct fs_echo {
    uint32_t pid;               /* whose requests belong to echoes; 0: none are made */
    struct fs_echo_item *items; /* BG_FS_ECHOES_MAX, a ring */
    size_t first, count;
    bool begun;                      /* something of the first has been done */
    uint8_t op;                      /* enum fs_echo_op that is being done; 0: none */
    uint64_t stand_ins;              /* made so far */
    uint64_t second_ms, in_second;   /* operations */
    struct fs_echo_command *command; /* room for one */
};

struct fs_relay {
    struct fs_relay_opts opts;
    enum fs_relay_state state;
    struct fs_check_owners owners;
    bool read_only;    /* asked for, or the server says so */
    bool whole;        /* the root of the mount is the server's root */
    bool takes_pieces; /* the server knows FS_WRITE_PIECES */
    bool initialised;  /* INIT has been answered */

    struct fs_tree tree;
    struct fs_table handles;
    uint64_t next_handle;
    size_t handle_count;

    struct fs_table by_unique, by_kernel;
    struct fs_pending *first, *last;
    uint64_t next_unique;
    size_t in_window, slow, late, own; /* pending of each kind */
    struct fs_gather *gathers;         /* files with writes that are not done */
    size_t gathered;                   /* bytes of acknowledged writes that are not done */
    bool finishing;                    /* nothing waits for more */
    size_t ahead;                      /* bytes of files that came with their OPEN */
    unsigned timeouts;                 /* in a row */
    unsigned odd_replies;
    uint64_t heard_ms;   /* last good reply */
    unsigned complaints; /* lines about the server, see fs_relay_complain */
    uint64_t probed_ms;  /* last probe */
    bool probing;
    struct fs_hello hello;    /* the server's */
    struct fs_rebind *rebind; /* LOST and REBINDING only */

    struct fs_changes changes;
    struct fs_echo echo;

    uint8_t *forgets; /* BATCH_FORGET entries not sent yet */
    size_t forget_count, forget_room;

    bool root_known, statfs_known;
    struct fs_attr root_attr;
    struct fs_statfs statfs;

    struct fs_walks walks;
    struct fs_guard *guard; /* NULL: nothing is guarded */
    size_t errands;         /* on their way */

    uint8_t *scratch; /* BG_FS_MESSAGE_MAX: folders are encoded anew here */
};

/* ---- relay.c ---- */

/* Answers the kernel. data: reply->data. Returns to_kernel's result. */
int fs_relay_answer(struct fs_relay *relay, uint64_t kernel_unique, uint32_t opcode,
                    struct fs_reply *reply);
void fs_relay_fail(struct fs_relay *relay, uint64_t kernel_unique, int error);

/* Sends a request; request->unique is set here. pending: filled in by the caller, taken; NULL for
 * requests without a reply. */
void fs_relay_send(struct fs_relay *relay, struct fs_request *request, struct fs_pending *pending,
                   uint64_t now_ms);
/* Adds a request to those whose deadlines count, sent or not. */
void fs_pending_list(struct fs_relay *relay, struct fs_pending *pending, uint32_t opcode,
                     uint64_t now_ms);
/* The kernel has its answer, or will have it before anything else happens: the request is our own
 * from now on. */
void fs_pending_disown(struct fs_relay *relay, struct fs_pending *pending);
struct fs_pending *fs_pending_find(const struct fs_relay *relay, uint64_t unique);
struct fs_pending *fs_pending_find_kernel(const struct fs_relay *relay, uint64_t kernel_unique);
void fs_pending_free(struct fs_relay *relay, struct fs_pending *pending);

/* The kernel has closed a handle: the server hears of it when its writes are done. Frees handle. */
void fs_relay_release(struct fs_relay *relay, struct fs_rhandle *handle, bool folder,
                      uint64_t now_ms);

/* Our own requests: their answers interest nobody. Without memory they are not made. */
void fs_relay_send_release(struct fs_relay *relay, uint64_t server_node, uint64_t server_fh,
                           bool folder, uint64_t now_ms);
void fs_relay_send_own(struct fs_relay *relay, struct fs_request *request, uint64_t now_ms);

/* Asks for the root's attributes, to hear the server. */
void fs_relay_probe(struct fs_relay *relay, uint64_t now_ms);

/* One line in the log about what the server did; after a hundred there are no more. */
void fs_relay_complain(struct fs_relay *relay, uint32_t opcode, const char *what);

/* Gives a reference back to the server. */
void fs_relay_forget(void *relay, uint64_t server_id, uint64_t count);

struct fs_rhandle *fs_handle_find(const struct fs_relay *relay, uint64_t id);
/* NULL: too many, or no memory. */
struct fs_rhandle *fs_handle_new(struct fs_relay *relay, struct fs_rnode *node, uint64_t server_fh,
                                 uint64_t flags, bool quiet);
void fs_handle_free(struct fs_relay *relay, struct fs_rhandle *handle);

/* The answer to a request that the server does not answer, where memory has one. */
bool fs_relay_answer_from_memory(struct fs_relay *relay, uint64_t kernel_unique, uint32_t opcode,
                                 const struct fs_rnode *node);

/* Checks an attribute block and says what it describes. Errors: -EIO. */
int fs_relay_look_at(const struct fs_relay *relay, uint64_t server_id, struct fs_attr *attr,
                     struct fs_tree_entry *ret);

/* ---- request.c ---- */

/* Whether request->fh is a handle: some operations have one only if they say so. */
bool fs_request_has_handle(const struct fs_request *request);

/* ---- rebind.c ---- */

/* Whether there is a server to send to. */
bool fs_relay_has_server(const struct fs_relay *relay);

/* Keeps the request with its pending, if doing it twice is as doing it once: should the server go,
 * it waits for the next one. */
void fs_rebind_keep(const struct fs_relay *relay, struct fs_pending *pending,
                    const struct fs_request *request, const uint8_t *bytes, size_t size);

/* True, once, when writes through the handle that FSYNC or FLUSH asks for may be lost. */
bool fs_rebind_tells_loss(const struct fs_relay *relay, const struct fs_request *request);

/* What becomes of a request that cannot be sent now. Returns 0: it waits, and is made again when
 * the server is back; else the error for the kernel. */
int fs_rebind_wait(struct fs_relay *relay, uint64_t kernel_unique, const uint8_t *bytes,
                   size_t size, uint64_t now_ms);
/* The kernel no longer wants this one: it is answered if it waits. */
void fs_rebind_interrupt(struct fs_relay *relay, uint64_t kernel_unique);

/* The answer to a request of rebinding. */
void fs_rebind_reply(struct fs_relay *relay, struct fs_pending *pending, struct fs_reply *reply,
                     uint64_t now_ms);

/* The host has renamed a file that may be open. */
void fs_rebind_renamed(struct fs_relay *relay, const struct fs_pending *pending);

/* Time goes by. Returns whether there is something that time can end. Errors: -ETIMEDOUT the new
 * server is too slow. */
int fs_rebind_tick(struct fs_relay *relay, uint64_t now_ms, struct bg_err *err);

/* Answers all that wait with EIO. */
void fs_rebind_free(struct fs_relay *relay);
