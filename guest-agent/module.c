/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "module.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "message.h"

int module_open(struct module *m, char *why, size_t len)
{
	memset(m, 0, sizeof(*m));
	m->fd = open(HTRACE_MODULE_DEVICE, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (m->fd < 0) {
		snprintf(why, len, "%s: %s%s", HTRACE_MODULE_DEVICE, strerror(errno),
			 errno == ENOENT || errno == ENODEV || errno == ENXIO ?
				 "; the kernel module is not loaded, or has bound no device: modprobe "
				 "htrace, and dmesg says what is wrong" :
				 "");
		return -1;
	}
	if (!ioctl(m->fd, HTRACE_MODULE_INFO, &m->info) && m->info.version == HTRACE_MODULE_VERSION)
		return 0;
	snprintf(why, len, "%s is of another version than this agent; install those that belong "
		 "together", HTRACE_MODULE_DEVICE);
	module_close(m);
	return -1;
}

void module_close(struct module *m)
{
	if (m->fd > 0)
		close(m->fd);
	m->fd = -1;
}

__u64 module_session(const struct module *m)
{
	struct htrace_module_info info;

	return m->fd > 0 && !ioctl(m->fd, HTRACE_MODULE_INFO, &info) ? info.session : 0;
}

int module_start(const struct module *m, struct htrace_region *r)
{
	const struct htrace_super *super = htrace_region_super(r);
	const struct htrace_ringset *s = &super->ringset[0];
	struct htrace_module_rings rings = {
		.session = super->session,
		.off = s->off,
		.stride = s->stride,
		.nr_rings = s->nr_rings,
		.first_slot = s->first_slot,
		.ring_shift = s->ring_shift,
		.block_shift = s->block_shift,
		.desc_off = s->desc_off,
		.data_off = s->data_off,
		.policy = s->policy,
	};

	if (!ioctl(m->fd, HTRACE_MODULE_RINGS, &rings))
		return 0;
	say("the kernel module does not take the rings: %s", strerror(errno));
	return -1;
}

void module_stop(const struct module *m)
{
	struct htrace_module_rings none = {0};

	if (m->fd > 0)
		ioctl(m->fd, HTRACE_MODULE_RINGS, &none);
}

bool module_interrupts(const struct module *m)
{
	__u64 count;

	return read(m->fd, &count, sizeof(count)) == sizeof(count);
}

const char *module_caching(const struct module *m)
{
	switch (m->info.caching) {
	case HTRACE_CACHING_WRITE_BACK:
		return "write-back";
	case HTRACE_CACHING_WRITE_COMBINING:
		return "write-combining: slow";
	case HTRACE_CACHING_UNCACHED:
		return "uncached: slow";
	default:
		return "cached in a way that is not known";
	}
}
