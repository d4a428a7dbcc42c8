/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "qmp.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <htrace/schema.h>

#include "clock.h"

#define ANSWER_NS 10000000000ULL /* to one command */
#define LINES 64                 /* that are taken in one qmp_listen() */
#define WORDS 200                /* bytes of QEMU's own words that are shown */

struct qmp {
	int fd;
	double asked; /* number of the last command */
	const char *device;
	bool deleted, refused, broken;
	size_t start, end; /* of what was read, and is not taken yet */
	char line[QMP_LINE];
};

__attribute__((format(printf, 4, 5))) static int failed(int ret, char *err, size_t errlen, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(err, errlen, fmt, args);
	va_end(args);
	return ret;
}

/* ------------------------------------------------------------------------------------------- lines */

static bool wait_for(const struct qmp *q, short what, __u64 end)
{
	struct pollfd p = { .fd = q->fd, .events = what };
	__u64 now = clock_now();

	return now < end && poll(&p, 1, (int)((end - now) / 1000000) + 1) > 0;
}

/* 0, or -EAGAIN: there is nothing. */
static int receive(struct qmp *q)
{
	ssize_t n;

	if (q->start) {
		memmove(q->line, q->line + q->start, q->end - q->start);
		q->end -= q->start;
		q->start = 0;
	}
	if (q->end == sizeof(q->line))
		return -EMSGSIZE;
	do
		n = recv(q->fd, q->line + q->end, sizeof(q->line) - q->end, 0);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EWOULDBLOCK ? -EAGAIN : -errno;
	q->end += (size_t)n;
	return n ? 0 : -EPIPE;
}

/* The next line, if all of it has come. */
static char *take_line(struct qmp *q, size_t *len)
{
	char *at = q->line + q->start, *nl = memchr(at, '\n', q->end - q->start);

	if (!nl)
		return NULL;
	*len = (size_t)(nl - at);
	q->start += *len + 1;
	return at;
}

/*
 * The next object, until @end; end 0: only if it is there. Numbers are read as reals, for QEMU's may be
 * larger than jansson's integers.
 */
static int next_object(struct qmp *q, __u64 end, json_t **out)
{
	json_t *o;
	size_t len;
	char *line;
	int ret;

	while (!(line = take_line(q, &len))) {
		ret = receive(q);
		if (ret == -EAGAIN && end)
			ret = wait_for(q, POLLIN, end) ? 0 : -ETIMEDOUT;
		if (ret)
			return ret;
	}
	o = json_loadb(line, len, JSON_DECODE_INT_AS_REAL, NULL);
	if (json_is_object(o)) {
		*out = o;
		return 0;
	}
	json_decref(o);
	return -EPROTO;
}

static int send_all(struct qmp *q, const char *text, size_t len, __u64 end)
{
	while (len) {
		ssize_t n = send(q->fd, text, len, MSG_NOSIGNAL);

		if (n > 0) {
			text += n;
			len -= (size_t)n;
		} else if (errno != EAGAIN && errno != EINTR) {
			return -errno;
		} else if (!wait_for(q, POLLOUT, end)) {
			return -ETIMEDOUT;
		}
	}
	return 0;
}

/* ---------------------------------------------------------------------------------------- messages */

static bool is(const json_t *object, const char *key, const char *value)
{
	const char *s = json_string_value(json_object_get(object, key));

	return s && !strcmp(s, value);
}

static void note_event(struct qmp *q, const json_t *o)
{
	const json_t *data = json_object_get(o, "data");

	if (!is(data, "device", q->device))
		return;
	q->deleted |= is(o, "event", "DEVICE_DELETED");
	q->refused |= is(o, "event", "DEVICE_UNPLUG_GUEST_ERROR");
}

static bool is_event(struct qmp *q, const json_t *o)
{
	if (!json_object_get(o, "event"))
		return false;
	note_event(q, o);
	return true;
}

/* What it says is text to be shown. */
static int its_words(const json_t *error, char *err, size_t errlen)
{
	const char *words = json_string_value(json_object_get(error, "desc"));
	char shown[4 * WORDS + 1];

	if (!words)
		words = "no reason given";
	shown[htrace_escape(shown, sizeof(shown) - 1, words, strnlen(words, WORDS))] = 0;
	return failed(-EREMOTEIO, err, errlen, "%s", shown);
}

static int broken(struct qmp *q, int ret, char *err, size_t errlen)
{
	q->broken = true;
	switch (ret) {
	case -ETIMEDOUT:
		return failed(ret, err, errlen, "QEMU does not answer");
	case -EPIPE:
		return failed(ret, err, errlen, "QEMU closed its monitor");
	case -EMSGSIZE:
		return failed(ret, err, errlen, "a line of more than %d bytes came: that is no QMP", QMP_LINE);
	case -EPROTO:
		return failed(ret, err, errlen, "what came is no QMP");
	default:
		return failed(ret, err, errlen, "%s", strerror(-ret));
	}
}

