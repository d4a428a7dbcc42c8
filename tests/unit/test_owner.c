/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whose a ring is: taking, giving back, fork, death, closing, retiring, taking over. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <htrace/consumer.h>
#include <htrace/producer.h>

#include "core.h"
#include "unit.h"

#define SIZE (1 << 20)
#define RINGS 3
#define ID 5

static struct htrace_region_opts opts = {
	.sz = sizeof(opts), .placement = HTRACE_PLACEMENT_LOCAL, .policy = HTRACE_OVERWRITE,
	.kind = HTRACE_RING_PER_THREAD, .nr_rings = RINGS, .ring_size = 8192, .block_size = 1024,
};

static struct htrace_region *region;
static struct htrace_view *v;
static struct htrace_image img;

static void open_all(enum htrace_policy policy)
{
	char err[200];
	int fd;

	opts.policy = policy;
	ck_assert_int_eq(htrace_region_create_local(&region, NULL, SIZE, &opts, &fd), 0);
	htrace_region_publish(region);
	ck_assert_int_eq(htrace_view_open_fd(&v, fd, true, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_ring(v, 0, 0, &img), 0);
	close(fd);
}

static void close_all(void)
{
	htrace_view_close(v);
	htrace_region_release(region);
}

static struct htrace_ring *ring(__u32 i)
{
	return htrace_region_ring(region, 0, i, NULL);
}

static struct htrace_owner look(void)
{
	struct htrace_owner o = { .sz = sizeof(o) };

	v->judged_at = 0; /* no verdict of before */
	ck_assert_int_eq(htrace_view_owner(v, &img, &o), 0);
	return o;
}

static void reap_child(pid_t pid, int how)
{
	int status;

	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, how);
}

/* A process takes ring 0, records @nr events, and dies. */
static pid_t leave_dead(int nr)
{
	struct htrace_producer p;
	pid_t pid = fork();

	if (!pid) {
		if (htrace_producer_get(&p, region, 0, 0))
			_exit(1);
		for (__u64 i = 0; i < (__u64)nr; i++)
			htrace_push(&p, ID, &i, sizeof(i));
		raise(SIGKILL);
	}
	ck_assert_int_gt(pid, 0);
	reap_child(pid, SIGKILL);
	return pid;
}

/* Each word says what it should, from free over taken to free; positions go on. */
START_TEST(test_give_back)
{
	struct htrace_producer p;
	struct htrace_owner o;
	__u64 head, word = 1;

	open_all(HTRACE_OVERWRITE);
	ck_assert_uint_eq(look().state, HTRACE_OWNER_NONE);
	ck_assert_int_eq(htrace_producer_get(&p, region, 0, 0), 0);
	o = look();
	ck_assert_uint_eq(o.state, HTRACE_OWNER_LIVES);
	ck_assert_uint_eq(o.pid, (__u32)getpid());
	ck_assert_uint_eq(o.tid, (__u32)gettid());
	ck_assert_uint_ne(ring(0)->owner_start, 0);
	ck_assert_uint_eq(ring(0)->owner_ns, htrace_own_ns());
	ck_assert_int_eq(htrace_push(&p, ID, &word, 8), 0);
	head = ring(0)->head;
	htrace_producer_put(&p);
	ck_assert_uint_eq(look().state, HTRACE_OWNER_NONE);
	ck_assert_int_eq(htrace_producer_get(&p, region, 0, 0), 0);
	ck_assert_uint_eq(ring(0)->head, head);
	ck_assert_uint_eq(ring(0)->generation, 0);
	ck_assert_int_eq(htrace_region_reap(region), 0);
	close_all();
}
END_TEST

