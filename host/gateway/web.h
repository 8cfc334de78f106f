/* web: what the dashboard's requests and answers carry (docs/dashboard.md, "Safety"), and its
 * pages, which are part of the program. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/gateway/http_request.h"
#include "host/gateway/logins.h"

struct web_page {
    const char *path, *type;
    const uint8_t *bytes;
    size_t size;
};

/* Made at build time (embed.py); the last one has no path. */
extern const struct web_page web_pages[];
extern const bool web_has_terminal; /* xterm.js could be had when this was built */

/* target: origin form. NULL: there is no such page. */
const struct web_page *web_page_find(const char *method, const char *target);

/* Fields of each page's answer, lines with their ends. */
extern const char web_page_fields[];

/* The subprotocol of a WebSocket whose page cannot give it header fields: it offers this one, and
 * "key." with the login's key behind it. */
#define WEB_PROTOCOL "bellglass.v1"

/* The login's key, from X-Bellglass-Key or from the subprotocols. False: there is none. */
bool web_key(const struct http_request *request, char ret[LOGINS_SECRET_SIZE]);
/* The client offers WEB_PROTOCOL, so the answer has to name it. */
bool web_offers_protocol(const struct http_request *request);

/* A browser may send the cookie with this request only if it comes from the dashboard's own pages:
 * pages of other ports and of ID.localhost are of the same site, so SameSite keeps none of them
 * out. Whether an Origin field is ours is looked at elsewhere
 * (route_origin_ok). */
bool web_from_own_page(const struct http_request *request);

/* Cookies are not of one port, so that the name has to be. */
#define WEB_COOKIE_NAME_SIZE 24
void web_cookie_name(unsigned port, char ret[WEB_COOKIE_NAME_SIZE]);
/* The line of a Set-Cookie field; value "": it is taken away; secure: it goes over TLS alone. No
 * Domain: other host names do not get it. */
#define WEB_COOKIE_FIELD_SIZE 256
void web_cookie_field(unsigned port, const char *value, bool secure,
                      char ret[WEB_COOKIE_FIELD_SIZE]);
