#include "net/json_scan.h"

#include <errno.h>
#include <string.h>

#include "common/io.h"

static bool in_object(const struct json_scan *j)
{
    size_t i = j->depth - 1;
    return j->depth > 0 && (j->objects[i / 8] >> i % 8 & 1);
}

static bool open_level(struct json_scan *j, bool object)
{
    size_t i = j->depth;
    if (i == JSON_SCAN_DEPTH_MAX)
        return false;
    j->objects[i / 8] = (uint8_t)((j->objects[i / 8] & ~(1u << i % 8)) | (unsigned)object << i % 8);
    j->depth++;
    j->at++;
    j->want = object ? JSON_NAME_OR_END : JSON_VALUE_OR_END;
    return true;
}

/* A value is complete: several may follow each other at the top. */
static void value_read(struct json_scan *j)
{
    j->want = j->depth > 0 ? JSON_NEXT : JSON_VALUE;
}

static bool close_level(struct json_scan *j, bool object)
{
    bool may_end =
        j->want == JSON_NEXT || j->want == (object ? JSON_NAME_OR_END : JSON_VALUE_OR_END);
    if (!may_end || j->depth == 0 || in_object(j) != object)
        return false;
    j->depth--;
    j->at++;
    value_read(j);
    return true;
}

static size_t count_digits(const struct json_scan *j, size_t at)
{
    size_t start = at;
    while (at < j->size && j->text[at] >= '0' && j->text[at] <= '9')
        at++;
    return at - start;
}

static bool read_number(struct json_scan *j)
{
    size_t at = j->at, count;
    if (j->text[at] == '-')
        at++;
    count = count_digits(j, at);
    if (count == 0 || (count > 1 && j->text[at] == '0'))
        return false;
    at += count;
    if (at < j->size && j->text[at] == '.') {
        count = count_digits(j, ++at);
        if (count == 0)
            return false;
        at += count;
    }
    if (at < j->size && (j->text[at] == 'e' || j->text[at] == 'E')) {
        at++;
        if (at < j->size && (j->text[at] == '+' || j->text[at] == '-'))
            at++;
        count = count_digits(j, at);
        if (count == 0)
            return false;
        at += count;
    }
    j->at = at;
    value_read(j);
    return true;
}

static bool read_word(struct json_scan *j)
{
    static const char *const words[] = {"true", "false", "null"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t size = strlen(words[i]);
        if (j->size - j->at >= size && memcmp(j->text + j->at, words[i], size) == 0) {
            j->at += size;
            value_read(j);
            return true;
        }
    }
    return read_number(j);
}

/* Where the string's closing quote is, for one that begins behind an opening one; SIZE_MAX: none.
 */
static size_t string_end(const struct json_scan *j, size_t at)
{
    while (at < j->size) {
        unsigned char c = (unsigned char)j->text[at];
        if (c == '"')
            return at;
        if (c < 0x20)
            return SIZE_MAX;
        if (c != '\\') {
            at++;
            continue;
        }
        size_t left = j->size - at;
        if (left >= 6 && j->text[at + 1] == 'u') {
            for (size_t i = at + 2; i < at + 6; i++)
                if (bg_hex_digit(j->text[i]) < 0)
                    return SIZE_MAX;
            at += 6;
        } else if (left >= 2 && j->text[at + 1] != '\0' && strchr("\"\\/bfnrt", j->text[at + 1])) {
            at += 2;
        } else {
            return SIZE_MAX;
        }
    }
    return SIZE_MAX;
}

static bool read_string(struct json_scan *j, struct json_string *ret)
{
    size_t start = j->at + 1, end = string_end(j, start);
    ret->is_name = j->want == JSON_NAME || j->want == JSON_NAME_OR_END;
    if (end == SIZE_MAX || j->want == JSON_COLON || j->want == JSON_NEXT)
        return false;
    ret->start = start;
    ret->end = end;
    j->at = end + 1;
    if (ret->is_name)
        j->want = JSON_COLON;
    else
        value_read(j);
    return true;
}

/* One token that is not a string. */
static bool read_token(struct json_scan *j)
{
    bool value = j->want == JSON_VALUE || j->want == JSON_VALUE_OR_END;
    switch (j->text[j->at]) {
    case '{':
    case '[':
        return value && open_level(j, j->text[j->at] == '{');
    case '}':
    case ']':
        return close_level(j, j->text[j->at] == '}');
    case ',':
        if (j->want != JSON_NEXT)
            return false;
        j->want = in_object(j) ? JSON_NAME : JSON_VALUE;
        j->at++;
        return true;
    case ':':
        if (j->want != JSON_COLON)
            return false;
        j->want = JSON_VALUE;
        j->at++;
        return true;
    default:
        return value && read_word(j);
    }
}

void json_scan_init(struct json_scan *scan, const char *text, size_t size)
{
    *scan = (struct json_scan){.text = text, .size = size, .want = JSON_VALUE};
    if (size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        scan->at = 3;
}

int json_scan_next(struct json_scan *scan, struct json_string *ret)
{
    while (scan->at < scan->size) {
        char c = scan->text[scan->at];
        if (c == '"')
            return read_string(scan, ret) ? 1 : -EPROTO;
        if (c == ' ' || c == '\t' || c == '\r' || c == '\n')
            scan->at++;
        else if (!read_token(scan))
            return -EPROTO;
    }
    return scan->depth == 0 && scan->want == JSON_VALUE ? 0 : -EPROTO;
}