START_TEST(test_refused)
{
	struct htrace_owner o = { .sz = 4 };
	struct htrace_producer p;

	open_all(HTRACE_OVERWRITE);
	ck_assert_int_eq(htrace_producer_get(&p, region, 1, -1), -ENXIO);
	ck_assert_int_eq(htrace_producer_get(&p, region, ~0u, -1), -ENXIO);
	ck_assert_int_eq(htrace_producer_get(&p, region, 0, RINGS), -ENXIO);
	ck_assert_int_eq(htrace_producer_get(&p, region, 0, 0x7fffffff), -ENXIO);
	ck_assert_int_eq(htrace_view_owner(v, &img, &o), -EINVAL);
	o.sz = sizeof(o) + 1;
	ck_assert_int_eq(htrace_view_owner(v, &img, &o), -EINVAL);
	htrace_region_super(region)->ringset[0].kind = HTRACE_RING_PER_CPU;
	ck_assert_int_eq(htrace_producer_get(&p, region, 0, 0), -ENXIO);
	close_all();
}
END_TEST

static struct htrace_producer handled;
static int handled_said;

static void on_signal(int sig)
{
	(void)sig;
	handled_said = htrace_push(&handled, ID, "", 1);
}

static void expect_nowhere(struct htrace_producer *p)
{
	struct htrace_slot slot;

	ck_assert_int_eq(htrace_producer_is_ours(p), 0);
	ck_assert_int_eq(htrace_push(p, ID, "", 1), -1);
	ck_assert_int_eq(htrace_push(p, 0, "", 1), -1);
	ck_assert_int_eq(htrace_push_single(p, ID, "", 1), -1);
	ck_assert_ptr_null(htrace_producer_reserve(p, ID, 100000, &slot));
	htrace_producer_put(p);
	htrace_producer_put(p);
	ck_assert_int_eq(htrace_push(p, ID, "", 1), -1);
}

/* A handle that has no ring, or no more, takes records, loses them, and leaves the rings alone. */
START_TEST(test_without_ring)
{
	struct htrace_producer p, other;
	void (*before)(int);

	open_all(HTRACE_OVERWRITE);
	before = signal(SIGUSR1, on_signal);
	memset(&p, 0xa5, sizeof(p));
	ck_assert_int_eq(htrace_producer_get(&p, region, 9, 0), -ENXIO);
	expect_nowhere(&p);
	ck_assert_int_eq(htrace_producer_get(&handled, region, 0, 0), 0);
	memset(&p, 0xa5, sizeof(p));
	ck_assert_int_eq(htrace_producer_get(&p, region, 0, 0), -EBUSY);
	expect_nowhere(&p);
	raise(SIGUSR1);
	ck_assert_int_eq(handled_said, 0);
	htrace_producer_put(&handled);
	ck_assert_uint_eq(ring(0)->owner, 0);
	raise(SIGUSR1);
	ck_assert_int_eq(handled_said, -1);
	expect_nowhere(&handled);
	/* What is another's now is not given back by it, nor written to. */
	ck_assert_int_eq(htrace_producer_get(&other, region, 0, 0), 0);
	expect_nowhere(&handled);
	ck_assert_uint_ne(ring(0)->owner, 0);
	ck_assert_uint_eq(ring(0)->head, 16);
	ck_assert_uint_eq(ring(0)->dropped + ring(0)->refused, 0);
	/* And it may have a ring again. */
	ck_assert_int_eq(htrace_producer_get(&handled, region, 0, -1), 0);
	ck_assert_int_eq(htrace_push(&handled, ID, "", 1), 0);
	signal(SIGUSR1, before);
	close_all();
}
END_TEST

/* Ids that no event has would cost a reader the block; none of them gets into the ring. */
static const __u32 ids[] = { 0, HTRACE_MAX_EVENTS + 1, 65535, 65536, 65537, (__u32)-EINVAL, ~0u };

