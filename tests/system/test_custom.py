# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tracers of one's own: the README's, with its commands; every kind of member; what is refused."""

import glob
import json
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


@params('6.12', thorough=['6.1'])
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


@params('6.12', thorough=['6.1'])
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


def test_schema_too_large():
    """Events that a reader would refuse are refused by the agent, which says which and why."""
    script = '''
for name in toolarge toodeep; do
	guest-agent --events none --bpf /$name.bpf.o 2>&1 | sed 's/^/SAID /'
done
agent_start --events sched_process_fork || exit 1 # all is well otherwise
agent_stop
'''
    objects = [os.path.join(BUILD, 'tests', name + '.bpf.o:/') for name in ('toolarge', 'toodeep')]
    with VM(script, add=objects) as vm:
        vm.start()
        assert vm.finish() == 0, vm.console()[-3000:]
        said = re.findall(r'^SAID (.*)$', vm.console(), re.M)
        for line in said:
            say(line)
        assert len(said) == 2, said
        assert re.search('tracer toolarge: event huge cannot be described: .*4096', said[0])
        assert re.search('tracer toodeep: event deep cannot be described: .*(deep|nest)', said[1])


MEMBERS = os.path.join(BUILD, 'tests', 'members.bpf.o')
# What tests/guest/members.bpf.c stores, as text and as JSON. Enums: clang before 16, which Debian has,
# makes them all unsigned, and those of 64 bits have no names.
MEMBERS_TEXT = (
    'number=7 s8=[-128,127] u8=[0,255] s16=[-32768,32767] u16=[0,65535] '
    's32=[-2147483648,2147483647] u32=[0,4294967295] '
    's64=[-9223372036854775808,9223372036854775807] u64=[0,18446744073709551615] '
    's128=0xfffffffffffffffffffffffffffffffe u128=0x0123456789abcdeffedcba9876543210 '
    'color=BLUE no_color=6 level=LOW no_level=4294967219 small=ON '
    'wide=7 top=9223372036854775808 deep=1 bottom=9223372036854775808 yes=true no=false '
    "letter='x' newline='\\x0a' pointer=0xffff888012345678 address=0x0000000000001000 "
    'hex=0xdeadbeef tid=TID(workload) call=121(getpgid) state=D '
    'three=-4 five=31 many=-1099511627776 rest_of_it=524287 flag=true level_bits=HIGH '
    'grid=[[0,1,2],[10,11,12]] text="a\\x22b\\x5cc\\x0a" full="full" empty="" names=["ab","cdef"] '
    'point={x=-1 y=65535} lines=[{from={x=1 y=2} to={x=3 y=4} label="first"},'
    '{from={x=-5 y=6} to={x=-7 y=8} label="second"}] '
    'either={word=67305985 anon_0={low=513 high=1027} bytes=[1,2,3,4]} '
    'anon_0={one=4660 two=[52,18]} inner=8 innermost=9 nr=3 tail=[100,101,102,0]')
MEMBERS_JSON = {
    'number': 7, 's8': [-128, 127], 'u8': [0, 255], 's16': [-32768, 32767], 'u16': [0, 65535],
    's32': [-2147483648, 2147483647], 'u32': [0, 4294967295],
    's64': [-9223372036854775808, 9223372036854775807], 'u64': [0, 18446744073709551615],
    's128': '0xfffffffffffffffffffffffffffffffe', 'u128': '0x0123456789abcdeffedcba9876543210',
    'color': 4294967294, 'color.name': 'BLUE', 'no_color': 6, 'level': 4294967294,
    'level.name': 'LOW', 'no_level': 4294967219, 'small': 200, 'small.name': 'ON',
    'wide': 7, 'top': 9223372036854775808, 'deep': 1, 'bottom': 9223372036854775808,
    'yes': True, 'no': False, 'letter': 120, 'newline': 10, 'pointer': 0xffff888012345678,
    'address': 4096, 'hex': 0xdeadbeef, 'tid': None, 'tid.name': 'workload', 'call': 121,
    'call.name': 'getpgid', 'state': 2, 'state.name': 'D', 'three': -4, 'five': 31,
    'many': -1099511627776, 'rest_of_it': 524287, 'flag': True, 'level_bits': 3,
    'level_bits.name': 'HIGH', 'grid': [[0, 1, 2], [10, 11, 12]], 'text': 'a"b\\c\n',
    'full': 'full', 'empty': '', 'names': ['ab', 'cdef'], 'point': {'x': -1, 'y': 65535},
    'lines': [{'from': {'x': 1, 'y': 2}, 'to': {'x': 3, 'y': 4}, 'label': 'first'},
              {'from': {'x': -5, 'y': 6}, 'to': {'x': -7, 'y': 8}, 'label': 'second'}],
    'either': {'word': 67305985, 'anon_0': {'low': 513, 'high': 1027}, 'bytes': [1, 2, 3, 4]},
    'anon_0': {'one': 4660, 'two': [52, 18]}, 'inner': 8, 'innermost': 9, 'nr': 3,
    'tail': [100, 101, 102, 0],
}


@params('6.1', thorough=['6.12'])
def test_members(kernel):
    """Integers, enums, arrays, text, structs, unions, bit-fields, pointers, tails: known values."""
    script = '''
agent_start --events none --bpf /members.bpf.o || exit 1
workload count 8 424242
sleep 1
agent_stop
'''
    with VM(script, kernel=kernel, add=[MEMBERS + ':/']) as vm:
        vm.start()
        path = os.path.join(vm.dir, 'out.json')
        reader = Reader(vm, '-o', 'text', '-o', 'json:' + path)
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-3000:]
        found = [m for m in (readertext.EVENT.match(rest) for _, _, rest in
                             readertext.lines(reader.out_path)) if m and 'number=7' in m['fields']]
        assert [m['event'] for m in found] == ['members', 'members_text'], found
        tid = readertext.value(found[0]['fields'], 'tid').split('(')[0]
        got, want = found[0]['fields'], MEMBERS_TEXT.replace('TID', tid)
        for x, y in zip(got.split(' '), want.split(' ')):
            assert x == y, f'{x}, not {y}; all: {got}'
        assert got == want, got
        assert found[1]['fields'] == 'number=7 tail="to the end"', found[1]['fields']
        with open(path, encoding='utf-8') as f:
            records = [r for r in map(json.loads, f) if r.get('fields', {}).get('number') == 7]
        fields = records[0]['fields']
        for name, value in MEMBERS_JSON.items():
            assert fields.get(name) == (int(tid) if name == 'tid' else value), \
                f'{name}: {fields.get(name)!r}, not {value!r}'
        assert set(fields) == set(MEMBERS_JSON), set(fields) ^ set(MEMBERS_JSON)
        assert records[1]['fields'] == {'number': 7, 'tail': 'to the end'}, records[1]
        say(f'{len(fields)} values alike in text and JSON, as stored: {got[:150]} ...')
