# SPDX-License-Identifier: LGPL-2.1-or-later
"""A VM by QEMU's server for debuggers (-gdb unix:PATH,server=on,wait=off): just what it takes to make its guest hang."""

import socket
import time

RIP, EFLAGS = 128, 136  # where they are among the registers of x86-64, as gdb has them
INTERRUPTS = 9  # the bit of EFLAGS that allows them
KERNEL = 1 << 63  # addresses from there on
FOR_EVER = 'ebfe'  # jmp to itself
HLT = 'f4'


class Debugger:
    """The VM is stopped as long as it is connected, but for go_on()."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(path)
        self.file = self.socket.makefile('rb')

    def close(self):
        self.file.close()
        self.socket.close()

    def packet(self):
        while (c := self.file.read(1)) != b'$':
            assert c, 'QEMU has closed it'
        text = b''
        while (c := self.file.read(1)) != b'#':
            assert c, 'QEMU has closed it'
            text += c
        self.file.read(2)
        self.socket.sendall(b'+')
        return text.decode()

    def send(self, text):
        self.socket.sendall(f'${text}#{sum(text.encode()) & 255:02x}'.encode())

    def ask(self, text):
        self.send(text)
        while (answer := self.packet()).startswith('T'):  # it says itself when it stops
            pass
        assert answer and not answer.startswith('E'), (text, answer)
        return answer

    def interrupt(self):
        self.socket.sendall(b'\x03')

    def registers(self):
        return bytearray.fromhex(self.ask('g'))

    def is_halted(self, at):
        """Behind such an instruction it does not run until there is an interrupt."""
        return self.ask(f'm{at - 1:x},1') == HLT


def hang(path):
    """Its CPU, the only one, runs on the spot in the kernel, and takes no interrupts. Where."""
    debugger = Debugger(path)
    end = time.monotonic() + 20
    while not (at := int.from_bytes((registers := debugger.registers())[RIP:RIP + 8], 'little')) & KERNEL or \
            debugger.is_halted(at):
        assert time.monotonic() < end, 'it is never busy in the kernel'
        debugger.send('c')
        time.sleep(0.01)
        debugger.interrupt()
    assert debugger.ask(f'M{at:x},2:{FOR_EVER}') == 'OK'
    registers[EFLAGS + INTERRUPTS // 8] &= ~(1 << INTERRUPTS % 8)
    assert debugger.ask(f'G{registers.hex()}') == 'OK' and debugger.registers()[RIP:EFLAGS + 4] == registers[RIP:EFLAGS + 4]
    debugger.ask('D')  # and it goes on
    debugger.close()
    return at
