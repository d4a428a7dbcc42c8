/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A VMM for the small guest l2/l2.c, straight on /dev/kvm: its real exits are what a reader on this
 * machine may watch. The guest writes into a region in a file of ours, which is memory of it.
 *
 *	l2vmm [-w] [-b] [-p NS] [-s USEC] [-0] [-1] [-2] [-e SECONDS] [-o CLOCK [-i NS] [-m MAILBOX]] [-d DISK [-h SECTORS] [-t]] [-n BYTES]
 *	      [-l ROUNDS] REGION ROUNDS RECORDS PAUSE WORK...
 *
 * REGION is a file, or memory that this machine shares with its host, or guest RAM without any: see l2place_make().
 * One virtual CPU for each WORK: io, mmio, hlt, cpuid, vmcall, interrupt, busy, disk, read, mmioread, msr, timer,
 * answer, event or record. -w waits for a reader before the start, and at the end until it has read all; with guest
 * RAM, where no reader can say that it is there, for something on standard input, and at the end for three seconds. -p:
 * rounds begin so many ns after each other, if they can. -n: messages of event and record have so many bytes. -b: the guest
 * wakes the reader by a bell, see L2_PORT_BELL. -s: sleep in each I/O exit, as a VMM does that waits for a disk. -1: no
 * virtual CPU runs, this process writes the records by the same code. -0: for each record as much is stored elsewhere, and no record is made. -2: beside another VM, which does nothing. -e:
 * ROUNDS at least, and as many more as so many seconds last. -o: it is a machine of its own (l2own.h), whose records
 * have the times of its TSC (tsc) or CLOCK_MONOTONIC (mono). msr, timer and answer want that, hlt cannot have it. With
 * -b, too, its bells do not wake the reader, but l2own_listen(). -i: its timers and interrupts are so many ns apart,
 * and it halts meanwhile. -m: answer's mailbox, a file of a page. -d: disk's requests go to this block device, in their
 * exits, or (-t) by a thread; -h: so many sectors further on. -l: the first virtual CPU is alone for so many rounds.
 *
 * Prints for each virtual CPU what it did, what the VMM saw of it, and by how many ns its times may be off.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <htrace/producer.h>
#include <htrace/schema.h>

#include "l2/l2.h"
#include "l2disk.h"
#include "l2native.h"
#include "l2own.h"
#include "l2place.h"

#define BEAT_US 50000
#define LAST_BEATS 60 /* until a reader that says nothing has read the rest */
#define APART_NS 1000000ULL /* between two interrupts, of the VMM or a timer */
#define RATE_NS 100000000 /* at least, to measure how two clocks go */
#define MAX_CPUID 128
#define MAX_STAT_NAME 256
#define COUNT(a) (sizeof(a) / sizeof(*(a)))

extern const char l2_image[], l2_image_end[];

static const char *const works[] = {
	[L2_IO] = "io", [L2_MMIO_WRITE] = "mmio", [L2_HLT] = "hlt", [L2_CPUID] = "cpuid",
	[L2_VMCALL] = "vmcall", [L2_INTERRUPT] = "interrupt", [L2_BUSY] = "busy",
	[L2_USE_DISK] = "disk", [L2_READ] = "read",
	[L2_MMIO_READ] = "mmioread", [L2_MSR] = "msr", [L2_TIMER] = "timer",
	[L2_ANSWER] = "answer", [L2_EVENT] = "event", [L2_RECORD] = "record",
};

struct vcpu {
	struct l2_cpu *account; /* in the guest's memory */
	struct kvm_run *run;
	pthread_t thread;
	int fd;
	bool done, disk_done;
	__u32 asked; /* how often, by reads */
	unsigned long long io, mmio, hlt, windows, signals, injected, ns, run_delay, tid;
	unsigned long long exits; /* as KVM counts them */
	int khz; /* of its TSC */
};

/* What both clocks were. */
struct instant {
	__u64 tsc, ns;
	__u64 width; /* ticks that the reading took */
};

static struct vcpu vcpus[L2_MAX_CPUS];
static struct instant made, begun; /* the VM was, and its virtual CPUs' work */
static unsigned int nr_vcpus;
static char *ram;
static int kvm, vm;
static unsigned int io_sleep; /* us */
static __u64 apart = APART_NS;
static __u64 last_ns; /* rounds are to take, or 0 */
static __u64 least_rounds; /* and so many are to be made */
static __u64 first_rounds; /* of the first virtual CPU, before the others run */
static bool bell, own, native, plain;
static struct l2place place;
static const char *mailbox;

