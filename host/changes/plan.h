/* What apply is going to do to the host's folder: which changes, in which steps, and the journal
 * that has them while it does. Pure. */
#pragma once

#include "host/changes/view.h"

enum step_op {
    STEP_REMOVE = 1,    /* a file or link */
    STEP_REMOVE_FOLDER, /* an empty one */
    STEP_MAKE_FOLDER,
    STEP_PUT,  /* a file with its contents, new or in place of another */
    STEP_LINK, /* a symlink, likewise */
    STEP_MODE, /* permissions of a file or folder */
};

enum step_state { STEP_WAITING, STEP_DONE, STEP_CONFLICT, STEP_FAILED };

struct step {
    uint8_t op;        /* enum step_op */
    uint16_t mode;     /* <= 0777 */
    char *path;        /* owned */
    char *temporary;   /* owned; "" for folders and modes */
    char *target;      /* owned; of a link */
    bool host_there;   /* what must be there for the step to be done; else nothing may be */
    struct entry host; /* likewise: its identity, without path and target */
    uint8_t hash[BG_SHA256_SIZE]; /* of a file's contents */
    uint64_t size;
    /* Not in the journal. */
    enum step_state state;
    int code; /* of STEP_FAILED */
};

#define PLAN_TOKEN_SIZE 17

struct plan {
    struct step *list; /* in the order in which they are done */
    size_t count, room;
    char token[PLAN_TOKEN_SIZE]; /* in the names of the temporary files */
    uint64_t device, inode;      /* of the host's folder */
};

struct plan_opts {
    const char *const *paths; /* only what is named or below it; NULL-terminated; empty: all */
    bool force;               /* over conflicts, and links that lead out */
    bool trusted;             /* MARKS_NAMED_ONLY without being named */
};

/* Decides for each change: why it is not done (borrowed, constant), or NULL if it is. reasons:
 * view->count pointers, written; "" for what was not asked for. */
void plan_choose(const struct view *view, const struct entries *host, const struct plan_opts *opts,
                 const char **reasons);

/* Makes the steps for those without a reason. token: 16 characters of a file name that nobody can
 * guess. ret: to be ended with plan_done. Errors: -ENOMEM. */
int plan_make(const struct view *view, const struct entries *host, const char *const *reasons,
              const char *token, struct plan *ret) BG_MUST_CHECK;
void plan_done(struct plan *plan);

/* The journal's bytes: heap, the caller's. Errors: -ENOMEM. */
int plan_emit(const struct plan *plan, uint8_t **ret, size_t *ret_size) BG_MUST_CHECK;
/* Errors: -EUCLEAN damaged; -ENOMEM. */
int plan_parse(const uint8_t *bytes, size_t size, struct plan *ret) BG_MUST_CHECK;
