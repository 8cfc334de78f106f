#include "common/state/sandbox_json.h"

#include <string.h>

#include <jansson.h>

#include "common/io.h"
#include "common/limits.h"

static bool id_ok(const char *id)
{
    return strncmp(id, "sbx_", 4) == 0 && strlen(id) == 24 &&
           strspn(id + 4, SANDBOX_ID_CHARS) == 20;
}

static bool hex_ok(const char *text, size_t size)
{
    return strlen(text) == size && strspn(text, "0123456789abcdef") == size;
}

/* Text as JSON: a string, or {"hex": "..."} for what is not UTF-8. */
static json_t *text_to_json(const char *text)
{
    json_t *string = json_string(text);
    if (string)
        return string;
    BG_AUTOFREE char *hex = malloc(2 * strlen(text) + 1);
    if (!hex)
        return NULL;
    bg_hex(text, strlen(text), hex);
    return json_pack("{s:s}", "hex", hex);
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Heap, the caller's. Errors: -EINVAL neither form; -ENOMEM. */
static int text_from_json(const json_t *json, char **ret)
{
    if (json_is_string(json)) {
        *ret = strdup(json_string_value(json));
        return *ret ? 0 : -ENOMEM;
    }
    const char *hex = json_string_value(json_object_get(json, "hex"));
    if (!hex || json_object_size(json) != 1 || strlen(hex) % 2 != 0)
        return -EINVAL;
    BG_AUTOFREE char *text = malloc(strlen(hex) / 2 + 1);
    if (!text)
        return -ENOMEM;
    size_t used = 0;
    for (; hex[0] != '\0'; hex += 2) {
        int high = hex_digit(hex[0]), low = hex_digit(hex[1]);
        if (high < 0 || low < 0 || high + low == 0)
            return -EINVAL;
        text[used++] = (char)(high << 4 | low);
    }
    text[used] = '\0';
    *ret = BG_TAKE(text);
    return 0;
}

/* A new array of texts; NULL when memory is out. */
static json_t *texts_to_json(char *const *texts, size_t count)
{
    json_t *array = json_array();
    for (size_t i = 0; array && i < count; i++)
        if (json_array_append_new(array, text_to_json(texts[i])) < 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}

static void texts_free(char **texts, size_t count)
{
    for (size_t i = 0; texts && i < count; i++)
        free(texts[i]);
    free(texts);
}

static int texts_from_json(const json_t *array, char ***ret, size_t *ret_count)
{
    if (!json_is_array(array))
        return -EINVAL;
    size_t count = json_array_size(array);
    char **texts = calloc(count + 1, sizeof *texts);
    if (!texts)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        int r = text_from_json(json_array_get(array, i), &texts[i]);
        if (r < 0) {
            texts_free(texts, i);
            return r;
        }
    }
    *ret = texts;
    *ret_count = count;
    return 0;
}

static json_t *secrets_to_json(const struct bg_sandbox *s)
{
    json_t *array = json_array();
    for (size_t i = 0; array && i < s->secret_count; i++) {
        const struct bg_secret_use *use = &s->secrets[i];
        json_t *inherited =
            use->inherited_count ? texts_to_json(use->inherited, use->inherited_count) : NULL;
        json_t *entry = use->inherited_count && !inherited
                            ? NULL
                            : json_pack("{s:s, s:o, s:s, s:o*}", "name", use->name, "hosts",
                                        texts_to_json(use->hosts, use->host_count), "placeholder",
                                        use->placeholder, "inherited", inherited);
        if (json_array_append_new(array, entry) < 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static bool placeholder_ok(const char *text)
{
    size_t prefix = strlen(SANDBOX_PLACEHOLDER_PREFIX);
    return strncmp(text, SANDBOX_PLACEHOLDER_PREFIX, prefix) == 0 && hex_ok(text + prefix, 64);
}

static int secret_from_json(json_t *json, struct bg_secret_use *ret)
{
    const char *name, *placeholder;
    json_t *hosts, *inherited = NULL; /* which those that are no fork lack */
    if (json_unpack(json, "{s:s, s:o, s:s, s?:o !}", "name", &name, "hosts", &hosts, "placeholder",
                    &placeholder, "inherited", &inherited) < 0)
        return -EINVAL;
    if (name[0] == '\0' || !placeholder_ok(placeholder))
        return -EINVAL;
    memcpy(ret->placeholder, placeholder, strlen(placeholder) + 1);
    ret->name = strdup(name);
    if (!ret->name)
        return -ENOMEM;
    int r = texts_from_json(hosts, &ret->hosts, &ret->host_count);
    if (r < 0 || !inherited)
        return r;
    if (json_array_size(inherited) > BG_SECRET_INHERITED_MAX)
        return -EINVAL;
    r = texts_from_json(inherited, &ret->inherited, &ret->inherited_count);
    for (size_t i = 0; r == 0 && i < ret->inherited_count; i++)
        if (!placeholder_ok(ret->inherited[i]))
            r = -EINVAL;
    return r;
}

static int secrets_from_json(json_t *array, struct bg_sandbox *s)
{
    if (!json_is_array(array))
        return -EINVAL;
    s->secrets = calloc(json_array_size(array) + 1, sizeof *s->secrets);
    if (!s->secrets)
        return -ENOMEM;
    for (size_t i = 0; i < json_array_size(array); i++) {
        s->secret_count++; /* first, so that bg_sandbox_done frees a half-read one */
        int r = secret_from_json(json_array_get(array, i), &s->secrets[i]);
        if (r < 0)
            return r;
    }
    return 0;
}

static const char *const share_modes[] = {
    [BG_SHARE_RO] = "ro", [BG_SHARE_RW] = "rw", [BG_SHARE_COW] = "cow"};

const char *bg_share_mode_name(enum bg_share_mode mode)
{
    return share_modes[mode];
}

int bg_share_mode_parse(const char *name, enum bg_share_mode *ret)
{
    for (size_t i = 0; i < sizeof share_modes / sizeof *share_modes; i++)
        if (strcmp(name, share_modes[i]) == 0) {
            *ret = (enum bg_share_mode)i;
            return 0;
        }
    return -EINVAL;
}

static json_t *shares_to_json(const struct bg_sandbox *s)
{
    json_t *array = json_array();
    for (size_t i = 0; array && i < s->share_count; i++) {
        const struct bg_share *share = &s->shares[i];
        json_t *entry =
            json_pack("{s:i, s:o, s:o, s:s, s:b, s:b, s:o, s:o}", "id", (int)share->id, "host",
                      text_to_json(share->host), "guest", text_to_json(share->guest), "mode",
                      share_modes[share->mode], "unguarded", share->unguarded, "any_links",
                      share->any_links, "hide", texts_to_json(share->hide, share->hide_count),
                      "show", texts_to_json(share->show, share->show_count));
        if (json_array_append_new(array, entry) < 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static int share_from_json(json_t *json, struct bg_share *ret)
{
    json_t *host, *guest, *hide, *show;
    const char *mode;
    int id, unguarded, any_links;
    if (json_unpack(json, "{s:i, s:o, s:o, s:s, s:b, s:b, s:o, s:o !}", "id", &id, "host", &host,
                    "guest", &guest, "mode", &mode, "unguarded", &unguarded, "any_links",
                    &any_links, "hide", &hide, "show", &show) < 0)
        return -EINVAL;
    int r = id > 0 ? bg_share_mode_parse(mode, &ret->mode) : -EINVAL;
    ret->id = (unsigned)id;
    ret->unguarded = unguarded;
    ret->any_links = any_links;
    if (r == 0)
        r = text_from_json(host, &ret->host);
    if (r == 0)
        r = text_from_json(guest, &ret->guest);
    if (r == 0 && (ret->host[0] != '/' || ret->guest[0] != '/'))
        r = -EINVAL;
    if (r == 0)
        r = texts_from_json(hide, &ret->hide, &ret->hide_count);
    if (r == 0)
        r = texts_from_json(show, &ret->show, &ret->show_count);
    return r;
}

static int shares_from_json(json_t *array, struct bg_sandbox *s)
{
    if (!json_is_array(array) || json_array_size(array) > BG_SHARES_MAX)
        return -EINVAL;
    s->shares = calloc(json_array_size(array) + 1, sizeof *s->shares);
    if (!s->shares)
        return -ENOMEM;
    for (size_t i = 0; i < json_array_size(array); i++) {
        s->share_count++; /* first, so that bg_sandbox_done frees a half-read one */
        int r = share_from_json(json_array_get(array, i), &s->shares[i]);
        if (r < 0)
            return r;
    }
    return 0;
}

bool bg_volume_id_ok(const char *id, bool snapshot)
{
    return strncmp(id, snapshot ? "snp_" : "vol_", 4) == 0 && strlen(id) == BG_VOLUME_ID_SIZE - 1 &&
           strspn(id + 4, SANDBOX_ID_CHARS) == BG_VOLUME_ID_SIZE - 5;
}

/* NULL: there are none, or memory is out. */
static json_t *volumes_to_json(const struct bg_sandbox *s)
{
    json_t *array = s->volume_count > 0 ? json_array() : NULL;
    for (size_t i = 0; array && i < s->volume_count; i++)
        if (json_array_append_new(array, json_pack("{s:s, s:o}", "id", s->volumes[i].id, "path",
                                                   text_to_json(s->volumes[i].path))) < 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}

static int volumes_from_json(json_t *array, struct bg_sandbox *s)
{
    if (!json_is_array(array) || json_array_size(array) > BG_SANDBOX_VOLUMES_MAX)
        return -EINVAL;
    s->volumes = calloc(json_array_size(array) + 1, sizeof *s->volumes);
    if (!s->volumes)
        return -ENOMEM;
    for (size_t i = 0; i < json_array_size(array); i++) {
        struct bg_volume_use *use = &s->volumes[s->volume_count++];
        const char *id;
        json_t *path;
        if (json_unpack(json_array_get(array, i), "{s:s, s:o !}", "id", &id, "path", &path) < 0 ||
            !bg_volume_id_ok(id, /* snapshot= */ false))
            return -EINVAL;
        memcpy(use->id, id, strlen(id) + 1);
        int r = text_from_json(path, &use->path);
        if (r < 0 || use->path[0] != '/')
            return r < 0 ? r : -EINVAL;
    }
    return 0;
}

static void forget_volumes(struct bg_sandbox *s)
{
    for (size_t i = 0; i < s->volume_count; i++)
        free(s->volumes[i].path);
    free(BG_TAKE(s->volumes));
    s->volume_count = 0;
    s->root_volume[0] = '\0';
}

void bg_share_done(struct bg_share *share)
{
    free(share->host);
    free(share->guest);
    texts_free(share->hide, share->hide_count);
    texts_free(share->show, share->show_count);
    *share = (struct bg_share){0};
}

static json_t *to_json(const struct bg_sandbox *s)
{
    json_t *volumes = volumes_to_json(s);
    if (s->volume_count > 0 && !volumes)
        return NULL;
    return json_pack(
        "{s:i, s:s, s:s, s:I, s:{s:s, s:s}, s:I, s:I, s:I, s:I, s:I, s:b, s:o, s:{s:o, s:o, s:o}, "
        "s:o, s:o, s:o*, s:s*}",
        "version", 1, "id", s->id, "name", s->name, "created_ms", (json_int_t)s->created_ms,
        "image", "name", s->image_name, "digest", s->image_digest, "cpus", (json_int_t)s->cpus,
        "memory_bytes", (json_int_t)s->memory_bytes, "ttl_s", (json_int_t)s->ttl_s, "expires_ms",
        (json_int_t)s->expires_ms, "idle_suspend_s", (json_int_t)s->idle_suspend_s, "ephemeral",
        s->ephemeral, "env", texts_to_json(s->env, s->env_count), "network", "allow",
        texts_to_json(s->allow, s->allow_count), "upstream_ca",
        s->upstream_ca ? text_to_json(s->upstream_ca) : json_null(), "policy",
        s->policy ? text_to_json(s->policy) : json_null(), "secrets", secrets_to_json(s), "shares",
        shares_to_json(s), "volumes", volumes, "root_volume",
        s->root_volume[0] ? s->root_volume : NULL);
}

static bool env_ok(char *const *env, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (env[i][0] == '=' || !strchr(env[i], '='))
            return false;
    return true;
}

/* Fills *s but its dir. Errors: -EINVAL (text says what), -ENOMEM. s may be half-filled then. */
static int from_json(json_t *json, const char *name, struct bg_sandbox *s, struct bg_err *err)
{
    json_error_t why;
    int version, ephemeral;
    const char *id, *own_name, *image_name, *image_digest;
    json_int_t created_ms, cpus, memory_bytes;
    json_int_t ttl_s = 0, expires_ms = 0, idle_suspend_s = 0; /* which the first ones lack */
    json_t *env, *allow, *upstream_ca, *secrets;
    json_t *policy = NULL, *shares = NULL; /* which the first ones lack */
    json_t *volumes = NULL;                /* which those without lack */
    const char *root_volume = "";
    if (json_unpack_ex(json, &why, 0,
                       "{s:i, s:s, s:s, s:I, s:{s:s, s:s !}, s:I, s:I, s?:I, s?:I, s?:I, s:b, s:o, "
                       "s:{s:o, s:o, "
                       "s?:o !}, s:o, s?:o, s?:o, s?:s !}",
                       "version", &version, "id", &id, "name", &own_name, "created_ms", &created_ms,
                       "image", "name", &image_name, "digest", &image_digest, "cpus", &cpus,
                       "memory_bytes", &memory_bytes, "ttl_s", &ttl_s, "expires_ms", &expires_ms,
                       "idle_suspend_s", &idle_suspend_s, "ephemeral", &ephemeral, "env", &env,
                       "network", "allow", &allow, "upstream_ca", &upstream_ca, "policy", &policy,
                       "secrets", &secrets, "shares", &shares, "volumes", &volumes, "root_volume",
                       &root_volume) < 0)
        return bg_err_set(err, -EINVAL, "%s", why.text);
    if (version != 1)
        return bg_err_set(err, -EINVAL, "version %d: this bellglass knows 1", version);
    if (!id_ok(id) || strcmp(own_name, name) != 0 || created_ms < 0 || !hex_ok(image_digest, 64))
        return bg_err_set(err, -EINVAL, "id, name, created_ms or image digest is off");
    if (cpus < 1 || cpus > BG_SANDBOX_CPUS_MAX ||
        memory_bytes < (json_int_t)BG_SANDBOX_MEMORY_MIN ||
        memory_bytes > (json_int_t)BG_SANDBOX_MEMORY_MAX)
        return bg_err_set(err, -EINVAL, "cpus or memory_bytes is out of range");
    if (ttl_s < 0 || ttl_s > BG_SANDBOX_SECONDS_MAX || expires_ms < 0 || idle_suspend_s < 0 ||
        idle_suspend_s > BG_SANDBOX_SECONDS_MAX)
        return bg_err_set(err, -EINVAL, "ttl_s, expires_ms or idle_suspend_s is out of range");
    if (root_volume[0] && !bg_volume_id_ok(root_volume, /* snapshot= */ false))
        return bg_err_set(err, -EINVAL, "root_volume is off");
    memcpy(s->id, id, strlen(id) + 1);
    memcpy(s->root_volume, root_volume, strlen(root_volume) + 1);
    s->ttl_s = (uint64_t)ttl_s;
    s->expires_ms = (uint64_t)expires_ms;
    s->idle_suspend_s = (uint64_t)idle_suspend_s;
    s->created_ms = (uint64_t)created_ms;
    s->cpus = (unsigned)cpus;
    s->memory_bytes = (uint64_t)memory_bytes;
    s->ephemeral = ephemeral;
    s->name = strdup(own_name);
    s->image_name = strdup(image_name);
    s->image_digest = strdup(image_digest);
    int r = s->name && s->image_name && s->image_digest ? 0 : -ENOMEM;
    if (r == 0)
        r = texts_from_json(env, &s->env, &s->env_count);
    if (r == 0 && !env_ok(s->env, s->env_count))
        r = -EINVAL;
    if (r == 0)
        r = texts_from_json(allow, &s->allow, &s->allow_count);
    if (r == 0 && !json_is_null(upstream_ca))
        r = text_from_json(upstream_ca, &s->upstream_ca);
    if (r == 0 && policy && !json_is_null(policy))
        r = text_from_json(policy, &s->policy);
    if (r == 0)
        r = secrets_from_json(secrets, s);
    if (r == 0 && shares)
        r = shares_from_json(shares, s);
    if (r == 0 && volumes)
        r = volumes_from_json(volumes, s);
    return r < 0 ? bg_err_set(err, r,
                              r == -ENOMEM ? "out of memory"
                                           : "env, network, secrets, shares or volumes")
                 : 0;
}

int sandbox_json_parse(const char *text, size_t size, const char *name, struct bg_sandbox *ret,
                       struct bg_err *err)
{
    json_error_t why;
    json_auto_t *json = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
    if (!json)
        return bg_err_set(err, -EINVAL, "line %d: %s", why.line, why.text);
    struct bg_sandbox s = {0};
    int r = from_json(json, name, &s, err);
    if (r < 0) {
        bg_sandbox_done(&s);
        return r;
    }
    *ret = s;
    return 0;
}

/* The placeholder becomes the first of those inherited; of too many the last one goes. */
static int hand_down(struct bg_secret_use *use)
{
    BG_AUTOFREE char *newest = strdup(use->placeholder);
    char **list = reallocarray(use->inherited, use->inherited_count + 2, sizeof *list);
    if (list)
        use->inherited = list;
    if (!newest || !list)
        return -ENOMEM;
    if (use->inherited_count == BG_SECRET_INHERITED_MAX)
        free(list[--use->inherited_count]);
    memmove(list + 1, list, use->inherited_count * sizeof *list);
    list[0] = BG_TAKE(newest);
    use->inherited_count++;
    use->placeholder[0] = '\0';
    return 0;
}

int bg_sandbox_fork_config(const json_t *source, const char *name, struct bg_sandbox *ret,
                           struct bg_err *err)
{
    json_auto_t *json = json_deep_copy(source); /* parsing wants one that is not const */
    const char *source_name = json_string_value(json_object_get(json, "name"));
    if (!source_name)
        return bg_err_set(err, json ? -EINVAL : -ENOMEM, "the source's settings");
    struct bg_sandbox s = {0};
    int r = from_json(json, source_name, &s, err);
    for (size_t i = 0; r == 0 && i < s.secret_count; i++)
        if (hand_down(&s.secrets[i]) < 0)
            r = bg_err_errno(err, -ENOMEM, "secret %s", s.secrets[i].name);
    if (r < 0) {
        (void)bg_err_prefix(err, "the source's settings");
        bg_sandbox_done(&s);
        return r;
    }
    free(s.name);
    s.name = name ? strdup(name) : NULL;
    if (name && !s.name) {
        bg_sandbox_done(&s);
        return bg_err_errno(err, -ENOMEM, "sandbox name");
    }
    memset(s.id, 0, sizeof s.id);
    s.created_ms = s.expires_ms = 0;
    s.ephemeral = false;
    forget_volumes(&s);
    *ret = s;
    return 0;
}

void bg_sandbox_disinherit(struct bg_sandbox *sandbox)
{
    for (size_t i = 0; i < sandbox->secret_count; i++) {
        struct bg_secret_use *use = &sandbox->secrets[i];
        texts_free(use->inherited, use->inherited_count);
        use->inherited = NULL;
        use->inherited_count = 0;
    }
}

char *sandbox_json_emit(const struct bg_sandbox *sandbox)
{
    json_auto_t *json = to_json(sandbox);
    return json ? json_dumps(json, JSON_COMPACT) : NULL;
}

void bg_sandbox_done(struct bg_sandbox *sandbox)
{
    struct bg_sandbox *s = sandbox;
    free(s->name);
    free(s->dir);
    free(s->image_name);
    free(s->image_digest);
    texts_free(s->env, s->env_count);
    texts_free(s->allow, s->allow_count);
    free(s->upstream_ca);
    free(s->policy);
    for (size_t i = 0; i < s->secret_count; i++) {
        free(s->secrets[i].name);
        texts_free(s->secrets[i].hosts, s->secrets[i].host_count);
        texts_free(s->secrets[i].inherited, s->secrets[i].inherited_count);
    }
    free(s->secrets);
    for (size_t i = 0; i < s->share_count; i++)
        bg_share_done(&s->shares[i]);
    free(s->shares);
    forget_volumes(s);
    *s = (struct bg_sandbox){0};
}
