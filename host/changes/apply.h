/* Does a plan to the host's folder so that a crash at any moment leaves each file old or new.
 *
 *   1. The journal: what is going to be done, with the names of all temporary files.
 *   2. Prepare: every new file and link is made under its temporary name and is on disk. What fails
 *      here (a full disk above all) takes everything back: nothing was changed.
 *   3. The commit mark.
 *   4. Each step: the temporary file and the one that is there change places, and only when what
 *      came out is what was expected does it go; else they change back, and it is a conflict. So a
 *      file that an editor writes at that moment is never lost.
 *   5. Folders are synced; journal and mark go.
 *
 * A journal without the mark is rolled back; with it every step is done again: each looks at what
 * is there, so one that was done stays done.
 *
 * Nothing is ever opened but below the folder and through no symlink. */
#pragma once

#include "host/changes/plan.h"

struct apply {
    int root;  /* the host's folder; borrowed, like all here */
    int state; /* the folder of journal and mark */
    int store; /* the folder of contents, each named by its hash */
    /* Called before each call that changes something; a negative result is as if that call had
     * failed with it. For tests; may be NULL. */
    int (*on_step)(void *owner);
    void *owner;
};

/* Does the plan. On 0 each step's state is set; on an error nothing was changed. Errors: -EBUSY
 * there is a journal (apply_resume first); -EBADMSG the store is damaged; errno. */
int apply_run(const struct apply *apply, struct plan *plan, struct bg_err *err) BG_MUST_CHECK;

/* True if an apply did not come to its end. */
bool apply_pending(const struct apply *apply);

/* Ends it. ret: the plan with its states, to be ended with plan_done; *ret_undone: nothing of it
 * was done, the temporary files are gone. Errors: -ENOENT there is none; -EUCLEAN its journal is
 * damaged; -ESTALE it is of another folder; errno. */
int apply_resume(const struct apply *apply, struct plan *ret, bool *ret_undone,
                 struct bg_err *err) BG_MUST_CHECK;
