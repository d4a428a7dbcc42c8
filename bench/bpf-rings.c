/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <bpf/btf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench.h"
#include "bpf-rings.h"

#define BTF "/sys/kernel/btf/vmlinux"

/* Set the constant @name of the object, before it is loaded. */
static int set_constant(struct bpf_object *obj, const char *name, const void *value, size_t len)
{
	struct bpf_map *map = bpf_object__find_map_by_name(obj, ".rodata");
	const struct btf *btf = bpf_object__btf(obj);
	int id = btf__find_by_name_kind(btf, ".rodata", BTF_KIND_DATASEC);
	const struct btf_type *sec = id > 0 ? btf__type_by_id(btf, (__u32)id) : NULL;
	size_t size = 0;
	char *data = map ? (char *)bpf_map__initial_value(map, &size) : NULL;

	for (int i = 0; data && sec && i < btf_vlen(sec); i++) {
		const struct btf_var_secinfo *v = btf_var_secinfos(sec) + i;
		const struct btf_type *t = btf__type_by_id(btf, v->type);

		if (strcmp(btf__name_by_offset(btf, t->name_off), name))
			continue;
		if (v->offset + len > size)
			return -EINVAL;
		memcpy(data + v->offset, value, len);
		return 0;
	}
	return -ENOENT;
}

static int prepare(struct bpf_rings *r, __u64 size, const struct bpf_rings_event *events)
{
	struct bpf_map *rings = bpf_object__find_map_by_name(r->obj, "htrace_rings"), *map;
	__u32 cpus = (__u32)libbpf_num_possible_cpus();
	char name[64];
	int err;

	/* What is for guest-agent --stack and --filter, as it does without these. */
	bpf_object__for_each_map(map, r->obj)
		if (!strncmp(bpf_map__name(map), "htrace_", 7) && map != rings)
			bpf_map__set_autocreate(map, false);
	err = htrace_geometry_init(&r->geometry, size, 0, HTRACE_OVERWRITE);
	r->image_size = htrace_image_size(&r->geometry, (size_t)sysconf(_SC_PAGESIZE));
	err = err ?: bpf_map__set_value_size(rings, (__u32)r->image_size);
	err = err ?: bpf_map__set_max_entries(rings, cpus);
	err = err ?: set_constant(r->obj, "htrace_geo", &r->geometry, sizeof(r->geometry));
	for (; !err && events->name; events++) {
		snprintf(name, sizeof(name), "htrace_event__%s", events->name);
		err = set_constant(r->obj, name, &events->id, sizeof(events->id));
	}
	return err;
}

static int silent(enum libbpf_print_level level, const char *format, va_list args)
{
	return level == LIBBPF_WARN && getenv("BENCH_BPF_DEBUG") ? vfprintf(stderr, format, args) : 0;
}

int bpf_rings_open(struct bpf_rings *r, const char *object, __u64 size, const struct bpf_rings_event *events,
		   const char **why)
{
	char path[4096];
	int err;

	libbpf_set_print(silent);
	*why = "no BPF object beside the program";
	r->obj = bpf_object__open(bench_beside(path, sizeof(path), object));
	if (!r->obj)
		return -errno;
	*why = "cannot prepare the BPF object";
	err = prepare(r, size, events);
	if (err)
		return err;
	err = bpf_object__load(r->obj);
	*why = err == -EPERM || !access(BTF, R_OK) ? "the kernel does not let BPF programs in" :
						    "the kernel's types cannot be read from " BTF;
	if (err)
		return err;
	*why = "cannot map the rings";
	r->mem = mmap(NULL, r->image_size * (size_t)libbpf_num_possible_cpus(), PROT_READ | PROT_WRITE, MAP_SHARED,
		      bpf_object__find_map_fd_by_name(r->obj, "htrace_rings"), 0);
	return r->mem == MAP_FAILED ? -errno : 0;
}

void bpf_rings_close(struct bpf_rings *r)
{
	bpf_object__close(r->obj);
}

struct htrace_image bpf_rings_image(const struct bpf_rings *r, int cpu)
{
	return (struct htrace_image){
		.ring = (void *)((char *)r->mem + (size_t)cpu * r->image_size),
		.geometry = r->geometry,
		.placement = HTRACE_PLACEMENT_LOCAL,
	};
}
