"""The links to upstreams: WebSockets."""

import harness
import rows
from harness import Failure, read_exactly, read_to_end
from world import check_audit, check_guest, guest


def open_websocket(world, connection, host):
    values = {"H": f"{host}:{world.port('good')}"}
    connection.sendall(rows.fill(rows.get(rows.UPGRADE), values))
    check_guest(connection, rows.SENT_ACCEPTED, [])


def accept_websocket(connection):
    while not (head := connection.recv(65536)).endswith(b"\r\n\r\n"):
        if not head:
            raise Failure("no request")
    connection.sendall(rows.ACCEPTED + b"\r\n")


def frame(first, payload):
    """A server's frame (RFC 6455 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes([first, size]) + payload
    if size < 65536:
        return bytes([first, 126]) + size.to_bytes(2, "big") + payload
    return bytes([first, 127]) + size.to_bytes(8, "big") + payload


def read_frame(connection):
    """The first byte of a frame, and its payload."""
    first, size = read_exactly(connection, 2)
    if size >= 126:
        size = int.from_bytes(read_exactly(connection, {126: 2, 127: 8}[size]), "big")
    return first, read_exactly(connection, size)


def test_scrubs_long_websocket_messages(world):
    upstream = world.upstreams["good"]
    secret, placeholder = (values["KEY"].encode() for values in (harness.SECRETS, harness.PLACEHOLDERS))
    line = b"%s\n" * 50000
    message = line.replace(b"%s", secret)

    def script(connection):
        accept_websocket(connection)
        connection.sendall(frame(0x01, message[:70001]) + frame(0x89, b"between") +
                           frame(0x00, message[70001:70003]) + frame(0x80, message[70003:]) +
                           frame(0x82, b"next"))
        if read_to_end(connection) != b"from the guest":
            raise Failure("the upstream got something else")

    upstream.expect(script)
    got, pings = [], []
    with guest(world, host="k.test") as connection:
        open_websocket(world, connection, "k.test")
        while not got or not got[-1][0] & 0x80:
            first, payload = read_frame(connection)
            (pings if first & 0x08 else got).append((first, payload))
        if b"".join(payload for _, payload in got) != line.replace(b"%s", placeholder):
            raise Failure("another message")
        if got[0][0] != 0x01 or {first & 0x7f for first, _ in got[1:]} != {0} or len(got) < 3:
            raise Failure(f"frames {[(hex(first), len(payload)) for first, payload in got]}")
        if pings != [(0x89, b"between")] or read_frame(connection) != (0x82, b"next"):
            raise Failure(f"{pings}")
        connection.sendall(b"from the guest")
        harness.end_tls(connection)
    upstream.settle()
    check_audit(world.proxy, [dict(rows.RELAYED, scrubbed=["KEY"], bytes_up=14)])


def test_holds_little_of_a_websocket_that_is_not_read(world):
    upstream = world.upstreams["good"]
    sent = [0]

    def script(connection):
        accept_websocket(connection)
        connection.settimeout(1)  # once the buffers are full it stands still
        try:
            while True:
                connection.sendall(frame(0x82, harness.SECRETS["KEY"].encode() * 4000))
                sent[0] += 64000
        except OSError:
            pass

    upstream.expect(script)
    with guest(world, host="k.test") as connection:
        open_websocket(world, connection, "k.test")
        upstream.settle()
        held = world.proxy.status("Private_Dirty")
    world.proxy.audit_skip()
    if held > 8192:
        raise Failure(f"{held} KiB")
    if sent[0] > 32 << 20:
        raise Failure(f"{sent[0]} bytes were taken from the upstream")