static void fail(const char *what)
{
	fprintf(stderr, "l2vmm: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void check(bool ok, const char *what)
{
	if (!ok)
		fail(what);
}

static __u64 monotonic(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (__u64)t.tv_sec * 1000000000ULL + (__u64)t.tv_nsec;
}

/* ------------------------------------------------------------------------------------ the region */

static __u32 declare(struct htrace_schema_builder *b, const char *name)
{
	__u32 u64 = (__u32)htrace_builder_int(b, NULL, 8, false, HTRACE_HINT_NONE);
	__u32 hex = (__u32)htrace_builder_int(b, NULL, 8, false, HTRACE_HINT_HEX);
	__u32 u32 = (__u32)htrace_builder_int(b, NULL, 4, false, HTRACE_HINT_NONE);
	const struct htrace_schema_member members[] = {
		{ .type = u64, .name = "seq" },
		{ .type = hex, .bit_off = 64, .name = "check" },
		{ .type = u32, .bit_off = 128, .name = "cpu" },
		{ .type = u32, .bit_off = 160, .name = "work" },
		{ .type = u64, .bit_off = 192, .name = "value" },
		{ .type = u64, .bit_off = 256, .name = "at" },
	};
	int type = htrace_builder_struct(b, name, false, sizeof(struct l2_record), members,
					 COUNT(members));
	int id = htrace_builder_event(b, name, type);

	check(id > 0, htrace_builder_error(b));
	return (__u32)id;
}

static struct htrace_region *make_region(const char *where, struct l2_cpu *orders)
{
	struct kvm_userspace_memory_region slot = { .slot = 1, .guest_phys_addr = L2_REGION };
	struct htrace_schema_builder *b;
	struct htrace_region *r;
	const void *entries;
	size_t len;

	l2place_make(&place, where, nr_vcpus, own);
	r = place.region;
	slot.userspace_addr = (__u64)place.mem;
	slot.memory_size = place.size;
	check(!ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot), "giving the region to the guest");
	check(!htrace_builder_new(&b, NULL, 0), "the schema's builder");
	orders->event = declare(b, "l2_record");
	orders->irq_event = declare(b, "l2_interrupt");
	orders->armed_event = declare(b, "l2_armed");
	orders->seen_event = declare(b, "l2_seen");
	entries = htrace_builder_entries(b, &len);
	check(!htrace_region_add_schema(r, entries, len), "the schema");
	htrace_builder_free(b);
	htrace_region_guest(r)->heartbeat_ms = BEAT_US / 1000;
	htrace_region_set_state(r, HTRACE_GUEST_RUNNING);
	return r;
}

/* For who writes records: the guest, or this process. */
static __u64 address(const void *at)
{
	return native ? (__u64)at : L2_REGION + (__u64)((const char *)at - place.mem);
}

/* ----------------------------------------------------------------------------- the virtual CPUs */

static void make_vm(void)
{
	static const __u64 gdt[] = { 0, 0x00209b0000000000, 0x0000930000000000 };
	struct kvm_userspace_memory_region slot = { .memory_size = L2_RAM_SIZE };
	__u64 *table;

	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	check(kvm >= 0, "/dev/kvm");
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	check(vm >= 0, "KVM_CREATE_VM");
	if (own)
		l2own_apic(vm);
	if (mailbox)
		l2own_mailbox(vm, mailbox);
	ram = mmap(NULL, L2_RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(ram != MAP_FAILED, "memory");
	slot.userspace_addr = (__u64)ram;
	check(!ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
	check(l2_image_end - l2_image <= L2_CODE_SIZE, "the image's size");
	memcpy(ram + L2_CODE, l2_image, (size_t)(l2_image_end - l2_image));
	memcpy(ram + L2_GDT, gdt, sizeof(gdt));
	/* 4 GiB one to one, in pages of 2 MiB: a first table, a second, four third ones. */
	table = (__u64 *)(ram + L2_PAGE_TABLES);
	table[0] = (L2_PAGE_TABLES + 0x1000) | 3;
	for (__u64 i = 0; i < 4; i++)
		table[512 + i] = (L2_PAGE_TABLES + 0x2000 + i * 0x1000) | 3;
	for (__u64 i = 0; i < 4 * 512; i++)
		table[1024 + i] = i << 21 | 0x83;
}

/* As QEMU's ivshmem-doorbell under KVM: the exit is handled in the kernel. */
static void make_bell(void)
{
	int fd = dup2(eventfd(0, EFD_NONBLOCK), L2_BELL_FD);
	struct kvm_ioeventfd e = {
		.addr = L2_PORT_BELL, .len = 1, .fd = fd, .flags = KVM_IOEVENTFD_FLAG_PIO,
	};

	check(fd >= 0 && !ioctl(vm, KVM_IOEVENTFD, &e), "KVM_IOEVENTFD");
}

static void set_registers(const struct vcpu *v, __u64 cpu)
{
	struct kvm_segment code = {
		.limit = 0xffffffff, .selector = L2_CS, .type = 11, .present = 1, .s = 1, .l = 1,
		.g = 1,
	};
	struct kvm_segment data = {
		.limit = 0xffffffff, .selector = L2_DS, .type = 3, .present = 1, .s = 1, .db = 1,
		.g = 1,
	};
	struct kvm_regs regs = {
		/* as if called: 8 off a multiple of 16 */
		.rip = L2_CODE, .rsp = L2_STACKS + (cpu + 1) * L2_STACK_SIZE - 8, .rflags = 2,
	};
	struct kvm_sregs s;

	check(!ioctl(v->fd, KVM_GET_SREGS, &s), "KVM_GET_SREGS");
	s.cs = code;
	s.ds = s.es = s.ss = s.fs = s.gs = data;
	s.gs.base = L2_CPUS + cpu * 0x1000;
	s.gdt.base = L2_GDT;
	s.gdt.limit = 23;
	s.cr3 = L2_PAGE_TABLES;
	s.cr4 |= 0x20;                  /* PAE */
	s.cr0 = 0x80010033;             /* PG, WP, NE, ET, MP, PE */
	s.efer = 0x500;                 /* LMA, LME */
	if (own)
		s.apic_base |= 0xc00;   /* x2APIC mode, on */
	check(!ioctl(v->fd, KVM_SET_SREGS, &s), "KVM_SET_SREGS");
	check(!ioctl(v->fd, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

/* What the virtual CPU may say that it can. */
static void set_cpuid(const struct vcpu *v)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + MAX_CPUID * sizeof(c->entries[0]));

	check(c, "memory");
	c->nent = MAX_CPUID;
	check(!ioctl(kvm, KVM_GET_SUPPORTED_CPUID, c), "KVM_GET_SUPPORTED_CPUID");
	for (__u32 i = 0; i < c->nent; i++)
		if (c->entries[i].function == 1 && own)
			c->entries[i].ecx |= 1 << 24; /* the local APIC's timer can wait for a time of the TSC */
	check(!ioctl(v->fd, KVM_SET_CPUID2, c), "KVM_SET_CPUID2");
	free(c);
}

/* Both clocks at one instant, but for half of `width` ns: who is interrupted between the readings tries again. */
static struct instant read_clocks(void)
{
	struct instant at = { 0 };
	__u64 least = ~0ULL;

	for (int i = 0; i < 50; i++) {
		__u64 before = __builtin_ia32_rdtsc(), now = monotonic(), took = __builtin_ia32_rdtsc() - before;

		if (took >= least)
			continue;
		least = took;
		at = (struct instant){ .tsc = before + took / 2, .ns = now, .width = took };
	}
	return at;
}

/* The guest's TSC is ours, so that it can tell our CLOCK_MONOTONIC by it; unless it is to have its own. */
static void set_tsc(struct vcpu *v, __u64 period_ns)
{
	__u64 offset = own ? l2own_tsc_offset() : 0;
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (__u64)&offset,
	};

	v->khz = ioctl(v->fd, KVM_GET_TSC_KHZ, 0);
	check(v->khz > 0, "KVM_GET_TSC_KHZ");
	check(!ioctl(v->fd, KVM_SET_DEVICE_ATTR, &attr), "KVM_VCPU_TSC_OFFSET");
	v->account->period = period_ns * (unsigned int)v->khz / 1000000;
	v->account->delay = apart * (unsigned int)v->khz / 1000000;
	if (own)
		l2own_clock(v->account, (unsigned int)v->khz);
}

/*
 * How CLOCK_MONOTONIC goes by the TSC, measured: KVM's kHz are those of when it was loaded, and the
 * kernel may have found out better ones since, by which its clock goes.
 */
static void set_clocks(void)
{
	struct instant now = read_clocks();
	__u64 mult;

	if (now.ns - made.ns < RATE_NS) {
		usleep((unsigned int)((RATE_NS - (now.ns - made.ns)) / 1000) + 1);
		now = read_clocks();
	}
	mult = (__u64)(((unsigned __int128)(now.ns - made.ns) << 32) / (now.tsc - made.tsc));
	for (unsigned int i = 0; i < nr_vcpus; i++) {
		struct l2_cpu *c = vcpus[i].account;

		c->tsc_at = now.tsc;
		c->ns_at = now.ns;
		c->mult = mult;
	}
	begun = now;
}

static __u64 to_ns(__u64 ticks)
{
	return (__u64)((unsigned __int128)ticks * vcpus[0].account->mult >> 32);
}

/* By how many ns the guest's times may be off, now that all of them are behind us. */
static __u64 clock_error(void)
{
	struct instant now = read_clocks();
	__u64 ns = begun.ns + to_ns(now.tsc - begun.tsc);

	return (ns > now.ns ? ns - now.ns : now.ns - ns) + to_ns(begun.width + now.width) / 2 + 1;
}

static bool is_intel(void)
{
	unsigned int a = 0, b, c = 0, d;

	__asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	return b == 0x756e6547; /* Genu */
}

static void make_vcpu(struct vcpu *v, __u64 cpu, const struct l2_cpu *orders, struct htrace_region *r)
{
	int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	struct l2_cpu *c = (void *)(ram + L2_CPUS + cpu * 0x1000);
	const struct htrace_host_ring *words;

	v->account = c;
	*c = *orders;
	c->self = L2_CPUS + cpu * 0x1000;
	c->cpu = (__u32)cpu;
	c->intel = is_intel();
	c->apic = own;
	words = htrace_region_host_ring(r, (__u32)cpu);
	c->ring = address(l2place_ring(&place, (unsigned int)cpu, &c->geometry));
	c->consumed = address(&words->consumed);
	if (plain) /* where nobody gets of its stack */
		c->plain = L2_STACKS + cpu * L2_STACK_SIZE + (native ? (__u64)ram : 0);
	if (own && place.device && !cpu) { /* the host of this machine cannot ask KVM for the guest's clock */
		c->ping = address(&htrace_region_host(r)->clock_ping);
		c->pong = address(&htrace_region_guest(r)->clock_pong);
		c->pong_tsc = address(&htrace_region_guest(r)->clock_tsc);
	}
	if (bell && own) { /* l2own_listen() does, and the reader does not */
		c->event_idx = c->self + offsetof(struct l2_cpu, waits_at);
		c->sync = c->self + offsetof(struct l2_cpu, listens);
	} else if (bell) {
		c->event_idx = address(&words->event_idx);
		c->sync = address(&htrace_region_host(r)->sync);
	}
	v->fd = ioctl(vm, KVM_CREATE_VCPU, cpu);
	check(v->fd >= 0, "KVM_CREATE_VCPU");
	v->run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	check(v->run != MAP_FAILED, "mapping the virtual CPU");
	set_cpuid(v);
	set_registers(v, cpu);
	set_tsc(v, orders->period);
	if (own)
		l2own_start(v->fd);
}

/* The number of exits that KVM counted, of which the VMM sees only some. */
static unsigned long long count_exits(const struct vcpu *v)
{
	_Alignas(8) char desc[sizeof(struct kvm_stats_desc) + MAX_STAT_NAME];
	const struct kvm_stats_desc *d = (const void *)desc;
	struct kvm_stats_header h;
	int fd = ioctl(v->fd, KVM_GET_STATS_FD, NULL);
	__u64 value = 0;
	off_t at;

	check(fd >= 0, "KVM_GET_STATS_FD");
	check(pread(fd, &h, sizeof(h), 0) == sizeof(h), "KVM's statistics");
	check(h.name_size <= MAX_STAT_NAME, "names of KVM's statistics");
	for (__u32 i = 0; i < h.num_desc; i++) {
		at = (off_t)(h.desc_offset + i * (sizeof(*d) + h.name_size));
		check(pread(fd, desc, sizeof(*d) + h.name_size, at) > 0, "KVM's statistics");
		if (!strncmp(desc + sizeof(*d), "exits", h.name_size))
			check(pread(fd, &value, sizeof(value), h.data_offset + d->offset) ==
				      sizeof(value), "KVM's statistics");
	}
	close(fd);
	return value;
}

static void on_tick(int sig)
{
	(void)sig; /* ends KVM_RUN, that is all */
}

static void start_ticks(void)
{
	struct sigevent ev = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1 };
	struct itimerspec each = { { 0, (long)apart }, { 0, (long)apart } };
	timer_t timer;

	ev._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	check(!timer_create(CLOCK_MONOTONIC, &ev, &timer), "timer_create");
	check(!timer_settime(timer, 0, &each, NULL), "timer_settime");
}

/* An interrupt goes in when the guest takes it; until then KVM is asked to tell us. */
static void inject(struct vcpu *v, bool *pending)
{
	struct kvm_interrupt irq = { .irq = L2_VECTOR };

	if (own) {
		/* One that was not taken yet would be one with this. */
		if (*pending && v->account->irqs == v->injected && l2own_interrupt(vm, v->account->cpu)) {
			v->injected++;
			*pending = false;
		}
		return;
	}
	if (*pending && v->run->ready_for_interrupt_injection) {
		check(!ioctl(v->fd, KVM_INTERRUPT, &irq), "KVM_INTERRUPT");
		v->injected++;
		*pending = false;
	}
	v->run->request_interrupt_window = *pending;
}

static void tell_fault(const struct l2_cpu *c)
{
	const struct l2_fault *f = &c->fault;

	fprintf(stderr, "l2vmm: cpu %u took exception %llu at %#llx, error %#llx, rsp %#llx, cr2 %#llx\n", c->cpu,
		f->vector, f->rip, f->error, f->rsp, f->cr2);
	exit(1);
}

/* By the disk's thread. Between its exit and the next KVM_RUN a virtual CPU would not notice the signal alone. */
static void disk_is_done(void *arg)
{
	struct vcpu *v = arg;

	__atomic_store_n(&v->disk_done, true, __ATOMIC_RELEASE);
	__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_RELEASE);
	pthread_kill(v->thread, SIGUSR1);
}

/* Was the virtual CPU interrupted because an interrupt of its own is due? */
static bool is_due(struct vcpu *v)
{
	v->signals++;
	__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_RELEASE);
	return v->account->work != L2_USE_DISK || __atomic_exchange_n(&v->disk_done, false, __ATOMIC_ACQUIRE);
}

