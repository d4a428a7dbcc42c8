/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "control.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"

#define MAX_SAMPLE 1000000

struct control {
	struct control_agent agent;
	__u64 allows;
	char command[HTRACE_CONTROL_MAX + 1];
	char text[HTRACE_REPLY_MAX];
	size_t len;
	__u64 next;
};

/* Which programs a command is about. */
struct pick {
	bool program[HTRACE_MAX_PROGS];
};

static const struct {
	const char *name;
	__u64 bits;
} allowances[] = {
	{"events", HTRACE_ALLOW_EVENTS}, {"filters", HTRACE_ALLOW_FILTERS}, {"sampling", HTRACE_ALLOW_SAMPLING},
	{"flush", HTRACE_ALLOW_FLUSH},
	{"all", HTRACE_ALLOW_EVENTS | HTRACE_ALLOW_FILTERS | HTRACE_ALLOW_SAMPLING | HTRACE_ALLOW_FLUSH},
	{"none", 0},
};

#define NR_ALLOWANCES (sizeof(allowances) / sizeof(*allowances))

int control_parse(const char *list, __u64 *allows)
{
	char *copy = strdup(list), *save, *word;
	size_t i = 0, words = 0;

	*allows = HTRACE_CONTROL_TAKEN;
	for (word = copy ? strtok_r(copy, ",", &save) : NULL; word; word = strtok_r(NULL, ",", &save)) {
		for (i = 0; i < NR_ALLOWANCES && strcmp(word, allowances[i].name); i++)
			;
		if (i == NR_ALLOWANCES)
			break;
		*allows |= allowances[i].bits;
		words++;
	}
	if (word || !words)
		say("--allow: no '%s'; there are events, filters, sampling, flush, all and none", word ? word : list);
	free(copy);
	return word || !words ? -1 : 0;
}

/* ----------------------------------------------------------------------------------------- answers */

__attribute__((format(printf, 2, 3))) static void put(struct control *c, const char *fmt, ...)
{
	size_t room = sizeof(c->text) - c->len;
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(c->text + c->len, room, fmt, args);
	va_end(args);
	c->len += n < 0 ? 0 : (size_t)n < room ? (size_t)n : room - 1;
}

/* What was said here of why it is not done is the answer. */
static enum htrace_reply_status failed(struct control *c)
{
	put(c, "%s", message_first()[0] ? message_first() : "it cannot be done");
	return HTRACE_REPLY_FAILED;
}

static enum htrace_reply_status denied(struct control *c, const char *what)
{
	put(c, "the guest does not allow that: its agent was not started with --allow %s", what);
	return HTRACE_REPLY_DENIED;
}

/* ------------------------------------------------------------------------------------ which events */

/* How many programs @word is about; those that are always recorded only count for *@kept. */
static size_t pick_word(const struct loader *l, const char *word, struct pick *p, size_t *kept)
{
	size_t nr = 0;

	for (size_t i = 0; i < l->nr_programs; i++) {
		if (!loader_is_named(l, &l->program[i], word))
			continue;
		if (loader_is_kept(&l->program[i]) && loader_is_on(&l->program[i])) {
			++*kept;
			continue;
		}
		p->program[i] = true;
		nr++;
	}
	return nr;
}

/* @unknown: gets the words, separated by commas, that no program has; NULL: there may be none. */
static int pick(struct control *c, const char *list, struct pick *p, char *unknown)
{
	char words[HTRACE_CONTROL_MAX + 1], *save;
	size_t nr = 0;

	memset(p, 0, sizeof(*p));
	if (unknown)
		unknown[0] = 0;
	strcpy(words, list);
	for (char *w = strtok_r(words, ", ", &save); w; w = strtok_r(NULL, ", ", &save), nr++) {
		size_t kept = 0;

		if (pick_word(c->agent.loader, w, p, &kept))
			continue;
		if (kept) {
			say("%s is always recorded: task names come from it", w);
			return -1;
		}
		if (!unknown) {
			say("no event '%s' is recorded here; host-reader ctl ... list shows those that are", w);
			return -1;
		}
		strcat(strcat(unknown, unknown[0] ? "," : ""), w);
	}
	if (nr)
		return 0;
	say("which events? Give names, separated by commas");
	return -1;
}

/* ------------------------------------------------------------------------- what readers have to know */

/* Behind a change; of what they are not told they take it that some are missing, which does no harm. */
static void tell_all(struct control *c)
{
	bool all[HTRACE_MAX_PROGS];

	memset(all, true, sizeof(all));
	message_forget();
	if (loader_tell(c->agent.loader, all, NULL, c->agent.region))
		put(c, "; readers still take it that some are missing: %s", message_first());
}

/* ---------------------------------------------------------------------------------------- commands */

