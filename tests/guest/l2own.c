/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "l2own.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include <htrace/clock.h>

#define BOOT_NS 1000000000ULL /* its CLOCK_MONOTONIC when its TSC was 0 */
#define FAST_PPM 40           /* as crystals are off */
#define SAMPLES_APART_US 3000 /* two of them tell how fast its clock goes */
#define LISTEN_US 2000         /* not more bells than that */
#define POINTS 32768           /* both clocks, of the whole run */
#define WOKEN (1 << 17)
#define PAGE 4096
#define MAILBOX_SLOT 2
#define APIC_SPURIOUS 0xf0
#define SETTLE_US 1300000
#define MSI_ADDRESS 0xfee00000U

static struct htrace_clock_sample point[POINTS];
static unsigned int nr_points;
/* A record and our CLOCK_MONOTONIC when we were woken for it, or for one before. */
static struct {
	__u64 at, ns;
	__u32 cpu;
} woken[WOKEN];
static unsigned int nr_woken;
static struct {
	const struct htrace_ring *ring;
	struct l2_cpu *cpu;
	__u64 told;
} heard[L2_MAX_CPUS];
static unsigned int nr_heard;
static pthread_t listener;
static bool over;

static void check(bool ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	exit(1);
}

__u64 l2own_tsc_offset(void)
{
	static __u64 offset;

	if (!offset)
		offset = -htrace_clock_tsc();
	return offset;
}

void l2own_clock(struct l2_cpu *c, unsigned int khz)
{
	c->tsc_at = 0;
	c->ns_at = BOOT_NS;
	c->mult = (__u64)(((unsigned __int128)(1000000 + FAST_PPM) << 32) / khz);
}