static void answer(struct vcpu *v, void *to)
{
	memcpy(to, &v->asked, sizeof(v->asked));
	v->asked++;
}

/* False: the guest is done. */
static bool handle(struct vcpu *v, bool *pending)
{
	switch (v->run->exit_reason) {
	case KVM_EXIT_IO:
		if (v->run->io.port == L2_PORT_FAULT)
			tell_fault(v->account);
		v->io++;
		if (io_sleep)
			usleep(io_sleep);
		if (v->run->io.port == L2_PORT_DISK)
			*pending |= l2disk_kick(v->account, ram, disk_is_done, v);
		if (v->run->io.direction == KVM_EXIT_IO_IN)
			answer(v, (char *)v->run + v->run->io.data_offset);
		return v->run->io.port != L2_PORT_DONE;
	case KVM_EXIT_MMIO:
		v->mmio++;
		if (!v->run->mmio.is_write)
			answer(v, v->run->mmio.data);
		return true;
	case KVM_EXIT_HLT:
		v->hlt++;
		*pending = true;
		return true;
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		v->windows++;
		return true;
	}
	fprintf(stderr, "l2vmm: unexpected exit %u, suberror %u\n", v->run->exit_reason,
		v->run->internal.suberror);
	exit(1);
}

/* What this thread waited for a CPU, by the scheduler's own account. */
static __u64 run_delay(void)
{
	FILE *f = fopen("/proc/thread-self/schedstat", "re");
	unsigned long long ran, delay = 0;

	if (f && fscanf(f, "%llu %llu", &ran, &delay) != 2)
		delay = 0;
	if (f)
		fclose(f);
	return delay;
}

