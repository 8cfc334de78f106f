"""The attack table: what a guest sends, what of it the upstream must get, what the guest must get,
and what the audit log says. One row a case; more rows, not more code.

In all bytes {P} {O} {L} {X} are the placeholders of KEY (for k.test), of OTHER (for e.test), of LOST
(k.test; the store has no value) and of a secret of nobody; {S} is KEY's value; {Q} {W} {V} are RULED's
placeholder, its value and that percent-encoded, {E} the part of its placeholder that is its alone; {H}
is the host and port that the row connects to. No secret is for h.test; answers of the others are
scrubbed. An upstream's steps are pairs: bytes that must come, exactly, and bytes to answer with."""

import base64
import dataclasses
import gzip
import zlib

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BAD_REQUEST = {"decision": "deny", "reason": "bad-request", "status": 400}
ALLOWED = {"decision": "allow", "reason": "allowed", "status": 200}


def basic(text):
    """Base64 of a text that is filled in first, so written {B:text} in the rows."""
    return b"{B:" + text + b"}"


@dataclasses.dataclass
class Row:
    name: str
    send: bytes = b""
    upstream: object = ()     # steps; None: no connection may be made
    guest: object = OK        # the exact bytes, (status, text within the body), or a list of both
    audit: object = (ALLOWED,)
    number: object = None     # in the catalogue of attacks
    host: object = "h.test"
    port: object = "good"     # an upstream's certificate, "http", or a number
    tls: object = True        # False: bare
    server_name: object = ""  # SNI other than host; None: none
    alpn: object = ("http/1.1",)
    form: int = 1             # 2: an address literal
    refused: int = 0          # the stream's status
    alert: str = ""           # the guest's handshake fails with it
    closed: bool = False      # the proxy ends the connection by itself
    step: int = 1 << 20       # how many bytes are sent at a time
    alone: bool = False       # only where no name server can be asked
    half_close: bool = False  # the guest ends its sending after the last byte
    closed_upstream: bool = False  # the upstream ends the connection after its last answer


def get(extra=b"", path=b"/"):
    return b"GET " + path + b" HTTP/1.1\r\nHost: {H}\r\n" + extra + b"\r\n"


def post(extra, body):
    return b"POST / HTTP/1.1\r\nHost: {H}\r\n" + extra + b"\r\n" + body


CHUNKED = b"Transfer-Encoding: chunked\r\n"
# What a host with secrets is asked besides, and how its answers come back.
PLAIN = b"Accept-Encoding: identity\r\n"
SCRUBBED_HEAD = b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n"
SCRUBBED_OK = b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n2\r\nok\r\n0\r\n\r\n"
RULED = {"decision": "allow", "secrets": ["RULED"]}
BOTH_WAYS = dict(RULED, placeholders_not_approved=["RULED"])
BAD_UPSTREAM = {"decision": "error", "reason": "upstream-response", "status": 502}
USED = dict(ALLOWED, secrets=["KEY"])
SCRUBBED = dict(ALLOWED, secrets=[], scrubbed=["KEY"])
NOT_APPROVED = {"decision": "allow", "reason": "placeholder-not-approved", "status": 200,
                "secrets": []}


def keyed(name, number, send, want, audit=USED, answer=OK, guest=SCRUBBED_OK, host="k.test", **more):
    """A request to a host that a secret is for."""
    return Row(name, send, [(want, answer)], guest, (audit,), number, host=host, **more)


def by_rule(name, request_line, reason, text):
    """A request to a host of the policy file that its rules do not allow; the connection stays."""
    return Row(name, request_line + b" HTTP/1.1\r\nHost: {H}\r\n\r\n", None, (403, text),
               ({"decision": "deny", "reason": reason, "status": 403},), host="host.rule.test")


def chunked(body):
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk.replace(b"{P}", b"P" * 81)), chunk)
                    for chunk in body) + b"0\r\n\r\n"


def echoed(name, number, answer, body, head=b"", want_head=b"", audit=SCRUBBED, **more):
    """An answer with the secret in it, to a request that held none, and the chunks that are to come
    of it."""
    return keyed(name, number, get(), get(PLAIN), audit, b"HTTP/1.1 200 OK\r\n" + head + answer,
                 b"HTTP/1.1 200 OK\r\n" + want_head + CHUNKED + b"\r\n" + chunked(body),
                 **more)


def counted(body):
    """An answer's rest with the length of a body that is filled in later."""
    return b"Content-Length: {LEN}\r\n\r\n" + body


def refused(name, number, request, status=400, **more):
    """A request that must not get anywhere."""
    reason = {400: "bad-request", 421: "identity-mismatch", 403: "host-not-allowed"}.get(
        status, "bad-request")
    return Row(name, request, None, (status, b"bellglass: "),
               ({"decision": "deny", "reason": reason, "status": status},), number, closed=True,
               **more)


def bad_answer(name, fields, why, version=b"HTTP/1.1"):
    """An answer that can be read in more than one way."""
    return Row(name, get(), [(get(), version + b" 200 OK\r\n" + fields + b"\r\nok")], (502, why),
               (BAD_UPSTREAM,), 74)


