#include "host/gateway/web.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "common/limits.h"

#define KEY_PREFIX "key."

const char web_page_fields[] =
    "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'\r\n"
    "X-Frame-Options: DENY\r\n"
    "Referrer-Policy: no-referrer\r\n"
    "Cross-Origin-Opener-Policy: same-origin\r\n"
    "Cross-Origin-Resource-Policy: same-origin\r\n";

const struct web_page *web_page_find(const char *method, const char *target)
{
    size_t size = strcspn(target, "?#");
    if (strcmp(method, "GET") != 0)
        return NULL;
    for (const struct web_page *page = web_pages; page->path; page++)
        if (strlen(page->path) == size && memcmp(page->path, target, size) == 0)
            return page;
    return NULL;
}

/* The next word of a list of them. False at its end. */
static bool next_word(const char **at, const char **ret, size_t *ret_size)
{
    *at += strspn(*at, ", \t");
    *ret = *at;
    *ret_size = strcspn(*at, ", \t");
    *at += *ret_size;
    return *ret_size > 0;
}

static bool take_key(const char *text, size_t size, char ret[LOGINS_SECRET_SIZE])
{
    if (size != LOGINS_SECRET_SIZE - 1)
        return false;
    memcpy(ret, text, size);
    ret[size] = '\0';
    return true;
}

bool web_key(const struct http_request *request, char ret[LOGINS_SECRET_SIZE])
{
    const char *field = http_request_field(request, "x-bellglass-key"), *word;
    const char *at = http_request_field(request, "sec-websocket-protocol");
    size_t size;
    if (field)
        return take_key(field, strlen(field), ret);
    while (at && next_word(&at, &word, &size))
        if (size > sizeof KEY_PREFIX - 1 && memcmp(word, KEY_PREFIX, sizeof KEY_PREFIX - 1) == 0)
            return take_key(word + sizeof KEY_PREFIX - 1, size - (sizeof KEY_PREFIX - 1), ret);
    return false;
}

bool web_offers_protocol(const struct http_request *request)
{
    const char *at = http_request_field(request, "sec-websocket-protocol"), *word;
    size_t size;
    while (at && next_word(&at, &word, &size))
        if (size == sizeof WEB_PROTOCOL - 1 && memcmp(word, WEB_PROTOCOL, size) == 0)
            return true;
    return false;
}

bool web_from_own_page(const struct http_request *request)
{
    const char *site = http_request_field(request, "sec-fetch-site");
    bool reads = strcmp(http_request_method(request), "GET") == 0 && !request->upgrade;
    return (!site || strcasecmp(site, "same-origin") == 0) &&
           (reads || http_request_field(request, "origin"));
}

void web_cookie_name(unsigned port, char ret[WEB_COOKIE_NAME_SIZE])
{
    (void)snprintf(ret, WEB_COOKIE_NAME_SIZE, "bellglass_%u", port);
}

void web_cookie_field(unsigned port, const char *value, bool secure,
                      char ret[WEB_COOKIE_FIELD_SIZE])
{
    char name[WEB_COOKIE_NAME_SIZE];
    web_cookie_name(port, name);
    (void)snprintf(ret, WEB_COOKIE_FIELD_SIZE,
                   "Set-Cookie: %s=%s; Path=/; HttpOnly; SameSite=Strict; Max-Age=%u%s\r\n", name,
                   value, value[0] ? BG_GATEWAY_LOGIN_MS / 1000 : 0, secure ? "; Secure" : "");
}
