#include "net/tls_tickets.h"

#include <stdlib.h>

#include <openssl/x509v3.h>

#include "common/limits.h"

struct ticket {
    SSL_SESSION *session; /* NULL: the place is free */
    struct destination to;
    uint64_t until_ms;
    uint64_t number; /* in the order they came */
};

struct tls_tickets {
    struct ticket items[BG_EGRESS_SESSIONS_MAX];
    uint64_t count; /* of all that ever came */
};

static void forget(struct ticket *t)
{
    SSL_SESSION_free(t->session);
    t->session = NULL;
}

static bool is_for(const struct ticket *t, const struct destination *to)
{
    return t->session && t->to.port == to->port && destination_same_host(&t->to, to);
}

struct tls_tickets *tls_tickets_new(void)
{
    return calloc(1, sizeof(struct tls_tickets));
}

void tls_tickets_free(struct tls_tickets *tickets)
{
    for (size_t i = 0; tickets && i < BG_EGRESS_SESSIONS_MAX; i++)
        forget(&tickets->items[i]);
    free(tickets);
}

/* A free place; or the destination's oldest if it has its share, or the oldest of all. */
static struct ticket *place_for(struct tls_tickets *tickets, const struct destination *to)
{
    struct ticket *oldest = &tickets->items[0], *its_oldest = NULL, *place = NULL;
    size_t count = 0;
    for (size_t i = 0; i < BG_EGRESS_SESSIONS_MAX; i++) {
        struct ticket *t = &tickets->items[i];
        if (!t->session)
            place = t;
        else if (t->number < oldest->number)
            oldest = t;
        if (!is_for(t, to))
            continue;
        count++;
        if (!its_oldest || t->number < its_oldest->number)
            its_oldest = t;
    }
    if (count >= BG_EGRESS_SESSIONS_EACH)
        return its_oldest;
    return place ? place : oldest;
}

void tls_tickets_put(struct tls_tickets *tickets, const struct destination *to,
                     SSL_SESSION *session, uint64_t until_ms)
{
    if (!SSL_SESSION_is_resumable(session))
        return;
    struct ticket *t = place_for(tickets, to);
    forget(t);
    if (SSL_SESSION_up_ref(session) != 1)
        return;
    *t = (struct ticket){
        .session = session, .to = *to, .until_ms = until_ms, .number = ++tickets->count};
}

SSL_SESSION *tls_tickets_get(struct tls_tickets *tickets, const struct destination *to,
                             uint64_t now_ms, uint64_t *ret_until_ms)
{
    struct ticket *newest = NULL;
    for (size_t i = 0; i < BG_EGRESS_SESSIONS_MAX; i++) {
        struct ticket *t = &tickets->items[i];
        if (t->session && t->until_ms <= now_ms)
            forget(t);
        if (is_for(t, to) && (!newest || t->number > newest->number))
            newest = t;
    }
    if (!newest || SSL_SESSION_up_ref(newest->session) != 1)
        return NULL;
    SSL_SESSION *session = newest->session;
    *ret_until_ms = newest->until_ms;
    if (SSL_SESSION_get_protocol_version(session) != TLS1_2_VERSION) /* RFC 8446 C.4 */
        forget(newest);
    return session;
}

void tls_tickets_drop(struct tls_tickets *tickets, const struct destination *to)
{
    for (size_t i = 0; i < BG_EGRESS_SESSIONS_MAX; i++)
        if (is_for(&tickets->items[i], to))
            forget(&tickets->items[i]);
}

uint64_t tls_tickets_until(SSL *ssl, uint64_t now_ms)
{
    const STACK_OF(X509) *chain = SSL_get0_verified_chain(ssl);
    uint64_t ms = BG_EGRESS_SESSION_MS;
    if (!chain || SSL_get_verify_result(ssl) != X509_V_OK)
        return 0;
    for (int i = 0; i < sk_X509_num(chain); i++) {
        int days, seconds;
        if (ASN1_TIME_diff(&days, &seconds, NULL, X509_get0_notAfter(sk_X509_value(chain, i))) !=
                1 ||
            days < 0 || seconds < 0)
            return 0;
        uint64_t left_ms = ((uint64_t)days * 86400 + (uint64_t)seconds) * 1000;
        ms = left_ms < ms ? left_ms : ms;
    }
    return now_ms + ms;
}

bool tls_tickets_fit(SSL *ssl, const struct destination *to)
{
    X509 *certificate = SSL_get0_peer_certificate(ssl);
    const unsigned flags =
        X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT;
    if (!certificate || X509_cmp_current_time(X509_get0_notAfter(certificate)) <= 0)
        return false;
    return to->is_address ? X509_check_ip(certificate, to->address.bytes,
                                          to->address.family == 4 ? 4 : 16, flags) == 1
                          : X509_check_host(certificate, to->host, 0, flags, NULL) == 1;
}
