/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Stacks as text: a line for each frame, below the event's own. */
#include "show.h"

#include <string.h>

#include "stacks.h"
#include "symbols.h"

#define PROFILE "profile" /* the event of guest-agent --events profile:HZ */
#define BUILD_ID_SHOWN 6 /* bytes of it, where the file's name is not known */

static void put_escaped(struct out *o, const char *text)
{
	out_escaped(o, text, strlen(text));
}

static void put_plus(struct out *o, __u64 offset)
{
	out_char(o, '+');
	out_hex(o, offset, 0);
}

static void show_kernel_frame(struct out *o, const struct frame *f)
{
	if (!f->symbol) {
		out_hex(o, f->address, 16);
		return;
	}
	put_escaped(o, f->symbol);
	put_plus(o, f->offset);
	if (f->module) {
		out_text(o, " [");
		put_escaped(o, f->module);
		out_char(o, ']');
	}
}

static void put_file(struct out *o, const struct frame *f)
{
	if (f->file) {
		put_escaped(o, f->file);
		return;
	}
	out_text(o, "build-id:");
	out_bytes(o, f->build_id, BUILD_ID_SHOWN);
}

static void show_user_frame(struct out *o, const struct frame *f)
{
	if (!f->in_file) {
		out_hex(o, f->address, 0);
	} else if (!f->symbol) {
		put_file(o, f);
		put_plus(o, f->file_offset);
	} else {
		put_escaped(o, f->symbol);
		put_plus(o, f->offset);
		out_text(o, " (");
		put_file(o, f);
		out_char(o, ')');
	}
}

__u32 first_frame(const struct sink_event *e, const struct stack *st)
{
	/* Its stacks begin with what was interrupted, which may be a tracer. */
	if (e->event && !strcmp(e->event->name, PROFILE))
		return 0;
	return symbols_own_frames(e->from->symbols, st);
}

static void show_stack(struct out *o, const struct sink_event *e, __u64 id, bool user)
{
	const struct origin *from = e->from;
	struct stack st;
	struct frame f;

	if (!stacks_find(from->stacks, id, &st)) {
		out_text(o, "        [stack ");
		out_hex(o, id, 16);
		out_text(o, " not recorded here]");
		out_newline(o);
		return;
	}
	for (__u32 i = user ? 0 : first_frame(e, &st); i < st.nr; i++) {
		out_spaces(o, 8);
		if (user) {
			symbols_user_frame(from->symbols, &st, i, &f);
			show_user_frame(o, &f);
		} else {
			symbols_kernel_frame(from->symbols, &st, i, &f);
			show_kernel_frame(o, &f);
		}
		out_newline(o);
	}
}

void show_stacks(struct out *o, const struct sink_event *e, const struct shown_stacks *stacks)
{
	for (unsigned int i = 0; i < stacks->nr; i++)
		show_stack(o, e, stacks->stack[i].id, stacks->stack[i].user);
}
