/* volume_jobs: what the volume routes ask for, done in libuv's threads, since it blocks. */
#pragma once

#include <jansson.h>
#include <uv.h>

#include "common/err.h"
#include "common/state/paths.h"
#include "host/gateway/volume_api.h"

struct volume_jobs;

struct volume_jobs_opts {
    const struct bg_paths *paths; /* borrowed, as the next */
    const char *image;            /* what VOLUME_IMAGE stands for */
};

int volume_jobs_open(uv_loop_t *loop, const struct volume_jobs_opts *opts, struct volume_jobs **ret,
                     struct bg_err *err) BG_MUST_CHECK;
/* Those that are under way end first, with nobody told. */
void volume_jobs_close(struct volume_jobs *jobs);

/* Told once. answer: taken; NULL: err says why not. cursor: of a list's next page, "": none. */
typedef void volume_jobs_done(void *owner, json_t *answer, const char *cursor,
                              const struct bg_err *err);

/* token: the client's, whose the volumes are; url: the request's, for its query; body: borrowed,
 * NULL: none that is JSON. */
void volume_jobs_start(struct volume_jobs *jobs, const struct volume_target *target,
                       const char *token, const char *url, const json_t *body,
                       volume_jobs_done *on_done, void *owner);

/* owner is gone; what it asked for is done all the same. */
void volume_jobs_forget(struct volume_jobs *jobs, const void *owner);