START_TEST(test_ids)
{
	struct htrace_consumer_stats st = { .sz = sizeof(st) };
	struct htrace_consumer *c;
	struct htrace_producer p;
	struct htrace_slot slot;
	struct htrace_batch b;
	__u64 word = 1;

	open_all(HTRACE_OVERWRITE);
	ck_assert_int_eq(htrace_producer_get(&p, region, 0, 0), 0);
	ck_assert_int_eq(htrace_push(&p, 1, &word, 8), 0);
	ck_assert_int_eq(htrace_push(&p, ids[_i], &word, 8), -1);
	ck_assert_int_eq(htrace_push_single(&p, ids[_i], &word, 8), -1);
	ck_assert_ptr_null(htrace_producer_reserve(&p, ids[_i], 8, &slot));
	ck_assert_ptr_null(htrace_producer_reserve_single(&p, ids[_i], 8, &slot));
	ck_assert_int_eq(htrace_push_single(&p, HTRACE_MAX_EVENTS, &word, 8), 0);
	ck_assert_int_eq(htrace_consumer_new(&c, &img, NULL), 0);
	ck_assert_int_eq(htrace_consumer_read(c, &b), 1);
	ck_assert_uint_eq(b.events, 2);
	htrace_consumer_get_stats(c, &st);
	ck_assert_uint_eq(st.refused, 4);
	ck_assert_uint_eq(st.corrupt, 0);
	ck_assert_uint_eq(ring(0)->dropped, 4);
	htrace_consumer_free(c);
	close_all();
}
END_TEST

/* A dead one's ring is free for nobody until it was read; then it begins anew. Both policies. */
START_TEST(test_life)
{
	struct htrace_consumer_opts co = { .sz = sizeof(co) };
	struct htrace_producer p[RINGS];
	struct htrace_consumer *c, *next;
	struct htrace_batch b;
	struct htrace_owner o;
	__u64 word = 77;
	pid_t pid;

	open_all(_i ? HTRACE_OVERWRITE : HTRACE_DISCARD);
	co.consumed = _i ? NULL : &htrace_view_host_ring(v, 0)->consumed;
	ck_assert_int_eq(htrace_consumer_new(&c, &img, &co), 0);
	pid = leave_dead(10);
	o = look();
	ck_assert_uint_eq(o.state, HTRACE_OWNER_DIED);
	ck_assert_uint_eq(o.pid, (__u32)pid);
	ck_assert_int_eq(o.drained, false);
	for (int i = 1; i < RINGS; i++)
		ck_assert_int_eq(htrace_producer_get(&p[i], region, 0, -1), 0);
	ck_assert_int_eq(htrace_producer_get(&p[0], region, 0, -1), -EBUSY);
	ck_assert_uint_eq(ring(0)->owner, (__u64)pid << 32 | (__u32)pid | HTRACE_OWNER_CLOSED);
	ck_assert_int_eq(htrace_producer_get(&p[0], region, 0, 0), -EBUSY);
	ck_assert_int_eq(htrace_consumer_read(c, &b), 1);
	ck_assert_uint_eq(b.events, 10);
	htrace_consumer_finish(c);
	ck_assert_int_eq(htrace_consumer_read(c, &b), 0);
	ck_assert_uint_eq(htrace_consumer_backlog(c), 0);
	ck_assert(!htrace_consumer_ready(c));
	ck_assert_int_eq(htrace_consumer_restart(c), -EAGAIN);
	htrace_view_drained(v, &img, 7); /* another life's */
	ck_assert_int_eq(htrace_producer_get(&p[0], region, 0, -1), -EBUSY);
	htrace_view_drained(v, &img, 0);
	ck_assert_int_eq(look().drained, true);
	if (!_i) { /* whoever comes next finds nothing to read again, be the last word said or not */
		ck_assert_uint_eq(htrace_view_host_ring(v, 0)->consumed, 10 * 16);
		ck_assert_int_eq(htrace_consumer_new(&next, &img, &co), 0);
		htrace_consumer_finish(next);
		while (htrace_consumer_read(next, &b) == 1)
			ck_assert_uint_eq(b.events, 0);
		ck_assert_uint_eq(htrace_consumer_backlog(next), 0);
		htrace_consumer_free(next);
	}

	ck_assert_int_eq(htrace_producer_get(&p[0], region, 0, -1), 0);
	ck_assert_uint_eq(htrace_view_host_ring(v, 0)->consumed, 0);
	ck_assert_uint_eq(ring(0)->generation, 1);
	ck_assert_uint_eq(ring(0)->head, 0);
	ck_assert_uint_eq(look().state, HTRACE_OWNER_LIVES);
	ck_assert_int_eq(look().drained, false);
	ck_assert(htrace_consumer_ready(c));
	ck_assert_int_eq(htrace_push(&p[0], ID, &word, 8), 0);
	ck_assert_int_eq(htrace_consumer_read(c, &b), -EOWNERDEAD);
	ck_assert_int_eq(htrace_consumer_restart(c), 0);
	ck_assert_int_eq(htrace_consumer_read(c, &b), 1);
	ck_assert_uint_eq(b.events, 1);
	ck_assert_uint_eq(b.pos, 0);
	ck_assert_uint_eq(b.before + b.overwritten, 0);
	htrace_consumer_free(c);
	close_all();
}
END_TEST

