#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Both units under systemd: a guest whose root is what this machine has of it (Debian 12: package systemd). There
guest-agent.service traces the guest, for a reader here, and host-reader@.service captures a tracer's rings.

Not part of the test command, as it wants systemd's files: tools/long-tests.sh --units runs it.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))

PROGRAMS = ['/lib/systemd/systemd', '/lib/systemd/systemd-journald', '/lib/systemd/systemd-shutdown', '/bin/systemctl',
            '/bin/journalctl', '/bin/bash', '/bin/date', '/bin/cat', '/bin/sleep', '/bin/ls', '/bin/rm', '/bin/grep',
            '/usr/bin/wc', '/usr/bin/sed']
TARGETS = ['sysinit', 'basic', 'sockets', 'timers', 'paths', 'slices', 'shutdown', 'umount', 'final', 'poweroff',
           'local-fs', 'local-fs-pre', 'swap', 'multi-user']
UNITS = [f'{name}.target' for name in TARGETS] + [
    'systemd-poweroff.service', 'sys-kernel-tracing.mount', 'sys-kernel-debug.mount',
    'systemd-journald.service', 'systemd-journald.socket', 'systemd-journald-dev-log.socket']

INIT = '''#!/bin/busybox sh
/bin/busybox --install -s /bin
mkdir -p /new && mount -t tmpfs -o size=80% new /new && tar -C /new -xf /root.tar
exec switch_root /new /lib/systemd/systemd >/new/dev/console 2>&1
'''
JOB_UNIT = '''[Unit]
DefaultDependencies=no
After=basic.target
Wants=basic.target sys-kernel-tracing.mount systemd-journald.service
[Service]
Type=oneshot
ExecStart=/bin/bash /job.sh
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
'''
JOB = '''
echo UNITS BEGIN
say() { echo "UNITS $*"; }
failed() { say "FAILED: $*"; journalctl -b --no-pager -u host-reader@one -u guest-agent | tail -n 60; }
wait_for() { # TEXT UNIT [HOW OFTEN]
	for i in {1..60}; do
		[ $(journalctl -b --no-pager -u "$2" | grep -c "$1") -ge ${3:-1} ] && return
		sleep 0.5
	done
	failed "no '$1' of $2"
}
tracer agent /dev/shm/region overwrite best & agent=$!
sleep 1
systemctl start host-reader@one || failed start
tracer work /dev/shm/region /truth 0 0 & work=$!
wait_for '[1-9][0-9]* received' host-reader@one
journalctl -b --no-pager -u host-reader@one | grep 'sandbox: ' | sed 's/.*sandbox/UNITS sandbox/'
main=$(systemctl show -p MainPID --value host-reader@one)
say "main $main: $(grep -E '^(CapEff|Seccomp):' /proc/$main/status | sed 's/[[:space:]]\\+/ /' | sed ':a;N;$!ba;s/\\n/, /g')"
# another region takes its place: the finder opens it
kill -9 $agent $work
rm /dev/shm/region
tracer agent /dev/shm/region overwrite best & agent=$!
sleep 1
tracer work /dev/shm/region /truth 1 0 & work=$!
wait_for 'rings in the file' host-reader@one 2
sleep 2
kill $work; sleep 1
systemctl stop host-reader@one || failed stop
say "stopped: $(systemctl show -P Result host-reader@one) $(systemctl show -P ExecMainStatus host-reader@one)"
for dir in /var/lib/htrace/one/*; do
	say "captured: $(/usr/local/bin/host-reader file:$dir 2>/dev/null | grep -c 'record:')"
done
systemctl start guest-agent || failed start
say AGENT
sleep 8
say "agent: $(systemctl is-active guest-agent)"
systemctl stop guest-agent || failed stop
say "stopped: $(systemctl show -P Result guest-agent) $(systemctl show -P ExecMainStatus guest-agent)"
journalctl -b --no-pager -u host-reader@one -u guest-agent | sed 's/^/    /'
'''
# It is shut down as machines are; the agent stays, by what docs/crash.md tells.
LAST_JOB = '''
say() { echo "UNITS $*"; }
systemctl start guest-agent || say "FAILED: start"
sleep 3
say END
systemctl poweroff
'''
REBOOT = 169  # reboot(2)


