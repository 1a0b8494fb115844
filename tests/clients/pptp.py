"""PPTP (RFC 2637) as far as it goes without a kernel's PPP: a server, or a client and one call.

Usage: pptp.py server | pptp.py client ADDRESS CALL

Each side prints what it sees: the numbers of the call, and whose packets of the call come in.
"""

import socket
import struct
import sys

MAGIC = 0x1A2B3C4D
SERVER_CALL = 9
LENGTHS = {1: 156, 2: 156, 7: 168, 8: 32, 12: 16, 13: 148}


def message(kind, body):
    length = LENGTHS[kind]
    return struct.pack("!HHIHH", length, 1, MAGIC, kind, 0) + body.ljust(length - 12, b"\0")


def read(control):
    """The next message's type and body."""
    head = control.recv(12, socket.MSG_WAITALL)
    if len(head) < 12:
        return 0, b""
    length, _, _, kind, _ = struct.unpack("!HHIHH", head)
    return kind, control.recv(length - 12, socket.MSG_WAITALL)


def packet(call, payload):
    """Enhanced GRE with a sequence number."""
    return struct.pack("!HHHHI", 0x3001, 0x880B, len(payload), call, 0) + payload


def heard(raw):
    """The next packet of any call: sender, call, payload."""
    bytes, (sender, _) = raw.recvfrom(2000)
    gre = bytes[(bytes[0] & 15) * 4 :]
    # The sequence number and the acknowledgment are there if their bits are set.
    start = 8 + 4 * (gre[0] >> 4 & 1) + 4 * (gre[1] >> 7)
    return sender, struct.unpack("!H", gre[6:8])[0], gre[start:]


def serve():
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_GRE)
    raw.settimeout(30)
    listener = socket.create_server(("", 1723))
    print("ready", flush=True)
    control, (client, port) = listener.accept()
    control.settimeout(30)
    call = 0
    while True:
        kind, body = read(control)
        if kind == 1:
            control.sendall(message(2, struct.pack("!HBB", 0x100, 1, 0)))
        elif kind == 7:
            call = struct.unpack("!H", body[:2])[0]
            print("call of", client, "is its port:", call == port, flush=True)
            control.sendall(message(8, struct.pack("!HHB", SERVER_CALL, call, 1)))
            sender, number, payload = heard(raw)
            print("packet of", sender, "for", number, flush=True)
            raw.sendto(packet(call, b"from the server"), (client, 0))
        elif kind in (0, 12):
            return


def ask(server, call):
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_GRE)
    raw.settimeout(30)
    control = socket.create_connection((server, 1723), 30)
    control.sendall(message(1, struct.pack("!HH", 0x100, 0)))
    assert read(control)[0] == 2
    control.sendall(message(7, struct.pack("!HH", call, 1)))
    kind, body = read(control)
    theirs, mine = struct.unpack("!HH", body[:4])
    print("answer", kind, "about", mine, "by", theirs, flush=True)
    raw.sendto(packet(theirs, b"from the client"), (server, 0))
    sender, number, payload = heard(raw)
    print("packet of", sender, "for", number, payload.decode(), flush=True)
    control.sendall(message(12, struct.pack("!H", call)))


if sys.argv[1] == "server":
    serve()
else:
    ask(sys.argv[2], int(sys.argv[3]))