/* Not a virtual CPU, but what it would do. */
static void *run_native(void *arg)
{
	struct vcpu *v = arg;
	__u64 start = monotonic();

	l2native_run(v->account);
	v->ns = monotonic() - start;
	__atomic_store_n(&v->done, true, __ATOMIC_RELEASE);
	return NULL;
}

static void *run_vcpu(void *arg)
{
	bool pending = false, more = true;
	struct vcpu *v = arg;
	char name[16];
	__u64 start;

	snprintf(name, sizeof(name), "vcpu%u", v->account->cpu);
	pthread_setname_np(pthread_self(), name); /* for who moves it to another CPU */
	if (v->account->work == L2_INTERRUPT)
		start_ticks();
	v->tid = (unsigned long long)syscall(SYS_gettid);
	start = monotonic();
	while (more) {
		inject(v, &pending);
		if (!ioctl(v->fd, KVM_RUN, 0)) {
			more = handle(v, &pending);
			continue;
		}
		check(errno == EINTR || errno == EAGAIN, "KVM_RUN");
		pending |= is_due(v);
	}
	v->ns = monotonic() - start;
	v->exits = count_exits(v);
	v->run_delay = run_delay();
	__atomic_store_n(&v->done, true, __ATOMIC_RELEASE);
	return NULL;
}

