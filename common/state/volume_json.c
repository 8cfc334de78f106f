#include "common/state/volume.h"

#include <string.h>

#include <jansson.h>

#include "common/checked.h"
#include "common/quote.h"

#define CAPACITY_STEP 4096u
#define REGION_MAX    32

bool bg_volume_slug_ok(const char *slug)
{
    size_t size = strlen(slug);
    return size >= 2 && size <= BG_VOLUME_SLUG_MAX &&
           strspn(slug, "abcdefghijklmnopqrstuvwxyz0123456789-") == size && slug[0] != '-' &&
           slug[size - 1] != '-' && !(size >= 4 && slug[2] == '-' && slug[3] == '-');
}

int bg_volume_parse_capacity(const char *text, uint64_t *ret, struct bg_err *err)
{
    static const struct {
        const char *name;
        uint64_t bytes;
    } units[] = {{"", 1},           {"kB", 1000},       {"KiB", 1024},    {"MB", 1000000},
                 {"MiB", 1u << 20}, {"GB", 1000000000}, {"GiB", 1u << 30}};
    char digits[24], quoted[64];
    size_t size = strspn(text, "0123456789");
    uint64_t number = 0, unit = 0;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strcmp(text + size, units[i].name) == 0)
            unit = units[i].bytes;
    bool whole = size > 0 && size < sizeof digits && unit > 0;
    if (whole) {
        memcpy(digits, text, size);
        digits[size] = '\0';
        whole = bg_parse_u64(digits, 1, BG_VOLUME_BYTES_MAX / unit, &number) == 0;
    }
    uint64_t bytes = (number * unit + CAPACITY_STEP - 1) / CAPACITY_STEP * CAPACITY_STEP;
    if (!whole || bytes < BG_VOLUME_BYTES_MIN || bytes > BG_VOLUME_BYTES_MAX)
        return bg_err_set(
            err, -EINVAL,
            "capacity %s: want a number of bytes, or one with kB, MB, GB, KiB, MiB or "
            "GiB behind it, from 16 MiB to 1024 GiB",
            bg_quote(text, quoted, sizeof quoted));
    *ret = bytes;
    return 0;
}

static bool hex_ok(const char *text)
{
    return strlen(text) == 64 && strspn(text, "0123456789abcdef") == 64;
}

static int take_image(const json_t *image, struct bg_volume *v)
{
    const char *name, *digest;
    if (json_is_null(image))
        return 0;
    /* json_unpack takes no const object, and changes none. */
    if (json_unpack((json_t *)(uintptr_t)image, "{s:s, s:s !}", "name", &name, "digest", &digest) <
            0 ||
        !hex_ok(digest))
        return -EUCLEAN;
    v->image_name = strdup(name);
    v->image_digest = strdup(digest);
    return v->image_name && v->image_digest ? 0 : -ENOMEM;
}

static int take_source(const json_t *source, struct bg_volume *v)
{
    const char *id, *slug;
    if (json_is_null(source))
        return v->snapshot ? -EUCLEAN : 0;
    if (json_unpack((json_t *)(uintptr_t)source, "{s:s, s:s !}", "id", &id, "slug", &slug) < 0 ||
        !bg_volume_id_ok(id, !v->snapshot) || !bg_volume_slug_ok(slug))
        return -EUCLEAN;
    memcpy(v->source.id, id, strlen(id) + 1);
    memcpy(v->source.slug, slug, strlen(slug) + 1);
    return 0;
}

static int from_json(json_t *json, struct bg_volume *v, struct bg_err *err)
{
    json_error_t why;
    json_int_t version, created_ms, capacity;
    int snapshot, ready;
    const char *id, *slug, *owner, *region;
    json_t *image, *source;
    if (json_unpack_ex(json, &why, 0, "{s:I, s:s, s:s, s:b, s:b, s:s, s:s, s:I, s:I, s:o, s:o !}",
                       "version", &version, "id", &id, "slug", &slug, "snapshot", &snapshot,
                       "ready", &ready, "owner", &owner, "region", &region, "created_ms",
                       &created_ms, "capacity", &capacity, "image", &image, "source", &source) < 0)
        return bg_err_set(err, -EUCLEAN, "%s", why.text);
    if (version != 1)
        return bg_err_set(err, -EUCLEAN, "version %lld: this bellglass knows 1",
                          (long long)version);
    if (!bg_volume_id_ok(id, snapshot) || !bg_volume_slug_ok(slug) || created_ms < 0 ||
        capacity < (json_int_t)BG_VOLUME_BYTES_MIN || capacity > (json_int_t)BG_VOLUME_BYTES_MAX ||
        capacity % 512 != 0 || strlen(region) > REGION_MAX || strlen(owner) > BG_NAME_MAX)
        return bg_err_set(err, -EUCLEAN, "id, slug, owner, region, capacity or created_ms is off");
    v->snapshot = snapshot;
    v->ready = ready;
    v->created_ms = (uint64_t)created_ms;
    v->capacity = (uint64_t)capacity;
    memcpy(v->id, id, strlen(id) + 1);
    memcpy(v->slug, slug, strlen(slug) + 1);
    v->owner = strdup(owner);
    v->region = strdup(region);
    int r = v->owner && v->region ? take_image(image, v) : -ENOMEM;
    if (r == 0)
        r = take_source(source, v);
    return r < 0 ? bg_err_set(err, r, r == -ENOMEM ? "out of memory" : "image or source is off")
                 : 0;
}

int bg_volume_parse(const char *text, size_t size, struct bg_volume *ret, struct bg_err *err)
{
    json_error_t why;
    json_auto_t *json = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
    if (!json)
        return bg_err_set(err, -EUCLEAN, "line %d: %s", why.line, why.text);
    struct bg_volume v = {0};
    int r = from_json(json, &v, err);
    if (r < 0) {
        bg_volume_done(&v);
        return r;
    }
    *ret = v;
    return 0;
}

char *bg_volume_emit(const struct bg_volume *v)
{
    json_t *image = v->image_digest
                        ? json_pack("{s:s, s:s}", "name", v->image_name, "digest", v->image_digest)
                        : json_null();
    json_t *source = v->source.id[0]
                         ? json_pack("{s:s, s:s}", "id", v->source.id, "slug", v->source.slug)
                         : json_null();
    json_auto_t *json =
        json_pack("{s:i, s:s, s:s, s:b, s:b, s:s, s:s, s:I, s:I, s:o, s:o}", "version", 1, "id",
                  v->id, "slug", v->slug, "snapshot", (int)v->snapshot, "ready", (int)v->ready,
                  "owner", v->owner, "region", v->region, "created_ms", (json_int_t)v->created_ms,
                  "capacity", (json_int_t)v->capacity, "image", image, "source", source);
    return json ? json_dumps(json, JSON_COMPACT) : NULL;
}

void bg_volume_done(struct bg_volume *volume)
{
    free(volume->owner);
    free(volume->region);
    free(volume->image_name);
    free(volume->image_digest);
    free(volume->dir);
    *volume = (struct bg_volume){0};
}
