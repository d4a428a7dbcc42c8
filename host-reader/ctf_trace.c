/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ctf_trace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "show.h"
#include "vcpus.h"

#define METADATA_WHOLE (256u << 10) /* up to there it is replaced, not appended to */

void ctf_fail(struct ctf *c, int ret)
{
	if (ret < 0 && !c->error)
		c->error = -ret;
}

/* ------------------------------------------------------------------------------------- metadata */

/*
 * Whoever looks sees all of it or what was there before: a new file takes the old one's place. When
 * it has grown so large that this would cost too much, it is appended to. It is made beside it: the sandbox of
 * older kernels lets nothing go from directory to directory.
 */
static int replace_metadata(struct trace *t, const struct tsdl *head, const struct tsdl *text)
{
	static const char fresh[] = ".metadata";
	int fd = outdir_create(t->dir, fresh), ret;

	if (fd < 0)
		return fd;
	ret = outdir_write(fd, head->p, head->len);
	if (!ret)
		ret = outdir_write(fd, text->p, text->len);
	if (close(fd) && !ret)
		ret = -errno;
	if (!ret && renameat(t->dir, fresh, t->dir, "metadata"))
		ret = -errno;
	if (ret)
		unlinkat(t->dir, fresh, 0);
	else
		t->metadata = (off_t)(head->len + text->len);
	return ret;
}

static int append_metadata(struct trace *t, const struct tsdl *text)
{
	int fd = openat(t->dir, "metadata", O_WRONLY | O_NOFOLLOW | O_CLOEXEC), ret;

	if (fd < 0)
		return -errno;
	ret = outdir_append_text(fd, text->p + t->published, text->len - t->published, &t->metadata);
	if (ret && ftruncate(fd, t->metadata))
		ret = -EIO;
	if (close(fd) && !ret)
		ret = -errno;
	return ret;
}

void ctf_publish(struct ctf *c, struct trace *t)
{
	const struct tsdl *head, *text;
	int ret;

	if (c->error)
		return;
	head = ctf_classes_head(t->classes);
	text = ctf_classes_text(t->classes);
	if (t->head == head->len && t->published == text->len)
		return;
	if (head->full || text->full)
		ret = -ENOMEM;
	else if (t->head != head->len || t->published < METADATA_WHOLE)
		ret = replace_metadata(t, head, text);
	else
		ret = append_metadata(t, text);
	if (!ret) {
		t->head = head->len;
		t->published = text->len;
	}
	ctf_fail(c, ret);
}

/* ------------------------------------------------------------------------------ traces, streams */

/* A name for a directory from a path, which is our user's. */
static void name_trace(struct trace *t, const char *path, unsigned int nr)
{
	const char *base = strrchr(path, '/');
	char safe[48];
	size_t n = 0;

	for (base = base ? base + 1 : path; *base && n < sizeof(safe) - 1; base++)
		safe[n++] = (*base >= 'a' && *base <= 'z') || (*base >= 'A' && *base <= 'Z') ||
					    (*base >= '0' && *base <= '9') || *base == '-' ?
				    *base :
				    '_';
	safe[n] = 0;
	snprintf(t->name, sizeof(t->name), "%s-%u", n ? safe : "trace", nr);
}

void ctf_free_trace(struct ctf *c, struct trace *t)
{
	for (size_t i = 0; i < CTF_STREAM_BUCKETS; i++) {
		while (t->streams[i]) {
			struct stream *st = t->streams[i];

			t->streams[i] = st->next;
			ctf_fail(c, -ctf_stream_free(st->out));
			free(st);
		}
	}
	ctf_classes_free(t->classes);
	if (t->dir >= 0)
		close(t->dir);
	free(t);
}

static struct trace *new_trace(struct ctf *c, const struct origin *from, __u64 begin)
{
	const struct sink_session *s = from->session;
	struct trace *t = calloc(1, sizeof(*t));

	if (!t) {
		ctf_fail(c, -ENOMEM);
		return NULL;
	}
	name_trace(t, s->path, ++c->nr_traces);
	t->info = (struct ctf_trace_info){
		.session = s, .name = t->name, .created = time(NULL), .per_cpu = from->per_cpu,
		.role = !c->compass ? 0 : s->facts.host ? CTF_HOST : CTF_GUEST,
	};
	if (getrandom(t->info.uuid, sizeof(t->info.uuid), 0) != sizeof(t->info.uuid))
		ctf_fail(c, -EIO);
	t->info.uuid[6] = (t->info.uuid[6] & 0x0f) | 0x40; /* a random one: version 4 */
	t->info.uuid[8] = (t->info.uuid[8] & 0x3f) | 0x80;
	t->begin = begin;
	t->classes = ctf_classes_new(&t->info);
	if (!t->classes)
		ctf_fail(c, -ENOMEM);
	t->dir = c->error ? -1 : outdir_make(c->dir.fd, t->name);
	ctf_fail(c, t->dir);
	t->next = c->traces;
	c->traces = t;
	return t;
}

struct trace *ctf_find_trace(struct ctf *c, const struct origin *from, __u64 time)
{
	struct trace *t = c->traces;