/* ------------------------------------------------------------------------------------- the whole */

static bool all_done(void *arg)
{
	static __u64 since;

	(void)arg;
	if (!since)
		since = monotonic();
	if (last_ns && monotonic() - since > last_ns)
		for (unsigned int i = 0; i < nr_vcpus; i++)
			__atomic_store_n(&vcpus[i].account->rounds, least_rounds, __ATOMIC_RELAXED);
	for (unsigned int i = 0; i < nr_vcpus; i++)
		if (!__atomic_load_n(&vcpus[i].done, __ATOMIC_ACQUIRE))
			return false;
	return true;
}

static bool is_read(void *arg)
{
	const struct htrace_host *h = htrace_region_host(arg);
	struct pollfd in = { .events = POLLIN };

	if (place.ram)
		return poll(&in, 1, 0) > 0;
	return __atomic_load_n(&h->state, __ATOMIC_ACQUIRE) == HTRACE_HOST_ATTACHED &&
	       h->session == htrace_region_super(arg)->session;
}

static bool is_drained(void *arg)
{
	static unsigned int beats;

	if (place.ram)
		return ++beats > LAST_BEATS;
	return htrace_region_host(arg)->drained == htrace_region_super(arg)->session;
}

static void beat_until(struct htrace_region *r, bool (*is_so)(void *))
{
	while (!is_so(r)) {
		if (own)
			l2own_beat(r, vcpus[0].account);
		else
			htrace_region_beat(r, 0);
		usleep(BEAT_US);
	}
}

