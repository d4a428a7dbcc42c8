/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "kvm_events.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef HAVE_LIBBPF

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <htrace/schema.h>

#include "host_bpf.h"
#include "misses.h"
#include "proc_names.h"
#include "rodata.h"

#define NEED "is tracefs mounted, is this x86, and does the kernel have BTF, also of its kvm module?"
#define RING_SIZE (2ULL << 20)
#define RINGS_MAX (128ULL << 20) /* all together: many CPUs have smaller ones */
#define RING_LEAST (64ULL << 10)

struct kvm_events {
	struct host_bpf bpf;
	struct htrace_geometry geometry;
	struct htrace_region_opts opts;
	__u64 stride;
	struct htrace_schema_builder *schema;
	struct htrace_region *region;
	void *mem;
	size_t size;
	int fd, rings_fd;
	bool counts_misses, has_disks;
	char missing[256];
};

extern const char kvm_events_bpf_start[], kvm_events_bpf_end[];

static int failed(const char *what, int ret, char *err, size_t errlen)
{
	snprintf(err, errlen, "%s: %s", what, strerror(-ret));
	return ret;
}

/* ---------------------------------------------------------------------------------- the programs */

static bool has_tracepoint(const char *section)
{
	static const char *const where[] = { "/sys/kernel/tracing", "/sys/kernel/debug/tracing" };
	char path[256];

	for (size_t i = 0; i < sizeof(where) / sizeof(*where); i++) {
		snprintf(path, sizeof(path), "%s/events/%s/id", where[i], section + strlen("tp/"));
		if (!access(path, F_OK))
			return true;
	}
	return false;
}

/* What tells of disks has typed arguments, and is of use only as a whole. */
static bool has_disks(const struct btf *kernel)
{
	static const char *const hooks[] = {
		"btf_trace_block_bio_queue", "btf_trace_block_split", "btf_trace_block_rq_issue",
		"btf_trace_block_rq_complete",
	};

	for (size_t i = 0; i < sizeof(hooks) / sizeof(*hooks); i++)
		if (!kernel || btf__find_by_name_kind(kernel, hooks[i], BTF_KIND_TYPEDEF) <= 0)
			return false;
	return true;
}

/* All but exits and entries can be done without. */
static int leave_out(struct kvm_events *k, char *err, size_t errlen)
{
	size_t len = 0;
	struct bpf_program *p;

	bpf_object__for_each_program(p, k->bpf.object) {
		const char *section = bpf_program__section_name(p), *name = strrchr(section, '/') + 1;

		if (bpf_program__type(p) == BPF_PROG_TYPE_TRACING ? k->has_disks : has_tracepoint(section))
			continue;
		if (!strcmp(name, "kvm_exit") || !strcmp(name, "kvm_entry")) {
			snprintf(err, errlen, "there is no tracepoint %s; " NEED, name);
			return -ENOENT;
		}
		bpf_program__set_autoload(p, false);
		len += (size_t)snprintf(k->missing + len, sizeof(k->missing) - len, "%s%s", len ? ", " : "",
					name);
	}
	return 0;
}

/* Is it one that this run can have? Those with exit_overhead_ns come with `aggregate` only, which spares others. */
static bool is_wanted(const struct kvm_events *k, const char *event, bool aggregate)
{
	static const char *const aggregated[] = { "hypercall", "kvm_io", "kvm_mmio_access", "kvm_exited" };

	for (size_t i = 0; i < sizeof(aggregated) / sizeof(*aggregated); i++)
		if (!strcmp(event, aggregated[i]))
			return aggregate;
	if (!strcmp(event, "kvm_disk_issue"))
		return k->has_disks && !aggregate;
	if (!strcmp(event, "kvm_disk_complete"))
		return k->has_disks;
	return strcmp(event, HTRACE_STACK_EVENT) != 0;
}

static int declare(struct kvm_events *k, struct rodata *r, bool aggregate, char *err, size_t errlen)
{
	int ret = htrace_builder_new(&k->schema, NULL, 0);

	for (int i = 0; i < r->nr && ret >= 0; i++) {
		const char *event = rodata_event(r, i);
		struct rodata_event config = { 0 };

		if (!event || !is_wanted(k, event, aggregate))
			continue;
		ret = htrace_builder_btf_event(k->schema, r->btf, event, rodata_payload(r, i), err, errlen);
		config.id = (__u32)ret;
		if (ret >= 0)
			ret = rodata_set(r, i, &config, sizeof(config));
	}
	return ret < 0 ? ret : 0;
}

/*
 * Of a table that forgets the oldest, each CPU keeps some entries for itself (before Linux 6.16, so many whatever the
 * table's size): they are none for those that are to be remembered.
 */
#define KEPT_BY_CPU 128

static int size_bios(const struct kvm_events *k)
{
	struct bpf_map *bios = bpf_object__find_map_by_name(k->bpf.object, "kvm_bios");

	return bpf_map__set_max_entries(bios, bpf_map__max_entries(bios) + KEPT_BY_CPU * k->opts.nr_rings);
}

