# SPDX-License-Identifier: LGPL-2.1-or-later
"""A monitor that is no QEMU's: one that behaves, as far as host-reader asks, and ones that do not."""

import contextlib
import json
import mmap
import os
import socket
import threading
import time

GREETING = {'QMP': {'version': {'qemu': {'major': 7, 'minor': 2, 'micro': 0}}, 'capabilities': []}}


class Listener:
    """A socket; `serve(connection)` is called for each who comes, one at a time, in a thread."""

    def __init__(self, path):
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(path)
        self.socket.listen(1)
        self.ended = threading.Event()
        self.connection = None
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        if self.connection:
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            self.connection.close()
        self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(20)
        self.socket.close()
        os.unlink(self.path)

    def run(self):
        while not self.ended.is_set():
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connection = connection.dup()
            with connection:
                try:
                    self.serve(connection)
                except OSError:  # it went away
                    pass

    def serve(self, connection):
        raise NotImplementedError


class Hostile(Listener):
    """Sends `text` again and again, `times` times or as long as it is listened to; never listens itself."""

    def __init__(self, path, text, times=None, pause=0.0, greets=False):
        super().__init__(path)
        self.greets = greets
        self.text, self.times, self.pause = text, times, pause
        self.sent = 0

    def serve(self, connection):
        connection.settimeout(0.5)
        n = 0
        if self.greets:
            connection.sendall(json.dumps(GREETING).encode() + b'\n')
        while not self.ended.is_set() and (self.times is None or n < self.times):
            try:
                connection.sendall(self.text)
            except socket.timeout:
                pass
            self.sent += len(self.text)
            n += 1
            time.sleep(self.pause)
        self.ended.wait(30)


class FakeQemu(Listener):
    """Has objects, devices, PCIe ports; `spoil`, by command, gives other answers in the place of its own."""

    def __init__(self, path, machine='pc-i440fx-7.2-machine', ports=None, ejects=True, spoil=None):
        super().__init__(path)
        self.machine, self.ejects, self.spoil = machine, ejects, spoil or {}
        self.ports = ports or {}  # id: {'reserve': bytes, 'taken': ..., 'hotplug': ...}
        self.objects, self.devices, self.mapped = {}, {}, {}
        self.done, self.sent = [], b''

    def event(self, name, **data):
        self.send({'event': name, 'data': data, 'timestamp': {'seconds': 1, 'microseconds': 2}})

    def send(self, what):
        self.sent += json.dumps(what).encode() + b'\r\n'
        self.connection.sendall(json.dumps(what).encode() + b'\r\n')

    def serve(self, connection):
        self.send(GREETING)
        for line in connection.makefile('r'):
            order = json.loads(line)
            name, arguments = order['execute'], order.get('arguments', {})
            self.done.append((name, arguments))
            if name in self.spoil:
                answer = self.spoil[name]
                if answer is None:
                    continue
                if isinstance(answer, bytes):
                    connection.sendall(answer)
                    continue
            else:
                self.event('NICE_WEATHER', device='x')
                answer = self.answer(name.replace('-', '_'), arguments)
            self.send({'id': order['id'], **answer})

    def answer(self, name, arguments):
        try:
            return {'return': getattr(self, 'do_' + name)(**{k.replace('-', '_'): v for k, v in arguments.items()})}
        except KeyError as e:
            return {'error': {'class': 'GenericError', 'desc': f'no {e}'}}

    @staticmethod
    def do_qmp_capabilities():
        return {}

    @staticmethod
    def do_query_hotpluggable_cpus():
        return [{'vcpus-count': 1, 'type': 'cpu'}] * 6

    def do_qom_list(self, path):
        names = path.strip('/').split('/')
        if path == '/objects':
            return [{'name': n, 'type': f'child<{o["qom_type"]}>'} for n, o in self.objects.items()]
        if path == '/machine/peripheral':
            return [{'name': 'type', 'type': 'string'}] + [
                {'name': n, 'type': 'child<pcie-root-port>'} for n in self.ports] + [
                {'name': n, 'type': f'child<{d["driver"]}>'} for n, d in self.devices.items()]
        if path == '/machine/peripheral-anon':
            return []
        port = self.ports[names[2]]
        if len(names) == 3:
            return [{'name': 'bus', 'type': 'link<bus>'}, {'name': names[2], 'type': 'child<PCIE>'}]
        used = port.get('taken') or any(d['bus'] == names[2] for d in self.devices.values())
        return [{'name': 'child[0]', 'type': 'link<e1000>'}] if used else []

    def do_qom_get(self, path, property):
        name = path.rsplit('/', 1)[1]
        if path == '/machine':
            return self.machine
        if name in self.objects:
            return self.objects[name][property.replace('-', '_')]
        return {'hotplug': self.ports[name].get('hotplug', True),
                'pref64-reserve': self.ports[name].get('reserve', (1 << 64) - 1)}[property]

    def do_object_add(self, **what):
        with open(what['mem_path'], 'r+b') as f:
            self.mapped[what['id']] = mmap.mmap(f.fileno(), what['size'])
        self.objects[what['id']] = what
        return {}

    def do_object_del(self, id):
        del self.objects[id]
        self.mapped.pop(id).close()
        return {}

    def do_device_add(self, **what):
        self.devices[what['id']] = what
        return {}

    def do_device_del(self, id):
        assert id in self.devices
        if self.ejects:
            self.eject(id)
        return {}

    def eject(self, id):
        """Also for who plays the guest."""
        del self.devices[id]
        self.event('DEVICE_DELETED', device=id, path=f'/machine/peripheral/{id}')

    @property
    def empty(self):
        return not self.objects and not self.devices