/* One that was never finished notices, too, that positions begin anew, and reads nothing wrong. */
START_TEST(test_other_reader)
{
	struct htrace_consumer_stats st = { .sz = sizeof(st) };
	struct htrace_producer p;
	struct htrace_consumer *c;
	struct htrace_batch b;
	__u64 word = 1;

	open_all(HTRACE_OVERWRITE);
	ck_assert_int_eq(htrace_consumer_new(&c, &img, NULL), 0);
	leave_dead(10);
	htrace_view_drained(v, &img, 0);
	ck_assert_int_eq(htrace_producer_get(&p, region, 0, 0), 0);
	/* Past where the old life ended, and round the ring: positions alone would not tell. */
	for (int i = 0; i < 2000; i++)
		htrace_push(&p, ID, &word, 8);
	ck_assert_int_eq(htrace_consumer_read(c, &b), -EOWNERDEAD);
	ring(0)->owner |= HTRACE_OWNER_RETIRING;
	ck_assert_int_eq(htrace_consumer_restart(c), -EAGAIN);
	ring(0)->owner &= ~HTRACE_OWNER_RETIRING;
	ck_assert_int_eq(htrace_consumer_restart(c), 0);
	while (htrace_consumer_read(c, &b) == 1)
		;
	htrace_consumer_get_stats(c, &st);
	ck_assert_uint_eq(st.events + st.overwritten, 2000);
	ck_assert_uint_gt(st.overwritten, 1000);
	htrace_consumer_free(c);
	close_all();
}
END_TEST

/* Another life's words are not written, nor its records taken for those that are out. */
static int count(void *ctx, const struct htrace_record *r, const struct htrace_batch *b)
{
	(void)ctx, (void)r, (void)b;
	return 0;
}

START_TEST(test_borrowed_past_the_end)
{
	const struct htrace_each_opts each = { .sz = sizeof(each), .record = count };
	const struct htrace_host_ring *words;
	struct htrace_consumer_opts co = { .sz = sizeof(co) };
	struct htrace_batch out, b;
	struct htrace_producer p;
	struct htrace_consumer *c;
	__u64 word = 1;

	open_all(HTRACE_DISCARD);
	words = htrace_view_host_ring(v, 0);
	co.consumed = &htrace_view_host_ring(v, 0)->consumed;
	ck_assert_int_eq(htrace_consumer_new(&c, &img, &co), 0);
	leave_dead(10);
	ck_assert_int_eq(htrace_consumer_borrow(c, &out), 1);
	ck_assert_uint_eq(out.events, 10);
	htrace_consumer_finish(c);
	ck_assert_int_eq(htrace_consumer_read(c, &b), 0);
	/* Too early: these are out. The words are right all the same, and the reader told. */
	htrace_view_drained(v, &img, 0);
	ck_assert_int_eq(htrace_consumer_each(c, &each), 0);
	ck_assert_uint_eq(words->consumed, 0); /* of what is out nothing was consumed */
	ck_assert_int_eq(htrace_producer_get(&p, region, 0, 0), 0);
	for (int i = 0; i < 20; i++) /* past where they are */
		ck_assert_int_eq(htrace_push(&p, ID, &word, 8), 0);
	ck_assert_int_eq(htrace_consumer_read(c, &b), -EOWNERDEAD);
	ck_assert_int_eq(htrace_consumer_restart(c), -EBUSY);
	ck_assert_int_eq(htrace_consumer_release(c, &out), -ESTALE);
	ck_assert_uint_eq(words->consumed, 0);
	ck_assert_int_eq(htrace_consumer_restart(c), 0);
	ck_assert_int_eq(htrace_consumer_each(c, &each), 20);
	ck_assert_uint_eq(words->consumed, 20 * 16);
	htrace_consumer_free(c);
	close_all();
}
END_TEST

