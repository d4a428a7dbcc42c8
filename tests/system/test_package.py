# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Debian packages build, lintian finds nothing, what they install works, the module too; systemd takes the units."""

import glob
import os
import re
import shutil
import subprocess
import tempfile
import time

from harness import Skip, say
from test_module import build_by_dkms
from vm import TOP, kernel_path

PACKAGES = ['htrace-dkms', 'htrace-guest-agent', 'htrace-host-reader', 'libhtrace-dev', 'libhtrace0']
EXPOSURE = {'host-reader@.service': 2.0, 'guest-agent.service': 5.0}  # systemd's score: 0 is safest, 10 not confined


def run(*args, cwd=None, env=None):
    done = subprocess.run(args, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, f'{" ".join(args)}: {done.returncode}\n{done.stdout[-4000:]}'
    return done.stdout


class Packages:
    """All of them, built from a copy of the tree, and what they install in one root."""

    def __enter__(self):
        self.dir = tempfile.mkdtemp(prefix='htrace-package-')
        source = os.path.join(self.dir, 'libhtrace')
        shutil.copytree(TOP, source, symlinks=True, ignore=lambda d, names: [
            n for n in names if n == '.git' or n == '__pycache__' or d == TOP and n.startswith('build')])
        start = time.time()
        # The source package takes lintian as long again, and optimised code and its symbols the compiler.
        thorough = os.environ.get('HTRACE_THOROUGH')
        quick = {} if thorough else {'DEB_CFLAGS_APPEND': '-O1', 'DEB_BUILD_OPTIONS': 'noautodbgsym'}
        run('dpkg-buildpackage', '-us', '-uc', '-j2', *([] if thorough else ['-b']), cwd=source, env={**os.environ, **quick})
        say(f'built in {time.time() - start:.0f} s')
        self.changes, = glob.glob(os.path.join(self.dir, '*.changes'))  # with all packages
        self.root = os.path.join(self.dir, 'root')
        self.debs = sorted(d for d in glob.glob(os.path.join(self.dir, '*.deb')) if '-dbgsym_' not in d)
        for deb in self.debs:
            run('dpkg', '-x', deb, self.root)
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.dir, ignore_errors=True)

    def path(self, *names):
        found = glob.glob(os.path.join(self.root, *names))
        assert len(found) == 1, (names, found)
        return found[0]


def check_units(p):
    units = {name: p.path('lib/systemd/system', name) for name in EXPOSURE}
    for name, path in units.items():
        with open(path, encoding='utf-8') as f:
            program = re.search(r'(/usr/s?bin/[a-z-]+)', re.search(r'^ExecStart=.*', f.read(), re.M)[0])[1]
        assert os.access(p.root + program, os.X_OK), program
    # There is no other root for units that are verified: they are, as instances, with programs that are here.
    for name, path in units.items():
        copy = os.path.join(p.dir, name.replace('@', '@some'))
        with open(path, encoding='utf-8') as f:
            text = re.sub(r'/usr/s?bin/(guest-agent|host-reader)', '/bin/true', f.read())
        with open(copy, 'w', encoding='utf-8') as f:
            f.write(text)
        found = run('systemd-analyze', 'verify', '--man=no', copy)
        assert name.split('.')[0] not in found, found
        score = run('systemd-analyze', 'security', '--no-pager', '--offline=yes', copy).strip().splitlines()[-1]
        value = float(re.search(r'([\d.]+) \w+', score.split(':', 1)[1])[1])
        say(f'{name}: {score.split(":", 1)[1].strip()[:-1].strip()}')
        assert value <= EXPOSURE[name], score


def check_example(p):
    """A tracer that is built and linked by the package's own pkg-config file, and read by the package's reader."""
    lib = os.path.dirname(p.path('usr/lib/*/libhtrace.so'))
    env = dict(os.environ, PKG_CONFIG_LIBDIR=os.path.join(lib, 'pkgconfig'), PKG_CONFIG_SYSROOT_DIR=p.root,
               LD_LIBRARY_PATH=lib)
    flags = run('pkg-config', '--cflags', '--libs', 'libhtrace', env=env).split()
    program = os.path.join(p.dir, 'traced-threads')
    source = p.path('usr/share/doc/libhtrace-dev/examples/traced-threads.c*')
    if source.endswith('.gz'):
        run('gunzip', source)
    run('cc', '-Wall', '-Werror', '-o', program, source[:-3] if source.endswith('.gz') else source, *flags, '-pthread')
    needed = run('objdump', '-p', program)
    assert 'libhtrace.so.0' in needed, needed
    region = os.path.join(p.dir, 'region')
    run(program, region, '4', '8', env=env)
    shown = subprocess.run([p.path('usr/bin/host-reader'), '--duration', '1', f'local:{region}'],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    lines = len(shown.stdout.splitlines())
    assert shown.returncode == 0 and lines > 100, (lines, shown.stderr[-2000:])
    assert 'guest-agent' in run(p.path('usr/sbin/guest-agent'), '--version')


def check_module(p):
    """DKMS builds what its package holds, for the kernel whose module it then is; the package asks DKMS to."""
    conf = p.path('usr/src/htrace-*/dkms.conf')
    version = os.path.basename(os.path.dirname(conf)).split('-')[1]
    with open(conf, encoding='utf-8') as f:
        assert f'PACKAGE_VERSION="{version}"' in f.read()
    module = os.path.join(p.dir, 'htrace.ko')
    with open(module, 'wb') as f:
        f.write(build_by_dkms('6.12', p.path('usr/src')))
    facts = run('/sbin/modinfo', module)
    release = os.path.basename(kernel_path('6.12')).removeprefix('vmlinuz-')
    assert re.search(rf'^vermagic: +{re.escape(release)} ', facts, re.M), facts
    assert re.search(rf'^version: +{re.escape(version)}$', facts, re.M), facts
    control = os.path.join(p.dir, 'control')
    deb, = (d for d in p.debs if '/htrace-dkms_' in d)
    run('dpkg', '-e', deb, control)
    for script, what in ('postinst', 'common.postinst'), ('prerm', 'dkms remove'):
        with open(os.path.join(control, script), encoding='utf-8') as f:
            text = f.read()
        assert what in text and 'htrace' in text and version in text, text


def test_built():
    if not shutil.which('dpkg-buildpackage') or not shutil.which('lintian'):
        raise Skip('no dpkg-buildpackage, or no lintian')
    with Packages() as p:
        assert [os.path.basename(d).split('_')[0] for d in p.debs] == PACKAGES, p.debs
        said = run('lintian', '--allow-root', '--fail-on', 'error,warning', p.changes).splitlines()
        say(*said)
        assert not [line for line in said if re.match('[EW]:', line)], said
        check_module(p)
        check_example(p)
        check_units(p)