	while (t && t->info.session != from->session)
		t = t->next;
	return t ? t : new_trace(c, from, time);
}

static struct stream *new_stream(struct ctf *c, struct trace *t, const struct origin *from,
				 unsigned int kind)
{
	struct stream **bucket = &t->streams[from->ring % CTF_STREAM_BUCKETS], *st;
	unsigned int same = 0;
	char name[64];
	int ret;

	/* Several sets of rings of one kind: each has its own ring 0. */
	for (const struct stream *other = *bucket; other; other = other->next)
		same += other->from->ring == from->ring && other->kind == kind;
	snprintf(name, sizeof(name), "%s%u", kind & CTF_RING ? "ring" : "cpu", from->ring);
	if (same)
		snprintf(name + strlen(name), 12, "_%u", same);
	if (kind & CTF_VCPU)
		strcat(name, "-vcpu");
	if (kind & CTF_UNVERIFIED)
		strcat(name, "-unverified");
	st = calloc(1, sizeof(*st));
	ret = st ? ctf_stream_new(&st->out, t->dir, name, kind, from->ring, t->info.uuid) : -ENOMEM;
	if (ret) {
		free(st);
		ctf_fail(c, ret);
		return NULL;
	}
	st->from = from;
	st->kind = kind;
	st->trace = t;
	st->next = *bucket;
	*bucket = st;
	ctf_declare_stream(t->classes, kind);
	return st;
}

struct stream *ctf_find_stream(struct ctf *c, struct trace *t, const struct origin *from,
				  unsigned int kind)
{
	struct stream *st = t->streams[from->ring % CTF_STREAM_BUCKETS];

	kind |= from->per_cpu ? 0 : CTF_RING;
	while (st && (st->from != from || st->kind != kind))
		st = st->next;
	return st ? st : new_stream(c, t, from, kind);
}

/* --------------------------------------------------------------------------------------- events */

/* As the streams that say of virtual CPUs declare it. */
static void add_vcpu(struct ctf_event *w, const struct vcpu_view *v)
{
	const struct {
		__u32 vm, vcpu;
		__s32 thread;
		__u8 state;
	} __attribute__((packed)) head = {
		v->vm, v->vcpu, v->thread ? (__s32)v->thread : -1, (__u8)v->state,
	};
	const __u64 lost[] = { v->out, v->preempted };

	ctf_add(w, &head, sizeof(head));
	ctf_add_string(w, v->why ? v->why : "-", v->why ? strlen(v->why) : 1);
	ctf_add(w, lost, sizeof(lost));
}

/* Header and context. */
void ctf_begin_event(struct ctf *c, const struct sink_event *e, __u16 id, __u64 time)
{
	__u32 pid = !e->task_known ? 0 : c->pid ? c->pid : names_pid(e->from->names, e->task, e->time);
	struct ctf_event_header h = {
		.id = id,
		.timestamp = time,
		.pid = pid || (e->task_known && !e->task) ? (__s32)pid : -1,
		.tid = e->task_known ? (__s32)e->task : -1,
	};

	c->event.len = 0;
	ctf_add(&c->event, &h, sizeof(h));
	ctf_add_comm(&c->event, e, e->task_known ? e->task : CTF_NO_TASK);
	if (e->vcpu)
		add_vcpu(&c->event, e->vcpu);
}

void ctf_end_event(struct ctf *c, struct trace *t, struct stream *st, __u64 time)
{
	if (c->event.failed || c->scratch.failed)
		ctf_fail(c, -ENOMEM);
	if (!c->error)
		ctf_fail(c, ctf_stream_add(st->out, time, c->event.buf, c->event.len));
	if (c->error || !ctf_stream_full(st->out))
		return;
	ctf_publish(c, t);
	if (!c->error)
		ctf_fail(c, ctf_stream_flush(st->out));
}

/*
 * As LTTng's, of which only names and processes are known here. To Trace Compass -1 would be a process, and a parent,
 * that many have: whose process is not known is its own, and a thread's parent the one that made it, its process'.
 */
void ctf_dump_task(struct ctf *c, struct stream *st, const struct sink_event *nobody, const struct names_task *task)
{
	enum { UNKNOWN_MODE = 5, NONE = 0, UNNAMED = 0 };
	__s32 tid = (__s32)task->tid, pid = task->pid ? (__s32)task->pid : c->compass ? tid : -1;
	__s32 parent = !c->compass ? -1 : pid != tid ? pid : 0;
	const __s32 before[] = { tid, tid, pid, pid, parent, parent };
	const __s32 after[] = { -1, UNKNOWN_MODE, NONE, UNNAMED, 0, 0 };

	ctf_begin_event(c, nobody, CTF_DUMP_TASK, nobody->time);
	ctf_add(&c->event, before, sizeof(before));
	if (task->comm)
		ctf_add_string(&c->event, task->comm, task->len);
	else
		ctf_add_comm(&c->event, nobody, task->tid);
	ctf_add(&c->event, after, sizeof(after));
	ctf_end_event(c, st->trace, st, nobody->time);
}