/* About so many ns a record took in the median round. */
static unsigned long long median_cost(const struct vcpu *v)
{
	const struct l2_cpu *c = v->account;
	__u32 bucket = 0, octave;
	__u64 rounds = 0, all = 0, ticks;

	for (__u32 i = 0; i < L2_BUCKETS; i++)
		all += c->took[i];
	while (bucket < L2_BUCKETS - 1 && rounds + c->took[bucket] <= all / 2)
		rounds += c->took[bucket++];
	octave = bucket / 8;
	ticks = octave ? (8ULL + bucket % 8) << (octave - 1) : bucket; /* l2_bucket()'s inverse */
	return ticks * 1000000 / (unsigned int)v->khz;
}

static void report(const struct vcpu *v, __u64 error)
{
	const struct l2_cpu *c = v->account;

	printf("l2vmm: cpu %u %s records %llu irq_records %llu made %llu irqs %llu waited %llu "
	       "io %llu mmio %llu hlt %llu windows %llu signals %llu injected %llu exits %llu ns %llu cost %llu "
	       "run_delay %llu tid %llu khz %d clock %llu armed %llu halts %llu msrs %llu refused %llu wrong %llu "
	       "bells %llu seen %llu events %llu\n",
	       c->cpu, works[c->work], c->seq, c->irq_seq, c->made, c->irqs, c->waited, v->io, v->mmio,
	       v->hlt, v->windows, v->signals, v->injected, v->exits, v->ns, median_cost(v), v->run_delay,
	       v->tid, v->khz, (unsigned long long)error, c->armed, c->halts, c->msrs + c->eois, c->refused, c->wrong,
	       c->bells, c->seen, c->events);
}

static __u32 work_named(const char *name)
{
	for (__u32 i = 0; i < COUNT(works); i++)
		if (!strcmp(name, works[i]))
			return i;
	fprintf(stderr, "l2vmm: unknown work '%s'\n", name);
	exit(2);
}

static bool are_others_due(void *arg)
{
	(void)arg;
	return __atomic_load_n(&vcpus[0].account->made, __ATOMIC_ACQUIRE) >= first_rounds;
}

