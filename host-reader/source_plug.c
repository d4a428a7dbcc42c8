/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A source whose device we plug into a VM that runs. Its memory is a file of ours, whose name follows from the
 * monitor's socket: so a reader finds what another one left that was killed, without believing anybody where it is.
 */
#include "source_internal.h"

#ifdef HAVE_JANSSON

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "finder.h"
#include "message.h"
#include "plug_keeper.h"
#include "region_file.h"

#define SIZE_LEAST (16ULL << 20)
#define SIZE_CPU (4352ULL << 10) /* a mirror of the agent's rings by default, and what goes with it */
#define SIZE_MORE (2ULL << 20)
#define NEWS_NS (200 * MS)
#define LAST_NS (3 * SEC) /* of a VM whose monitor closed, until its process has ended */

struct source_plug {
	struct plug_keeper *keeper;
	char file[64];
	bool made; /* the file is ours to remove */
	bool in;   /* the device is there */
	int vm;    /* a pidfd, or -1 */
	enum plug_news news;
	__u64 since, next;
};

const char *source_plug_file(const struct source *s)
{
	return s->plug->file;
}

/* ---------------------------------------------------------------------------------------- the file */

/* What a reader before us left. A descriptor; -ENOENT: nothing; or another error. */
static int open_left(struct source *s, const char *file, char *err, size_t errlen)
{
	int fd = source_open_file(s, file, false, err, errlen);

	if (fd < 0 || (source_plug_is_ours(fd) && s->writable))
		return fd;
	close(fd);
	snprintf(err, errlen, "a file of somebody else's is in the way: %s; remove it", file);
	return -EEXIST;
}

/* QEMU may run as another user. */
static int let_open(int fd, int monitor)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (getsockopt(monitor, SOL_SOCKET, SO_PEERCRED, &peer, &len) || peer.uid == geteuid() || !peer.uid)
		return 0;
	return fchown(fd, (uid_t)-1, peer.gid) || fchmod(fd, 0660) ? -errno : 0;
}

static int make_file(struct source *s, int monitor, __u64 size, char *err, size_t errlen)
{
	int fd = open(s->plug->file, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600), ret = 0;

	if (fd >= 0) {
		s->plug->made = true;
		s->writable = true;
		if (flock(fd, LOCK_EX | LOCK_NB) || ftruncate(fd, (off_t)size))
			ret = -errno;
		else
			ret = let_open(fd, monitor);
	}
	if (fd >= 0 && !ret)
		return fd;
	ret = ret ? ret : -errno;
	snprintf(err, errlen, "cannot make %s: %s", s->plug->file, strerror(-ret));
	if (fd >= 0)
		close(fd);
	return ret;
}

static void remove_file(struct source *s)
{
	__u64 dev, ino;
	int ret;

	if (!s->plug->made)
		return;
	if (s->view && finder_runs()) {
		ret = finder_remove(s->view);
	} else if (s->view) {
		htrace_view_file(s->view, &dev, &ino);
		ret = region_file_remove(s->plug->file, dev, ino);
	} else {
		ret = unlink(s->plug->file) ? -errno : 0;
	}
	if (ret)
		say("%s: its file cannot be removed: %s: %s", s->spec->path, s->plug->file, strerror(-ret));
}

/* ------------------------------------------------------------------------------------------- in */

static __u64 choose_size(const struct source *s, const struct plug_found *found)
{
	__u64 size = SIZE_LEAST, need = SIZE_MORE + found->vcpus * SIZE_CPU;

	while (size < need && size < HTRACE_REGION_MAX)
		size <<= 1;
	if (s->spec->size)
		size = s->spec->size;
	if (size <= found->room)
		return size;
	if (!s->spec->size) {
		say("%s: the PCIe port has room for %llu MiB, as far as it says, and %llu MiB would be better: give it "
		    "pref64-reserve=%lluM at the VM's next start; until then guest-agent --mode relay makes do with "
		    "small rings", s->spec->path, (unsigned long long)found->room >> 20, (unsigned long long)size >> 20,
		    (unsigned long long)size >> 20);
		return found->room;
	}
	say("%s: the PCIe port has room for %llu MiB, as far as it says; if the guest finds no address for more, use "
	    "that size", s->spec->path, (unsigned long long)found->room >> 20);
	return size;
}

/* Whose mapping shows that QEMU has opened the file that we made, and not another one of its name. */
static void find_vm(struct source *s, int fd)
{
	struct stat st;
	int pid = fstat(fd, &st) ? 0 : vmm_scan(st.st_dev, st.st_ino, (__u64)st.st_size, getpid());

	s->plug->vm = pid ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
	if (!pid)
		say("%s: no process that can be seen from here has %s mapped; if no guest comes, QEMU has other files "
		    "there, as in a container", s->spec->path, s->plug->file);
}

static int put(struct source *s, int monitor, const struct plug_found *found, char *err, size_t errlen)
{
	__u64 size = choose_size(s, found);
	int fd = make_file(s, monitor, size, err, errlen), ret;

	if (fd < 0)
		return fd;
	ret = plug_keeper_put(s->plug->keeper, size, err, errlen);
	if (ret) {
		close(fd);
		return ret;
	}
	say("%s: plugged a device of %llu MiB into the VM (%s); start guest-agent there", s->spec->path,
	    (unsigned long long)size >> 20, s->plug->file);
	return fd;
}

