/* The guard's insides, for its own files: guarded.c (what the kernel asks and the server says),
 * guard_places.c (what a place is, the log), guard_nodes.c (nodes of our own and their bytes, also
 * git's filtered ones), guard_files.c (requests on those), guard_copies.c (what the host has just
 * written), guard_config.c (git's configuration, written by the host). */
#pragma once

#include "common/sha256.h"
#include "fs/relay/guarded.h"

#define SEEN_MAX 256u /* names that the log has had */

/* A node of ours. */
struct fs_gnode {
    uint64_t id, nlookup;
    unsigned handles;
    struct fs_pin *pin; /* its bytes; NULL: those below */
    uint8_t *bytes;
    size_t size;
    uint64_t ino, mtime;
    mode_t mode;
    bool old;                /* its place has another node now, or none: cannot be opened */
    struct fs_rnode *folder; /* referenced */
    char *name;
};

struct fs_ghandle {
    uint64_t id;
    struct fs_gnode *node;
    bool writes;
};

/* A file that the host has made, as it wrote it. */
struct fs_gcopy {
    struct fs_rnode *node, *folder; /* referenced */
    char *name;
    uint8_t *bytes;
    size_t size, room;
    bool has_twin; /* the guest's file is another one: see fs_pin */
    uint8_t twin[BG_SHA256_SIZE];
};

struct fs_guard {
    struct fs_guard_opts opts;
    char *root; /* opts.root without "/" at its end: "" is the root */
    struct guard_step root_steps[BG_FS_DEPTH_MAX];
    size_t root_count;
    struct fs_pins pins;
    struct fs_gnode *nodes[BG_GUARD_NODES_MAX];
    struct fs_ghandle handles[BG_GUARD_HANDLES_MAX];
    struct fs_gcopy copies[BG_GUARD_COPIES_MAX]; /* the oldest first */
    size_t node_count, handle_count, copy_count, copy_bytes;
    uint64_t seen[SEEN_MAX]; /* hashes of paths in the log */
    size_t seen_count;
    unsigned lines;
};

/* ---- guard_places.c ---- */

/* By its name or by what was seen in it. */
bool fs_guard_is_git_folder(const struct fs_rnode *folder);
/* all_git: as if every folder on the way were a git folder. */
enum guard_class fs_guard_class_as(const struct fs_relay *relay, const struct fs_rnode *folder,
                                   const char *name, size_t size, bool all_git);
/* What name in folder is. */
enum guard_class fs_guard_class_at(const struct fs_relay *relay, const struct fs_rnode *folder,
                                   const char *name, size_t size);
/* Classes of files that are ours to serve. */
bool fs_guard_is_file(enum guard_class class);
/* Classes of what must be a folder. */
bool fs_guard_is_folder(enum guard_class class);
/* The path in the sandbox of name in folder; name NULL: of folder, without a "/" at its end. False:
 * longer than any that can be kept. */
bool fs_guard_path(const struct fs_relay *relay, const struct fs_rnode *folder, const char *name,
                   char out[BG_PATH_MAX]);
/* A line in the log about a place; only so many. */
void fs_guard_say(struct fs_relay *relay, const struct fs_rnode *folder, const char *name,
                  const char *what);
/* The same, once for each path. */
void fs_guard_say_once(struct fs_relay *relay, const struct fs_rnode *folder, const char *name,
                       const char *what);
/* To who keeps approvals: the pin as it is now, or that this path has none. */
void fs_guard_tell(const struct fs_guard *guard, const struct fs_pin *pin, const char *forgotten);
uint64_t fs_guard_now(const struct fs_guard *guard);

/* ---- guard_nodes.c ---- */

/* NULL: none of ours. guard: may be NULL. */
struct fs_gnode *fs_gnode_find(const struct fs_guard *guard, uint64_t id);
/* Frees it if neither the kernel nor a handle refers to it. */
void fs_gnode_drop(struct fs_relay *relay, struct fs_gnode *node);
/* Whoever has the node open keeps the pin's bytes as they are; the pin has none then. */
void fs_gnode_detach(struct fs_guard *guard, struct fs_pin *pin);
/* The path is not approved any more. pin: freed. */
void fs_guard_unpin(struct fs_guard *guard, struct fs_pin *pin);
/* The node of a pin, which is name in folder; made if there is none. NULL: too many, no memory. */
struct fs_gnode *fs_gnode_of_pin(struct fs_relay *relay, struct fs_pin *pin,
                                 struct fs_rnode *folder, const char *name);
