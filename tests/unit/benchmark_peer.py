"""A small beanstalk server for the tests of the load tool: it notes what it was sent, and misbehaves when told to."""

import contextlib
import selectors
import socket
import threading
import time


class Peer(threading.Thread):
    """A beanstalk server of one tube: puts, reserves and deletes, told how to misbehave.

    replies: what a command is answered with instead of the right thing; None closes the connection, b"" says nothing.
    hold: replies that are kept back until there are so many. slowly: a reply goes out in single bytes. stall: before
    which command, counted from 0, everything stands still, and for how many seconds.
    """

    def __init__(self, listener, *, replies=None, hold=1, slowly=False, stall=(-1, 0.0)):
        super().__init__(daemon=True)
        self.listener = listener
        self.replies = replies or {}
        self.hold = hold
        self.slowly = slowly
        self.stall = stall
        self.commands = []
        self.ready = []
        self.heads = []  # of the puts: priority, delay, time to run
        self.used = []  # tubes
        self.reserved = {}
        self.clients = 0
        self.all_gone = threading.Event()
        self.selector = selectors.DefaultSelector()
        self.wake, self.woken = socket.socketpair()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exception):
        self.wake.close()
        self.join()
        self.selector.close()
        self.woken.close()
        self.listener.close()

    @property
    def address(self):
        return self.listener.getsockname()

    def run(self):
        buffers = {}
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(self.woken, selectors.EVENT_READ)
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.woken:
                    for sock in buffers:
                        sock.close()
                    return
                if key.fileobj is self.listener:
                    sock, _ = self.listener.accept()
                    buffers[sock] = (bytearray(), [])
                    self.clients += 1
                    self.selector.register(sock, selectors.EVENT_READ)
                elif not self.serve(key.fileobj, *buffers[key.fileobj]):
                    self.selector.unregister(key.fileobj)
                    buffers.pop(key.fileobj)
                    key.fileobj.close()
                    if not buffers:
                        self.all_gone.set()

    def serve(self, sock, buffer, held):
        try:
            data = sock.recv(65536)
        except ConnectionResetError:
            return False
        buffer += data
        while (end := buffer.find(b"\r\n")) >= 0:
            words = bytes(buffer[:end]).split()
            body_bytes = int(words[4]) + 2 if words[0] == b"put" else 0
            if len(buffer) < end + 2 + body_bytes:
                break
            body = bytes(buffer[end + 2 : end + body_bytes])
            del buffer[: end + 2 + body_bytes]
            if len(self.commands) == self.stall[0]:
                time.sleep(self.stall[1])
            self.commands.append(words[0].decode())
            reply = self.replies[words[0]] if words[0] in self.replies else self.answer(words, body)
            if reply is None:
                return False
            held.append(reply)
        if len(held) >= self.hold:
            out = b"".join(held)
            held.clear()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for piece in [out[i : i + 1] for i in range(len(out))] if self.slowly else [out]:
                    sock.sendall(piece)
        return bool(data)

    def answer(self, words, body):
        if words[0] == b"put":
            self.ready.append((len(self.commands), body))
            self.heads.append(tuple(int(word) for word in words[1:4]))
            return b"INSERTED %d\r\n" % len(self.commands)
        if words[0] == b"reserve":
            if not self.ready:
                return b""
            job_id, body = self.ready.pop(0)
            self.reserved[job_id] = body
            return b"RESERVED %d %d\r\n%s\r\n" % (job_id, len(body), body)
        if words[0] == b"peek":
            body = dict(self.ready)[int(words[1])]
            return b"FOUND %s %d\r\n%s\r\n" % (words[1], len(body), body)
        if words[0] == b"delete":
            left = [job for job in self.ready if job[0] != int(words[1])]
            was_ready, self.ready = len(left) < len(self.ready), left
            known = self.reserved.pop(int(words[1]), None) is not None or was_ready
            return b"DELETED\r\n" if known else b"NOT_FOUND\r\n"
        if words[0] == b"use":
            self.used.append(words[1].decode())
            return b"USING %s\r\n" % words[1]
        if words[0] in {b"watch", b"ignore"}:
            return b"WATCHING %d\r\n" % (2 if words[0] == b"watch" else 1)
        assert words[0] == b"stats"
        return b"OK 9\r\n---\na: 1\n\r\n"


def peer_on(folder, **behaviour):
    """A Peer on a unix socket in the folder; it is used as a context manager."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "peer"))
    listener.listen()
    return Peer(listener, **behaviour)
