"""Runs inside of a sandbox: makes connections as its programs do and carries their bytes to and from the
test on the host, by stdin and stdout, so that one Python serves a whole table.

A message is u8 kind, u32 connection, u32 size (little endian), and size bytes. From the host: DIAL (u16
port, host) through the kernel's TCP; PASS (u16 port) to a vsock port of the host, past the agent; DATA;
END of sending; CLOSE. To the host: MADE when a connection is there; DATA; END; LOST (u32 errno) when it
could not be made (0: the name has no address), or was reset."""

import os
import socket
import struct
import sys
import threading

HEAD = struct.Struct("<cII")
DIAL, PASS, DATA, END, CLOSE, MADE, LOST = (b"%c" % letter for letter in b"tvdecml")
HOST_CID = 2

writing = threading.Lock()
connections = {}


def tell(kind, number, data=b""):
    with writing:
        sys.stdout.buffer.write(HEAD.pack(kind, number, len(data)) + data)
        sys.stdout.buffer.flush()


def open_socket(kind, number, data):
    port, = struct.unpack("<H", data[:2])
    if kind == DIAL:
        found = socket.getaddrinfo(data[2:].decode(), port, type=socket.SOCK_STREAM)
        # One attempt, for one line of the audit log; IPv4 and IPv6 take turns.
        family, stream, _, _, address = found[number % len(found)]
        connection = socket.socket(family, stream)
        connection.connect(address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
    connection = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    connection.connect((HOST_CID, port))
    return connection


def carry(number, kind, data):
    """One connection, from its beginning until what comes of it has ended."""
    try:
        connection = connections[number] = open_socket(kind, number, data)
        tell(MADE, number)
        while True:
            more = connection.recv(65536)
            if not more:
                break
            tell(DATA, number, more)
        tell(END, number)
    except OSError as e:
        tell(LOST, number, struct.pack("<I", max(e.errno or 0, 0)))


def obey(kind, number, data):
    connection = connections.get(number)
    if kind in (DIAL, PASS):
        threading.Thread(target=carry, args=(number, kind, data), daemon=True).start()
    elif connection:
        try:
            if kind == DATA:
                connection.sendall(data)
            else:
                # For CLOSE too, since a close alone does not wake the thread that receives.
                connection.shutdown(socket.SHUT_WR if kind == END else socket.SHUT_RDWR)
        except OSError:
            pass  # the thread that receives tells it
        if kind == CLOSE:
            connections.pop(number).close()


def main():
    while True:
        head = sys.stdin.buffer.read(HEAD.size)
        if len(head) < HEAD.size:
            return
        kind, number, size = HEAD.unpack(head)
        obey(kind, number, sys.stdin.buffer.read(size))


if __name__ == "__main__":
    main()
    os._exit(0)  # threads may be at stdout
