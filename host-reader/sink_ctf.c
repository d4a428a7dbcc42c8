/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * CTF 1.8 with LTTng's events, for babeltrace2 and Trace Compass. Each session of a source is a
 * trace of its own, a directory in DIR; each ring is a stream in it. No name comes from a guest.
 *
 * What is on disk can be read at any time, also if we are killed in a write: a packet is there or not, and
 * after the declarations of the events in it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "ctf_classes.h"
#include "names.h"
#include "outdir.h"
#include "show.h"
#include "vcpus.h"

#define METADATA_WHOLE (256u << 10) /* up to there it is replaced, not appended to */
#define STREAM_BUCKETS 64
#define COST_SHARE 20 /* what took so long is not done again for so many times as long */

struct stream {
	struct stream *next;
	const struct origin *from;
	unsigned int kind;
	struct ctf_stream *out;
};

struct trace {
	struct trace *next;
	struct ctf_trace_info info;
	char name[96];
	int dir;
	struct ctf_classes *classes;
	size_t head, published; /* bytes of the metadata's parts that are in the file */
	off_t metadata; /* its size */
	__u64 begin; /* time of the first event */
	__u64 bound; /* of its times, that the metadata has */
	__u64 bound_next; /* host time: until then it may have an earlier one */
	__u64 tables; /* of tasks that were dumped */
	struct stream *streams[STREAM_BUCKETS];
};

struct ctf {
	struct outdir dir;
	int error;
	unsigned int nr_traces;
	struct trace *traces;
	struct ctf_event event, scratch;
};

static void fail(struct ctf *c, int ret)
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

static void publish_metadata(struct ctf *c, struct trace *t)
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
	fail(c, ret);
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

static void free_trace(struct ctf *c, struct trace *t)
{
	for (size_t i = 0; i < STREAM_BUCKETS; i++) {
		while (t->streams[i]) {
			struct stream *st = t->streams[i];

			t->streams[i] = st->next;
			fail(c, -ctf_stream_free(st->out));
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
		fail(c, -ENOMEM);
		return NULL;
	}
	name_trace(t, s->path, ++c->nr_traces);
	t->info = (struct ctf_trace_info){
		.session = s, .name = t->name, .created = time(NULL), .per_cpu = from->per_cpu
	};
	if (getrandom(t->info.uuid, sizeof(t->info.uuid), 0) != sizeof(t->info.uuid))
		fail(c, -EIO);
	t->info.uuid[6] = (t->info.uuid[6] & 0x0f) | 0x40; /* a random one: version 4 */
	t->info.uuid[8] = (t->info.uuid[8] & 0x3f) | 0x80;
	t->begin = begin;
	t->classes = ctf_classes_new(&t->info);
	if (!t->classes)
		fail(c, -ENOMEM);
	t->dir = c->error ? -1 : outdir_make(c->dir.fd, t->name);
	fail(c, t->dir);
	t->next = c->traces;
	c->traces = t;
	return t;
}

static struct trace *find_trace(struct ctf *c, const struct origin *from, __u64 time)
{
	struct trace *t = c->traces;

	while (t && t->info.session != from->session)
		t = t->next;
	return t ? t : new_trace(c, from, time);
}

static struct stream *new_stream(struct ctf *c, struct trace *t, const struct origin *from,
				 unsigned int kind)
{
	struct stream **bucket = &t->streams[from->ring % STREAM_BUCKETS], *st;
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
		fail(c, ret);
		return NULL;
	}
	st->from = from;
	st->kind = kind;
	st->next = *bucket;
	*bucket = st;
	ctf_declare_stream(t->classes, kind);
	return st;
}

static struct stream *find_stream(struct ctf *c, struct trace *t, const struct origin *from,
				  unsigned int kind)
{
	struct stream *st = t->streams[from->ring % STREAM_BUCKETS];

	kind |= from->per_cpu ? 0 : CTF_RING;
	while (st && (st->from != from || st->kind != kind))
		st = st->next;
	return st ? st : new_stream(c, t, from, kind);
}

/* --------------------------------------------------------------------------------------- events */

