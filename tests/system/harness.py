# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the whole-system tests share: skipping, figures, and facts about this machine."""

import ctypes
import errno
import functools
import os
import socket
import subprocess

from vm import TOOLS, kernel_path


class Skip(Exception):
    """This machine lacks what the test needs; the text says what."""


def say(*words):
    """A figure or step, shown with the test's result."""
    text = ' '.join(map(str, words))
    if text:
        print('     ' + text, flush=True)


def params(*lists, thorough=()):
    """
    Run a test once for each tuple; for those of @thorough only with HTRACE_THOROUGH=1: other combinations of what is
    shown one by one without them.
    """
    def set_params(function):
        wanted = [*lists, *(thorough if os.environ.get('HTRACE_THOROUGH') else ())]
        function.params = [p if isinstance(p, tuple) else (p,) for p in wanted]
        return function
    return set_params


@functools.lru_cache
def no_kvm():
    """Does no Linux guest run under KVM here? (tools/run-vm.sh tries it.)"""
    run = subprocess.run([os.path.join(TOOLS, 'run-vm.sh'), '--kernel', kernel_path('6.12'),
                          '--initrd', '/dev/null', '--dry-run', '--accel', 'auto'],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=True)
    return 'accel kvm' not in run.stdout and 'accel=kvm' not in run.stdout


def libc_call(function, *args):
    """(what it returned, errno)"""
    libc = ctypes.CDLL(None, use_errno=True)
    return getattr(libc, function)(*args), ctypes.get_errno()


@functools.lru_cache
def no_landlock():
    """Is it not in this kernel, or switched off? (landlock_create_ruleset(2), asked for its version.)"""
    return libc_call('syscall', 444, None, ctypes.c_size_t(0), 1)[0] < 1


@functools.lru_cache
def no_seccomp():
    """Does this kernel take no filters? (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER) of none.)"""
    return libc_call('prctl', 22, 2, None, None, None) != (-1, errno.EFAULT)


@functools.lru_cache
def no_vsock_loopback():
    """Does a connection to this machine's own CID not come about? (vsock_loopback)"""
    try:
        with socket.socket(socket.AF_VSOCK) as listener, socket.socket(socket.AF_VSOCK) as s:
            listener.bind((socket.VMADDR_CID_ANY, 17011))
            listener.listen(1)
            s.settimeout(2)
            s.connect((1, 17011))
    except (AttributeError, OSError):
        return True
    return False


HUGE_PAGES = '/proc/sys/vm/nr_hugepages'


def add_huge_pages(nr):
    """How many there are then; None: their number cannot be changed."""
    try:
        with open(HUGE_PAGES, encoding='ascii') as f:
            there = int(f.read())
        if nr:
            with open(HUGE_PAGES, 'w', encoding='ascii') as f:
                f.write(str(max(there + nr, 0)))
        with open(HUGE_PAGES, encoding='ascii') as f:
            return int(f.read())
    except OSError:
        return None


@functools.lru_cache
def no_huge_pages():
    """Is there no room for 64 MiB in huge pages, also if some are asked for?"""
    before, got = add_huge_pages(0), add_huge_pages(40)
    if before is None or got is None:
        return True
    add_huge_pages(before - got)
    return got - before < 40


@functools.lru_cache
def no_trace_processor():
    """Does the registry not give it? (tools/fetch-trace-processor.sh; that it gives another one is an error.)"""
    fetch = subprocess.run([os.path.join(TOOLS, 'fetch-trace-processor.sh')], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           text=True, check=False)
    if fetch.returncode not in (0, 3):
        raise RuntimeError(fetch.stderr.strip())
    return fetch.returncode == 3


CONDITIONS = {
    'no-huge-pages': no_huge_pages,
    'no-vsock-loopback': no_vsock_loopback,
    'no-kvm': no_kvm,
    'no-landlock': no_landlock,
    'no-seccomp': no_seccomp,
    'no-trace-processor': no_trace_processor,
}