/* The pin of a place, if it has one. */
struct fs_pin *fs_guard_pin_at(const struct fs_relay *relay, const struct fs_rnode *folder,
                               const char *name);
/* The pin of a place, with no bytes if it is new. Errors: -ENAMETOOLONG, -ENOSPC, -ENOMEM. */
int fs_guard_pin_make(const struct fs_relay *relay, const struct fs_rnode *folder, const char *name,
                      struct fs_pin **ret);
/* Makes bytes the pin of a place, with a new node. Errors: as fs_guard_pin_make, -EFBIG; the place
 * has no pin then. */
int fs_guard_approve(struct fs_relay *relay, const struct fs_rnode *folder, const char *name,
                     const uint8_t *bytes, size_t size, mode_t mode);
void fs_gnode_content(const struct fs_gnode *node, const uint8_t **ret_bytes, size_t *ret_size);
void fs_gnode_attr(const struct fs_relay *relay, const struct fs_gnode *node,
                   struct fs_reply *reply);
/* Answers with the node, and with a handle of it if reply has one. NULL: no memory. */
int fs_gnode_answer(struct fs_relay *relay, uint64_t kernel_unique, uint32_t opcode,
                    struct fs_gnode *node, struct fs_reply *reply);
int fs_guard_answer_empty(struct fs_relay *relay, uint64_t kernel_unique, uint32_t opcode);
/* on_done of an errand that gave the guest what the host wrote: answers who waits. */
void fs_gnode_stored(struct fs_relay *relay, struct fs_errand *errand, int error, uint64_t now_ms);
/* What the host wrote is approved, and goes to the guest. */
int fs_gnode_commit(struct fs_relay *relay, struct fs_gnode *node, uint64_t kernel_unique,
                    uint32_t opcode, uint64_t now_ms);
/* Removes a name in the guest; whether it was there matters to nobody. */
void fs_guard_unlink_there(struct fs_relay *relay, const struct fs_rnode *folder, const char *name,
                           uint64_t now_ms);
/* Whether the guest's file is what it was made when the host wrote this. */
bool fs_guard_is_as_written(const struct fs_pin *pin, const uint8_t *bytes, size_t size);
/* Reads git's file in the guest and answers a LOOKUP with what the host sees of it. */
int fs_guard_fetch(struct fs_relay *relay, struct fs_rnode *folder, const char *name,
                   uint64_t kernel_unique, uint64_t now_ms);

/* ---- guard_files.c ---- */

struct fs_ghandle *fs_ghandle_find(struct fs_guard *guard, uint64_t id);
/* NULL: too many. writes: the node has a pin. */
struct fs_ghandle *fs_ghandle_new(struct fs_relay *relay, struct fs_gnode *node, bool writes);
void fs_ghandle_free(struct fs_relay *relay, struct fs_ghandle *handle);
/* Any request of the kernel on a node of ours. Returns what to answer, or 0: answered, or to be. */
int fs_gnode_request(struct fs_relay *relay, const struct fs_request *request,
                     struct fs_gnode *node, uint64_t now_ms);

/* ---- guard_copies.c ---- */

/* Of a node; at a place. NULL: none. Valid until the next call that adds or forgets one. */
struct fs_gcopy *fs_gcopy_of(struct fs_guard *guard, const struct fs_rnode *node);
struct fs_gcopy *fs_gcopy_at(struct fs_guard *guard, const struct fs_rnode *folder,
                             const char *name);
void fs_gcopy_forget(struct fs_relay *relay, const struct fs_gcopy *copy);
/* Follows what a request does to a file of the host's. */
void fs_gcopy_follow(struct fs_relay *relay, const struct fs_request *request,
                     const struct fs_rnode *node);

/* ---- guard_config.c ---- */

/* A RENAME of a file that the host made to git's configuration. */
int fs_guard_write_config(struct fs_relay *relay, const struct fs_request *request,
                          struct fs_rnode *from, struct fs_rnode *to, uint64_t now_ms);