static size_t detach(struct control *c, const struct pick *p)
{
	struct loader *l = c->agent.loader;
	size_t nr = 0;

	/* Entries of functions before their returns, as at the end of all. */
	for (size_t i = l->nr_programs; i-- > 0;) {
		if (!p->program[i] || !loader_is_on(&l->program[i]))
			continue;
		loader_detach_one(&l->program[i]);
		c->agent.keep_up(c->agent.ctx);
		nr++;
	}
	if (nr)
		loader_let_end();
	return nr;
}

/* All of those that are not, or none. @done: which. */
static int attach(struct control *c, const struct pick *p, struct pick *done, size_t *nr)
{
	struct loader *l = c->agent.loader;
	int err = 0;

	memset(done, 0, sizeof(*done));
	*nr = 0;
	for (size_t i = 0; i < l->nr_programs && !err; i++) {
		if (!p->program[i] || loader_is_on(&l->program[i]))
			continue;
		err = loader_attach_one(&l->program[i]);
		done->program[i] = true;
		++*nr;
		c->agent.keep_up(c->agent.ctx);
	}
	if (err)
		detach(c, done);
	return err;
}

static enum htrace_reply_status do_disable(struct control *c, char *arg)
{
	static const bool whole = false;
	struct pick p;

	if (!(c->allows & HTRACE_ALLOW_EVENTS))
		return denied(c, "events");
	if (pick(c, arg, &p, NULL) || loader_tell(c->agent.loader, p.program, &whole, c->agent.region))
		return failed(c);
	put(c, "%zu switched off", detach(c, &p));
	return HTRACE_REPLY_DONE;
}

/* As the agent has it. What it did not leave as it was when it failed is part of the answer. */
static int renew(struct control *c, const bool *program, const char *more)
{
	struct loader *l = c->agent.loader;
	bool was_on[HTRACE_MAX_PROGS];
	int err;

	for (size_t i = 0; i < l->nr_programs; i++)
		was_on[i] = loader_is_on(&l->program[i]);
	err = c->agent.renew(c->agent.ctx, program, more);
	if (!err)
		return 0;
	failed(c);
	for (size_t i = 0; i < l->nr_programs; i++)
		if (was_on[i] && !loader_is_on(&l->program[i]))
			put(c, "; %s is off now: it could not be attached again", l->program[i].name);
	return err;
}

static enum htrace_reply_status do_enable(struct control *c, char *arg)
{
	size_t nr, before = c->agent.loader->nr_programs;
	static const bool nothing[HTRACE_MAX_PROGS];
	char unknown[HTRACE_CONTROL_MAX + 1];
	struct pick p, done;

	if (!(c->allows & HTRACE_ALLOW_EVENTS))
		return denied(c, "events");
	if (pick(c, arg, &p, unknown) || attach(c, &p, &done, &nr))
		return failed(c);
	if (unknown[0] && renew(c, nothing, unknown)) {
		detach(c, &done);
		tell_all(c);
		return HTRACE_REPLY_FAILED;
	}
	put(c, "%zu switched on", nr + c->agent.loader->nr_programs - before);
	tell_all(c);
	return HTRACE_REPLY_DONE;
}

/* Splits "EVENTS: VALUE" of EVENTS without colons, or of SYSTEM:NAME: at the colon before a blank, or at the end. */
static char *split(char *arg)
{
	char *colon = strstr(arg, ": ");

	if (!colon && *arg && arg[strlen(arg) - 1] == ':')
		colon = arg + strlen(arg) - 1;
	if (!colon) {
		say("what for which events? As in 'EVENT: VALUE'");
		return NULL;
	}
	*colon++ = 0;
	return colon + strspn(colon, " ");
}

/* What programs have besides: as a command wants it, or as it was. */
struct setting {
	char *filter;
	__u32 sample;
};

static void swap_settings(struct loader *l, const struct pick *p, struct setting *s)
{
	for (size_t i = 0; i < l->nr_programs; i++) {
		struct program *at = &l->program[i];
		struct setting was = {at->filter, at->sample};

		if (!p->program[i])
			continue;
		at->filter = s[i].filter;
		at->sample = s[i].sample;
		s[i] = was;
	}
}

/* Load those picked anew with @s, which then has what was before. */
static enum htrace_reply_status apply(struct control *c, const struct pick *p, struct setting *s)
{
	struct loader *l = c->agent.loader;
	int err;

	swap_settings(l, p, s);
	err = renew(c, p->program, NULL);
	if (!err)
		return HTRACE_REPLY_DONE;
	swap_settings(l, p, s);
	tell_all(c);
	return HTRACE_REPLY_FAILED;
}

