# SPDX-License-Identifier: LGPL-2.1-or-later
"""What lies between an agent and a reader that share nothing: as QEMU's character devices do, and worse."""

import os
import select
import socket
import threading

from guestlike import Guestlike


class Line(threading.Thread):
    """
    Two UNIX sockets, `host` and `guest`, which both ends connect to. What comes at one goes out at the other, but
    where the test has it otherwise: `open` False: nothing goes, and soon nobody can write; cut(): both are closed;
    `garbage`: goes to the host in between.
    """

    def __init__(self, directory):
        super().__init__(daemon=True)
        self.paths = {side: os.path.join(directory, side) for side in ('host', 'guest')}
        self.listeners = {}
        for side, path in self.paths.items():
            self.listeners[side] = socket.socket(socket.AF_UNIX)
            self.listeners[side].bind(path)
            self.listeners[side].listen(4)
        self.ends = {}
        self.open, self.ends_here, self.to_cut = True, False, False
        self.garbage = b''
        self.carried = 0  # to the host, bytes
        self.cut_at = None  # bytes carried
        self.start()

    def close_ends(self):
        for end in self.ends.values():
            end.close()
        self.ends.clear()

    def cut(self):
        self.to_cut = True

    def carry(self, side):
        other = self.ends.get('host' if side == 'guest' else 'guest')
        data = self.ends[side].recv(65536)
        if not data:
            self.close_ends()
            return
        if other is None:  # as QEMU: nobody is there, it is gone
            return
        if side == 'guest':
            self.carried += len(data)
            if self.garbage:
                data, self.garbage = data[:100] + self.garbage + data[100:], b''
        try:
            other.sendall(data)
        except OSError:
            self.close_ends()

    def run(self):
        while not self.ends_here:
            if self.to_cut or (self.cut_at is not None and self.carried >= self.cut_at):
                self.to_cut, self.cut_at = False, None
                self.close_ends()
            watched = {**{l: ('new', side) for side, l in self.listeners.items() if side not in self.ends},
                       **({e: ('data', side) for side, e in self.ends.items()} if self.open else {})}
            for ready in select.select(list(watched), [], [], 0.02)[0]:
                what, side = watched[ready]
                if what == 'new':
                    self.ends[side] = self.listeners[side].accept()[0]
                elif side in self.ends and self.ends[side] is ready:
                    self.carry(side)

    def stop(self):
        self.ends_here = True
        self.join()
        self.close_ends()
        for listener in self.listeners.values():
            listener.close()


class Sender(Guestlike):
    """A process that stands for a guest whose agent sends (tests/guest/guestlike.c)."""

    def __init__(self, where, policy='overwrite', cpus=2, kib=256, **how):
        self.start('stream:' + where, policy, cpus, kib, **how)


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

