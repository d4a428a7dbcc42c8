/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Commands and answers: each is told once, whoever dies in between, and nothing hostile is taken. */
#include <check.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "regionbox.h"
#include "unit.h"

static struct htrace_region *region;
static struct htrace_view *host;
static struct htrace_reply reply;
static char text[HTRACE_CONTROL_MAX + 1];
static int fd;

static struct htrace_view *open_view(void)
{
	char path[40];
	struct htrace_view *v;

	/* An open description of its own, as another process has */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ck_assert_int_eq(htrace_view_open(&v, path, true, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), 0);
	return v;
}

static void begin(void)
{
	ck_assert_int_eq(htrace_region_create_local(&region, NULL, SIZE, &local_opts, &fd), 0);
	htrace_region_publish(region);
	host = open_view();
}

static void end(void)
{
	htrace_view_close(host);
	htrace_region_release(region);
	close(fd);
}

static void give(const char *command)
{
	ck_assert_int_eq(htrace_view_command(host, command), 0);
	ck_assert_int_eq(htrace_view_reply(host, &reply), -EAGAIN);
}

static void take(const char *command)
{
	ck_assert_uint_eq(htrace_region_command(region, text), strlen(command));
	ck_assert_str_eq(text, command);
	ck_assert_uint_eq(htrace_region_command(region, text), 0);
}

START_TEST(test_there_and_back)
{
	static char longest[HTRACE_CONTROL_MAX + 2], huge[HTRACE_REPLY_MAX + 9];

	ck_assert_uint_eq(htrace_view_control(host), 0);
	ck_assert_int_eq(htrace_view_command(host, "list"), -EOPNOTSUPP);
	ck_assert_uint_eq(htrace_region_command(region, text), 0);
	htrace_region_control(region, HTRACE_CONTROL_TAKEN | HTRACE_ALLOW_FLUSH);
	ck_assert_uint_eq(htrace_view_control(host), HTRACE_CONTROL_TAKEN | HTRACE_ALLOW_FLUSH);
	for (int i = 0; i < 3; i++) {
		give("flush");
		take("flush");
		htrace_region_reply(region, HTRACE_REPLY_DONE, "it is", 5, (__u64)i);
		ck_assert_int_eq(htrace_view_reply(host, &reply), 0);
		ck_assert_uint_eq(reply.len, 5);
		ck_assert_uint_eq(reply.next, i);
		ck_assert_int_eq(memcmp(reply.text, "it is", 5), 0);
		ck_assert_uint_eq(reply.status, HTRACE_REPLY_DONE);
	}
	memset(longest, 'x', HTRACE_CONTROL_MAX + 1);
	ck_assert_int_eq(htrace_view_command(host, longest), -EMSGSIZE);
	ck_assert_int_eq(htrace_view_command(host, ""), -EMSGSIZE);
	longest[HTRACE_CONTROL_MAX] = 0;
	give(longest);
	take(longest);
	memset(huge, 'y', sizeof(huge));
	htrace_region_reply(region, HTRACE_REPLY_FAILED, huge, sizeof(huge), 0);
	ck_assert_int_eq(htrace_view_reply(host, &reply), 0);
	ck_assert_uint_eq(reply.len, HTRACE_REPLY_MAX);
	ck_assert_int_eq(memcmp(reply.text, huge, HTRACE_REPLY_MAX), 0);
	/* What lies behind it is the schema's, and the host's ring words are none of the command's. */
	ck_assert_uint_eq(htrace_region_schema(region)->generation, 0);
	ck_assert_uint_eq(htrace_region_host_ring(region, 0)->consumed, 0);
}
END_TEST

START_TEST(test_two_hosts)
{
	struct htrace_view *other = open_view();

	htrace_region_control(region, HTRACE_CONTROL_TAKEN);
	give("one");
	ck_assert_int_eq(htrace_view_command(other, "two"), -EBUSY);
	/* One that is killed waiting: the next one waits for the answer, and does not get it for its own. */
	htrace_view_close(host);
	host = other;
	ck_assert_int_eq(htrace_view_command(host, "two"), -EBUSY);
	take("one");
	htrace_region_reply(region, HTRACE_REPLY_DONE, "1", 1, 0);
	ck_assert_int_eq(htrace_view_reply(host, &reply), -EAGAIN);
	give("two");
	take("two");
	htrace_region_reply(region, HTRACE_REPLY_DENIED, "2", 1, 0);
	ck_assert_int_eq(htrace_view_reply(host, &reply), 0);
	ck_assert_uint_eq(reply.status, HTRACE_REPLY_DENIED);
	ck_assert_int_eq(reply.text[0], '2');
}
END_TEST