/* @left: what a reader before us left, or -1. */
static int plug(struct source *s, int monitor, int left, char *err, size_t errlen)
{
	struct source_plug *p = s->plug;
	struct plug_found found;
	int ret = plug_keeper_look(p->keeper, left >= 0, &found, err, errlen);

	p->made = left >= 0 && (!ret || ret == -ENOSPC); /* else a device may use it */
	if (!ret && found.ours) {
		say("%s: going on with the device that a host-reader before this one left in the VM (%s)", s->spec->path,
		    p->file);
		return left;
	}
	if (!ret && left >= 0) {
		p->made = false;
		if (unlink(p->file))
			ret = -errno;
	}
	if (left >= 0)
		close(left);
	return ret ? ret : put(s, monitor, &found, err, errlen);
}

/* The connection is the keeper's alone once it runs, but for who is at its other end. */
static int start(struct source *s, int left, char *err, size_t errlen)
{
	int monitor = plug_connect(s->spec->path, err, errlen), peer, ret;

	if (monitor < 0) {
		close(left);
		return monitor;
	}
	peer = fcntl(monitor, F_DUPFD_CLOEXEC, 0);
	ret = plug_keeper_start(&s->plug->keeper, monitor, s->plug->file);
	if (ret)
		snprintf(err, errlen, "%s", strerror(-ret));
	if (ret)
		close(left);
	else
		ret = plug(s, peer, left, err, errlen);
	close(peer);
	return ret;
}

int source_plug_in(struct source *s, char *err, size_t errlen)
{
	struct source_plug *p = calloc(1, sizeof(*p));
	struct stat st;
	int left, fd;

	s->plug = p;
	if (!p || stat(s->spec->path, &st)) {
		snprintf(err, errlen, "%s", strerror(errno));
		return -errno;
	}
	p->vm = -1;
	source_plug_path(p->file, sizeof(p->file), &st);
	left = open_left(s, p->file, err, errlen);
	if (left < 0 && left != -ENOENT)
		return left;
	fd = start(s, left, err, errlen);
	p->in = fd >= 0;
	if (p->in)
		find_vm(s, fd);
	return fd;
}

/* ------------------------------------------------------------------------------------------- while */

void source_watch_plug(struct source *s, __u64 now)
{
	struct source_plug *p = s->plug;
	enum plug_news news;

	if (now < p->next || s->state == SOURCE_FAILED || s->state == SOURCE_DONE)
		return;
	p->next = now + NEWS_NS;
	news = plug_keeper_news(p->keeper);
	if (news && !p->news) {
		p->news = news;
		p->since = now;
		source_say(s, now, "%s", news == PLUG_TAKEN ? "the device was taken out of the VM, not by us" :
			   "the connection to QEMU is gone, and mostly the VM with it");
	}
	if (!p->news || s->ending)
		return;
	if (s->state == SOURCE_SILENT ? source_finish_silent(s, now) :
	    s->state != SOURCE_WAITING && s->state != SOURCE_MAPPING)
		return;
	if (s->state == SOURCE_FAILED || (s->session && now - p->since < LAST_NS))
		return;
	source_end_session(s, now);
	s->state = SOURCE_DONE; /* another VM has another socket */
}

/* --------------------------------------------------------------------------------------------- out */

static bool has_ended(const struct source_plug *p)
{
	struct pollfd f = { .fd = p->vm, .events = POLLIN };

	return p->vm < 0 || poll(&f, 1, (int)(LAST_NS / MS)) > 0;
}

/* Returns whether its file is of no more use. */
static bool take(struct source *s)
{
	struct source_plug *p = s->plug;
	char err[640] = "";
	int ret;

	progress("waiting for the guest to give the device back");
	ret = plug_keeper_take(p->keeper, err, sizeof(err));
	progress_end();
	if (!ret || (ret != -EREMOTEIO && ret != -EBUSY && has_ended(p)))
		return true;
	say("%s: the device could not be taken out of the VM: %s; %s is kept, and host-reader qmp:%s takes out the "
	    "rest when it ends", s->spec->path, err, p->file, s->spec->path);
	return false;
}

void source_plug_out(struct source *s)
{
	struct source_plug *p = s->plug;

	if (!p)
		return;
	if (!p->in || take(s))
		remove_file(s);
	plug_keeper_end(p->keeper);
	if (p->vm >= 0)
		close(p->vm);
	free(p);
	s->plug = NULL;
}

#else

#include <errno.h>
#include <stdio.h>

const char *source_plug_file(const struct source *s)
{
	return NULL;
}

int source_plug_in(struct source *s, char *err, size_t errlen)
{
	snprintf(err, errlen, "this host-reader was built without what speaks with QEMU (jansson)");
	return -ENOTSUP;
}

void source_watch_plug(struct source *s, __u64 now)
{
}

void source_plug_out(struct source *s)
{
}

#endif
