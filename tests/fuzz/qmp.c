// SPDX-License-Identifier: LGPL-2.1-or-later
/* All that a monitor says while a device is plugged in, and taken out: the input, as it comes. */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "plug.h"

#include "fuzz.h"

/* What is said of an error is one line of harmless text. */
static void check_text(int ret, const char *err)
{
	CHECK(ret <= 0);
	CHECK(!ret || *err);
	for (const char *p = err; *p; p++)
		CHECK(*p >= ' ' && *p <= '~');
}

/* As plug_keeper.c does it. */
static int plug(struct qmp *q, char *err, size_t len)
{
	struct plug_place p;
	int ret = plug_look(q, "/dev/shm/file", &p, err, len);

	check_text(ret, err);
	if (!ret && (p.memory || p.device))
		ret = plug_take(q, err, len);
	if (!ret)
		ret = plug_find_bus(q, &p, err, len);
	check_text(ret, err);
	if (ret)
		return ret;
	CHECK(*p.bus && strlen(p.bus) < sizeof(p.bus) && p.room >= 1 << 20 && p.room <= 1 << 30 && p.vcpus);
	ret = plug_put(q, "/dev/shm/file", 1 << 20, &p, err, len);
	return ret ? ret : plug_take(q, err, len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char err[640] = "";
	struct qmp *q;
	int pair[2], ret;

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair));
	CHECK(write(pair[1], data, size) == (ssize_t)size);
	CHECK(!shutdown(pair[1], SHUT_WR));
	fail_allocation(size ? data[size - 1] == 'E' : 0);
	ret = qmp_open(&q, pair[0], PLUG_DEVICE, 1000000000, err, sizeof(err));
	fail_allocation(0);
	check_text(ret, err);
	if (!ret) {
		ret = plug(q, err, sizeof(err));
		check_text(ret, err);
		CHECK(qmp_fd(q) == pair[0] && qmp_listen(q) <= 0);
		qmp_close(q);
	}
	close(pair[1]);
	return 0;
}
