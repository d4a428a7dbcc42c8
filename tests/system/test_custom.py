# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tracers of one's own: the README's, with the README's commands, and one that is refused."""

import glob
import os
import re
import subprocess
import tempfile

import readertext
from harness import params, say
from vm import BUILD, TOP, VM, Reader


def from_readme():
    """(code, shell command that compiles it, guest-agent's command) of `Your own events`."""
    with open(os.path.join(TOP, 'README.md'), encoding='utf-8') as f:
        section = re.search(r'^## Your own events\n(.*?)^## ', f.read(), re.S | re.M)[1]
    code = re.search(r'```c\n(.*?)```', section, re.S)[1]
    shell = re.search(r'```sh\n(.*?)```', section, re.S)[1]
    compile_, run = re.fullmatch(r'(clang .*)\n(guest-agent .*)\n', shell, re.S).groups()
    return code, compile_, run


@params('6.1', '6.12')
def test_readme(kernel):
    code, compile_, run = from_readme()
    with tempfile.TemporaryDirectory() as dir:
        # outside the tree, against what is installed
        subprocess.run(['meson', 'install', '-C', BUILD, '--destdir', dir + '/inst', '--quiet',
                        '--no-rebuild'], stdout=subprocess.DEVNULL, check=True)
        pc = glob.glob(dir + '/inst/**/libhtrace.pc', recursive=True)[0]
        env = dict(os.environ, PKG_CONFIG_PATH=os.path.dirname(pc),
                   PKG_CONFIG_SYSROOT_DIR=dir + '/inst')
        source, obj = re.search(r'-c (\S+) -o (\S+)', compile_).groups()
        with open(os.path.join(dir, source), 'w', encoding='utf-8') as f:
            f.write(code)
        subprocess.run(compile_, shell=True, cwd=dir, env=env, check=True)
        script = run.replace('guest-agent', 'agent_start') + ''' || exit 1
sh -c 'exec < /etc/hosts'
sleep 1
agent_stop
'''
        hosts = os.path.join(dir, 'hosts')
        with open(hosts, 'w', encoding='utf-8') as f:
            f.write('127.0.0.1 localhost\n')
        with VM('cd /\n' + script, kernel=kernel,
                add=[os.path.join(dir, obj) + ':/' + obj, hosts + ':/etc/hosts']) as vm:
            vm.start()
            reader = Reader(vm)
            status = vm.finish()
            assert reader.stop() == 0, reader.err()
            assert status == 0, vm.console()[-3000:]
            events = [m['fields'] for m in (readertext.EVENT.match(rest) for _, _, rest in
                                            readertext.lines(reader.out_path))
                      if m and m['event'] == 'file_open']
            assert events, 'no event of the tracer: ' + reader.err()
            # open() and openat(AT_FDCWD, ...)
            assert any(readertext.value(f, 'dfd') == '-100' for f in events), events[:3]
            assert all(re.fullmatch(r'\d+\(.*\)', readertext.value(f, 'tid')) for f in events)
            assert any('(sh)' in readertext.value(f, 'tid') for f in events), events[:3]
            say(f'{len(events)} events of the README\'s tracer, such as: {events[0]}')


@params('6.1', '6.12')
def test_refused(kernel):
    """The verifier's reason is in the first line, the end of its log follows; nothing is left."""
    script = '''
guest-agent --events none --bpf /refused.bpf.o > /tmp/out 2>&1
echo "STATUS $?"
sed 's/^/SAID /' /tmp/out
ls /sys/fs/bpf/htrace 2>/dev/null | sed 's/^/LEFT /'
'''
    with VM(script, kernel=kernel,
            add=[os.path.join(BUILD, 'tests', 'refused.bpf.o') + ':/']) as vm:
        vm.start()
        assert vm.finish() == 0, vm.console()[-3000:]
        console = vm.console()
        said = re.findall(r'^SAID (.*)$', console, re.M)
        for line in said:
            say(line)
        assert 'STATUS 1\n' in console and 'LEFT' not in console, console[-2000:]
        assert re.match(r'guest-agent: cannot load tracer refused: .*program unchecked: '
                        r".*invalid mem access 'scalar'", said[0]), said
        assert re.search(r"the verifier's log", said[1]), said
        assert 3 <= len(said) <= 12, f'{len(said)} lines'
