/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What --view crash keeps of a guest: the last events of each CPU, what befell it, and its console. */
#ifndef READER_CRASH_H
#define READER_CRASH_H

#include "console.h"
#include "last_events.h"
#include "view.h"

#define CRASH_RINGS (2 * HTRACE_MAX_CPUS) /* CPUs, and threads' rings */
#define CRASH_NOTES 6
#define CRASH_NOTE 320
#define CRASH_SAID 64 /* messages of the kernel, as the event `console` of tracepoint printk:console has them */
#define CRASH_SAID_BYTES 256

struct crash_guest {
	unsigned int nr; /* of its source */
	const struct sink_session *session; /* NULL: there is none, or it is over */
	char source[VIEW_SOURCE]; /* what it is called, if there are several; harmless */
	struct last_events *ring[CRASH_RINGS];
	__u64 latest; /* time of the last event of all */
	__u64 unkept; /* events of rings that there was no memory for */
	char note[CRASH_NOTES][CRASH_NOTE]; /* the last ones, harmless; notes so far */
	unsigned int notes;
	struct crash_message {
		__u64 time;
		unsigned int len; /* of all of it, */
		char text[CRASH_SAID_BYTES]; /* and its beginning; any bytes */
	} said[CRASH_SAID]; /* likewise the last ones. They are in no ring: a panic's would be all there is in one */
	unsigned int nr_said;
	bool fresh; /* events came since it was printed */
};

/* How the kernel's own clock, as the console has it, goes beside the events'. */
struct crash_clock {
	unsigned int matches; /* messages that are both lines and events; 0: it is not known */
	__s64 offset;         /* ns to be added to a line's time; */
	__u64 spread;         /* no two matches are further apart */
};

/* NULL: memory is out. */
struct crash_guest *crash_new(unsigned int nr);
void crash_free(struct crash_guest *g);
/* What there was of a session before goes. */
void crash_begin(struct crash_guest *g, const struct sink_session *session);
void crash_event(struct crash_guest *g, const struct sink_event *e, unsigned int keep);
void crash_loss(struct crash_guest *g, const struct sink_loss *l, unsigned int keep);
void crash_note(struct crash_guest *g, const char *text);
/* Its rings that had events, the one with the latest event first; how many. */
unsigned int crash_rings(const struct crash_guest *g, const struct last_events *rings[CRASH_RINGS]);
struct crash_clock crash_clock(const struct crash_guest *g, const struct console_tail *t);
/* CLOCK_REALTIME of the last event, and whose: "the host's", "the guest's"; NULL: it is not known. */
const char *crash_real(const struct crash_guest *g, __u64 *real);

#endif
