"""WeChat behind a network that takes connections and loses what is sent over them, until SIGUSR1.

A socket filter drops the segments, so the client's kernel repeats them as it would over a cut line. On stdout: `at URL`, and for
each connection `request N` when its request arrives, `gone N` when the client's kernel keeps nothing of it any more.
"""

import ctypes
import signal
import socket
import struct
import threading
import time

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27

# Load the segment's length; drop what is longer than a TCP header with all its options.
DROP_DATA = [(0x80, 0, 0, 0), (0x25, 0, 1, 60), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF)]
CODE = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in DROP_DATA))

REPLY = b'{"access_token":"70_after-the-cut","expires_in":7200}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"


def tell(what):
    print(what, flush=True)


def has(port):
    """Whether the kernel still has a socket of the client's `port` that may send."""
    with open("/proc/net/tcp") as table:
        rows = [row.split() for row in table.readlines()[1:]]
    gone = ("06", "07")  # TIME_WAIT, CLOSE
    return any(int(row[1].split(":")[1], 16) == port and row[3] not in gone for row in rows)


def watch(number, port):
    while has(port):
        time.sleep(0.02)
    tell(f"gone {number}")


def serve(number, peer):
    if peer.recv(65536):
        tell(f"request {number}")
        peer.sendall(HEAD % len(REPLY) + REPLY)
    peer.close()


def main():
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(DROP_DATA), ctypes.addressof(CODE)))
    filtered = [listener]

    def mend(*_):
        while filtered:
            filtered.pop().setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)

    signal.signal(signal.SIGUSR1, mend)
    tell(f"at http://127.0.0.1:{listener.getsockname()[1]}")
    number = 0
    while True:
        peer, (_, port) = listener.accept()
        number += 1
        if filtered:
            filtered.append(peer)
        threading.Thread(target=watch, args=(number, port), daemon=True).start()
        threading.Thread(target=serve, args=(number, peer), daemon=True).start()


main()
