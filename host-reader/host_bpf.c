/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "host_bpf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <bpf/libbpf.h>

static int quiet(enum libbpf_print_level level, const char *fmt, va_list args)
{
	(void)level, (void)fmt, (void)args; /* what it means is said in our own words */
	return 0;
}

static int failed(const char *what, const char *which, int ret, const char *need, char *err, size_t errlen)
{
	if (ret != -EPERM && ret != -EACCES)
		snprintf(err, errlen, "%s%s: %s; %s", what, which, strerror(-ret), need);
	else
		snprintf(err, errlen, "%s%s: %s; %s", what, which, strerror(-ret),
			 geteuid() ? "are you root?" : "does the kernel's lockdown, or its verifier, refuse it?");
	return ret;
}

int host_bpf_read(struct host_bpf *b, const char *name, const char *start, const char *end, const char *need,
		  char *err, size_t errlen)
{
	LIBBPF_OPTS(bpf_object_open_opts, opts, .object_name = name);

	memset(b, 0, sizeof(*b));
	if (access("/sys/module/kvm", F_OK)) {
		snprintf(err, errlen, "KVM is not loaded (modprobe kvm)");
		return -ENOENT;
	}
	libbpf_set_print(quiet);
	b->object = bpf_object__open_mem(start, (size_t)(end - start), &opts);
	return b->object ? 0 : failed("opening the BPF programs", "", -errno, need, err, errlen);
}

int host_bpf_load(struct host_bpf *b, const char *need, char *err, size_t errlen)
{
	struct bpf_program *p;
	int ret = bpf_object__load(b->object), i = 0;

	if (ret)
		return failed("loading the BPF programs", "", ret, need, err, errlen);
	bpf_object__for_each_program(p, b->object)
		b->program_fd[i++] = bpf_program__autoload(p) ? bpf_program__fd(p) : -1;
	return 0;
}

int host_bpf_attach(struct host_bpf *b, const char *need, char *err, size_t errlen)
{
	struct bpf_program *p;
	int i = 0;

	bpf_object__for_each_program(p, b->object) {
		if (bpf_program__autoload(p)) {
			b->link[i] = bpf_program__attach(p);
			if (!b->link[i])
				return failed("attaching ", bpf_program__name(p), -errno, need, err, errlen);
		}
		i++;
	}
	return 0;
}

void host_bpf_detach(struct host_bpf *b)
{
	for (int i = 0; i < HOST_BPF_PROGRAMS; i++) {
		bpf_link__destroy(b->link[i]);
		b->link[i] = NULL;
	}
}

int host_bpf_open(struct host_bpf *b, const char *name, const char *start, const char *end, const char *map,
		  size_t map_size, const char *need, char *err, size_t errlen)
{
	int ret = host_bpf_read(b, name, start, end, need, err, errlen);
	void *mem;

	if (!ret)
		ret = host_bpf_load(b, need, err, errlen);
	if (!ret)
		ret = host_bpf_attach(b, need, err, errlen);
	if (ret)
		return ret;
	mem = mmap(NULL, map_size, PROT_READ, MAP_SHARED, host_bpf_map_fd(b, map), 0);
	if (mem == MAP_FAILED)
		return failed("mapping ", map, -errno, need, err, errlen);
	b->map = mem;
	b->map_size = map_size;
	return 0;
}

int host_bpf_map_fd(const struct host_bpf *b, const char *map)
{
	return bpf_object__find_map_fd_by_name(b->object, map);
}

void host_bpf_close(struct host_bpf *b)
{
	if (b->map)
		munmap((void *)b->map, b->map_size);
	host_bpf_detach(b);
	bpf_object__close(b->object);
}