static void own(__u64 pid, __u64 start, __u64 ns)
{
	ring(0)->owner_start = start;
	ring(0)->owner_ns = ns;
	ring(0)->owner = pid << 32 | pid;
}

/* Who cannot be judged lives; whose number is another's now is dead. */
START_TEST(test_judged)
{
	__u64 ns = htrace_own_ns(), me = (__u64)getpid(), dead, zero;
	struct htrace_stat self;

	open_all(HTRACE_OVERWRITE);
	ck_assert(htrace_read_stat("/proc/self", &self));
	dead = (__u64)leave_dead(0);
	own(me, self.start, ns);
	ck_assert_uint_eq(look().state, HTRACE_OWNER_LIVES);
	own(me, self.start + 1, ns); /* pid used again */
	ck_assert_uint_eq(look().state, HTRACE_OWNER_DIED);
	own(me, 0, ns); /* start not known */
	ck_assert_uint_eq(look().state, HTRACE_OWNER_LIVES);
	own(dead, 0, ns);
	ck_assert_uint_eq(look().state, HTRACE_OWNER_DIED);
	own(dead, 0, ns ^ 1); /* other pid namespace */
	ck_assert_uint_eq(look().state, HTRACE_OWNER_LIVES);
	own(dead, 0, ns ^ 1ULL << 40); /* other time namespace */
	ck_assert_uint_eq(look().state, HTRACE_OWNER_LIVES);
	own(dead, 0, 0);
	ck_assert_uint_eq(look().state, HTRACE_OWNER_LIVES);
	for (zero = 0; zero < 3; zero++) { /* no pids: groups, everybody, out of range */
		own((__u64[]){ 0, 0x1fffffff, HTRACE_OWNER_PID_MAX + 1 }[zero], 1, ns);
		ck_assert_uint_ne(look().state, HTRACE_OWNER_DIED);
	}
	own(dead, 0, ns);
	img.placement = HTRACE_PLACEMENT_IVSHMEM;
	ck_assert_uint_eq(look().state, HTRACE_OWNER_LIVES);
	img.placement = HTRACE_PLACEMENT_LOCAL;
	v->super.boot_id[0] ^= 1;
	ck_assert_uint_eq(look().state, HTRACE_OWNER_LIVES);
	/* Closed by somebody who can tell: then we know. */
	ring(0)->owner |= HTRACE_OWNER_CLOSED;
	ck_assert_uint_eq(look().state, HTRACE_OWNER_DIED);
	ring(0)->owner = 1ULL << 32 | HTRACE_OWNER_TAKING;
	ck_assert_uint_eq(look().state, HTRACE_OWNER_COMES);
	img.kind = HTRACE_RING_PER_CPU;
	ck_assert_uint_eq(look().state, HTRACE_OWNER_NONE);
	close_all();
}
END_TEST

/*
 * A container: its /proc is not its own, its pids are not ours. One dies in it. We cannot tell, and
 * leave its ring to it; somebody in there closes it, and then we know.
 */
