#include "host/gateway/create_config.h"

#include <ctype.h>
#include <string.h>

#include "common/base64.h"
#include "common/limits.h"
#include "host/cli/grammar.h"
#include "host/cli/share_spec.h"
#include "host/gateway/rpc.h"

/* A year: more is a mistake in the unit. */
#define STOP_AHEAD_MAX_MS (366ull * 24 * 3600 * 1000)

int create_config_stop_at(const json_t *value, uint64_t now_ms, uint64_t *ret, struct bg_err *err)
{
    json_t *object = json_pack("{s:O}", "stop_at_ms", value);
    struct rpc_params p = rpc_params(object);
    int64_t at = rpc_number(&p, "stop_at_ms", 1, INT64_MAX);
    json_decref(object);
    if (!rpc_params_ok(&p))
        return bg_err_set(err, -EINVAL, "%s", p.problem);
    if ((uint64_t)at > now_ms + STOP_AHEAD_MAX_MS)
        return bg_err_set(err, -EINVAL, "stop_at_ms: more than a year from now");
    *ret = (uint64_t)at;
    return 0;
}

/* "session", or a time: how the Python library has it, which knows no days. */
static int read_timeout(const char *text, uint64_t now_ms, uint64_t *ret, struct bg_err *err)
{
    uint64_t ms;
    if (strcmp(text, "session") == 0)
        return 0;
    if (grammar_parse_duration(text, &ms, NULL) < 0 || text[strlen(text) - 1] == 'd' || ms == 0 ||
        ms > STOP_AHEAD_MAX_MS)
        return bg_err_set(err, -EINVAL,
                          "timeout: want session, or a time of at most a year such as 30s or 5m");
    *ret = now_ms + ms;
    return 0;
}

/* What JavaScript's btoa was given: one byte a character, so that é is 0xe9. Bytes that are UTF-8
 * already (another client's) stay. *ret: heap, the caller's. */
static int to_utf8(const uint8_t *bytes, size_t size, char **ret, size_t *ret_size)
{
    json_auto_t *probe = json_stringn((const char *)bytes, size);
    BG_AUTOFREE char *out = malloc(2 * size + 1);
    size_t used = 0;
    if (!out)
        return -ENOMEM;
    for (size_t i = 0; i < size; i++) {
        if (probe || bytes[i] < 0x80) {
            out[used++] = (char)bytes[i];
        } else {
            out[used++] = (char)(0xc0 | bytes[i] >> 6);
            out[used++] = (char)(0x80 | (bytes[i] & 0x3f));
        }
    }
    *ret_size = used;
    *ret = BG_TAKE(out);
    return 0;
}

static int decode(const char *text, size_t size, json_t **ret, struct bg_err *err)
{
    BG_AUTOFREE uint8_t *bytes = malloc(size / 4 * 3 + 3);
    BG_AUTOFREE char *json = NULL;
    size_t json_size = 0;
    if (!bytes)
        return bg_err_errno(err, -ENOMEM, "configuration");
    ssize_t n = bg_base64_decode(text, size, bytes);
    if (n < 0)
        return bg_err_set(err, -EINVAL, "x-deno-sandbox-config is not base64");
    if (to_utf8(bytes, (size_t)n, &json, &json_size) < 0)
        return bg_err_errno(err, -ENOMEM, "configuration");
    json_t *object = json_loadb(json, json_size, JSON_REJECT_DUPLICATES, NULL);
    if (!json_is_object(object)) {
        json_decref(object);
        return bg_err_set(err, -EINVAL, "x-deno-sandbox-config is not a JSON object");
    }
    *ret = object;
    return 0;
}

/* Copies an array of texts. */
static int copy_texts(const json_t *texts, char ***ret, size_t *count, struct bg_err *err)
{
    *ret = calloc(json_array_size(texts) + 1, sizeof **ret);
    if (!*ret)
        return bg_err_errno(err, -ENOMEM, "configuration");
    for (size_t i = 0; i < json_array_size(texts); i++) {
        (*ret)[i] = strdup(json_string_value(json_array_get(texts, i)));
        if (!(*ret)[i])
            return bg_err_errno(err, -ENOMEM, "configuration");
        (*count)++;
    }
    return 0;
}

static int read_labels(struct rpc_params *p, struct create_config *c, struct bg_err *err)
{
    const json_t *labels = rpc_map(p, "labels");
    const char *key;
    json_t *value;
    c->labels = labels ? json_deep_copy(labels) : json_object();
    if (!c->labels)
        return bg_err_errno(err, -ENOMEM, "labels");
    if (json_object_size(c->labels) > BG_GATEWAY_LABELS_MAX)
        return bg_err_set(err, -EINVAL, "more than %d labels", BG_GATEWAY_LABELS_MAX);
    json_object_foreach(
        c->labels, key,
        value) if (strlen(key) > BG_GATEWAY_LABEL_MAX ||
                   json_string_length(value) >
                       BG_GATEWAY_LABEL_MAX) return bg_err_set(err, -EINVAL,
                                                               "a label of more than %d bytes",
                                                               BG_GATEWAY_LABEL_MAX);
    return 0;
}