static unsigned int kind_of(const struct sink_event *e)
{
	return (e->unverified ? CTF_UNVERIFIED : 0) | (e->vcpu ? CTF_VCPU : 0);
}

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
static void begin_event(struct ctf *c, const struct sink_event *e, __u16 id, __u64 time)
{
	__u32 pid = e->task_known ? names_pid(e->from->names, e->task, e->time) : 0;
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

static void end_event(struct ctf *c, struct trace *t, struct stream *st, __u64 time)
{
	if (c->event.failed || c->scratch.failed)
		fail(c, -ENOMEM);
	if (!c->error)
		fail(c, ctf_stream_add(st->out, time, c->event.buf, c->event.len));
	if (c->error || !ctf_stream_full(st->out))
		return;
	publish_metadata(c, t);
	if (!c->error)
		fail(c, ctf_stream_flush(st->out));
}

static bool put_decoded(struct ctf *c, struct trace *t, const struct stream *st,
			const struct sink_event *e, __u64 time)
{
	const struct ctf_class *k = ctf_find_class(t->classes, e, st->kind);

	if (!k)
		return false;
	begin_event(c, e, k->id, time);
	return ctf_add_fields(&c->event, &c->scratch, e, k->layout);
}

static void put_undecoded(struct ctf *c, struct trace *t, const struct stream *st,
			  const struct sink_event *e, __u64 time)
{
	const struct ctf_class *k = ctf_find_raw(t->classes, e, st->kind);

	begin_event(c, e, k->id, time);
	if (k->id == CTF_UNDECODED)
		ctf_add(&c->event, &e->record->id, 4);
	ctf_add(&c->event, &e->record->len, 4);
	ctf_add(&c->event, e->record->payload, e->record->len);
}

/* ----------------------------------------------------------------------------------- state dump */

struct dump {
	struct ctf *ctf;
	struct trace *trace;
	struct stream *stream;
	const struct sink_event *event;
	__u64 time;
};

/* As LTTng's, of which only names and processes are known here. */
static bool dump_task(void *ctx, const struct names_task *task)
{
	enum { UNKNOWN_MODE = 5, NONE = 0, UNNAMED = 0 };
	struct dump *d = ctx;
	__s32 tid = (__s32)task->tid, pid = task->pid ? (__s32)task->pid : -1;
	const __s32 before[] = { tid, tid, pid, pid, -1, -1 };
	const __s32 after[] = { -1, UNKNOWN_MODE, NONE, UNNAMED, 0, 0 };

	if (!tid) /* each CPU's idle task is known to everybody */
		return true;
	begin_event(d->ctf, d->event, CTF_DUMP_TASK, d->time);
	ctf_add(&d->ctf->event, before, sizeof(before));
	ctf_add_string(&d->ctf->event, task->comm, task->len);
	ctf_add(&d->ctf->event, after, sizeof(after));
	end_event(d->ctf, d->trace, d->stream, d->time);
	return !d->ctf->error;
}

static void dump_mark(const struct dump *d, enum ctf_fixed which)
{
	begin_event(d->ctf, d->event, (__u16)which, d->time);
	end_event(d->ctf, d->trace, d->stream, d->time);
}

/* What ran before the trace began, or while events were lost. It happens when @e does. */
static void dump_state(struct ctf *c, struct trace *t, struct stream *st,
		       const struct sink_event *e, __u64 time)
{
	struct sink_event nobody = *e;
	struct dump d = { .ctf = c, .trace = t, .stream = st, .event = &nobody, .time = time };

	nobody.task_known = false;
	t->tables = e->from->session->tables;
	dump_mark(&d, CTF_DUMP_START);
	names_each(e->from->names, e->time, dump_task, &d);
	dump_mark(&d, CTF_DUMP_END);
}

/* ----------------------------------------------------------------------------------------- sink */

static void ctf_event(struct sink *s, const struct sink_event *e)
{
	struct ctf *c = s->state;
	struct trace *t = c->error ? NULL : find_trace(c, e->from, e->time);
	struct stream *st = t && !c->error ? find_stream(c, t, e->from, kind_of(e)) : NULL;
	__u64 time;

	if (!st || c->error)
		return;
	time = ctf_stream_time(st->out, e->time);
	if (t->tables != e->from->session->tables)
		dump_state(c, t, st, e, time);
	if (!put_decoded(c, t, st, e, time))
		put_undecoded(c, t, st, e, time);
	end_event(c, t, st, time);
}

/* Where events are missing: in the stream of those that came last. */
static struct stream *find_losing(struct ctf *c, struct trace *t, const struct origin *from)
{
	for (struct stream *st = t->streams[from->ring % STREAM_BUCKETS]; st; st = st->next)
		if (st->from == from && st->kind & CTF_VCPU && !(st->kind & CTF_UNVERIFIED))
			return st;
	return find_stream(c, t, from, 0);
}

static void ctf_loss(struct sink *s, const struct sink_loss *l)
{
	struct ctf *c = s->state;
	struct trace *t = c->error ? NULL : find_trace(c, l->from, l->time);
	struct stream *st = t && !c->error ? find_losing(c, t, l->from) : NULL;
	__u64 nr = 0;

	if (!st || c->error)
		return;
	if (__builtin_add_overflow(l->overwritten, l->dropped, &nr) ||
	    __builtin_add_overflow(nr, l->corrupt, &nr) ||
	    __builtin_add_overflow(nr, l->unfinished, &nr))
		nr = ~0ULL;
	if (!nr) /* CTF counts events; bytes that were never committed have no place in it */
		return;
	publish_metadata(c, t);
	if (!c->error)
		fail(c, ctf_stream_lose(st->out, t->begin, l->time, nr));
}

/* That a session began is told by its being a trace. */
static void ctf_note(struct sink *s, const struct sink_note *n)
{
	struct ctf *c = s->state;
	struct trace *t = c->error || !n->from ? NULL : find_trace(c, n->from, n->time);
	struct stream *st = t && !c->error ? find_stream(c, t, n->from, false) : NULL;
	struct sink_event e = { .from = n->from, .time = n->time };
	__u64 time;

	if (!st || c->error)
		return;
	time = ctf_stream_time(st->out, n->time);
	begin_event(c, &e, CTF_NOTE, time);
	ctf_add_string(&c->event, n->text, strlen(n->text));
	end_event(c, t, st, time);
}

/*
 * What the file says of how far times may be off holds for those that are in it. That takes all of it anew: a
 * guest that has it large, and its clock ever worse, makes that rare. @end: the last time.
 */
static bool renew_bound(struct trace *t, __u64 now, bool end)
{
	const __u64 *bound = t->info.session->bound;

	if (!bound || *bound == t->bound || (now < t->bound_next && !end))
		return false;
	t->bound = *bound;
	ctf_classes_renew_head(t->classes);
	t->head = 0;
	return true;
}

static void flush_trace(struct ctf *c, struct trace *t, bool end)
{
	__u64 start = clock_now(), done;
	bool renewed = renew_bound(t, start, end);

	publish_metadata(c, t);
	done = clock_now();
	if (renewed)
		t->bound_next = done + COST_SHARE * (done - start);
	for (size_t i = 0; i < STREAM_BUCKETS; i++)
		for (struct stream *st = t->streams[i]; st && !c->error; st = st->next)
			fail(c, ctf_stream_flush(st->out));
}

static void ctf_flush(struct sink *s)
{
	struct ctf *c = s->state;

	for (struct trace *t = c->traces; t; t = t->next)
		flush_trace(c, t, false);
}

static void ctf_session_end(struct sink *s, const struct sink_session *session)
{
	struct ctf *c = s->state;

	for (struct trace **at = &c->traces; *at; at = &(*at)->next) {
		struct trace *t = *at;

		if (t->info.session != session)
			continue;
		flush_trace(c, t, true);
		*at = t->next;
		free_trace(c, t);
		return;
	}
}

static int ctf_open(struct sink *s)
{
	struct ctf *c = calloc(1, sizeof(*c));
	int ret = c ? outdir_open(&c->dir, s->path) : -ENOMEM;

	if (ret)
		free(c);
	else
		s->state = c;
	return ret;
}

/* A file per ring is open: there may be as many as the system lets us have. */
static int ctf_begin(struct sink *s)
{
	struct rlimit l;

	if (!getrlimit(RLIMIT_NOFILE, &l)) {
		l.rlim_cur = l.rlim_max;
		setrlimit(RLIMIT_NOFILE, &l);
	}
	return 0;
}

static int ctf_error(const struct sink *s)
{
	const struct ctf *c = s->state;

	return c->error;
}

static int close_all(struct ctf *c)
{
	int error;

	ctf_event_free(&c->event);
	ctf_event_free(&c->scratch);
	error = c->error;
	free(c);
	return -error;
}

static int ctf_close(struct sink *s)
{
	struct ctf *c = s->state;

	while (c->traces)
		ctf_session_end(s, c->traces->info.session);
	outdir_close(&c->dir);
	return close_all(c);
}

static void ctf_abandon(struct sink *s)
{
	struct ctf *c = s->state;

	outdir_abandon(&c->dir, s->path);
	close_all(c);
}

const struct sink_ops sink_ctf = {
	.name = "ctf",
	.open = ctf_open,
	.abandon = ctf_abandon,
	.begin = ctf_begin,
	.flush = ctf_flush,
	.error = ctf_error,
	.close = ctf_close,
	.event = ctf_event,
	.loss = ctf_loss,
	.note = ctf_note,
	.session_end = ctf_session_end,
};