static enum htrace_reply_status do_filter(struct control *c, char *arg)
{
	struct setting s[HTRACE_MAX_PROGS] = {{0}};
	enum htrace_reply_status status = HTRACE_REPLY_FAILED;
	struct loader *l = c->agent.loader;
	struct htrace_filter *parsed = NULL;
	struct htrace_filter_error why;
	char *text = split(arg);
	struct pick p;

	if (!(c->allows & HTRACE_ALLOW_FILTERS))
		return denied(c, "filters");
	if (!text || pick(c, arg, &p, NULL))
		return failed(c);
	if (*text && htrace_filter_parse(&parsed, text, &why)) {
		put(c, "filter: column %u: %s", why.column, why.msg);
		return HTRACE_REPLY_FAILED;
	}
	htrace_filter_free(parsed);
	for (size_t i = 0; i < l->nr_programs; i++) {
		s[i].filter = *text && p.program[i] ? strdup(text) : NULL;
		s[i].sample = l->program[i].sample;
	}
	status = apply(c, &p, s);
	for (size_t i = 0; i < l->nr_programs; i++)
		if (p.program[i])
			free(s[i].filter);
	if (status == HTRACE_REPLY_DONE) {
		put(c, *text ? "recorded if it matches" : "recorded without a filter");
		tell_all(c);
	}
	return status;
}

static enum htrace_reply_status do_sample(struct control *c, char *arg)
{
	struct setting s[HTRACE_MAX_PROGS] = {{0}};
	struct loader *l = c->agent.loader;
	enum htrace_reply_status status;
	char *text = split(arg), *end;
	unsigned long n = 0;
	struct pick p;

	if (!(c->allows & HTRACE_ALLOW_SAMPLING))
		return denied(c, "sampling");
	if (!text || pick(c, arg, &p, NULL))
		return failed(c);
	if (!strncmp(text, "1/", 2) && isdigit((unsigned char)text[2])) {
		n = strtoul(text + 2, &end, 10);
		n = *end ? 0 : n;
	}
	if (!n || n > MAX_SAMPLE) {
		put(c, "sample: '%.40s' is none of 1/1 ... 1/%d", text, MAX_SAMPLE);
		return HTRACE_REPLY_FAILED;
	}
	for (size_t i = 0; i < l->nr_programs; i++) {
		s[i].filter = l->program[i].filter;
		s[i].sample = (__u32)n;
	}
	status = apply(c, &p, s);
	if (status == HTRACE_REPLY_DONE) {
		put(c, n == 1 ? "all recorded" : "one in %lu recorded, at random", n);
		tell_all(c);
	}
	return status;
}

static enum htrace_reply_status do_flush(struct control *c, char *arg)
{
	(void)arg;
	if (!(c->allows & HTRACE_ALLOW_FLUSH))
		return denied(c, "flush");
	if (!c->agent.flush(c->agent.ctx)) {
		put(c, "not all could be relayed within a second: the host's reader may be too slow");
		return HTRACE_REPLY_FAILED;
	}
	put(c, "all that was recorded can be read");
	return HTRACE_REPLY_DONE;
}

static enum htrace_reply_status do_list(struct control *c, char *arg)
{
	unsigned long from = strtoul(arg, NULL, 10);

	c->len = control_list(c->agent.loader, c->allows, from, c->text, sizeof(c->text), &c->next);
	return HTRACE_REPLY_DONE;
}

static enum htrace_reply_status carry_out(struct control *c)
{
	static const struct {
		const char *name;
		enum htrace_reply_status (*carry_out)(struct control *c, char *arg);
	} commands[] = {
		{"list", do_list}, {"enable", do_enable}, {"disable", do_disable}, {"filter", do_filter},
		{"sample", do_sample}, {"flush", do_flush},
	};
	char *arg = c->command + strcspn(c->command, " ");

	if (*arg)
		*arg++ = 0;
	arg += strspn(arg, " ");
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++)
		if (!strcmp(c->command, commands[i].name))
			return commands[i].carry_out(c, arg);
	put(c, "this agent knows no command '%.40s'", c->command);
	return HTRACE_REPLY_INVALID;
}

static void make_printable(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || *text == 127)
			*text = ' ';
}

void control_work(struct control *c)
{
	enum htrace_reply_status status;

	if (!c || !htrace_region_command(c->agent.region, c->command))
		return;
	make_printable(c->command); /* parts of it are said, and stand in the list */
	detail("the host's command: %s", c->command);
	c->len = 0;
	c->next = 0;
	message_forget();
	status = carry_out(c);
	htrace_region_reply(c->agent.region, status, c->text, c->len, c->next);
}

struct control *control_new(const struct control_agent *a, __u64 allows)
{
	struct control *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->agent = *a;
	c->allows = allows;
	htrace_region_control(a->region, allows);
	return c;
}

void control_free(struct control *c)
{
	if (c)
		htrace_region_control(c->agent.region, 0);
	free(c);
}