static int read_allow(struct rpc_params *p, struct create_config *c, struct bg_err *err)
{
    const json_t *allow = rpc_texts(p, "allow_net");
    c->restricted = allow != NULL;
    for (size_t i = 0; i < json_array_size(allow); i++) {
        const char *rule = json_string_value(json_array_get(allow, i));
        /* "=ADDRESS" is for the machine's owner: it opens networks that are not public. */
        if (strchr(rule, '='))
            return bg_err_set(err, -EINVAL, "allowNet: '=' in a host");
        int r = grammar_check_allow(rule, err);
        if (r < 0)
            return bg_err_prefix(err, "allowNet");
    }
    return allow ? copy_texts(allow, &c->allow, &c->allow_count, err) : 0;
}

static int read_secret(const char *name, const json_t *value, struct create_secret *s,
                       struct bg_err *err)
{
    struct rpc_params p = rpc_params(value);
    const json_t *hosts = rpc_texts(&p, "hosts");
    const char *text = rpc_text(&p, "value");
    if (!grammar_name_ok(name, strlen(name)))
        return bg_err_set(err, -EINVAL, "secrets: a name that is none of a variable");
    if (!json_is_object(value) || !rpc_params_ok(&p) || !*text)
        return bg_err_set(err, -EINVAL, "secret %.64s: want hosts and a value", name);
    if (json_array_size(hosts) == 0)
        return bg_err_set(err, -EINVAL, "secret %.64s: no hosts", name);
    for (size_t i = 0; i < json_array_size(hosts); i++) {
        const char *host = json_string_value(json_array_get(hosts, i));
        if (strchr(host, '=') || grammar_check_allow(host, err) < 0)
            return bg_err_set(err, -EINVAL, "secret %.64s: a host that is none", name);
    }
    if (strlen(text) > BG_SECRET_SIZE_MAX || strpbrk(text, "\r\n"))
        return bg_err_set(err, -EINVAL, "secret %.64s: want one line of at most %d bytes", name,
                          BG_SECRET_SIZE_MAX);
    s->name = strdup(name);
    s->value = strdup(text);
    if (!s->name || !s->value)
        return bg_err_errno(err, -ENOMEM, "secrets");
    int r = copy_texts(hosts, &s->hosts, &s->host_count, err);
    for (size_t i = 0; r == 0 && i < s->host_count; i++)
        for (char *c = s->hosts[i]; *c; c++)
            *c = (char)tolower((unsigned char)*c);
    return r;
}