def libraries(program):
    run = subprocess.run(['ldd', program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    return re.findall(r'(/\S+) \(0x', run.stdout)


def add(tar, path, to):
    info = tar.gettarinfo(os.path.realpath(path), to.lstrip('/'))
    info.mode |= 0o555
    with open(path, 'rb') as f:
        tar.addfile(info, f)


def add_text(tar, to, text):
    with tempfile.NamedTemporaryFile('w', encoding='utf-8') as f:
        f.write(text)
        f.flush()
        add(tar, f.name, to)


def unit_lines():
    """What docs/crash.md adds to the agent's unit."""
    with open(os.path.join(TOP, 'docs', 'crash.md'), encoding='utf-8') as f:
        return re.search(r'```ini\n(.*?)```', f.read(), re.S)[1]


def make_root(path, build, job):
    ours = {os.path.join(build, 'host-reader', 'host-reader'): '/usr/local/bin/host-reader',
            os.path.join(build, 'guest-agent', 'guest-agent'): '/usr/local/sbin/guest-agent',
            os.path.join(build, 'tests', 'tracer'): '/usr/bin/tracer'}
    with tarfile.open(path, 'w') as tar:
        for name in 'bin', 'sbin', 'lib', 'lib64':
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, 'usr/' + name
            tar.addfile(link)
        for name in ('dev', 'proc', 'sys', 'run', 'tmp', 'root', 'home', 'var/tmp', 'var/lib', 'var/log/journal', 'usr/lib64',
                     'usr/sbin', 'boot', 'etc/htrace', 'run/systemd'):
            d = tarfile.TarInfo(name)
            d.type, d.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(d)
        seen = set()
        for program in PROGRAMS + list(ours):
            for file, to in [(program, ours.get(program, program))] + [(x, x) for x in libraries(program)]:
                to = re.sub('^/(s?bin|lib|lib64)/', r'/usr/\1/', to)
                if to not in seen:
                    seen.add(to)
                    add(tar, file, to)
        link = tarfile.TarInfo('usr/bin/sh')
        link.type, link.linkname = tarfile.SYMTYPE, 'bash'
        tar.addfile(link)
        for unit in UNITS:
            add(tar, f'/lib/systemd/system/{unit}', f'/usr/lib/systemd/system/{unit}')
        for source, name in ('host-reader/host-reader@.service', 'host-reader@.service'), \
                ('guest-agent/guest-agent.service', 'guest-agent.service'):
            with open(os.path.join(TOP, source), encoding='utf-8') as f:
                text = f.read().replace('@bindir@', '/usr/local/bin').replace('@sbindir@', '/usr/local/sbin')
            add_text(tar, f'/etc/systemd/system/{name}', text)
        add_text(tar, '/etc/systemd/system/default.target', '[Unit]\nRequires=job.service\nAllowIsolate=yes\n')
        add_text(tar, '/etc/systemd/system/job.service', JOB_UNIT)
        add_text(tar, '/job.sh', job)
        add_text(tar, '/etc/htrace/one.conf', 'SOURCES=local:/dev/shm/region\nOPTIONS=--stats 0.5\n')
        add_text(tar, '/etc/default/guest-agent', 'OPTIONS=--events sched,sys_enter --until-off\n')
        add_text(tar, '/etc/systemd/system/guest-agent.service.d/shutdown.conf', unit_lines())
        for name, text in ('/etc/passwd', 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n'), \
                ('/etc/group', 'root:x:0:\nsystemd-journal:x:101:\nnogroup:x:65534:\n'), ('/etc/machine-id', ''), \
                ('/truth', '\0' * (64 * 2 * 1024)), ('/etc/os-release', 'ID=test\n'):
            add_text(tar, name, text)


def last_call(raw):
    """The last one of the last session, but for the agent's, which may run while the kernel, in reboot(2), waits."""
    from vm import READER
    run = subprocess.run([READER, '--view', 'crash:json:100', 'file:' + raw], stdout=subprocess.PIPE, text=True,
                         check=True)
    report = json.loads(run.stdout.splitlines()[-1])
    print('end:', *report['end'], sep='\n    ')
    calls = [e for ring in report['rings'] for e in ring['events'] if e.get('event') == 'sys_enter' and
             e.get('comm') != 'guest-agent']
    return max(calls, key=lambda e: e['time'], default=None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().split('\n')[0])
    parser.add_argument('--build', default=os.path.join(TOP, 'build'))
    parser.add_argument('--kernel', default='6.12')
    parser.add_argument('--shutdown', action='store_true', help='nothing but the shutdown')
    args = parser.parse_args()
    os.environ['HTRACE_BUILD'] = build = os.path.abspath(args.build)
    sys.path.insert(0, HERE)
    from vm import VM, Reader  # they ask for the build
    with tempfile.TemporaryDirectory() as d:
        root, init = os.path.join(d, 'root.tar'), os.path.join(d, 'init-units')
        make_root(root, build, LAST_JOB if args.shutdown else JOB + LAST_JOB)
        with open(init, 'w', encoding='utf-8') as f:
            f.write(INIT)
        os.chmod(init, 0o755)
        with VM('', kernel=args.kernel, memory='1G', add=[root, init],
                append='rdinit=/init-units systemd.journald.forward_to_console=0') as vm:
            vm.command += ['--tcg-thread', 'single']
            vm.start()
            raw = os.path.join(vm.dir, 'raw')
            reader = Reader(vm, '-o', 'text', '-o', 'raw:' + raw)
            try:
                vm.wait_for('UNITS END', 400)
                vm.qemu.wait(120)
            finally:
                reader.stop()
                Reader.clean_up()
                print(vm.console()[-12000:])
            console, shown = vm.console(), reader.err()
            last = last_call(raw)
    print(shown)
    print('last system call:', last)
    if not last or last['fields']['nr'] != REBOOT or last['tid'] != 1 or 'UNITS FAILED' in console:
        print('FAILED')
        return 1
    if args.shutdown:
        print('passed')
        return 0
    good = 'CapEff: 0000000000000000, Seccomp: 2' in console and console.count('stopped: success 0') == 2 and \
        'agent: active' in console and 'captured' in console and \
        all(int(n) > 100 for n in re.findall(r'captured: (\d+)', console)) and \
        re.search(r'^received +[1-9]\d{2,}', shown, re.M)
    print('passed' if good else 'FAILED')
    return 0 if good else 1


if __name__ == '__main__':
    sys.exit(main())