static void run_all(struct htrace_region *r)
{
	for (unsigned int i = 0; i < nr_vcpus; i++) {
		if (i)
			beat_until(r, are_others_due);
		if (bell && own)
			l2own_listen(r, vcpus[i].account);
		check(!pthread_create(&vcpus[i].thread, NULL, native ? run_native : run_vcpu, &vcpus[i]), "pthread_create");
	}
	beat_until(r, all_done);
	for (unsigned int i = 0; i < nr_vcpus; i++)
		pthread_join(vcpus[i].thread, NULL);
}

int main(int argc, char **argv)
{
	struct sigaction tick = { .sa_handler = on_tick };
	bool wait_reader = false, two = false, beside = false;
	const char *disk = NULL;
	__u64 shift = 0;
	struct l2_cpu orders = { 0 };
	struct htrace_region *r;
	__u64 error = 0;
	int c;

	while ((c = getopt(argc, argv, "wbp:s:e:012o:i:m:d:h:tn:l:")) != -1) {
		wait_reader |= c == 'w';
		bell = bell || c == 'b';
		if (c == 'p')
			orders.period = strtoull(optarg, NULL, 0);
		if (c == 's')
			io_sleep = (unsigned int)strtoul(optarg, NULL, 0);
		if (c == 'e')
			last_ns = strtoull(optarg, NULL, 0) * 1000000000ULL;
		native |= c == '1';
		plain |= c == '0';
		two = two || c == '2';
		if (c == 'd')
			disk = optarg;
		if (c == 'h')
			shift = strtoull(optarg, NULL, 0);
		beside |= c == 't';
		own |= c == 'o';
		orders.ticks |= c == 'o' && !strcmp(optarg, "tsc");
		if (c == 'i')
			apart = strtoull(optarg, NULL, 0);
		orders.halts_for_irq |= c == 'i';
		if (c == 'm')
			mailbox = optarg;
		if (c == 'n')
			orders.bytes = (__u32)strtoul(optarg, NULL, 0);
		if (c == 'l')
			first_rounds = strtoull(optarg, NULL, 0);
		if (c == '?')
			return 2;
	}
	argv += optind;
	argc -= optind;
	if (orders.bytes % 8 || orders.bytes > L2_MESSAGE_MOST)
		return 2;
	if (argc < 5 || argc > 4 + L2_MAX_CPUS) {
		fprintf(stderr, "l2vmm: see the head of its source for how to call it\n");
		return 2;
	}
	nr_vcpus = (unsigned int)argc - 4;
	sigaction(SIGUSR1, &tick, NULL);
	make_vm();
	made = read_clocks();
	if (bell)
		make_bell();
	check(!two || ioctl(kvm, KVM_CREATE_VM, 0) >= 0, "another VM");
	r = make_region(argv[0], &orders);
	check(!own || !(place.ram || native), "-o of a region in guest RAM, or with -1");
	if (disk) {
		l2disk_open(disk, shift, beside);
		l2disk_declare(r, &orders.disk);
	}
	least_rounds = strtoull(argv[1], NULL, 0);
	orders.rounds = last_ns ? ~0ULL : least_rounds;
	orders.records = (__u32)strtoul(argv[2], NULL, 0);
	orders.pause = (__u32)strtoul(argv[3], NULL, 0);
	for (unsigned int i = 0; i < nr_vcpus; i++) {
		orders.work = work_named(argv[4 + i]);
		make_vcpu(&vcpus[i], i, &orders, r);
	}
	if (own) {
		l2own_settle();
		l2own_region(place.mem, r, vcpus[0].account);
		if (vcpus[0].account->pong) /* from here on it is known that somebody answers */
			htrace_region_guest(r)->clock_pong = 1;
	} else {
		htrace_region_beat(r, 0);
	}
	htrace_region_publish(r);
	l2place_light(&place);
	if (wait_reader)
		beat_until(r, is_read);
	if (!own)
		set_clocks();
	run_all(r);
	if (!own)
		error = clock_error();
	for (unsigned int i = 0; i < nr_vcpus; i++)
		report(&vcpus[i], error);
	if (own)
		l2own_report(vcpus[0].account);
	fflush(stdout);
	htrace_region_set_state(r, HTRACE_GUEST_CLOSING);
	if (wait_reader)
		beat_until(r, is_drained);
	l2place_retire(&place);
	return 0;
}