static int load(struct kvm_events *k, const struct kvm_events_config *config, char *err, size_t errlen)
{
	struct bpf_map *rings = bpf_object__find_map_by_name(k->bpf.object, "htrace_rings");
	__u32 vm = (__u32)config->pid;
	__u8 aggregate = config->aggregate;
	struct btf *kernel;
	struct rodata r;
	int ret;

	kernel = btf__load_vmlinux_btf();
	k->counts_misses = kernel && counts_misses(kernel, BPF_PROG_TYPE_TRACEPOINT);
	k->has_disks = has_disks(kernel);
	btf__free(kernel);
	ret = leave_out(k, err, errlen);
	if (ret)
		return ret;
	ret = rodata_of(&r, k->bpf.object);
	if (!ret)
		ret = rodata_set_rings(&r, &k->geometry, 1);
	if (!ret)
		ret = rodata_set_named(&r, "only_vm", &vm, sizeof(vm));
	if (!ret)
		ret = rodata_set_named(&r, "aggregate", &aggregate, sizeof(aggregate));
	if (!ret)
		ret = bpf_map__set_value_size(rings, (__u32)k->stride);
	if (!ret)
		ret = bpf_map__set_max_entries(rings, k->opts.nr_rings);
	if (!ret)
		ret = size_bios(k);
	if (ret)
		return failed("preparing the BPF programs", ret, err, errlen);
	ret = declare(k, &r, aggregate, err, errlen);
	if (!ret)
		ret = host_bpf_load(&k->bpf, NEED, err, errlen);
	k->rings_fd = ret ? -1 : bpf_map__fd(rings);
	return ret;
}

/* ------------------------------------------------------------------------------------ the region */

/* The rings' memory is the BPF map's, in the place of the file's. */
static int put_rings(const struct kvm_events *k, const void *at, int prot, char *err, size_t errlen)
{
	if (mmap((void *)(uintptr_t)at, k->stride * k->opts.nr_rings, prot, MAP_SHARED | MAP_FIXED,
		 k->rings_fd, 0) != MAP_FAILED)
		return 0;
	return failed("mapping the rings", -errno, err, errlen);
}

static int plan(struct kvm_events *k)
{
	int nr = libbpf_num_possible_cpus();
	__u64 ring = RING_SIZE;

	if (nr < 1 || nr > HTRACE_MAX_CPUS)
		return -E2BIG;
	while (ring > RING_LEAST && ring * (unsigned int)nr > RINGS_MAX)
		ring >>= 1;
	/*
	 * Overwrite: nobody has to tell the programs how far was read, and what is lost is the oldest, which
	 * the reader places and counts.
	 */
	k->opts = (struct htrace_region_opts){
		.sz = sizeof(k->opts), .placement = HTRACE_PLACEMENT_LOCAL, .policy = HTRACE_OVERWRITE,
		.kind = HTRACE_RING_PER_CPU, .nr_rings = (__u32)nr, .nr_cpus = (__u32)nr, .ring_size = ring,
		.clock_id = HTRACE_CLOCK_MONOTONIC,
	};
	k->size = HTRACE_REGION_MIN;
	while (htrace_region_fits(k->size, &k->opts) == -ENOSPC)
		k->size *= 2;
	k->stride = htrace_geometry_init(&k->geometry, ring, 0, HTRACE_OVERWRITE) ? 0 :
		htrace_image_size(&k->geometry, (size_t)sysconf(_SC_PAGESIZE));
	return k->stride ? 0 : -EINVAL;
}