static int read_secrets(const json_t *object, struct create_config *c, struct bg_err *err)
{
    json_t *secrets = json_object_get(object, "secrets"), *value;
    const char *name;
    if (json_is_null(secrets) || !secrets)
        return 0;
    if (!json_is_object(secrets))
        return bg_err_set(err, -EINVAL, "secrets: want an object");
    c->secrets = calloc(json_object_size(secrets) + 1, sizeof *c->secrets);
    if (!c->secrets)
        return bg_err_errno(err, -ENOMEM, "secrets");
    json_object_foreach(secrets, name, value)
    {
        int r = read_secret(name, value, &c->secrets[c->secret_count++], err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int read_root(struct rpc_params *p, struct create_config *c, struct bg_err *err)
{
    if (!rpc_has(p, "root"))
        return 0;
    struct rpc_params root = rpc_options(p, "root");
    const char *volume = rpc_text(&root, "volume");
    if (!rpc_params_merge(p, &root))
        return 0; /* told with the rest */
    c->root = strdup(volume);
    return c->root ? 0 : bg_err_errno(err, -ENOMEM, "root");
}

static int read_volume(const json_t *value, struct create_volume *v, struct bg_err *err)
{
    struct rpc_params p = rpc_params(value);
    const char *volume = rpc_text(&p, "volume"), *path = rpc_text(&p, "path");
    if (!json_is_object(value) || !rpc_params_ok(&p))
        return bg_err_set(err, -EINVAL, "volumes: want a volume and a path each");
    if (strlen(path) > BG_VOLUME_PATH_MAX)
        return bg_err_set(err, -EINVAL, "volumes: a path of more than %d bytes",
                          BG_VOLUME_PATH_MAX);
    v->volume = strdup(volume);
    if (!v->volume)
        return bg_err_errno(err, -ENOMEM, "volumes");
    int r = share_spec_guest(path, &v->path, err);
    return r < 0 ? bg_err_prefix(err, "volumes") : 0;
}

static int by_path(const void *a, const void *b)
{
    const struct create_volume *left = a, *right = b;
    return strcmp(left->path, right->path);
}

/* {PATH: VOLUME}, as the Python library has them, as [{volume, path}]. NULL: out of memory. */
static json_t *volumes_array(const json_t *volumes)
{
    json_t *array = json_array();
    const char *path;
    json_t *volume;
    /* The iterator takes no const object, and changes none. */
    json_object_foreach((json_t *)(uintptr_t)volumes, path, volume)
    {
        json_t *one = json_pack("{s:O, s:s}", "volume", volume, "path", path);
        if (json_array_append_new(array, one) < 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static int read_volumes(const json_t *object, struct create_config *c, struct bg_err *err)
{
    json_t *given = json_object_get(object, "volumes");
    json_auto_t *volumes = json_is_object(given) ? volumes_array(given) : json_incref(given);
    size_t count = json_array_size(volumes);
    if (given && !volumes)
        return bg_err_errno(err, -ENOMEM, "volumes");
    if (!volumes || json_is_null(volumes))
        return 0;
    if (!json_is_array(volumes))
        return bg_err_set(err, -EINVAL, "volumes: want an array, or an object of paths");
    if (count > BG_SANDBOX_VOLUMES_MAX)
        return bg_err_set(err, -EINVAL, "volumes: a sandbox has at most %d",
                          BG_SANDBOX_VOLUMES_MAX);
    c->volumes = calloc(count + 1, sizeof *c->volumes);
    if (!c->volumes)
        return bg_err_errno(err, -ENOMEM, "volumes");
    for (size_t i = 0; i < count; i++) {
        c->volume_count++; /* first, so that create_config_done frees a half-read one */
        int r = read_volume(json_array_get(volumes, i), &c->volumes[i], err);
        if (r < 0)
            return r;
    }
    qsort(c->volumes, count, sizeof *c->volumes, by_path);
    for (size_t i = 1; i < count; i++)
        if (strcmp(c->volumes[i].path, c->volumes[i - 1].path) == 0)
            return bg_err_set(err, -EINVAL, "volumes: two at one path");
    return 0;
}

static int read_env(struct rpc_params *p, struct create_config *c, struct bg_err *err)
{
    const json_t *env = rpc_map(p, "env");
    const char *name;
    json_t *value;
    c->env = env ? json_deep_copy(env) : json_object();
    if (!c->env)
        return bg_err_errno(err, -ENOMEM, "env");
    json_object_foreach(c->env, name, value)
    {
        if (*name == '\0' || strchr(name, '='))
            return bg_err_set(err, -EINVAL, "env: a name that is empty or has '=' in it");
    }
    return 0;
}

static int read_config(const json_t *object, uint64_t now_ms, struct create_config *c,
                       struct bg_err *err)
{
    struct rpc_params p = rpc_params(object);
    const json_t *stop = json_object_get(object, "stop_at_ms");
    c->memory_bytes =
        (uint64_t)rpc_number_or(&p, "memory_mb", 128, (int64_t)(BG_SANDBOX_MEMORY_MAX >> 20),
                                BG_GATEWAY_MEMORY_DEFAULT >> 20)
        << 20;
    int r = read_labels(&p, c, err);
    if (r == 0)
        r = read_root(&p, c, err);
    if (r == 0)
        r = read_volumes(object, c, err);
    if (r == 0)
        r = read_allow(&p, c, err);
    if (r == 0 && stop && !json_is_null(stop))
        r = create_config_stop_at(stop, now_ms, &c->stop_at_ms, err);
    else if (r == 0 && rpc_has(&p, "timeout"))
        r = read_timeout(rpc_text(&p, "timeout"), now_ms, &c->stop_at_ms, err);
    if (r == 0)
        r = read_env(&p, c, err);
    if (r == 0)
        r = read_secrets(object, c, err);
    if (r == 0 && !rpc_params_ok(&p))
        r = bg_err_set(err, -EINVAL, "%s", p.problem);
    return r;
}

int create_config_parse(const char *text, size_t size, uint64_t now_ms, struct create_config *ret,
                        struct bg_err *err)
{
    json_auto_t *object = NULL;
    struct create_config config = {0};
    int r = decode(text, size, &object, err);
    if (r == 0)
        r = read_config(object, now_ms, &config, err);
    if (r < 0) {
        create_config_done(&config);
        return r;
    }
    *ret = config;
    return 0;
}

static void free_texts(char **texts, size_t count)
{
    for (size_t i = 0; texts && i < count; i++)
        free(texts[i]);
    free(texts);
}

void create_config_done(struct create_config *config)
{
    json_decref(config->labels);
    json_decref(config->env);
    free_texts(config->allow, config->allow_count);
    for (size_t i = 0; i < config->secret_count; i++) {
        struct create_secret *s = &config->secrets[i];
        if (s->value)
            explicit_bzero(s->value, strlen(s->value));
        free(s->value);
        free(s->name);
        free_texts(s->hosts, s->host_count);
    }
    free(config->secrets);
    free(config->root);
    for (size_t i = 0; i < config->volume_count; i++) {
        free(config->volumes[i].volume);
        free(config->volumes[i].path);
    }
    free(config->volumes);
    *config = (struct create_config){0};
}
