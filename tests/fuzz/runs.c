// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Page runs and anchors against guest RAM in a file, which is given, or found as a process's that
 * maps it as a VMM does: whatever is mapped lies in that file, and rings in what is mapped.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <htrace/consumer.h>

#include "core.h"
#include "fuzz.h"
#include "fuzz_region.h"

static pid_t vmm;

/* What is too small to be guest RAM, and is mapped like it. */
static void map_small(void)
{
	char path[300];
	int fd;

	snprintf(path, sizeof(path), "%s/small", fuzz_dir());
	fd = open(path, O_RDWR | O_CREAT, 0600);
	CHECK(fd >= 0 && !ftruncate(fd, 65536));
	CHECK(mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED);
	close(fd);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	pid_t parent = getpid();

	guest_get(SHAPE_DIRECT); /* mapped by this process, and the next */
	map_small();
	vmm = fork();
	CHECK(vmm >= 0);
	if (!vmm) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (getppid() == parent)
			sleep(1);
		_exit(0);
	}
	return 0;
}

static void read_rings(struct htrace_view *v)
{
	const struct htrace_super *s = htrace_view_super(v);
	struct htrace_image img;
	struct htrace_consumer *c;
	struct htrace_batch b;

	for (__u32 i = 0; i < s->ringset[0].nr_rings && i < 8; i++) {
		if (htrace_view_ring(v, 0, i, &img))
			continue;
		if (s->ringset[0].placement == HTRACE_PLACEMENT_VSHMEM)
			CHECK(img.anchor && (const char *)img.ring >= (char *)v->space &&
			      (const char *)img.ring + s->ringset[0].stride <=
				      (char *)v->space + v->space_len);
		if (htrace_consumer_new(&c, &img, NULL))
			continue;
		for (int k = 0; k < 20 && htrace_consumer_read(c, &b) == 1; k++)
			;
		htrace_consumer_free(c);
	}
}

/* As the process beside the reader finds and opens it. */
static int map_found(struct htrace_view *v, int pid, char *err, size_t errlen)
{
	int fd[32], nr, found, ret;
	struct stat st;

	CHECK(!fstat(v->fd, &st));
	nr = htrace_ram_find(st.st_dev, st.st_ino, (__u64)st.st_size, pid, fd, 2, &found, err, errlen);
	if (nr < 0)
		return nr;
	ret = htrace_view_map_ram_fds(v, fd, nr, err, errlen);
	for (int i = 0; i < nr; i++)
		close(fd[i]);
	return ret;
}

static int map_opened(struct htrace_view *v, const char *path, int nr, char *err, size_t errlen)
{
	int fd = open(path, O_RDONLY), ret;

	CHECK(fd >= 0);
	ret = htrace_view_map_ram_fds(v, &fd, nr, err, errlen);
	if (ret == -EINVAL && !nr)
		snprintf(err, errlen, "none");
	close(fd);
	return ret;
}

static int map_ram(struct htrace_view *v, struct guest *g, __u64 how, char *err, size_t errlen)
{
	switch (how) {
	case 1: /* of that process */
		return htrace_view_map_ram(v, vmm, NULL, err, errlen);
	case 2: /* of any; rarely, since all there are are looked at */
		return htrace_view_map_ram(v, 0, NULL, err, errlen);
	case 3: /* not RAM */
		return htrace_view_map_ram(v, 0, g->path, err, errlen);
	case 4:
		return htrace_view_map_ram(v, 0, "/dev/null", err, errlen);
	case 5:
		return htrace_view_map_ram(v, 0, "/nonexistent", err, errlen);
	case 6: /* one without such memory */
		return htrace_view_map_ram(v, 1 << 30, NULL, err, errlen);
	case 7:
		return map_found(v, vmm, err, errlen);
	case 8:
		return map_opened(v, g->ram_path, 0, err, errlen);
	case 9:
		return map_opened(v, "/dev/null", 1, err, errlen);
	default:
		return how & 1 ? map_opened(v, g->ram_path, 1, err, errlen) :
				 htrace_view_map_ram(v, 0, g->ram_path, err, errlen);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct guest *g = guest_get(SHAPE_DIRECT);
	__u64 how = take(&in, 1);
	struct htrace_view *v;
	char err[256] = "";
	int ret;

	take_patches(&g->memory, &in, 24);
	take_patches(&g->ram_memory, &in, 4);
	CHECK(!htrace_view_open_fd(&v, g->fd, false, err, sizeof(err)));
	if (htrace_view_attach(v, err, sizeof(err)))
		goto out;
	err[0] = 0;
	fail_allocation(how >= 128 && how < 180 ? (unsigned int)how - 127 : 0);
	ret = map_ram(v, g, how, err, sizeof(err));
	fail_allocation(0);
	CHECK(!ret || err[0] || ret == -ENOMEM);
	for (const char *p = err; *p; p++)
		CHECK(*p >= ' ' && *p <= '~');
	CHECK(ret || (v->space_len && v->space_len <= GUEST_RAM));
	CHECK(!ret || !v->space);
	if (!ret) {
		CHECK(strlen(htrace_view_ram_name(v)));
		htrace_view_vmm_pid(v);
		take_patches(&g->memory, &in, 8);
		take_patches(&g->ram_memory, &in, 8);
	}
	read_rings(v);
out:
	htrace_view_close(v);
	guest_put_back(g);
	return 0;
}