static int make_region(struct kvm_events *k, char *err, size_t errlen)
{
	struct htrace_ringset set;
	const void *entries;
	size_t len;
	int ret;

	k->fd = memfd_create("htrace-kvm", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (k->fd < 0 || ftruncate(k->fd, (off_t)k->size) ||
	    fcntl(k->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW))
		return failed("making memory", -errno, err, errlen);
	k->mem = mmap(NULL, k->size, PROT_READ | PROT_WRITE, MAP_SHARED, k->fd, 0);
	if (k->mem == MAP_FAILED) {
		k->mem = NULL;
		return failed("mapping memory", -errno, err, errlen);
	}
	/* Once to learn where the rings are to be; then they get their numbers. */
	ret = htrace_region_format(&k->region, k->mem, k->size, &k->opts);
	if (ret)
		return failed("making a region", ret, err, errlen);
	set = htrace_region_super(k->region)->ringset[0];
	htrace_region_release(k->region);
	k->region = NULL;
	if (set.stride != k->stride)
		return failed("making rings", -EINVAL, err, errlen);
	ret = put_rings(k, (char *)k->mem + set.off, PROT_READ | PROT_WRITE, err, errlen);
	if (ret)
		return ret;
	ret = htrace_region_format(&k->region, k->mem, k->size, &k->opts);
	entries = htrace_builder_entries(k->schema, &len);
	if (!ret)
		ret = htrace_region_add_schema(k->region, entries, len);
	if (ret)
		return failed("making a region", ret, err, errlen);
	proc_names_update(k->region);
	htrace_region_publish(k->region);
	htrace_region_set_state(k->region, HTRACE_GUEST_RUNNING);
	return 0;
}

int kvm_events_open(struct kvm_events **out, const struct kvm_events_config *config, char *err, size_t errlen)
{
	struct kvm_events *k = calloc(1, sizeof(*k));
	int ret;

	*out = NULL;
	if (!k)
		return failed("", -ENOMEM, err, errlen);
	k->fd = k->rings_fd = -1;
	ret = plan(k);
	if (ret)
		failed("rings for this machine's CPUs", ret, err, errlen);
	if (!ret)
		ret = host_bpf_read(&k->bpf, "kvm_events", kvm_events_bpf_start, kvm_events_bpf_end, NEED, err,
				    errlen);
	if (!ret)
		ret = load(k, config, err, errlen);
	if (!ret)
		ret = make_region(k, err, errlen);
	if (ret)
		kvm_events_close(k);
	else
		*out = k;
	return ret;
}

int kvm_events_file(const struct kvm_events *k)
{
	int fd = fcntl(k->fd, F_DUPFD_CLOEXEC, 0);

	return fd < 0 ? -errno : fd;
}

const char *kvm_events_missing(const struct kvm_events *k)
{
	return k->missing;
}

int kvm_events_begin(struct kvm_events *k, struct htrace_view *v, char *err, size_t errlen)
{
	struct htrace_image first;
	int ret = htrace_view_ring(v, 0, 0, &first);

	if (ret)
		return failed("finding the rings", ret, err, errlen);
	ret = put_rings(k, first.ring, PROT_READ, err, errlen);
	return ret ? ret : host_bpf_attach(&k->bpf, NEED, err, errlen);
}

/* Of tasks that no event names, and those whose naming was lost. */
static void serve_names(struct kvm_events *k)
{
	__u64 wanted = __atomic_load_n(&htrace_region_host(k->region)->names_wanted, __ATOMIC_RELAXED);
	struct htrace_guest *g = htrace_region_guest(k->region);

	if (wanted == g->names_served)
		return;
	proc_names_update(k->region);
	__atomic_store_n(&g->names_served, wanted, __ATOMIC_RELEASE);
}

/* Calls that the kernel skipped. */
static void count(struct kvm_events *k)
{
	struct htrace_guest *g = htrace_region_guest(k->region);
	struct bpf_program *p;
	__u32 nr = 0;
	int i = 0;

	bpf_object__for_each_program(p, k->bpf.object) {
		struct bpf_prog_info info = { 0 };
		__u32 len = sizeof(info);
		int fd = k->bpf.program_fd[i++];

		if (fd < 0 || bpf_obj_get_info_by_fd(fd, &info, &len))
			continue;
		snprintf(g->prog[nr].name, sizeof(g->prog[nr].name), "%s", bpf_program__name(p));
		g->prog[nr].flags = k->counts_misses || bpf_program__type(p) == BPF_PROG_TYPE_TRACING ?
			HTRACE_PROG_MISSES_COUNTED : 0;
		g->prog[nr].misses = info.recursion_misses;
		g->prog[nr++].runs = info.run_cnt;
	}
	__atomic_store_n(&g->nr_progs, nr, __ATOMIC_RELEASE);
}

void kvm_events_account(struct kvm_events *k)
{
	serve_names(k);
	count(k);
}

void kvm_events_end(struct kvm_events *k)
{
	host_bpf_detach(&k->bpf);
}

void kvm_events_close(struct kvm_events *k)
{
	if (!k)
		return;
	host_bpf_close(&k->bpf);
	htrace_region_release(k->region);
	htrace_builder_free(k->schema);
	if (k->mem)
		munmap(k->mem, k->size);
	if (k->fd >= 0)
		close(k->fd);
	proc_names_free();
	free(k);
}

#else

int kvm_events_open(struct kvm_events **out, const struct kvm_events_config *config, char *err, size_t errlen)
{
	*out = NULL;
	snprintf(err, errlen, "this host-reader was built without BPF");
	return -EOPNOTSUPP;
}

int kvm_events_file(const struct kvm_events *k)
{
	return -EOPNOTSUPP;
}

const char *kvm_events_missing(const struct kvm_events *k)
{
	return "";
}

int kvm_events_begin(struct kvm_events *k, struct htrace_view *v, char *err, size_t errlen)
{
	return -EOPNOTSUPP;
}

void kvm_events_account(struct kvm_events *k)
{
}

void kvm_events_end(struct kvm_events *k)
{
}

void kvm_events_close(struct kvm_events *k)
{
}

#endif
