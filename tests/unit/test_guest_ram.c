/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What of a process counts as guest RAM, that nothing else of it is read, and what counts as a beacon. */
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core.h"
#include "guest_ram.h"
#include "unit.h"
#include "vm_process.h"

#define MIB (1u << 20)
#define RAM (8 * MIB)

static bool vm = true;
static char err[512];

bool __wrap_vm_process_is(int pid);

bool __wrap_vm_process_is(int pid)
{
	return vm;
}

/* What a child has, mapped where its parent knows it. */
static struct {
	char *private, *file, *heap, *reserve, *small, *hole;
	int fd;
} has;

static char *map(size_t len, int flags, int fd)
{
	char *at = mmap(NULL, len, PROT_READ | PROT_WRITE, flags, fd, 0);

	ck_assert_ptr_ne(at, MAP_FAILED);
	return at;
}

/* Mappings apart from each other, so that none is joined to the next. */
static char *map_apart(size_t len, int flags)
{
	char *room = mmap(NULL, len + 2 * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *at = room + MIB;

	ck_assert_ptr_ne(room, MAP_FAILED);
	ck_assert_ptr_eq(mmap(at, len, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0), at);
	return at;
}

/* The child gives its RAM back, and has other things there. */
static void swap(int number)
{
	munmap(has.private, RAM);
	mmap(has.private, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	memcpy(has.private + 5 * 4096, "a secret", 8);
	has.private[0] = 1; /* last: its parent waits for it */
}

static pid_t start_child(void)
{
	int ready[2];
	pid_t pid;
	char c;

	has.fd = memfd_create("ram", MFD_CLOEXEC);
	ck_assert_int_eq(ftruncate(has.fd, RAM), 0);
	has.file = map(RAM, MAP_SHARED, has.fd);
	memcpy(has.file + RAM - 8, "in a fil", 8);
	has.heap = map_apart(RAM, 0);
	memcpy(has.heap, "a secret", 8);
	has.reserve = map_apart(96 * MIB, MAP_NORESERVE);
	has.small = map_apart(64 * MIB, MAP_NORESERVE); /* as an arena of malloc()'s */
	has.private = map_apart(RAM, 0);
	ck_assert_int_eq(pipe(ready), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (!pid) {
		/* not before: the child would not have it */
		madvise(has.private, RAM, MADV_DONTFORK);
		memcpy(has.private + 5 * 4096, "in there", 8);
		signal(SIGUSR1, swap);
		if (write(ready[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	ck_assert_int_eq(read(ready[0], &c, 1), 1);
	close(ready[0]);
	close(ready[1]);
	return pid;
}

static void end_child(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	close(has.fd);
}

static int part_at(const struct guest_ram *r, const void *start)
{
	for (unsigned int i = 0; i < guest_ram_nr(r); i++)
		if (guest_ram_part(r, i)->start == (uintptr_t)start)
			return (int)i;
	return -1;
}

START_TEST(test_parts)
{
	pid_t pid = start_child();
	struct guest_ram *r;
	int i, file;

	ck_assert_msg(!guest_ram_open(&r, pid, err, sizeof(err)), "%s", err);
	i = part_at(r, has.private);
	file = part_at(r, has.file);
	ck_assert_int_ge(i, 0);
	ck_assert_int_ge(file, 0);
	ck_assert_int_ge(part_at(r, has.reserve), 0);
	ck_assert_int_eq(part_at(r, has.heap), -1);
	ck_assert_int_eq(part_at(r, has.small), -1);
	ck_assert_uint_eq(guest_ram_part(r, (unsigned int)i)->len, RAM);
	ck_assert_int_eq(guest_ram_part(r, (unsigned int)i)->file, -1);
	ck_assert_int_ge(guest_ram_part(r, (unsigned int)file)->file, 0);
	guest_ram_close(r);
	end_child(pid);
}
END_TEST

START_TEST(test_bounds)
{
	pid_t pid = start_child();
	bool present[16] = { false };
	struct guest_ram *r;
	unsigned int i;
	char text[16];

	ck_assert_msg(!guest_ram_open(&r, pid, err, sizeof(err)), "%s", err);
	i = (unsigned int)part_at(r, has.private);
	ck_assert_int_eq(guest_ram_read(r, i, 5 * 4096, text, 8), 0);
	ck_assert_mem_eq(text, "in there", 8);
	ck_assert_int_eq(guest_ram_read(r, (unsigned int)part_at(r, has.file), RAM - 8, text, 8), 0);
	ck_assert_mem_eq(text, "in a fil", 8);
	memcpy(text, "untouched", 10);
	ck_assert_int_eq(guest_ram_read(r, i, RAM, text, 1), -ERANGE);
	ck_assert_int_eq(guest_ram_read(r, i, RAM - 4, text, 8), -ERANGE);
	ck_assert_int_eq(guest_ram_read(r, i, ~0ULL - 3, text, 8), -ERANGE);
	ck_assert_int_eq(guest_ram_read(r, i, 8, text, ~(size_t)0), -ERANGE);
	/* another mapping's place, reckoned from this one's */
	ck_assert_int_eq(guest_ram_read(r, i, (__u64)(has.heap - has.private), text, 8), -ERANGE);
	ck_assert_int_eq(guest_ram_read(r, guest_ram_nr(r), 0, text, 8), -ERANGE);
	ck_assert_str_eq(text, "untouched");
	ck_assert_int_eq(guest_ram_present(r, i, 0, present, 16), 0);
	for (int k = 0; k < 16; k++)
		ck_assert_int_eq(present[k], k == 5);
	ck_assert_int_eq(guest_ram_present(r, i, RAM / 4096 - 8, present, 16), -ERANGE);
	end_child(pid);
	ck_assert_int_eq(guest_ram_read(r, i, 5 * 4096, text, 8), -ESRCH);
	ck_assert_int_eq(guest_ram_look(r), -ESRCH);
	guest_ram_close(r);
}
END_TEST

/* What was guest RAM, and is no more, is not read once that was seen; the others keep their numbers. */
START_TEST(test_swapped)
{
	pid_t pid = start_child();
	struct guest_ram *r;
	unsigned int i, file;
	char text[16] = "";

	ck_assert_msg(!guest_ram_open(&r, pid, err, sizeof(err)), "%s", err);
	i = (unsigned int)part_at(r, has.private);
	file = (unsigned int)part_at(r, has.file);
	kill(pid, SIGUSR1);
	for (int k = 0; k < 1000 && !*text; k++) {
		usleep(1000);
		ck_assert_int_eq(guest_ram_read(r, i, 0, text, 1), 0);
	}
	ck_assert_int_gt(guest_ram_look(r), 0);
	ck_assert_uint_eq(guest_ram_part(r, i)->len, 0);
	ck_assert_int_eq(guest_ram_read(r, i, 5 * 4096, text, 8), -ERANGE);
	ck_assert_int_eq(part_at(r, has.file), (int)file);
	ck_assert_int_eq(guest_ram_read(r, file, RAM - 8, text, 8), 0);
	guest_ram_close(r);
	end_child(pid);
}
END_TEST

START_TEST(test_refusals)
{
	struct guest_ram *r;
	pid_t pid = start_child();

	vm = false;
	ck_assert_int_eq(guest_ram_open(&r, pid, err, sizeof(err)), -EINVAL);
	ck_assert_ptr_nonnull(strstr(err, "no virtual machine's"));
	vm = true;
	end_child(pid);
	ck_assert_int_eq(guest_ram_open(&r, pid, err, sizeof(err)), -ESRCH);
	ck_assert_ptr_nonnull(strstr(err, "there is no process"));
}
END_TEST

START_TEST(test_who)
{
	ck_assert(vm_process_is_qemu("qemu-system-x86_64"));
	ck_assert(vm_process_is_qemu("qemu-kvm"));
	ck_assert(!vm_process_is_qemu("qemu-img"));
	ck_assert(!vm_process_has_kvm(getpid(), NULL));
}
END_TEST

/* ------------------------------------------------------------------------------------------- beacons */

/* Any bit of it that is another makes it none. */
START_TEST(test_beacon)
{
	size_t len = htrace_beacon_len(HTRACE_BEACON_REGION);
	char *mem = map(HTRACE_BEACON_REGION + len, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1);
	struct htrace_beacon *b = (void *)(mem + HTRACE_BEACON_REGION), copy;
	int ret;

	memset(mem, 1, HTRACE_BEACON_REGION + len);
	ck_assert_int_eq(htrace_beacon_light(b, mem, HTRACE_BEACON_REGION + 1), -EINVAL);
	ck_assert_int_eq(htrace_beacon_light(b, mem, 1ULL << 40), -EINVAL);
	ret = htrace_beacon_light(b, mem, HTRACE_BEACON_REGION);
	if (ret == -EPERM) /* frame numbers are hidden from us */
		return;
	ck_assert_int_eq(ret, 0);
	ck_assert(htrace_beacon_valid(b));
	ck_assert_uint_eq(b->session, 0x0101010101010101ULL);
	for (size_t bit = 0; bit < sizeof(copy) * 8; bit++) {
		copy = *b;
		((unsigned char *)&copy)[bit / 8] ^= (unsigned char)(1 << bit % 8);
		ck_assert_msg(!htrace_beacon_valid(&copy), "bit %zu", bit);
	}
	htrace_beacon_clear(b);
	ck_assert(!htrace_beacon_valid(b));
	munmap(mem, HTRACE_BEACON_REGION + len);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("guest_ram");
	TCase *t = tcase_create("guest_ram");

	tcase_add_test(t, test_parts);
	tcase_add_test(t, test_bounds);
	tcase_add_test(t, test_swapped);
	tcase_add_test(t, test_refusals);
	tcase_add_test(t, test_who);
	tcase_add_test(t, test_beacon);
	suite_add_tcase(suite, t);
	return unit_run(suite);
}