START_TEST(test_container)
{
	struct htrace_producer p;
	int to[2], status;
	char byte;
	pid_t pid;

	open_all(HTRACE_OVERWRITE);
	ck_assert_int_eq(pipe(to), 0);
	pid = fork();
	if (!pid) {
		if (unshare(CLONE_NEWPID) && unshare(CLONE_NEWUSER | CLONE_NEWPID))
			_exit(77);
		pid = fork();
		if (!pid) {
			struct htrace_producer q;
			pid_t dead = fork();

			if (!dead) {
				if (htrace_producer_get(&q, region, 0, 0))
					_exit(1);
				raise(SIGKILL);
			}
			if (waitpid(dead, &status, 0) != dead || status != SIGKILL)
				_exit(2);
			/* Until we have looked. */
			if (read(to[0], &byte, 1) != 1 || htrace_region_reap(region) != 1)
				_exit(3);
			_exit(0);
		}
		if (pid < 0)
			_exit(77);
		close(to[0]);
		waitpid(pid, &status, 0);
		_exit(WEXITSTATUS(status));
	}
	for (int i = 0; i < 2000 && !ring(0)->owner && !waitpid(pid, &status, WNOHANG); i++)
		usleep(1000);
	if (!ring(0)->owner) { /* no namespaces for us here */
		ck_assert_int_eq(WEXITSTATUS(status), 77);
		close_all();
		return;
	}
	usleep(50000);
	ck_assert_uint_ne(ring(0)->owner_ns, htrace_own_ns());
	ck_assert_uint_eq(look().state, HTRACE_OWNER_LIVES);
	ck_assert_int_eq(htrace_region_reap(region), 0);
	ck_assert_int_eq(htrace_producer_get(&p, region, 0, 0), -EBUSY);
	ck_assert_int_eq(write(to[1], "", 1), 1);
	reap_child(pid, 0);
	ck_assert_uint_eq(look().state, HTRACE_OWNER_DIED);
	htrace_view_drained(v, &img, 0);
	ck_assert_int_eq(htrace_producer_get(&p, region, 0, 0), 0);
	close_all();
}
END_TEST

/* The same of those that take: what they cannot judge they leave alone. */
START_TEST(test_left_alone)
{
	__u64 ns = htrace_own_ns(), dead;
	struct htrace_producer p;
	struct htrace_region *other;
	void *mem;

	open_all(HTRACE_OVERWRITE);
	dead = (__u64)leave_dead(0);
	htrace_view_drained(v, &img, 0);
	own(dead, 0, ns ^ 1);
	ck_assert_int_eq(htrace_region_reap(region), 0);
	ck_assert_int_eq(htrace_producer_get(&p, region, 0, 0), -EBUSY);
	own(dead, 0, ns);
	htrace_region_super(region)->boot_id[0] ^= 1;
	ck_assert_int_eq(htrace_region_reap(region), 0);
	ck_assert_int_eq(htrace_producer_get(&p, region, 0, 0), -EBUSY);
	htrace_region_super(region)->boot_id[0] ^= 1;
	ck_assert_int_eq(htrace_region_reap(region), 1);
	ck_assert_int_eq(htrace_region_reap(region), 0);
	ck_assert_uint_eq(ring(0)->owner >> 32, dead | HTRACE_OWNER_CLOSED >> 32);
	ck_assert_int_eq(htrace_producer_get(&p, region, 0, 0), 0);
	/* A set that is not per thread is nobody's business. */
	opts.kind = HTRACE_RING_PER_CPU;
	mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_int_eq(htrace_region_format(&other, mem, SIZE, &opts), 0);
	htrace_region_ring(other, 0, 0, NULL)->owner = dead << 32;
	ck_assert_int_eq(htrace_region_reap(other), 0);
	opts.kind = HTRACE_RING_PER_THREAD;
	htrace_region_release(other);
	munmap(mem, SIZE);
	close_all();
}
END_TEST

