#include "net/project_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/yaml_doc.h"

/* text: taken. */
static int append(char ***list, size_t *count, char *text, struct bg_err *err)
{
    char **grown = text ? reallocarray(*list, *count + 1, sizeof *grown) : NULL;
    if (!grown) {
        free(text);
        return bg_err_errno(err, -ENOMEM, "project");
    }
    *list = grown;
    grown[(*count)++] = text;
    return 0;
}

static int read_text(struct project_file *file, struct yaml_doc *doc, yaml_node_t *node,
                     enum project_text which, const char *key, struct bg_err *err)
{
    const char *text;
    int r = yaml_doc_text(doc, node, key, &text, err);
    if (r < 0)
        return r;
    if (*text == '\0')
        return yaml_doc_fail(doc, node, err, "%s: nothing is there", key);
    file->texts[which] = strdup(text);
    return file->texts[which] ? 0 : bg_err_errno(err, -ENOMEM, "%s", key);
}

static int read_image(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    return read_text(owner, doc, node, PROJECT_IMAGE, "image", err);
}

static int read_cpus(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    return read_text(owner, doc, node, PROJECT_CPUS, "cpus", err);
}

static int read_memory(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    return read_text(owner, doc, node, PROJECT_MEMORY, "memory", err);
}

static int read_ttl(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    return read_text(owner, doc, node, PROJECT_TTL, "ttl", err);
}

static int read_idle_suspend(void *owner, struct yaml_doc *doc, yaml_node_t *node,
                             struct bg_err *err)
{
    return read_text(owner, doc, node, PROJECT_IDLE_SUSPEND, "idle_suspend", err);
}

static int read_variable(void *owner, struct yaml_doc *doc, yaml_node_t *key, const char *name,
                         yaml_node_t *value, struct bg_err *err)
{
    struct project_file *file = owner;
    const char *text;
    char *variable;
    /* "NAME=" would take a variable that the user has, and a project is not to ask for those. */
    if (*name == '\0' || strchr(name, '='))
        return yaml_doc_fail(doc, key, err, "env: want NAME: TEXT");
    int r = yaml_doc_text(doc, value, name, &text, err);
    if (r < 0)
        return r;
    if (asprintf(&variable, "%s=%s", name, text) < 0)
        variable = NULL;
    return append(&file->env, &file->env_count, variable, err);
}

static int read_env(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    return yaml_doc_pairs(doc, node, "env", "NAME: TEXT", read_variable, owner, err);
}

static int read_mount(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    struct project_file *file = owner;
    const char *text;
    int r = yaml_doc_text(doc, node, "mounts", &text, err);
    return r < 0 ? r : append(&file->mounts, &file->mount_count, strdup(text), err);
}

static int read_mounts(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    return yaml_doc_list(doc, node, "mounts", read_mount, owner, err);
}

static int see_policy(void *owner, struct yaml_doc *doc, yaml_node_t *node, struct bg_err *err)
{
    struct project_file *file = owner;
    (void)doc;
    (void)node;
    (void)err;
    file->has_policy = true;
    return 0;
}

int project_file_parse(const char *name, const char *text, size_t size, struct project_file *ret,
                       struct bg_err *err)
{
    static const struct yaml_key keys[] = {{"image", read_image},
                                           {"cpus", read_cpus},
                                           {"memory", read_memory},
                                           {"ttl", read_ttl},
                                           {"idle_suspend", read_idle_suspend},
                                           {"env", read_env},
                                           {"mounts", read_mounts},
                                           {"network", see_policy},
                                           {"secrets", see_policy},
                                           {"audit", see_policy},
                                           {NULL, NULL}};
    struct yaml_doc doc;
    struct project_file file = {.has_policy = false};
    int r = yaml_doc_parse(&doc, name, text, size, err);
    if (r < 0)
        return r;
    yaml_node_t *root = yaml_doc_root(&doc);
    if (root)
        r = yaml_doc_mapping(&doc, root, "a bellglass.yaml", keys, &file, err);
    yaml_doc_done(&doc);
    if (r < 0)
        project_file_done(&file);
    else
        *ret = file;
    return r;
}

void project_file_done(struct project_file *file)
{
    for (size_t i = 0; i < PROJECT_TEXTS; i++)
        free(file->texts[i]);
    for (size_t i = 0; i < file->env_count; i++)
        free(file->env[i]);
    free(file->env);
    for (size_t i = 0; i < file->mount_count; i++)
        free(file->mounts[i]);
    free(file->mounts);
    *file = (struct project_file){.has_policy = false};
}
