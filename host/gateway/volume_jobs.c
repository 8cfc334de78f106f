#include "host/gateway/volume_jobs.h"

#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "common/state/image.h"

struct job {
    LIST_ENTRY(job) link;
    uv_work_t work;
    struct volume_jobs *jobs;
    struct volume_target target;
    char *token, *url;
    json_t *body;
    volume_jobs_done *on_done;
    void *owner; /* NULL: it is gone */
    json_t *answer;
    char cursor[VOLUME_CURSOR_SIZE];
    int status;
    struct bg_err err;
};

struct volume_jobs {
    uv_loop_t *loop;
    struct volume_jobs_opts opts;
    LIST_HEAD(, job) list;
    bool closing;
};

static void free_if_done(struct volume_jobs *jobs)
{
    if (jobs->closing && LIST_EMPTY(&jobs->list))
        free(jobs);
}

/* ---- in a thread ---- */

static int describe(struct job *job, const struct bg_volume *volume)
{
    uint64_t own, all;
    bg_volume_sizes(volume, &own, &all);
    job->answer = volume_describe(volume, own, all);
    return job->answer ? 0 : bg_err_errno(&job->err, -ENOMEM, "volume");
}

static int list(struct job *job)
{
    struct bg_volume *all;
    struct volume_query query;
    size_t count;
    int r = volume_query_parse(job->url, &query, &job->err);
    if (r == 0)
        r = bg_volume_list(job->jobs->opts.paths, job->token, &all, &count, &job->err);
    if (r < 0)
        return r;
    job->answer =
        volume_page(all, count, job->target.snapshots, &query, bg_volume_sizes, job->cursor);
    bg_volume_list_free(all, count);
    return job->answer ? 0 : bg_err_errno(&job->err, -ENOMEM, "volumes");
}

/* Volumes and snapshots have one space of names, but each its own routes. */
static int find(struct job *job, const char *name, bool snapshot, struct bg_volume *ret)
{
    int r = bg_volume_find(job->jobs->opts.paths, job->token, name, ret, &job->err);
    if (r == 0 && ret->snapshot != snapshot) {
        bg_volume_done(ret);
        r = bg_err_set(&job->err, -ENOMEDIUM, "'%s' is a %s", name,
                       snapshot ? "volume" : "snapshot");
    }
    return r;
}

static int create(struct job *job)
{
    const struct bg_paths *paths = job->jobs->opts.paths;
    struct volume_request request;
    struct bg_volume from = {0}, made;
    struct bg_image image = {0};
    int r = volume_request_create(job->body, &request, &job->err);
    if (r < 0)
        return r;
    struct bg_volume_opts opts = {.slug = request.slug,
                                  .owner = job->token,
                                  .region = request.region,
                                  .capacity = request.capacity};
    if (request.from && strcmp(request.from, VOLUME_IMAGE) == 0) {
        r = bg_image_find(paths, job->jobs->opts.image, &image, &job->err);
        opts.image_name = job->jobs->opts.image;
        opts.image_digest = image.digest;
    } else if (request.from) {
        r = find(job, request.from, /* snapshot= */ true, &from);
        opts.from = &from;
    }
    if (r == 0)
        r = bg_volume_create(paths, &opts, &made, &job->err);
    bg_image_done(&image);
    bg_volume_done(&from);
    if (r < 0)
        return r;
    r = describe(job, &made);
    bg_volume_done(&made);
    return r;
}

/* Everybody's is not for anybody to take away. */
static int remove_one(struct job *job, const struct bg_volume *volume)
{
    if (volume->owner[0] == '\0')
        return bg_err_set(&job->err, -EPERM,
                          "'%s' is of this machine's owner: bellglass volume rm %s", volume->slug,
                          volume->slug);
    int r = bg_volume_remove(job->jobs->opts.paths, volume, &job->err);
    if (r == 0 && !(job->answer = json_object()))
        r = bg_err_errno(&job->err, -ENOMEM, "volume");
    return r;
}

static int snapshot(struct job *job, const struct bg_volume *volume)
{
    struct volume_request request;
    struct bg_volume made;
    int r = volume_request_snapshot(job->body, &request, &job->err);
    if (r == 0)
        r = bg_volume_snapshot(job->jobs->opts.paths, volume, request.slug, &made, &job->err);
    if (r < 0)
        return r;
    r = describe(job, &made);
    bg_volume_done(&made);
    return r;
}

static int on_one(struct job *job)
{
    struct bg_volume volume;
    int r = find(job, job->target.name, job->target.snapshots, &volume);
    if (r < 0)
        return r;
    if (job->target.verb == VOLUME_SHOW)
        r = describe(job, &volume);
    else if (job->target.verb == VOLUME_DELETE)
        r = remove_one(job, &volume);
    else
        r = snapshot(job, &volume);
    bg_volume_done(&volume);
    return r;
}

static void do_work(uv_work_t *work)
{
    struct job *job = work->data;
    job->status = job->target.verb == VOLUME_LIST     ? list(job)
                  : job->target.verb == VOLUME_CREATE ? create(job)
                                                      : on_one(job);
}

/* ---- in the loop ---- */

static void job_free(struct job *job)
{
    free(job->token);
    free(job->url);
    json_decref(job->body);
    json_decref(job->answer);
    free(job);
}

static void work_over(uv_work_t *work, int status)
{
    struct job *job = work->data;
    struct volume_jobs *jobs = job->jobs;
    (void)status; /* nobody cancels work */
    LIST_REMOVE(job, link);
    if (job->owner && job->status < 0)
        job->on_done(job->owner, NULL, "", &job->err);
    else if (job->owner)
        job->on_done(job->owner, BG_TAKE(job->answer), job->cursor, NULL);
    job_free(job);
    free_if_done(jobs);
}

int volume_jobs_open(uv_loop_t *loop, const struct volume_jobs_opts *opts, struct volume_jobs **ret,
                     struct bg_err *err)
{
    struct volume_jobs *jobs = calloc(1, sizeof *jobs);
    if (!jobs)
        return bg_err_errno(err, -ENOMEM, "volumes");
    jobs->loop = loop;
    jobs->opts = *opts;
    LIST_INIT(&jobs->list);
    *ret = jobs;
    return 0;
}

void volume_jobs_close(struct volume_jobs *jobs)
{
    struct job *job;
    LIST_FOREACH(job, &jobs->list, link)
    {
        job->owner = NULL;
    }
    jobs->closing = true;
    free_if_done(jobs);
}

void volume_jobs_start(struct volume_jobs *jobs, const struct volume_target *target,
                       const char *token, const char *url, const json_t *body,
                       volume_jobs_done *on_done, void *owner)
{
    struct job *job = calloc(1, sizeof *job);
    if (job)
        *job = (struct job){.jobs = jobs,
                            .target = *target,
                            .token = strdup(token),
                            .url = strdup(url),
                            .body = body ? json_deep_copy(body) : NULL,
                            .on_done = on_done,
                            .owner = owner};
    if (!job || !job->token || !job->url || (body && !job->body)) {
        struct bg_err err;
        (void)bg_err_errno(&err, -ENOMEM, "volumes");
        if (job)
            job_free(job);
        on_done(owner, NULL, "", &err);
        return;
    }
    job->work.data = job;
    LIST_INSERT_HEAD(&jobs->list, job, link);
    (void)uv_queue_work(jobs->loop, &job->work, do_work, work_over); /* cannot fail */
}

void volume_jobs_forget(struct volume_jobs *jobs, const void *owner)
{
    struct job *job;
    LIST_FOREACH(job, &jobs->list, link)
    {
        if (job->owner == owner)
            job->owner = NULL;
    }
}