/* Another agent goes on with the region: what was given to the one before is not done (again). */
START_TEST(test_agent_dies)
{
	struct htrace_region *next;
	void *mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	htrace_region_control(region, HTRACE_CONTROL_TAKEN);
	give("once");
	take("once");
	htrace_region_set_state(region, HTRACE_GUEST_RUNNING);
	ck_assert_int_eq(htrace_region_adopt(&next, mem, SIZE, false), 0);
	ck_assert_uint_eq(htrace_region_command(next, text), 0);
	htrace_region_control(next, HTRACE_CONTROL_TAKEN);
	ck_assert_uint_eq(htrace_region_command(next, text), 0);
	ck_assert_int_eq(htrace_view_reply(host, &reply), 0);
	ck_assert_uint_eq(reply.status, HTRACE_REPLY_LOST);
	give("again");
	ck_assert_uint_eq(htrace_region_command(next, text), 5);
	htrace_region_release(next);
	/* Nor by a session that is made anew, whose answer is 0 again. */
	ck_assert_int_eq(htrace_region_format(&next, mem, SIZE, &local_opts), 0);
	ck_assert_uint_eq(htrace_region_command(next, text), 0);
	htrace_region_control(next, HTRACE_CONTROL_TAKEN);
	ck_assert_uint_eq(htrace_region_command(next, text), 0);
	htrace_region_publish(next);
	ck_assert_int_eq(htrace_view_attach(host, err, sizeof(err)), 0);
	give("later");
	ck_assert_uint_eq(htrace_region_command(next, text), 5);
	htrace_region_release(next);
	munmap(mem, SIZE);
}
END_TEST

START_TEST(test_hostile_answers)
{
	struct htrace_guest *g = htrace_region_guest(region);
	struct htrace_reply *r = (void *)((char *)g + HTRACE_REPLY_OFF);

	htrace_region_control(region, HTRACE_CONTROL_TAKEN);
	give("list");
	g->answer = htrace_region_host(region)->command;
	r->len = HTRACE_REPLY_MAX + 1;
	ck_assert_int_eq(htrace_view_reply(host, &reply), -EPROTO);
	r->len = ~0u;
	ck_assert_int_eq(htrace_view_reply(host, &reply), -EPROTO);
	r->len = HTRACE_REPLY_MAX;
	r->status = HTRACE_REPLY_LOST + 1;
	ck_assert_int_eq(htrace_view_reply(host, &reply), -EPROTO);
	r->status = HTRACE_REPLY_LOST;
	ck_assert_int_eq(htrace_view_reply(host, &reply), 0);
	g->answer++; /* to another command, or of another time */
	ck_assert_int_eq(htrace_view_reply(host, &reply), -EAGAIN);
	ck_assert_int_eq(htrace_view_command(host, "list"), -EBUSY);
	g->control = 0;
	ck_assert_int_eq(htrace_view_reply(host, &reply), -EAGAIN);
	/* A guest area that just has room for the header, as another implementation may make it */
	g->control = HTRACE_CONTROL_TAKEN;
	host->super.guest.len = sizeof(*g);
	ck_assert_uint_eq(htrace_view_control(host), 0);
	ck_assert_int_eq(htrace_view_command(host, "list"), -EOPNOTSUPP);
}
END_TEST

/* The agent bounds what the host says, too. */
START_TEST(test_odd_commands)
{
	struct htrace_host *h = htrace_view_host(host);
	struct htrace_control *c = (void *)((char *)h + HTRACE_CONTROL_OFF - HTRACE_HOST_OFF);

	htrace_region_control(region, HTRACE_CONTROL_TAKEN);
	give("list");
	c->len = HTRACE_CONTROL_MAX + 1;
	ck_assert_uint_eq(htrace_region_command(region, text), 0);
	ck_assert_int_eq(htrace_view_reply(host, &reply), 0);
	ck_assert_uint_eq(reply.status, HTRACE_REPLY_INVALID);
	give("list");
	c->len = 0;
	ck_assert_uint_eq(htrace_region_command(region, text), 0);
	ck_assert_int_eq(htrace_view_reply(host, &reply), 0);
	ck_assert_uint_eq(reply.status, HTRACE_REPLY_INVALID);
	/* Numbers go round past 0, which means that there was none. */
	c->len = 4;
	h->command = ~0ULL;
	ck_assert_uint_eq(htrace_region_command(region, text), 4);
	htrace_region_reply(region, HTRACE_REPLY_DONE, "", 0, 0);
	give("round");
	ck_assert_uint_eq(h->command, 1);
	take("round");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("control");
	TCase *tc = tcase_create("control");

	tcase_add_checked_fixture(tc, begin, end);
	tcase_add_test(tc, test_there_and_back);
	tcase_add_test(tc, test_two_hosts);
	tcase_add_test(tc, test_agent_dies);
	tcase_add_test(tc, test_hostile_answers);
	tcase_add_test(tc, test_odd_commands);
	suite_add_tcase(s, tc);
	return unit_run(s);
}
