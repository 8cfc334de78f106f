#include "host/cli/watch_frames.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "common/quote.h"
#include "common/wire.h"
#include "host/cli/output.h"

#define COLUMN 11 /* of the path: behind the longest word */

struct word {
    uint32_t kind;
    const char *word;
};

/* In the order in which they happen. */
static const struct word words[] = {
    {BG_WATCH_CREATED, "created"},   {BG_WATCH_MOVED, "moved"},
    {BG_WATCH_MODIFIED, "modified"}, {BG_WATCH_ATTRIBUTES, "attributes"},
    {BG_WATCH_WRITTEN, "written"},   {BG_WATCH_DELETED, "deleted"},
    {BG_WATCH_LOST, "lost"},
};

static int add_json(FILE *out, const char *word, const struct bg_watch_change *change)
{
    json_t *line = json_pack("{s:s}", "kind", word);
    bool good = line != NULL;
    if (change->path[0] != '\0')
        good = good && json_object_set_new(line, "path", output_text(change->path)) == 0;
    if (change->old_path[0] != '\0')
        good = good && json_object_set_new(line, "old_path", output_text(change->old_path)) == 0;
    if (change->kinds != BG_WATCH_LOST)
        good = good && json_object_set_new(line, "folder",
                                           json_boolean(change->kinds & BG_WATCH_IS_FOLDER)) == 0;
    BG_AUTOFREE char *text = good ? output_json_text(line, JSON_COMPACT) : NULL;
    json_decref(line);
    if (!text)
        return -ENOMEM;
    (void)fprintf(out, "%s\n", text);
    return 0;
}

static int add_path(FILE *out, const char *path)
{
    size_t room = 4 * strlen(path) + 8; /* each byte may become \xNN */
    BG_AUTOFREE char *text = malloc(room);
    if (!text)
        return -ENOMEM;
    bg_escape(path, strlen(path), text, room);
    (void)fputs(text, out);
    return 0;
}

static int add_line(FILE *out, const char *word, const struct bg_watch_change *change)
{
    bool folder = change->kinds & BG_WATCH_IS_FOLDER;
    if (change->kinds == BG_WATCH_LOST) {
        (void)fputs("lost: too much happened at once; look at everything again\n", out);
        return 0;
    }
    (void)fprintf(out, "%-*s", COLUMN, word);
    int r = 0;
    if (change->kinds & BG_WATCH_MOVED) {
        r = change->old_path[0] != '\0' ? add_path(out, change->old_path)
                                        : fputs("(elsewhere)", out);
        (void)fputs(" -> ", out);
    }
    if (r >= 0)
        r = change->path[0] != '\0' ? add_path(out, change->path) : fputs("(elsewhere)", out);
    (void)fputs(folder && change->path[0] != '\0' ? "/\n" : "\n", out);
    return r < 0 ? -ENOMEM : 0;
}

static int make_text(const struct bg_watch_change *change, bool json, char **ret,
                     struct bg_err *err)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    int r = out ? 0 : -ENOMEM;
    for (size_t i = 0; r == 0 && i < sizeof words / sizeof *words; i++)
        if (change->kinds & words[i].kind)
            r = json ? add_json(out, words[i].word, change) : add_line(out, words[i].word, change);
    if (out && fclose(out) != 0)
        r = -ENOMEM;
    if (r < 0) {
        free(text);
        return bg_err_errno(err, r, "watch");
    }
    *ret = text;
    return 0;
}

static int take_end(const uint8_t *payload, size_t size, struct bg_err *err)
{
    struct bg_reader in = bg_reader_init(payload, size);
    int32_t status = (int32_t)bg_reader_u32le(&in);
    char text[BG_ERR_TEXT_SIZE];
    if (!bg_reader_ok(&in) || status >= 0 || status < -4095)
        return bg_err_set(err, -EPROTO, "the guest's END frame of %zu bytes", size);
    bg_escape((const char *)in.at, in.left, text, sizeof text);
    return bg_err_set(err, status, "the guest: %s", text);
}

int watch_frames_take(const uint8_t *bytes, size_t size, bool json, char **ret_text,
                      struct bg_err *err)
{
    struct bg_frame_header head;
    struct bg_watch_change change;
    if (size < BG_FRAME_HEADER_SIZE)
        return 0;
    int r = bg_frame_header_parse(bytes, BG_FRAME_HEADER_SIZE, WATCH_FRAME_MAX, &head, err);
    if (r < 0)
        return r;
    if (size - BG_FRAME_HEADER_SIZE < head.size)
        return 0;
    const uint8_t *payload = bytes + BG_FRAME_HEADER_SIZE;
    if (head.type == BG_FRAME_END)
        return take_end(payload, head.size, err);
    if (head.type != BG_FRAME_CHANGE)
        return bg_err_set(err, -EPROTO, "frame type %u from the guest", head.type);
    r = bg_watch_change_parse(payload, head.size, &change, err);
    if (r == 0)
        r = make_text(&change, json, ret_text, err);
    return r < 0 ? r : (int)(BG_FRAME_HEADER_SIZE + head.size);
}