/* Who dies while taking a ring leaves it to the next: as it is, or to be zeroed once more. */
START_TEST(test_taker_died)
{
	__u64 ns = htrace_own_ns(), dead, word = 1;
	struct htrace_producer p;

	open_all(HTRACE_OVERWRITE);
	dead = (__u64)leave_dead(10) << 32 | (__u32)ns;
	ring(0)->owner = dead | (_i ? HTRACE_OWNER_RETIRING : HTRACE_OWNER_TAKING);
	ring(0)->owner_start = 1; /* of whoever had it before */
	ring(0)->owner_ns = ns ^ 1;
	if (_i)
		ring(0)->head = 0; /* that far it had come */
	htrace_view_host_ring(v, 0)->consumed = 160;
	ck_assert_int_eq(htrace_region_reap(region), 0);
	ck_assert_uint_eq(look().state, HTRACE_OWNER_COMES);
	ring(0)->owner ^= 2; /* another namespace's */
	ck_assert_int_eq(htrace_producer_get(&p, region, 0, 0), -EBUSY);
	ring(0)->owner ^= 2;
	ck_assert_int_eq(htrace_producer_get(&p, region, 0, 0), 0);
	ck_assert_uint_eq(look().state, HTRACE_OWNER_LIVES);
	ck_assert_uint_eq(ring(0)->generation, (__u64)_i);
	ck_assert_uint_eq(ring(0)->head == 0, _i);
	ck_assert_uint_eq(htrace_view_host_ring(v, 0)->consumed == 0, _i);
	ck_assert_uint_eq(htrace_ring_block(ring(0), &p.geometry, 0)->commit == 0, _i);
	ck_assert_int_eq(htrace_push(&p, ID, &word, 8), 0);
	/* One that lives is left to it. */
	ring(0)->owner = (__u64)getpid() << 32 | (__u32)ns | HTRACE_OWNER_TAKING;
	ck_assert_int_eq(htrace_producer_get(&p, region, 0, 0), -EBUSY);
	close_all();
}
END_TEST

/* A leader that ended while its threads go on is a zombie, and its process lives. */
static void *go_on(void *arg)
{
	(void)arg;
	pause();
	return NULL;
}

START_TEST(test_zombie_leader)
{
	struct htrace_producer p;
	struct htrace_stat st;
	pthread_t thread;
	char path[40];
	siginfo_t si;
	pid_t pid;

	open_all(HTRACE_OVERWRITE);
	pid = fork();
	if (!pid) {
		if (htrace_producer_get(&p, region, 0, 0) ||
		    pthread_create(&thread, NULL, go_on, NULL))
			_exit(1);
		pthread_exit(NULL);
	}
	snprintf(path, sizeof(path), "/proc/%d", pid);
	do
		ck_assert(htrace_read_stat(path, &st));
	while (st.state != 'Z');
	ck_assert_uint_eq(look().state, HTRACE_OWNER_LIVES);
	kill(pid, SIGKILL);
	/* Dead, and a zombie until somebody waits for it. */
	ck_assert_int_eq(waitid(P_PID, (id_t)pid, &si, WEXITED | WNOWAIT), 0);
	ck_assert_uint_eq(look().state, HTRACE_OWNER_DIED);
	ck_assert_int_eq(htrace_region_reap(region), 1);
	reap_child(pid, SIGKILL);
	close_all();
}
END_TEST

/* A child's records do not get into its parent's ring; they are counted, and it gets its own. */
static struct htrace_producer shared_by_threads;
static int stop;

static void *produce(void *arg)
{
	__u64 word = 1, *n = arg;

	for (; !__atomic_load_n(&stop, __ATOMIC_RELAXED); ++*n)
		htrace_push(&shared_by_threads, ID, &word, 8);
	return NULL;
}

/* As fork(), or without the C library's knowledge: the kernel alone tells the child. */
static pid_t bear(bool raw)
{
	return raw ? (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) : fork();
}

/* Emulators that take any advice, even one that there is none of, ignore this one, too. */
static bool kernel_wipes(void)
{
	int *word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int status;
	pid_t pid;

	*word = 1;
	ck_assert_int_eq(madvise(word, 4096, MADV_WIPEONFORK), 0);
	pid = fork();
	if (!pid)
		_exit(*word);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	if (status) {
		ck_assert_int_eq(madvise(word, 4096, 1000), 0);
		printf("# no children of clone(2): MADV_WIPEONFORK is taken here, and ignored\n");
	}
	munmap(word, 4096);
	return !status;
}

