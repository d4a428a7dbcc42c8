// SPDX-License-Identifier: LGPL-2.1-or-later
/* Names of tasks, in any order of times; and the escaping of all text. */
#include <htrace/schema.h>

#include "fuzz.h"
#include "names.h"

static bool look(void *ctx, const struct names_task *task)
{
	unsigned int *left = ctx;

	CHECK(task->len <= NAMES_COMM);
	for (size_t i = 0; i < task->len; i++)
		CHECK(task->comm[i]);
	return --*left;
}

/* Never a byte that steers, never half an escape, and the length that was told. */
static void escape(const char *text, size_t len, size_t room)
{
	size_t all = htrace_escape(NULL, 0, text, len), n;
	char *out = malloc(room ? room : 1);

	CHECK(all <= 4 * len);
	n = htrace_escape(out, room, text, len);
	CHECK(n <= room && n <= all && (n == all || all > room));
	for (size_t i = 0; i < n; i++) {
		CHECK(out[i] >= ' ' && out[i] <= '~' && out[i] != '"');
		if (out[i] != '\\')
			continue;
		CHECK(i + 3 < n && out[i + 1] == 'x');
		i += 3;
	}
	free(out);
}

static void step(struct names *n, struct input *in, __u64 *now)
{
	__u64 op = take(in, 1), time = take_number(in);
	__u32 tid = (__u32)take(in, 1) * (op & 64 ? 0x10001 : 1);
	unsigned int most = 40;
	size_t len = 0;
	const char *name;
	char *comm;

	switch (op % 8) {
	case 0: case 1: case 2:
		comm = take_exact(in, take(in, 1) % 24, &len);
		names_set(n, tid, (__u32)take(in, 1), time, comm, len);
		escape(comm, len, op);
		free(comm);
		break;
	case 3:
		names_exit(n, tid, time, *now);
		break;
	case 4:
		*now += time << 24;
		names_expire(n, *now);
		break;
	case 5:
		names_each(n, time, look, &most);
		break;
	default:
		name = names_get(n, tid, time, &len);
		CHECK(!name || len <= NAMES_COMM);
		names_pid(n, tid, time);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct names *n = names_new();
	__u64 now = 1;

	CHECK(n);
	fail_allocation((unsigned int)take(&in, 1));
	while (in.left)
		step(n, &in, &now);
	fail_allocation(0);
	names_free(n);
	return 0;
}