void l2own_apic(int vm)
{
	check(!ioctl(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
}

void l2own_mailbox(int vm, const char *path)
{
	struct kvm_userspace_memory_region slot = {
		.slot = MAILBOX_SLOT, .guest_phys_addr = L2_MAILBOX, .memory_size = PAGE,
	};
	int fd = open(path, O_RDWR | O_CLOEXEC);
	void *mem;

	check(fd >= 0, path);
	mem = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	check(mem != MAP_FAILED, path);
	slot.userspace_addr = (__u64)mem;
	check(!ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot), "giving the mailbox to the guest");
	close(fd);
}

void l2own_start(int vcpu)
{
	struct kvm_mp_state state = { .mp_state = KVM_MP_STATE_RUNNABLE }; /* not only the first */
	struct kvm_lapic_state apic;

	check(!ioctl(vcpu, KVM_SET_MP_STATE, &state), "KVM_SET_MP_STATE");
	check(!ioctl(vcpu, KVM_GET_LAPIC, &apic), "KVM_GET_LAPIC");
	memcpy(apic.regs + APIC_SPURIOUS, &(__u32){ 1 << 8 | 0xff }, 4); /* on, as the guest has it in a moment */
	check(!ioctl(vcpu, KVM_SET_LAPIC, &apic), "KVM_SET_LAPIC");
}

void l2own_settle(void)
{
	usleep(SETTLE_US);
}

bool l2own_interrupt(int vm, __u32 cpu)
{
	struct kvm_msi msi = { .address_lo = MSI_ADDRESS | cpu << 12, .data = L2_VECTOR };
	int ret = ioctl(vm, KVM_SIGNAL_MSI, &msi);

	check(ret >= 0, "KVM_SIGNAL_MSI");
	return ret > 0;
}

/* As it computes it. */
static __u64 clock_at(const struct l2_cpu *c, __u64 tsc)
{
	return c->ns_at + (__u64)((unsigned __int128)(tsc - c->tsc_at) * c->mult >> 32);
}

/* As its kernel would take one: it computes its clock from the TSC, so that one instant has both. */
static __u64 sample(struct htrace_region *r, const struct l2_cpu *c)
{
	struct htrace_guest *g = htrace_region_guest(r);
	struct htrace_clock_sample *s = &g->clock[g->clock_head % HTRACE_CLOCK_SAMPLES];
	__u64 tsc = htrace_clock_tsc() + l2own_tsc_offset();
	__u64 mono = clock_at(c, tsc);

	htrace_store(&s->tsc, tsc);
	htrace_store(&s->mono, mono);
	htrace_store(&s->real, 0);
	htrace_store(&s->width, 0);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	__atomic_store_n(&g->clock_head, g->clock_head + 1, __ATOMIC_RELEASE);
	return mono;
}

void l2own_region(void *mem, struct htrace_region *r, const struct l2_cpu *c)
{
	struct htrace_guest *g = htrace_region_guest(r);
	struct htrace_super *super = mem;

	check(getrandom(super->boot_id, sizeof(super->boot_id), 0) == sizeof(super->boot_id), "random bytes");
	super->clock_id = c->ticks ? HTRACE_CLOCK_TSC : HTRACE_CLOCK_MONOTONIC;
	/* The library takes none of our own clocks while another one is at it. */
	g->clock_lock = g->agent_ns << 32 | g->agent_pid;
	g->clock_head = 0;
	sample(r, c);
	usleep(SAMPLES_APART_US);
	sample(r, c);
}

static void listens(__u32 sync)
{
	for (unsigned int i = 0; i < __atomic_load_n(&nr_heard, __ATOMIC_ACQUIRE); i++)
		__atomic_store_n(&heard[i].cpu->listens, sync, __ATOMIC_SEQ_CST);
}

/* The next record is to ring. False: something came just now. */
static bool arm(unsigned int i)
{
	struct l2_cpu *c = heard[i].cpu;
	__u64 head = htrace_load(&heard[i].ring->head);

	htrace_store(&c->waits_at, head);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return htrace_load(&heard[i].ring->head) == head;
}

/* The time is read behind what it rang for: that is not earlier than what it wrote. */
static void note(void)
{
	for (unsigned int i = 0; i < nr_heard; i++) {
		__u64 at = htrace_load(&heard[i].cpu->rang);

		if (at == heard[i].told || nr_woken == WOKEN)
			continue;
		heard[i].told = woken[nr_woken].at = at;
		woken[nr_woken].ns = htrace_clock_monotonic();
		woken[nr_woken].cpu = heard[i].cpu->cpu;
		nr_woken++;
	}
}

static void *listen(void *arg)
{
	struct pollfd bell = { .fd = L2_BELL_FD, .events = POLLIN };
	__u64 bells;

	(void)arg;
	while (!__atomic_load_n(&over, __ATOMIC_ACQUIRE)) {
		bool quiet = true;

		listens(HTRACE_SYNC_RING);
		for (unsigned int i = 0; i < __atomic_load_n(&nr_heard, __ATOMIC_ACQUIRE); i++)
			quiet &= arm(i);
		if (quiet) {
			poll(&bell, 1, -1);
			listens(0);
			if (read(L2_BELL_FD, &bells, sizeof(bells)) == sizeof(bells))
				note();
		}
		usleep(LISTEN_US);
	}
	return NULL;
}

void l2own_listen(struct htrace_region *r, struct l2_cpu *c)
{
	struct htrace_geometry g;

	heard[nr_heard].ring = htrace_region_ring(r, 0, c->cpu, &g);
	heard[nr_heard].cpu = c;
	__atomic_store_n(&nr_heard, nr_heard + 1, __ATOMIC_RELEASE);
	if (nr_heard == 1)
		check(!pthread_create(&listener, NULL, listen, NULL), "pthread_create");
}

/* The narrowest of many: who is interrupted between the readings tries again. */
static void take_point(void)
{
	struct htrace_clock_sample s, *best = &point[nr_points];

	if (nr_points == POINTS)
		return;
	best->width = ~0ULL;
	for (int i = 0; i < 10; i++) {
		htrace_clock_take(&s);
		if (s.width < best->width)
			*best = s;
	}
	nr_points++;
}

/* Before the region goes. */
static void stop_listening(void)
{
	const __u64 one = 1;

	if (!nr_heard)
		return;
	__atomic_store_n(&over, true, __ATOMIC_RELEASE);
	check(write(L2_BELL_FD, &one, sizeof(one)) == sizeof(one), "waking the listener");
	check(!pthread_join(listener, NULL), "pthread_join");
}

void l2own_report(const struct l2_cpu *c)
{
	stop_listening();
	take_point();
	for (unsigned int i = 0; i < nr_points; i++) {
		__u64 tsc = point[i].tsc + l2own_tsc_offset();

		printf("l2own: %llu %llu %llu\n", (unsigned long long)(c->ticks ? tsc : clock_at(c, tsc)),
		       (unsigned long long)point[i].mono, (unsigned long long)point[i].width);
	}
	for (unsigned int i = 0; i < nr_woken; i++)
		printf("l2own: woken %u %llu %llu\n", woken[i].cpu, (unsigned long long)woken[i].at,
		       (unsigned long long)woken[i].ns);
}

void l2own_beat(struct htrace_region *r, const struct l2_cpu *c)
{
	struct htrace_guest *g = htrace_region_guest(r);

	take_point();
	g->heartbeat_mono = sample(r, c);
	__atomic_store_n(&g->heartbeat, g->heartbeat + 1, __ATOMIC_RELEASE);
}
