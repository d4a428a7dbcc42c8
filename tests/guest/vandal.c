/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a guest whose agent was replaced can do to its reader: writes over every byte that it shares with the
 * host, the device's and those of the rings in its memory, with words that readers dislike; what its agent had
 * made is put back again and again, so that there is something to read. tests/system/test_vandal.py
 *
 *	vandal SECONDS SEED RESOURCE2 PINNED-MAP
 */
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <htrace/abi.h>

#define MS 1000000ULL

struct memory {
	volatile __u64 *at;
	size_t words;
	__u64 *good; /* as the agent left it */
};

static __u64 state;

static __u64 random_word(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static __u64 now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (__u64)t.tv_sec * 1000 * MS + (__u64)t.tv_nsec;
}

static void need(int ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	exit(1);
}

static void take(struct memory *m, int fd, size_t size, size_t kept)
{
	void *mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	need(mem != MAP_FAILED, "mmap");
	m->at = mem;
	m->words = size / 8;
	m->good = malloc(kept);
	need(m->good != NULL, "malloc");
	for (size_t i = 0; i < kept / 8; i++)
		m->good[i] = m->at[i];
}

static void take_device(struct memory *m, const char *path, size_t *kept)
{
	int fd = open(path, O_RDWR | O_SYNC);
	struct stat st;

	need(fd >= 0 && !fstat(fd, &st), path);
	*kept = 2u << 20; /* what it holds but rings: words of a device are read one by one */
	if (*kept > (size_t)st.st_size)
		*kept = (size_t)st.st_size;
	take(m, fd, (size_t)st.st_size, *kept);
}

static void take_rings(struct memory *m, const char *path)
{
	union bpf_attr attr = { .pathname = (__u64)(unsigned long)path };
	struct bpf_map_info info = { 0 };
	int fd = (int)syscall(SYS_bpf, BPF_OBJ_GET, &attr, sizeof(attr));
	size_t size;

	need(fd >= 0, path);
	attr = (union bpf_attr){ .info = { .bpf_fd = (__u32)fd, .info_len = sizeof(info),
					   .info = (__u64)(unsigned long)&info } };
	need(!syscall(SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof(attr)), "map");
	size = (size_t)info.value_size * info.max_entries;
	take(m, fd, size, size);
}

static void put_back(struct memory *m, size_t from, size_t bytes)
{
	for (size_t i = from / 8; i < (from + bytes) / 8; i++)
		m->at[i] = m->good[i];
}

static __u64 odd_word(void)
{
	static const __u64 odd[] = {
		0, 1, 2, 7, ~0ULL, 1ULL << 63, 1ULL << 62, 1ULL << 32, 0xffffffff, 0xffff, 60000, HTRACE_MAGIC,
		0x1b5b324a1b5b3148 /* ESC[2J ESC[1H */, 0x2f2e2e2f2e2e2f2e /* ./../../ */, 0x0a0d9b07,
	};

	return random_word() % 4 ? odd[random_word() % (sizeof(odd) / sizeof(*odd))] : random_word();
}

/* A little wrong is believed for longer than all wrong. */
static void scribble(const struct memory *m, size_t from, size_t bytes)
{
	volatile __u64 *w = &m->at[(from + random_word() % bytes) / 8];

	switch (random_word() % 4) {
	case 0:
		*w ^= 1ULL << random_word() % 64;
		break;
	case 1:
		*w += (random_word() % 64 - 32) * 8;
		break;
	case 2:
		*w += 1ULL << random_word() % 44;
		break;
	default:
		*w = odd_word();
	}
}

static void fill(const struct memory *m, size_t from, size_t bytes)
{
	for (size_t i = from / 8; i < (from + bytes) / 8; i++)
		m->at[i] = odd_word();
}

/* All but the host's part, which only the host need believe. */
static void mend(struct memory *device, size_t kept, struct memory *rings)
{
	struct htrace_super *super = (void *)device->good;

	put_back(device, HTRACE_FIXED_END, kept - HTRACE_FIXED_END);
	put_back(rings, 0, rings->words * 8);
	if (random_word() % 2)
		super->session = random_word() | 1;
	device->at[0] = 0; /* its magic */
	put_back(device, 8, HTRACE_HOST_OFF - 8);
	device->at[0] = device->good[0];
}

/* What is read of a session that goes on. */
static void scribble_session(const struct memory *device, const struct memory *rings, const struct htrace_super *s)
{
	scribble(device, s->guest.off, sizeof(struct htrace_guest));
	scribble(device, s->schema.off, 4096);
	scribble(device, s->names.off, 4096);
	scribble(rings, 0, rings->words * 8);
	scribble(rings, 0, 4096); /* the first one's header, */
	scribble(rings, s->ringset[0].desc_off, 4096); /* and blocks */
}

/* What a session is known by: a reader that does not believe it any more gives the region up. */
static void scribble_all(const struct memory *device, const struct memory *rings, const struct htrace_super *s,
			 size_t kept)
{
	scribble(device, 0, kept); /* the host's part, too */
	scribble(device, 0, sizeof(*s));
	scribble(device, s->runs.off, 4096);
	scribble_session(device, rings, s);
}

int main(int argc, char **argv)
{
	__u64 start = now(), mended = 0, filled = start, t, nr = 0, fills = 0, length;
	struct memory device, rings;
	const struct htrace_super *super;
	struct htrace_guest *guest;
	size_t kept;

	need(argc == 5, "vandal SECONDS SEED RESOURCE2 PINNED-MAP: arguments");
	length = (__u64)(atof(argv[1]) * 1e9);
	state = strtoull(argv[2], NULL, 10) * 0x9e3779b97f4a7c15ULL + 1;
	take_device(&device, argv[3], &kept);
	take_rings(&rings, argv[4]);
	super = (const void *)device.good;
	need(super->magic == HTRACE_MAGIC, "no region there: magic");
	guest = (void *)((char *)device.at + super->guest.off);
	for (t = start; t < start + length; t = now()) {
		bool deep = t - start < length / 5 * 4;

		if (t >= mended) {
			mend(&device, kept, &rings);
			mended = t + 100 * MS;
		}
		guest->heartbeat++;
		for (int i = 0; i < 4; i++, nr++) {
			if (deep)
				scribble_session(&device, &rings, super);
			else
				scribble_all(&device, &rings, super, kept);
		}
		if (t - filled > 1500 * MS) {
			fill(&rings, 0, rings.words * 8);
			fill(&device, super->schema.off, super->schema.len);
			filled = t;
		}
		usleep(500);
	}
	for (; fills < 3; fills++) {
		fill(&device, 0, device.words * 8);
		fill(&rings, 0, rings.words * 8);
	}
	printf("vandal: %llu rounds, then every byte of %zu KiB and of %zu KiB, %llu times\n",
	       (unsigned long long)nr, device.words / 128, rings.words / 128, (unsigned long long)fills);
	return 0;
}