/* Its answer: an object with "return" or "error". */
static int await_answer(struct qmp *q, __u64 end, json_t **answer)
{
	const json_t *id;
	int ret;

	for (;;) {
		ret = next_object(q, end, answer);
		if (ret)
			return ret;
		if (!is_event(q, *answer))
			break;
		json_decref(*answer);
		if (clock_now() >= end)
			return -ETIMEDOUT;
	}
	id = json_object_get(*answer, "id");
	if (json_is_number(id) && json_number_value(id) == q->asked &&
	    !json_object_get(*answer, "return") != !json_object_get(*answer, "error"))
		return 0;
	json_decref(*answer);
	return -EPROTO;
}

static int ask(struct qmp *q, const char *command, json_t *arguments, __u64 end)
{
	json_t *o = json_object();
	char *text = NULL;
	int ret = -ENOMEM;

	q->asked++;
	if (o && !json_object_set_new(o, "execute", json_string(command)) &&
	    !json_object_set_new(o, "id", json_integer((json_int_t)q->asked)) &&
	    (!arguments || !json_object_set(o, "arguments", arguments)))
		text = json_dumps(o, JSON_COMPACT | JSON_ENSURE_ASCII);
	if (text) {
		ret = send_all(q, text, strlen(text), end);
		if (!ret)
			ret = send_all(q, "\n", 1, end);
	}
	free(text);
	json_decref(o);
	return ret;
}

int qmp_do(struct qmp *q, const char *command, json_t *arguments, json_t **result, char *err, size_t errlen)
{
	__u64 end = clock_now() + ANSWER_NS;
	json_t *answer = NULL, *error;
	int ret = q->broken ? -EPIPE : ask(q, command, arguments, end);

	json_decref(arguments);
	if (!ret)
		ret = await_answer(q, end, &answer);
	if (ret)
		return broken(q, ret, err, errlen);
	error = json_object_get(answer, "error");
	if (error)
		ret = its_words(error, err, errlen);
	else if (result)
		*result = json_incref(json_object_get(answer, "return"));
	json_decref(answer);
	return ret;
}

/* ------------------------------------------------------------------------------------------- events */

int qmp_listen(struct qmp *q)
{
	int ret = q->broken ? -EPIPE : 0;
	json_t *o;

	for (int i = 0; i < LINES && !ret; i++) {
		ret = next_object(q, 0, &o);
		if (ret)
			break;
		if (!is_event(q, o)) /* an answer that nobody asked for */
			ret = -EPROTO;
		json_decref(o);
	}
	if (ret == -EAGAIN)
		ret = 0;
	q->broken |= ret != 0;
	return ret;
}

int qmp_wait(struct qmp *q, __u64 wait_ns)
{
	wait_for(q, POLLIN, clock_now() + wait_ns);
	return qmp_listen(q);
}

bool qmp_deleted(const struct qmp *q)
{
	return q->deleted;
}

bool qmp_refused(const struct qmp *q)
{
	return q->refused;
}

void qmp_forget(struct qmp *q)
{
	q->deleted = q->refused = false;
}

/* --------------------------------------------------------------------------------- the connection */

static int greeted(struct qmp *q, __u64 wait_ns, char *err, size_t errlen)
{
	json_t *o = NULL;
	int ret = next_object(q, clock_now() + wait_ns, &o);

	if (!ret && !json_is_object(json_object_get(o, "QMP")))
		ret = -EPROTO;
	json_decref(o);
	if (ret == -ETIMEDOUT)
		return failed(ret, err, errlen, "nobody answers there: QEMU speaks with one client of a monitor at a time, "
			      "so another one may have it (libvirt has its own), or it is no monitor");
	if (ret)
		return broken(q, ret, err, errlen);
	return qmp_do(q, "qmp_capabilities", NULL, NULL, err, errlen);
}

int qmp_open(struct qmp **out, int fd, const char *device, __u64 wait_ns, char *err, size_t errlen)
{
	struct qmp *q = malloc(sizeof(*q));
	int ret;

	if (!q) {
		close(fd);
		return failed(-ENOMEM, err, errlen, "out of memory");
	}
	q->fd = fd;
	q->asked = 0;
	q->device = device;
	q->deleted = q->refused = q->broken = false;
	q->start = q->end = 0;
	ret = greeted(q, wait_ns, err, errlen);
	if (ret) {
		qmp_close(q);
		return ret;
	}
	*out = q;
	return 0;
}

void qmp_close(struct qmp *q)
{
	if (!q)
		return;
	close(q->fd);
	free(q);
}

int qmp_fd(const struct qmp *q)
{
	return q->fd;
}
