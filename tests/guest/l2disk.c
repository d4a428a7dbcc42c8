/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "l2disk.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <htrace/declare.h>

struct job {
	struct l2_cpu *account;
	char *data;
	void (*done)(void *arg);
	void *arg;
};

static int direct = -1, cached = -1;
static bool by_thread;
static __u64 begins; /* sector of the device */

/* For the thread; a virtual CPU has at most one. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t some = PTHREAD_COND_INITIALIZER;
static struct job waiting[L2_MAX_CPUS];
static unsigned int nr_waiting;

static void fail(const char *what)
{
	fprintf(stderr, "l2vmm: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void serve(const struct job *j)
{
	const struct l2_request *r = &j->account->disk.request;
	off_t at = (off_t)(begins + r->sector) << 9;
	ssize_t did;

	if (r->bytes > L2_DISK_DATA_SIZE) {
		errno = EFBIG;
		fail("the guest's request");
	}
	if (r->rwbs == L2_FLUSH)
		did = fdatasync(direct);
	else if (r->rwbs == L2_WRITE)
		did = pwrite(direct, j->data, r->bytes, at);
	else
		did = pread(r->sector < L2_DISK_CACHED ? direct : cached, j->data, r->bytes, at);
	j->account->disk.error = did == (ssize_t)r->bytes ? 0 : -EIO;
	__atomic_store_n(&j->account->disk.answered, j->account->disk.asked, __ATOMIC_RELEASE);
}

static void *serve_all(void *arg)
{
	(void)arg;
	pthread_setname_np(pthread_self(), "disk");
	for (;;) {
		struct job j;

		pthread_mutex_lock(&lock);
		while (!nr_waiting)
			pthread_cond_wait(&some, &lock);
		j = waiting[0];
		memmove(waiting, waiting + 1, --nr_waiting * sizeof(*waiting));
		pthread_mutex_unlock(&lock);
		serve(&j);
		j.done(j.arg);
	}
	return NULL;
}

void l2disk_open(const char *device, __u64 shift, bool beside)
{
	pthread_t thread;

	direct = open(device, O_RDWR | O_DIRECT | O_CLOEXEC);
	cached = open(device, O_RDONLY | O_CLOEXEC);
	if (direct < 0 || cached < 0)
		fail(device);
	begins = shift;
	by_thread = beside;
	if (beside && pthread_create(&thread, NULL, serve_all, NULL))
		fail("pthread_create");
}

bool l2disk_kick(struct l2_cpu *account, char *ram, void (*done)(void *arg), void *arg)
{
	struct job j = { account, ram + L2_DISK_DATA + account->cpu * L2_DISK_DATA_SIZE, done, arg };

	if (direct < 0) {
		errno = ENODEV;
		fail("the guest's disk (-d)");
	}
	if (!by_thread) {
		serve(&j);
		return true;
	}
	pthread_mutex_lock(&lock);
	waiting[nr_waiting++] = j;
	pthread_cond_signal(&some);
	pthread_mutex_unlock(&lock);
	return false;
}

/* ------------------------------------------------------------------------------------ its events */

static const struct htrace_field request_fields[] = {
	HTRACE_FIELD(struct l2_request, sector),
	HTRACE_FIELD(struct l2_request, dev),
	HTRACE_FIELD(struct l2_request, bytes),
	HTRACE_FIELD(struct l2_request, rwbs),
};
static const struct htrace_field completion_fields[] = {
	HTRACE_FIELD(struct l2_completion, sector),
	HTRACE_FIELD(struct l2_completion, dev),
	HTRACE_FIELD(struct l2_completion, nr_sector),
	HTRACE_FIELD(struct l2_completion, error),
	HTRACE_FIELD(struct l2_completion, rwbs),
};
static const struct htrace_field queue_fields[] = {
	HTRACE_FIELD_AS(struct l2_queue_event, vq, HTRACE_HINT_HEX),
	HTRACE_FIELD_TEXT(struct l2_queue_event, name),
};
static const struct htrace_struct request = HTRACE_STRUCT(struct l2_request, request_fields);
static const struct htrace_struct completion = HTRACE_STRUCT(struct l2_completion, completion_fields);
static const struct htrace_struct queue_event = HTRACE_STRUCT(struct l2_queue_event, queue_fields);

void l2disk_declare(struct htrace_region *r, struct l2_disk *orders)
{
	const struct {
		const char *name;
		const struct htrace_struct *of;
		__u32 *id;
	} events[] = {
		{ "block_rq_insert", &request, &orders->insert },
		{ "block_rq_issue", &request, &orders->issue },
		{ "block_rq_complete", &completion, &orders->complete },
		{ "virtqueue_notify", &queue_event, &orders->notify },
		{ "vring_interrupt", &queue_event, &orders->interrupt },
	};

	for (size_t i = 0; i < sizeof(events) / sizeof(*events); i++) {
		char why[200];
		int id = htrace_region_declare(r, events[i].name, events[i].of, why, sizeof(why));

		if (id < 0) {
			fprintf(stderr, "l2vmm: %s: %s\n", events[i].name, why);
			exit(1);
		}
		*events[i].id = (__u32)id;
	}
}