# RFC 6455 1.3
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
SENT_KEY = KEY + b"Sec-WebSocket-Version: 13\r\n"
SENT_UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
UPGRADE = SENT_UPGRADE + SENT_KEY
EXTENSIONS = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
ACCEPTED = (b"HTTP/1.1 101 Go\r\n" + SENT_UPGRADE +
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n")
SENT_ACCEPTED = (b"HTTP/1.1 101 Go\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" +
                 SENT_UPGRADE + b"\r\n")
RELAYED = {"decision": "allow", "status": 101}


def websocket(name, number, frames, want, scrubbed=None, audit=None, **more):
    """Frames of a host with secrets, and what is to come of them."""
    return Row(name, get(UPGRADE), [(get(SENT_KEY + PLAIN + SENT_UPGRADE), ACCEPTED + b"\r\n" + frames),
                                    None],
               SENT_ACCEPTED + want, (audit or dict(RELAYED, scrubbed=scrubbed),), number,
               host="k.test", **more)


def bad_frame(name, frames, why):
    """Ends the connection with a Close frame."""
    text = b"bellglass: " + why
    return websocket(name, 36, b"\x81\x02ok" + frames,
                     b"\x81\x02ok\x88" + bytes([2 + len(text)]) + b"\x03\xf6" + text,
                     audit={"decision": "error", "reason": "upstream-frame", "status": 101,
                            "detail": why.decode()}, closed=True)


ROWS = [
    # --- plain use ---
    Row("a request and its answer", get(b"A: b\r\n"), [(get(b"A: b\r\n"), OK)]),
    Row("over plain HTTP", get(), [(get(), OK)], tls=False, port="http"),
    Row("two on one connection", get(path=b"/1") + get(path=b"/2"),
        [(get(path=b"/1"), OK), (get(path=b"/2"), OK)], OK + OK, (ALLOWED, ALLOWED)),
    Row("byte by byte", get(b"A: b\r\n"), [(get(b"A: b\r\n"), OK)], step=1),
    Row("a body with a length", post(b"Content-Length: 5\r\n", b"hello"),
        [(post(b"Content-Length: 5\r\n", b"hello"), OK)],
        audit=(dict(ALLOWED, bytes_up=5, bytes_down=2, method="POST", path="/"),)),
    Row("a body in chunks, framed anew",
        post(CHUNKED, b"2;ext=1\r\nhe\r\n03\r\nllo\r\n0\r\nTrailer: x\r\n\r\n"),
        [(post(CHUNKED, b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), OK)]),
    Row("an answer in chunks", get(),
        [(get(), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nok\r\n0\r\nT: x\r\n\r\n")],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    Row("an answer until the end becomes chunks", get(),
        [(get(), b"HTTP/1.0 200 OK\r\n\r\nok"), None],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    Row("HEAD", b"HEAD / HTTP/1.1\r\nHost: {H}\r\n\r\n" + get(),
        [(b"HEAD / HTTP/1.1\r\nHost: {H}\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
         (get(), OK)],
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n" + OK, (ALLOWED, ALLOWED), number=32),
    Row("the query is not in the audit", get(path=b"/p?token=1"), [(get(path=b"/p?token=1"), OK)],
        audit=(dict(ALLOWED, path="/p"),)),
    Row("a name in capitals with a dot", b"GET / HTTP/1.1\r\nHost: H.Test.:{PORT}\r\n\r\n",
        [(get(), OK)], number=52),
    Row("a subdomain by its suffix", get(), [(get(), OK)], host="a.w.test", number=51),
    Row("an address that a rule names", get(), [(get(), OK)], host="127.0.0.1", form=2,
        server_name=None),

    # --- where a placeholder may stand ---
    keyed("a bearer token", 1, get(b"Authorization: Bearer {P}\r\n"),
          get(b"Authorization: Bearer {S}\r\n" + PLAIN)),
    keyed("the same to a host of another secret", 2, get(b"Authorization: Bearer {P}\r\n"),
          get(b"Authorization: Bearer {P}\r\n" + PLAIN), NOT_APPROVED, host="e.test"),
    Row("the same to a host of none", get(b"Authorization: Bearer {P}\r\n"),
        [(get(b"Authorization: Bearer {P}\r\n"), OK)], audit=(NOT_APPROVED,), number=2),
    keyed("and in clear text", 2, get(b"Authorization: Bearer {P}\r\n"),
          get(b"Authorization: Bearer {P}\r\n" + PLAIN), NOT_APPROVED, tls=False, port="http"),
    keyed("Basic, as the password", 4, get(b"Authorization: Basic " + basic(b"user:{P}") + b"\r\n"),
          get(b"Authorization: Basic " + basic(b"user:{S}") + b"\r\n" + PLAIN)),
    keyed("Basic, as the user, one byte further", 4,
          get(b"Authorization: basic " + basic(b"x{P}:") + b"\r\n"),
          get(b"Authorization: basic " + basic(b"x{S}:") + b"\r\n" + PLAIN)),
    keyed("Basic to another host", 4, get(b"Authorization: Basic " + basic(b"u:{P}") + b"\r\n"),
          get(b"Authorization: Basic " + basic(b"u:{P}") + b"\r\n" + PLAIN), NOT_APPROVED,
          host="e.test"),
    keyed("in the path", 5, get(path=b"/{P}"), get(PLAIN, path=b"/{P}"), NOT_APPROVED),
    keyed("in the query", 5, get(path=b"/?k={P}"), get(PLAIN, path=b"/?k={P}"), NOT_APPROVED),
    keyed("in a cookie among others", 6, get(b"Cookie: a=b; k={P}; c=d\r\n"),
          get(b"Cookie: a=b; k={S}; c=d\r\n" + PLAIN)),
    keyed("in a body", 7, post(b"Content-Length: 81\r\n", b"{P}"),
          post(PLAIN + b"Content-Length: 81\r\n", b"{P}"), ALLOWED),
    keyed("cut by records", 9, get(b"A: {P}\r\n"), get(b"A: {S}\r\n" + PLAIN), step=50),
    keyed("in trailers and chunk extensions", 14, post(CHUNKED, b"2;{P}\r\nok\r\n0\r\nT: {P}\r\n\r\n"),
          post(PLAIN + CHUNKED, b"2\r\nok\r\n0\r\n\r\n"), ALLOWED),
    keyed("twice, and in itself", 16, get(b"A: {P}{P}\r\nB: BELLGLASS_SECRET_{P}\r\n"),
          get(b"A: {S}{S}\r\nB: BELLGLASS_SECRET_{S}\r\n" + PLAIN)),
    keyed("cut short", 16, get(b"A: BELLGLASS_SECRET_aaaa\r\n"),
          get(b"A: BELLGLASS_SECRET_aaaa\r\n" + PLAIN), ALLOWED),
    keyed("of another sandbox", 17, get(b"A: {X}\r\n"), get(b"A: {X}\r\n" + PLAIN),
          {"decision": "allow", "reason": "placeholder-unknown", "placeholders_unknown": 1}),
    keyed("in a header's name", 19, get(b"{P}: a\r\n"), get(b"{P}: a\r\n" + PLAIN), ALLOWED),
    Row("in Range", get(b"Range: {P}\r\n"), [(get(b"Range: {P}\r\n"), OK)], number=19),
    refused("as the method", 19, b"{P} / HTTP/1.1\r\nHost: {H}\r\n\r\n", 501, host="k.test"),
    refused("as the host", 19, b"GET / HTTP/1.1\r\nHost: {P}\r\n\r\n", host="k.test"),
    refused("as a length", 19, post(b"Content-Length: {P}\r\n", b""), host="k.test"),
    Row("without a value in the store", get(b"A: {L}\r\n"), None, (503, b"secret LOST has no value"),
        ({"decision": "error", "reason": "secret-without-value",
          "secrets_without_value": ["LOST"]},), host="k.test"),
    keyed("Connection cannot drop a header", 66,
          get(b"Connection: Authorization\r\nAuthorization: {P}\r\n"),
          get(b"Authorization: {S}\r\n" + PLAIN)),

    # --- by the rules of a policy file ---
    keyed("in the path, by a rule", 5, get(path=b"/{Q}/x?{Q}"), get(PLAIN, path=b"/{V}/x?{Q}"),
          BOTH_WAYS, host="path.rule.test"),
    keyed("percent-encoded in the path", 5, get(path=b"/%42%45LLGLASS%5fSECRET_{E}"), get(PLAIN, path=b"/{V}"),
          RULED, host="path.rule.test"),
    keyed("in the query, by a rule", 5, get(path=b"/{Q}?k={Q}&x"), get(PLAIN, path=b"/{Q}?k={V}&x"),
          BOTH_WAYS, host="query.rule.test"),
    keyed("percent-encoded in whole in the query", 5, get(path=b"/?k={%:{Q}}&%6B={Q}"),
          get(PLAIN, path=b"/?k={V}&%6B={V}"), RULED, host="query.rule.test"),
    keyed("percent-encoded where no rule is for it", 5, get(path=b"/{%:{P}}?{%:{P}}"),
          get(PLAIN, path=b"/{%:{P}}?{%:{P}}"), NOT_APPROVED),
    keyed("percent-encoded twice", 5, get(path=b"/?k=%2542ELLGLASS_SECRET_{E}"),
          get(PLAIN, path=b"/?k=%2542ELLGLASS_SECRET_{E}"), ALLOWED, host="query.rule.test"),
    keyed("in a cookie, where only another header is listed", 6,
          get(b"Cookie: a=b; k={Q}; c=d\r\n", path=b"/keys/1"),
          get(b"Cookie: a=b; k={Q}; c=d\r\n" + PLAIN, path=b"/keys/1"),
          dict(NOT_APPROVED, placeholders_not_approved=["RULED"]), host="head.rule.test"),
    keyed("with another method", 1, post(b"Content-Length: 0\r\n", b"").replace(b"/ ", b"/?{Q} ", 1),
          post(PLAIN + b"Content-Length: 0\r\n", b"").replace(b"/ ", b"/?{Q} ", 1), NOT_APPROVED,
          host="query.rule.test"),
    keyed("only in Basic", 4, get(b"Authorization: Basic " + basic(b"{Q}:") + b"\r\nA: {Q}\r\n"),
          get(b"Authorization: Basic " + basic(b"{W}:") + b"\r\nA: {Q}\r\n" + PLAIN), BOTH_WAYS,
          host="query.rule.test"),
    keyed("only in a header that is listed", 3, get(b"X-KEY: {Q}\r\nA: {Q}\r\n", path=b"/keys/1"),
          get(b"X-KEY: {W}\r\nA: {Q}\r\n" + PLAIN, path=b"/keys/1"), BOTH_WAYS, host="head.rule.test"),
    keyed("only on a path that is listed", 3, get(b"X-Key: {Q}\r\n", path=b"/keys/1/2"),
          get(b"X-Key: {Q}\r\n" + PLAIN, path=b"/keys/1/2"), NOT_APPROVED, host="head.rule.test"),
    keyed("not on one with several readings", 3, get(b"X-Key: {Q}\r\n", path=b"/keys/x%2f..%2f1"),
          get(b"X-Key: {Q}\r\n" + PLAIN, path=b"/keys/x%2f..%2f1"), NOT_APPROVED,
          host="head.rule.test"),
    Row("a request that a rule allows", get(path=b"/repos/acme/a?b"),
        [(get(path=b"/repos/acme/a?b"), OK)], host="host.rule.test",
        audit=(dict(ALLOWED, method="GET"),)),
    by_rule("another method", b"PUT /open", "request-not-allowed", b"this request is none of those"),
    by_rule("another path", b"GET /open/", "request-not-allowed", b"this request is none of those"),
    by_rule("a path that leads elsewhere", b"GET /repos/acme/../evil", "path-unclear",
            b"more than one way"),
    by_rule("the same, encoded", b"GET /repos/acme/%2e%2E/evil", "path-unclear", b"more than one way"),
    by_rule("a request that a rule denies", b"DELETE /open", "request-denied",
            b"policy:4 deny host.rule.test:"),
    Row("more requests than a rule allows", get() + get() + get(), [(get(), OK), (get(), OK)],
        [OK, OK, (403, b"are used up")], (ALLOWED, ALLOWED, {"reason": "requests-used-up"}),
        host="few.rule.test"),
    Row("faster than a rule allows", get() + get(), [(get(), OK)], [OK, (429, b"in that time")],
        (ALLOWED, {"decision": "deny", "reason": "rate-exceeded", "status": 429}),
        host="slow.rule.test"),
    Row("a body as large as a rule allows", post(b"Content-Length: 5\r\n", b"hello"),
        [(post(b"Content-Length: 5\r\n", b"hello"), OK)], host="small.rule.test"),
    Row("a larger one", post(b"Content-Length: 6\r\n", b"hello!"), None, (413, b"larger than"),
        ({"decision": "deny", "reason": "body-too-large", "status": 413},), 11,
        host="small.rule.test", closed=True),
    Row("a larger one in chunks", post(CHUNKED, b"3\r\nhel\r\n3\r\nlo!\r\n0\r\n\r\n"), "any",
        (413, b"larger than"), ({"decision": "deny", "reason": "body-too-large", "status": 413},), 11,
        host="small.rule.test"),
    Row("clear text where TLS passes unopened", get(), None, (403, b"this request is none of those"),
        ({"decision": "deny", "reason": "request-not-allowed"},), tls=False, port="http",
        host="pass.rule.test"),
    Row("neither TLS nor HTTP there", b"SSH-2.0-x\r\n", None, b"",
        ({"decision": "deny", "reason": "protocol-not-allowed"},), tls=False, port="http",
        host="pass.rule.test", closed=True),
    Row("another server name there", b"", None, None,
        ({"decision": "deny", "reason": "identity-mismatch", "status": 421},), 41,
        server_name="h.test", alert="unrecognized name", host="pass.rule.test"),
    Row("no server name there", b"", None, None,
        ({"decision": "deny", "reason": "identity-mismatch", "status": 421},), 43,
        server_name=None, alert="unrecognized name", host="pass.rule.test"),
    Row("a host that a rule denies", get(), None, (403, b"this sandbox's rules deny it"),
        ({"decision": "deny", "reason": "request-denied"},), host="no.rule.test"),

    # --- getting it back ---
    keyed("the header in the body", 21, get(b"A: {P}\r\n"), get(b"A: {S}\r\n" + PLAIN),
          dict(USED, scrubbed=["KEY"]), b"HTTP/1.1 200 OK\r\n" + counted(b"A: {S}!"),
          b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n" + chunked([b"A: {P}!"])),
    echoed("to a later request", 31, counted(b"{S}"), [b"{P}"]),
    echoed("in clear text", 31, counted(b"{S}"), [b"{P}"], tls=False, port="http"),
    echoed("in base64", 22, counted(basic(b"{S}")), [b"{P}Q", b"=="]),
    echoed("percent-encoded", 23, counted(b"{%:{S}}"), [b"{P}"]),
    echoed("reversed", 24, counted(b"{R:{S}}"), [b"{P}"]),
    echoed("over chunks", 26, CHUNKED + b"\r\n4\r\ns3cr\r\n1\r\n3\r\n0a\r\nt/Value+1=\r\n2;x\r\n==\r\n0\r\n\r\n",
           [b"{P}", b"="]),
    echoed("the beginning only", 26, CHUNKED + b"\r\n4\r\ns3cr\r\n1\r\n3\r\n0\r\n\r\n", [b"s3cr3"],
           audit=ALLOWED),
    echoed("until the connection ends", 26, b"\r\n{S}", [b"{P}"], closed_upstream=True),
    echoed("in the head", 28, b"Content-Length: 2\r\n\r\nok", [b"ok"],
           b"Location: https://e.test/?k={%:{S}}\r\nSet-Cookie: k={S}; Path=/\r\nETag: \"{S}\"\r\n",
           b"Location: https://e.test/?k={P}\r\nSet-Cookie: k={P}; Path=/\r\nETag: \"{P}\"\r\n"),
    echoed("in other fields that lead somewhere", 28, b"Content-Length: 2\r\n\r\nok", [b"ok"],
           b"Link: <https://e.test/{S}>; rel=next\r\nRefresh: 0; url=https://e.test/?{%:{S}}\r\n"
           b"Server-Timing: a;desc=\"" + basic(b"{S}!!") + b"\"\r\n",
           b"Link: <https://e.test/{P}>; rel=next\r\nRefresh: 0; url=https://e.test/?{P}\r\n"
           b"Server-Timing: a;desc=\"{P}SEh\"\r\n"),
    echoed("in trailers", 29, CHUNKED + b"\r\n2\r\nok\r\n0\r\nT: {S}\r\n\r\n", [b"ok"],
           audit=ALLOWED),
    keyed("in an interim answer", 29, get(), get(PLAIN), ALLOWED,
          b"HTTP/1.1 103 Early\r\nLink: {S}\r\n\r\n" + OK),
    keyed("for HTTP/1.0", 21, b"GET / HTTP/1.0\r\n\r\n", get(PLAIN), SCRUBBED,
          b"HTTP/1.1 200 OK\r\n" + counted(b"{S}"),
          b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{P}", closed=True),
    keyed("lengths that would differ", 32, b"HEAD / HTTP/1.1\r\nHost: {H}\r\n\r\n",
          b"HEAD / HTTP/1.1\r\nHost: {H}\r\n" + PLAIN + b"\r\n", ALLOWED,
          b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"),
    keyed("lengths of what has not changed", 32, get(b"If-None-Match: x\r\n"),
          get(b"If-None-Match: x\r\n" + PLAIN), dict(ALLOWED, status=304),
          b"HTTP/1.1 304 N\r\nContent-Length: 16\r\nETag: x\r\n\r\n",
          b"HTTP/1.1 304 N\r\nETag: x\r\n\r\n"),
    keyed("a part that was asked for", 27, get(b"Range: bytes=0-3\r\nIf-Range: x\r\n"), get(PLAIN),
          ALLOWED),
    keyed("a part that was not", 27, get(), get(PLAIN), BAD_UPSTREAM,
          b"HTTP/1.1 206 P\r\nContent-Length: 4\r\n\r\ns3cr", (502, b"a part of the body")),
    keyed("a coding that was asked for", 25, get(b"Accept-Encoding: br, gzip\r\n"), get(PLAIN),
          ALLOWED),
    echoed("in gzip", 25, counted(b"{GZIP:{S}}"), [b"{P}"], b"Content-Encoding: gzip\r\n"),
    echoed("in deflate", 25, counted(b"{DEFLATE:{S}}"), [b"{P}"], b"Content-Encoding: deflate\r\n"),
    echoed("in bare deflate", 25, counted(b"{BARE:{S}}"), [b"{P}"], b"Content-Encoding: Deflate\r\n"),
    echoed("in br", 25, counted(b"{BR:{S}}"), [b"{P}"], b"Content-Encoding: br\r\n"),
    echoed("in zstd", 25, counted(b"{ZSTD:{S}}"), [b"{P}"], b"Content-Encoding: zstd\r\n"),
    echoed("in two codings", 25, counted(b"{TWO:{S}}"), [b"{P}"],
           b"Content-Encoding: br\r\nA: b\r\nContent-Encoding: gzip\r\n", b"A: b\r\n"),
    keyed("in another coding", 25, get(), get(PLAIN), BAD_UPSTREAM,
          b"HTTP/1.1 200 OK\r\nContent-Encoding: x-rot14\r\nContent-Length: 4\r\n\r\nt4ds",
          (502, b"unknown content coding")),
    keyed("in three codings", 25, get(), get(PLAIN), BAD_UPSTREAM,
          b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip, br, gzip\r\nContent-Length: 1\r\n\r\nx",
          (502, b"more than two content codings")),
    keyed("a coding that is none", 25, get(), get(PLAIN), BAD_UPSTREAM,
          b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nt4ds",
          SCRUBBED_HEAD, closed=True),
    keyed("a coding that ends early", 25, get(), get(PLAIN), BAD_UPSTREAM,
          b"HTTP/1.1 200 OK\r\nContent-Encoding: zstd\r\nContent-Length: 7\r\n\r\n{ZSTD:hello}",
          SCRUBBED_HEAD, closed=True, closed_upstream=True),
    Row("from a host that no secret is for", get(),
        [(get(), b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\ns3cr3t/")],
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\ns3cr3t/"),

    # --- who it is really for ---
    refused("fronting: another Host than the server name", 40, b"GET / HTTP/1.1\r\nHost: e.test\r\n\r\n",
            421),
    Row("another server name than the connection's", b"", None, None,
        ({"decision": "deny", "reason": "identity-mismatch", "status": 421},), 41,
        server_name="e.test", alert="unrecognized name"),
    Row("a server name on a connection to an address", b"", None, None,
        ({"decision": "deny", "reason": "identity-mismatch", "status": 421},), 43,
        host="127.0.0.1", form=2, server_name="h.test", alert="unrecognized name"),
    refused("an absolute target elsewhere", 42, b"GET https://e.test/ HTTP/1.1\r\nHost: {H}\r\n\r\n", 421),
    Row("an absolute target here", b"GET https://{H}/x HTTP/1.1\r\nHost: {H}\r\n\r\n",
        [(get(path=b"/x"), OK)], number=42),
    refused("two Hosts", 42, get(b"Host: {H}\r\n")),
    refused("a Host with a user", 42, b"GET / HTTP/1.1\r\nHost: u@h.test\r\n\r\n"),
    refused("a Host with another port", 42, b"GET / HTTP/1.1\r\nHost: h.test:1\r\n\r\n", 421),
    refused("a list of Hosts", 42, b"GET / HTTP/1.1\r\nHost: {H}, e.test\r\n\r\n"),
    refused("an address as Host", 42, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 421),
    Row("no server name", get(), [(get(), OK)], server_name=None, number=43),
    Row("none of our protocols", b"", None, None, ({"decision": "deny", "reason": "alpn-not-supported"},),
        alpn=("h3", "http/1.0"), alert="no application protocol"),
    Row("an upstream with another name", get(b"A: {P}\r\n"), "handshake",
        (502, b"cannot be trusted: its certificate is refused: "),
        ({"decision": "error", "reason": "upstream-certificate", "status": 502},), 45,
        host="k.test", port="wrong"),
    Row("an upstream that is expired", get(), "handshake", (502, b"has expired"),
        ({"decision": "error", "reason": "upstream-certificate"},), 45, port="expired"),
    Row("an upstream of an unknown CA", get(), "handshake", (502, b"issuer certificate"),
        ({"decision": "error", "reason": "upstream-certificate"},), 45, port="unknown"),
    Row("an upstream that signed itself", get(), "handshake", (502, b"self-signed"),
        ({"decision": "error", "reason": "upstream-certificate"},), 45, port="self"),
    Row("an upstream with a weak key", get(), "handshake", (502, b"too weak"),
        ({"decision": "error", "reason": "upstream-certificate"},), 45, port="weak"),
    Row("an upstream without TLS", get(), "handshake", (502, b"TLS handshake"),
        ({"decision": "error", "reason": "upstream-tls"},), 45, port="http"),
    Row("an upstream that is not there", get(), None, (502, b"cannot connect to h.test"),
        ({"decision": "error", "reason": "connect-failed"},), port="dead"),
    Row("a name that leads to loopback", get(), None, (403, b"a loopback address; if that is meant"),
        ({"decision": "deny", "reason": "address-not-public", "status": 403},), 48,
        host="localhost", tls=True),
    Row("a name that is nowhere", get(), None, (502, b"cannot resolve nowhere.invalid"),
        ({"decision": "error", "reason": "resolve-failed"},), host="nowhere.invalid", port=443,
        alone=True),

    # --- not allowed ---
    Row("a host that no rule names, in TLS", get(), None,
        (403, b"nobody.test:443 is not allowed by this sandbox's rules; allow it with --allow "
              b"nobody.test\n"),
        ({"decision": "deny", "reason": "host-not-allowed", "status": 403, "host": "nobody.test",
          "rule": None},), host="nobody.test", port=443),
    Row("in clear text", get(), None, (403, b"nobody.test:80 is not allowed"),
        ({"decision": "deny", "reason": "host-not-allowed", "scheme": "http"},),
        host="nobody.test", port=80, tls=False),
    Row("on another port", get(), None, (403, b"allow it with --allow nobody.test:8080\n"),
        ({"decision": "deny", "reason": "host-not-allowed"},), host="nobody.test", port=8080,
        tls=False),
    Row("twice, and one connection is enough", get() + get(), None,
        [(403, b"not allowed"), (403, b"not allowed")],
        ({"reason": "host-not-allowed"}, {"reason": "host-not-allowed"}), host="nobody.test",
        port=443, number=64),
    Row("the port of another rule", get(), None, (403, b"h.test:1444 is not allowed"),
        ({"reason": "host-not-allowed"},), port=1444, number=56),
    Row("the suffix itself", get(), None, (403, b"w.test:443 is not allowed"),
        ({"reason": "host-not-allowed"},), host="w.test", port=443, number=51),
    Row("a name that ends like it", get(), None, (403, b"not allowed"),
        ({"reason": "host-not-allowed"},), host="evilw.test", port=443, number=51),
    Row("a name with it in front", get(), None, (403, b"not allowed"),
        ({"reason": "host-not-allowed"},), host="h.test.evil.test", port=443, number=51),
    Row("the metadata service", get(), None, (403, b"169.254.169.254:80 is not allowed"),
        ({"reason": "host-not-allowed"},), host="169.254.169.254", form=2, port=80, tls=False,
        number=48),
    Row("loopback as a number", get(), None, (403, b"127.0.0.1:80 is not allowed"),
        ({"reason": "host-not-allowed", "host": "127.0.0.1"},), host="2130706433", port=80, tls=False,
        number=47),
    Row("loopback in octal", get(), None, (403, b"127.0.0.1:80 is not allowed"),
        ({"reason": "host-not-allowed"},), host="0177.1", port=80, tls=False, number=47),
    Row("loopback mapped into IPv6", get(), None, (403, b"127.0.0.1:80 is not allowed"),
        ({"reason": "host-not-allowed"},), host="::ffff:127.0.0.1", form=2, port=80, tls=False,
        number=47),
    Row("an address with a zone", b"", None, None,
        ({"decision": "deny", "reason": "bad-destination"},), host="fe80::1%eth0", form=2, port=80,
        refused=-22, number=47),
    Row("a name that is none", b"", None, None, ({"decision": "deny", "reason": "bad-destination"},),
        host="a..b", port=80, refused=-22, number=52),
    Row("a label of 64 bytes", b"", None, None, ({"reason": "bad-destination"},),
        host="a" * 64 + ".test", port=80, refused=-22, number=52),
    Row("a name in UTF-8", b"", None, None, ({"reason": "bad-destination"},),
        host="b\u00fccher.test", port=80, refused=-22, number=52),
    Row("a name called an address", b"", None, None, ({"reason": "bad-destination"},),
        host="h.test", form=2, port=80, refused=-22),
    Row("mail is refused at once", b"", None, None,
        ({"decision": "deny", "reason": "host-not-allowed", "scheme": "tcp"},),
        host="nobody.test", port=25, refused=-13),
    Row("so is a database", b"", None, None, ({"decision": "deny", "reason": "host-not-allowed"},),
        host="nobody.test", port=5432, refused=-13),
    Row("something else on a high port", b"\x00\x01\x02", None, b"",
        ({"decision": "deny", "reason": "host-not-allowed"},), host="nobody.test", port=9999,
        tls=False, closed=True),
    Row("something else where only the web is allowed", b"SSH-2.0-x\r\n", None, b"",
        ({"decision": "deny", "reason": "protocol-not-allowed"},), host="web.test", port=80,
        tls=False, closed=True),

    # --- other protocols ---
    Row("plain TCP by a rule with a port", b"\x00\x01hello", [(b"\x00\x01hello", b"\x02world")],
        b"\x02world", ({"decision": "allow", "scheme": "tcp", "bytes_up": 7, "bytes_down": 6},),
        port="http", tls=False, half_close=True),
    Row("a placeholder in it is only bytes", b"\x00{P}", [(b"\x00{P}", b"x")], b"x",
        ({"scheme": "tcp", "secrets": []},), port="http", tls=False, half_close=True),
    Row("a protocol where the server speaks first", b"", [(b"", b"220 hello\r\n"), None], b"220 hello\r\n",
        ({"decision": "allow", "scheme": "tcp"},), port="http", tls=False,
        closed=True),

    # --- abuse of the protocol ---
    refused("a length and chunks", 60, post(b"Content-Length: 5\r\n" + CHUNKED, b"0\r\n\r\n")),
    refused("chunks and a length", 60, post(CHUNKED + b"Content-Length: 5\r\n", b"0\r\n\r\n")),
    refused("two lengths", 60, post(b"Content-Length: 5\r\nContent-Length: 6\r\n", b"hello")),
    refused("the same length twice", 60, post(b"Content-Length: 5\r\nContent-Length: 5\r\n", b"hello")),
    refused("a signed length", 60, post(b"Content-Length: +5\r\n", b"hello")),
    refused("a length in hex", 60, post(b"Content-Length: 0x5\r\n", b"hello")),
    refused("a list of lengths", 60, post(b"Content-Length: 5,5\r\n", b"hello")),
    refused("a length of 2^64", 60, post(b"Content-Length: 18446744073709551616\r\n", b"hello")),
    Row("a length with white space", post(b"Content-Length:  5 \r\n", b"hello"),
        [(post(b"Content-Length: 5\r\n", b"hello"), OK)], number=60),
    refused("an unknown coding", 61, post(b"Transfer-Encoding: xchunked\r\n", b"")),
    refused("two codings", 61, post(b"Transfer-Encoding: chunked, identity\r\n", b"")),
    refused("a folded coding", 61, post(b"Transfer-Encoding:\r\n chunked\r\n", b"")),
    refused("a vertical tab before it", 61, post(b"Transfer-Encoding: \x0bchunked\r\n", b"")),
    Row("a tab before it is white space", post(b"Transfer-Encoding:\tchunked\r\n", b"0\r\n\r\n"),
        [(post(CHUNKED, b"0\r\n\r\n"), OK)], number=61),
    refused("a space before the colon", 62, post(b"Content-Length : 5\r\n", b"hello")),
    refused("an empty name", 62, get(b": x\r\n")),
    refused("a NUL", 62, get(b"A: \x00\r\n")),
    refused("a bare CR", 62, get(b"A: b\rC: d\r\n")),
    refused("a bare LF", 62, get(b"A: b\nC: d\r\n")),
    refused("eight bits in a name", 62, get(b"\xc3\xa4: b\r\n")),
    Row("a chunk size that overflows", post(CHUNKED, b"10000000000000000\r\nx"), "any",
        (400, b"body: "), (BAD_REQUEST,), 63, closed=True),
    Row("a negative chunk size", post(CHUNKED, b"-1\r\nx"), "any", (400, b"body: "), (BAD_REQUEST,),
        63, closed=True),
    Row("a huge chunk extension", post(CHUNKED, b"1;" + b"x" * 100000), "any",
        (400, b"chunk line or trailers"), (BAD_REQUEST,), 63, closed=True),
    Row("no last chunk", post(CHUNKED, b"2\r\nok\r\n"), "any", (400, b"ended inside"), (BAD_REQUEST,),
        63, port="http", tls=False, closed=True, half_close=True),
    Row("a refused one in the middle", get(path=b"/1") + get(b"A: {L}\r\n") + get(path=b"/2"),
        [(get(PLAIN, path=b"/1"), OK), (get(PLAIN, path=b"/2"), OK)],
        [SCRUBBED_OK, (503, b"LOST"), SCRUBBED_OK],
        (ALLOWED, {"reason": "secret-without-value"}, ALLOWED), 64, host="k.test"),
    Row("HTTP/1.0", b"GET / HTTP/1.0\r\n\r\n", [(get(), OK)],
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", number=65, closed=True),
    Row("HTTP/1.0 that stays", b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", [(get(), OK)],
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok", number=65),
    Row("chunks for HTTP/1.0", b"GET / HTTP/1.0\r\n\r\n",
        [(get(), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")],
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok", number=65, closed=True),
    refused("HTTP/0.9", 65, b"GET /\r\n"),
    refused("HTTP/2 without asking", 65, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    refused("TRACE", 67, b"TRACE / HTTP/1.1\r\nHost: {H}\r\n\r\n", 405),
    refused("CONNECT inside of TLS", 67, b"CONNECT {H} HTTP/1.1\r\nHost: {H}\r\n\r\n"),
    Row("OPTIONS *", b"OPTIONS * HTTP/1.1\r\nHost: {H}\r\n\r\n",
        [(b"OPTIONS * HTTP/1.1\r\nHost: {H}\r\n\r\n", OK)], number=67),
    Row("an upgrade to something else is not asked for",
        get(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n"),
        [(get(), OK)], number=66),
    refused("a head that is too large", 62, get(b"A: " + b"x" * 70000 + b"\r\n"), 431),
    refused("too many fields", 62, get(b"A: b\r\n" * 200), 431),
    refused("an unknown expectation", 13, get(b"Expect: miracles\r\n"), 417),
    Row("a WebSocket", get(UPGRADE + b"X-Key: {P}\r\n") + b"{P}",
        [(get(SENT_KEY + b"X-Key: {S}\r\n" + PLAIN + SENT_UPGRADE), ACCEPTED + b"\r\n\x81\x05early"),
         (b"{P}", b"\x82\x04late"), None],
        SENT_ACCEPTED + b"\x81\x05early\x82\x04late",
        (dict(RELAYED, secrets=["KEY"], bytes_up=81, bytes_down=13),),
        number=14, host="k.test"),
    Row("a WebSocket to a host without secrets", get(UPGRADE + EXTENSIONS),
        [(get(SENT_KEY + EXTENSIONS + SENT_UPGRADE), ACCEPTED + EXTENSIONS + b"\r\n\xc1\x01z"), None],
        SENT_ACCEPTED.replace(b"\r\nConnection", b"\r\n" + EXTENSIONS[:-2] + b"\r\nConnection") +
        b"\xc1\x01z", (RELAYED,)),
    websocket("a secret in a WebSocket's frame", 36, b"\x81\x12<{S}>", b"\x81\x53<{P}>", scrubbed=["KEY"]),
    websocket("in fragments", 36, b"\x01\x05s3cr3\x89\x01!\x00\x01t\x80\x0a/Value+1==",
              b"\x89\x01!\x81\x51{P}", scrubbed=["KEY"]),
    websocket("in base64, binary", 36, b"\x82\x18" + basic(b"{S}"), b"\x82\x54{P}Q==", scrubbed=["KEY"]),
    websocket("in a Close frame and a ping", 36, b"\x89\x10{S}\x88\x12\x03\xe8{S}",
              b"\x89\x51{P}\x88\x53\x03\xe8{P}", scrubbed=["KEY"]),
    websocket("the beginning of one only", 36, b"\x81\x04s3cr\x81\x02ok", b"\x81\x04s3cr\x81\x02ok"),
    bad_frame("a frame of an extension", b"\xc1\x02ok", b"a frame of an extension that was not agreed on"),
    bad_frame("a masked frame", b"\x81\x82abcdok", b"a masked frame from a server"),
    bad_frame("no frame at all", b"HTTP/1.1 200 OK\r\n",
              b"a frame of an extension that was not agreed on"),
    Row("extensions to a host with secrets", get(UPGRADE + EXTENSIONS),
        [(get(SENT_KEY + PLAIN + SENT_UPGRADE), ACCEPTED + EXTENSIONS + b"\r\n"), None],
        SENT_ACCEPTED, (RELAYED,), 36, host="k.test"),
    Row("a secret in the answer to it", get(UPGRADE),
        [(get(SENT_KEY + PLAIN + SENT_UPGRADE), ACCEPTED + b"Sec-WebSocket-Protocol: {S}\r\n\r\n"), None],
        SENT_ACCEPTED.replace(b"\r\nConnection", b"\r\nSec-WebSocket-Protocol: {P}\r\nConnection"),
        (dict(RELAYED, scrubbed=["KEY"]),), 29, host="k.test"),
    Row("a WebSocket that is refused stays HTTP", get(UPGRADE) + get(path=b"/2"),
        [(get(SENT_KEY + SENT_UPGRADE), OK), (get(path=b"/2"), OK)], OK + OK, (ALLOWED, ALLOWED),
        number=75),
    Row("frames after the refusal are no request", get(UPGRADE) + b"\x81\x82abcd\r\n",
        [(get(SENT_KEY + SENT_UPGRADE), OK)], [OK, (400, b"bellglass: ")], (ALLOWED, BAD_REQUEST),
        number=75, closed=True),
    Row("an answer to another key", get(UPGRADE),
        [(get(SENT_KEY + SENT_UPGRADE), ACCEPTED.replace(b"s3pP", b"S3pP") + b"\r\n\x81\x02ok")],
        (502, b"does not fit the key"), (BAD_UPSTREAM,), number=75),
    Row("an answer to none", get(UPGRADE),
        [(get(SENT_KEY + SENT_UPGRADE), b"HTTP/1.1 101 Go\r\n" + SENT_UPGRADE + b"\r\n")],
        (502, b"does not fit the key"), (BAD_UPSTREAM,), number=75),
    Row("a WebSocket without a key", get(SENT_UPGRADE), None, (400, b"without 'Sec-WebSocket-Version: 13'"),
        (BAD_REQUEST,), number=75),
    Row("a WebSocket by POST", post(UPGRADE + b"Content-Length: 2\r\n", b"hi"), None,
        (400, b"asked for with GET"), (BAD_REQUEST,), number=75, closed=True),

    # --- upstreams ---
    Row("a switch that nobody asked for", get(),
        [(get(), b"HTTP/1.1 101 Go\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")],
        (502, b"switch of protocols"), ({"decision": "error", "reason": "upstream-response"},)),
    Row("a length and chunks in an answer", get(),
        [(get(), b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n")],
        (502, b"both Content-Length and Transfer-Encoding"),
        ({"decision": "error", "reason": "upstream-response", "status": 502},), 74),
    bad_answer("two lengths in an answer", b"Content-Length: 2\r\nContent-Length: 3\r\n", b"more than one Content-Length"),
    bad_answer("a length in an answer that is no number", b"Content-Length: 0x2\r\n", b"no plain number"),
    bad_answer("a coding of an answer that nobody knows", b"Transfer-Encoding: xchunked\r\n", b"other than chunked"),
    bad_answer("two codings of an answer", b"Transfer-Encoding: chunked, identity\r\n", b"other than chunked"),
    bad_answer("a folded line in an answer", b"A: b\r\n Content-Length: 2\r\n", b"folded"),
    bad_answer("a space before a colon in an answer", b"Content-Length : 2\r\n", b"no header name"),
    bad_answer("chunks in HTTP/1.0", CHUNKED, b"other than chunked", b"HTTP/1.0"),
    Row("no answer", get(), [(get(), b""), None], (502, b"ended without an answer"),
        ({"decision": "error", "reason": "upstream-response"},), 74),
    Row("half an answer", get(), [(get(), b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok"), None],
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok",
        ({"decision": "error", "reason": "upstream-response"},), 74, closed=True),
    Row("interim answers", post(b"Expect: 100-continue\r\nContent-Length: 2\r\n", b"hi"),
        [(post(b"Expect: 100-continue\r\nContent-Length: 2\r\n", b"hi"),
          b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK)],
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK, number=13),
    Row("a flood of interim answers", get(), [(get(), b"HTTP/1.1 102 P\r\n\r\n" * 17 + OK)],
        (502, b"interim answers"), ({"decision": "error", "reason": "upstream-response"},), 76),
    Row("as many as may be", get(), [(get(), b"HTTP/1.1 102 P\r\n\r\n" * 16 + OK)], number=76),
    Row("another protocol is not advertised", get(),
        [(get(), b"HTTP/1.1 200 OK\r\nAlt-Svc: h3=\":443\"\r\nContent-Length: 2\r\n\r\nok")],
        number=58),
    Row("a redirect passes as text", get(),
        [(get(), b"HTTP/1.1 302 F\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n")],
        b"HTTP/1.1 302 F\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
        (dict(ALLOWED, status=302),), 57),
    Row("one to gopher passes too", get(),
        [(get(), b"HTTP/1.1 302 F\r\nLocation: gopher://127.0.0.1:25/_HELO\r\nContent-Length: 0\r\n\r\n")],
        b"HTTP/1.1 302 F\r\nLocation: gopher://127.0.0.1:25/_HELO\r\nContent-Length: 0\r\n\r\n",
        (dict(ALLOWED, status=302),), 57),
    Row("line breaks do not get into the audit", get(path=b"/a%0a%22}"),
        [(get(path=b"/a%0a%22}"), OK)], audit=(dict(ALLOWED, path="/a%0a%22}"),), number=86),
]


def brotli_stored(text):
    """One uncompressed meta-block and an empty last one (RFC 7932 9.2)."""
    return (len(text) - 1 << 4 | 1 << 20).to_bytes(3, "little") + text + b"\3"


def zstd_stored(text):
    """A frame of one raw block (RFC 8878 3.1.1)."""
    return (b"\x28\xb5\x2f\xfd\x20" + bytes([len(text)]) +
            (len(text) << 3 | 1).to_bytes(3, "little") + text)


POLICY = """
network:
  rules:
    - deny: host.rule.test:{good}
      methods: [DELETE]
    - allow: host.rule.test:{good}
      methods: [GET, DELETE, POST]
      paths: [/open, /repos/acme/**]
      addresses: 127.0.0.1
    - deny: no.rule.test
      ports: [{good}, {http}]
    - allow: [path.rule.test, query.rule.test, head.rule.test]
      ports: [{good}]
      addresses: [127.0.0.1]
    - allow: few.rule.test:{good}
      addresses: 127.0.0.1
      requests: 2
    - allow: slow.rule.test:{good}
      addresses: 127.0.0.1
      rate: 1/h
    - allow: small.rule.test:{good}
      addresses: 127.0.0.1
      max_body: 5
    - allow: pass.rule.test
      ports: [{good}, {http}]
      protocol: passthrough
      addresses: 127.0.0.1
secrets:
  RULED:
    - host: path.rule.test
      in: path
    - host: query.rule.test
      in: [query, basic]
      methods: [GET]
    - host: head.rule.test
      headers: [X-Key]
      paths: [/keys/*]
"""


def fill(data, values):
    """Puts placeholders, secrets and hosts into a row's bytes; then works out what is to be encoded,
    and the length of a body behind {LEN}."""
    encoders = {b"{B:": base64.b64encode, b"{R:": lambda text: text[::-1],
                b"{%:": lambda text: b"".join(b"%%%02x" % byte for byte in text),
                b"{GZIP:": gzip.compress, b"{DEFLATE:": zlib.compress,
                b"{BARE:": lambda text: zlib.compress(text)[2:-4], b"{BR:": brotli_stored,
                b"{ZSTD:": zstd_stored, b"{TWO:": lambda text: gzip.compress(brotli_stored(text))}
    for key, value in values.items():
        data = data.replace(b"{" + key.encode() + b"}", value.encode())
    for mark, encode in encoders.items():
        while mark in data:
            before, _, rest = data.partition(mark)
            text, _, after = rest.partition(b"}")
            data = before + encode(text) + after
    before, found, body = data.partition(b"{LEN}")
    return before + (b"%d" % (len(body) - 4) + body if found else b"")