static void in_child(int nr, bool raw)
{
	struct htrace_producer *p = &shared_by_threads, own = { 0 };
	__u64 word = 2;

	for (int i = 0; i < nr; i++)
		if ((i % 2 ? htrace_push_single(p, ID, &word, 8) : htrace_push(p, ID, &word, 8)) != -1)
			_exit(1);
	if (htrace_producer_get(&own, region, 0, -1) || own.ring == p->ring ||
	    htrace_push(&own, ID, &word, 8) || htrace_push(p, ID, &word, 8) != -1)
		_exit(2);
	/* A grandchild has neither. */
	if (!bear(raw))
		_exit(htrace_push(&own, ID, &word, 8) != -1 || htrace_push(p, ID, &word, 8) != -1);
	wait(&nr);
	htrace_producer_put(p);
	htrace_producer_put(&own);
	_exit(nr);
}

START_TEST(test_fork)
{
	const __u64 word = 1;
	__u64 made[3] = { 0 }, got = 0, others = 0, lost;
	struct htrace_producer *p = &shared_by_threads;
	struct htrace_consumer *c;
	struct htrace_record rec;
	pthread_t thread[3];
	struct htrace_batch b;
	struct htrace_iter it;
	bool wipes = kernel_wipes();
	pid_t pid;

	opts.ring_size = 1 << 17; /* large enough: what is lost is a child's */
	opts.nr_rings = 2;
	open_all(HTRACE_OVERWRITE);
	ck_assert_int_eq(htrace_consumer_new(&c, &img, NULL), 0);
	ck_assert_int_eq(htrace_producer_get(p, region, 0, 0), 0);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, produce, &made[i]), 0);
	for (int i = 0; i < 20; i++) {
		bool raw = wipes && i % 2;

		pid = bear(raw);
		if (!pid)
			in_child(100, raw);
		reap_child(pid, 0);
	}
	__atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
	for (int i = 0; i < 3; i++)
		pthread_join(thread[i], NULL);
	ck_assert_uint_eq(look().state, HTRACE_OWNER_LIVES);
	lost = ring(0)->dropped;
	while (htrace_consumer_read(c, &b) == 1) {
		got += b.events + b.overwritten;
		for (htrace_iter_init(&it, &b); htrace_iter_next(&it, &rec);)
			others += memcmp(rec.payload, &word, 8) != 0;
	}
	ck_assert_uint_eq(others, 0);
	/* 102 of each child and its own child; the threads may drop, too. */
	ck_assert_uint_ge(lost, 20 * 102);
	ck_assert_uint_eq(got + lost, made[0] + made[1] + made[2] + 20 * 102);
	ck_assert_uint_eq(ring(1)->dropped, 20);
	ck_assert_uint_eq(ring(1)->owner, 0);
	/* Of another life nothing is counted. */
	ring(0)->generation++;
	htrace_producer_drop(p);
	ck_assert_uint_eq(ring(0)->dropped, lost);
	htrace_consumer_free(c);
	close_all();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("owner");
	TCase *t = tcase_create("owner");

	tcase_set_timeout(t, 120);
	tcase_add_test(t, test_give_back);
	tcase_add_test(t, test_refused);
	tcase_add_test(t, test_without_ring);
	tcase_add_loop_test(t, test_ids, 0, (int)(sizeof(ids) / sizeof(*ids)));
	tcase_add_loop_test(t, test_life, 0, 2);
	tcase_add_test(t, test_other_reader);
	tcase_add_test(t, test_borrowed_past_the_end);
	tcase_add_test(t, test_judged);
	tcase_add_test(t, test_container);
	tcase_add_test(t, test_left_alone);
	tcase_add_loop_test(t, test_taker_died, 0, 2);
	tcase_add_test(t, test_zombie_leader);
	tcase_add_test(t, test_fork);
	suite_add_tcase(s, t);
	return unit_run(s);
}
