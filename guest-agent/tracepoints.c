/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tracepoints.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "message.h"

#define TRACEFS "/sys/kernel/tracing"
#define EVENTS TRACEFS "/events"

#define ROUND8(n) (((n) + 7u) & ~7u)

struct tp_field {
	char name[HTRACE_NAME_MAX];
	unsigned int offset, size;
	unsigned int elem; /* bytes of an element; 0: not an array */
	bool is_signed, is_text, is_pointer, is_bool;
	bool is_dynamic; /* the field is a word that says where the data is */
	bool is_last;    /* its text ends the record */
	unsigned int place; /* of the data in the payload */
};

/* ------------------------------------------------------------------------------ what there is */

int tracepoints_check(void)
{
	if (!access(EVENTS "/.", R_OK | X_OK))
		return 0;
	if (errno == ENOENT)
		mount("tracefs", TRACEFS, "tracefs", 0, NULL);
	if (!access(EVENTS "/.", R_OK | X_OK))
		return 0;
	say("cannot read " EVENTS ": %s; tracepoints by name need root and tracefs: mount -t "
	    "tracefs tracefs " TRACEFS,
	    strerror(errno));
	return -1;
}

/* A directory below events/ that is an event's or a system's: not a file, nor `ftrace`. */
static int is_entry(const struct dirent *e)
{
	return e->d_name[0] != '.' && e->d_type == DT_DIR && strcmp(e->d_name, "ftrace");
}

typedef int visit_fn(void *, const char *, const char *);

static int visit_system(const char *system, const char *pattern, int *nr, visit_fn *found, void *ctx)
{
	char path[600], full[600];
	struct dirent **event;
	int n, ret = 0;

	snprintf(path, sizeof(path), EVENTS "/%s", system);
	n = scandir(path, &event, is_entry, alphasort);
	for (int i = 0; i < n; i++) {
		snprintf(full, sizeof(full), "%s:%s", system, event[i]->d_name);
		if (!ret && (!pattern || !fnmatch(pattern, full, 0))) {
			(*nr)++;
			ret = found(ctx, system, event[i]->d_name);
		}
		free(event[i]);
	}
	if (n >= 0)
		free(event);
	return ret;
}

int tracepoints_find(const char *pattern, visit_fn *found, void *ctx)
{
	struct dirent **system;
	int n = scandir(EVENTS, &system, is_entry, alphasort), ret = 0, nr = 0;

	for (int i = 0; i < n; i++) {
		if (!ret)
			ret = visit_system(system[i]->d_name, pattern, &nr, found, ctx);
		free(system[i]);
	}
	if (n >= 0)
		free(system);
	return ret ? ret : nr;
}

/* Edits from one text to the other (Levenshtein); long ones are far from everything. */
static unsigned int distance(const char *a, const char *b)
{
	unsigned int row[128], old, up;
	size_t n = strlen(b);

	if (n >= 128)
		return ~0u;
	for (size_t j = 0; j <= n; j++)
		row[j] = (unsigned int)j;
	for (size_t i = 1; *a; a++, i++) {
		old = row[0];
		row[0] = (unsigned int)i;
		for (size_t j = 1; j <= n; j++) {
			up = row[j];
			row[j] = old + (*a != b[j - 1]);
			if (up + 1 < row[j])
				row[j] = up + 1;
			if (row[j - 1] + 1 < row[j])
				row[j] = row[j - 1] + 1;
			old = up;
		}
	}
	return row[n];
}

#define LIKE_MAX 4

struct like {
	const char *full, *event;
	struct {
		unsigned int far;
		char name[136];
	} best[LIKE_MAX];
	size_t nr;
};

static int look(void *ctx, const char *system, const char *name)
{
	struct like *l = ctx;
	unsigned int far;
	char full[136];
	size_t i;

	snprintf(full, sizeof(full), "%.64s:%.64s", system, name);
	far = strcmp(name, l->event) ? distance(l->full, full) : 0;
	if (far > 2 && strlen(l->event) > 3 && strstr(name, l->event))
		far = 3;
	if (far > 3)
		return 0;
	for (i = l->nr; i && l->best[i - 1].far > far; i--)
		if (i < LIKE_MAX)
			l->best[i] = l->best[i - 1];
	if (i == LIKE_MAX)
		return 0;
	l->best[i].far = far;
	memcpy(l->best[i].name, full, sizeof(full));
	if (l->nr < LIKE_MAX)
		l->nr++;
	return 0;
}

void tracepoints_like(const char *pattern, char *out, size_t len)
{
	const char *colon = strchr(pattern, ':');
	struct like l = {.full = pattern, .event = colon ? colon + 1 : pattern};
	size_t at = 0;

	out[0] = 0;
	if (access(EVENTS "/.", R_OK | X_OK))
		return;
	tracepoints_find(NULL, look, &l);
	for (size_t i = 0; i < l.nr && at < len; i++)
		at += (size_t)snprintf(out + at, len - at, "%s%s", i ? ", " : "", l.best[i].name);
}

struct listing {
	FILE *out;
	char system[64];
	unsigned int nr;
	int column;
};

static void end_system(struct listing *l)
{
	char text[80];
	int len;

	if (!l->nr)
		return;
	len = snprintf(text, sizeof(text), " %s:* (%u)", l->system, l->nr);
	if (l->column + len > 78)
		l->column = fprintf(l->out, "\n    ") - 1;
	l->column += fprintf(l->out, "%s", text);
	l->nr = 0;
}

static int list_one(void *ctx, const char *system, const char *name)
{
	struct listing *l = ctx;

	if (strncmp(l->system, system, sizeof(l->system) - 1)) {
		end_system(l);
		snprintf(l->system, sizeof(l->system), "%.63s", system);
	}
	l->nr++;
	return 0;
}

void tracepoints_list(FILE *out)
{
	struct listing l = {.out = out, .column = 80};

	if (tracepoints_check())
		return;
	fprintf(out, "Tracepoints by name, as SYSTEM:NAME; the names are in " EVENTS ":");
	tracepoints_find(NULL, list_one, &l);
	end_system(&l);
	fprintf(out, "\n");
}

/* --------------------------------------------------------------------------------- its format */

static bool has_word(const char *text, const char *word)
{
	size_t len = strlen(word);

	for (const char *p = strstr(text, word); p; p = strstr(p + 1, word))
		if ((p == text || p[-1] == ' ') && (!p[len] || p[len] == ' ' || p[len] == '['))
			return true;
	return false;
}

/* Bytes of an element of type @type, as C declares it, where that can be told. */
static unsigned int size_of(const char *type)
{
	static const struct {
		const char *word;
		unsigned int size;
	} sizes[] = {
		{"char", 1}, {"u8", 1}, {"__u8", 1}, {"s8", 1}, {"uint8_t", 1}, {"bool", 1},
		{"u16", 2}, {"__u16", 2}, {"__le16", 2}, {"__be16", 2}, {"uint16_t", 2},
		{"short", 2}, {"long", 8}, {"u64", 8}, {"__u64", 8}, {"s64", 8}, {"__le64", 8},
		{"uint64_t", 8}, {"u32", 4}, {"__u32", 4}, {"s32", 4}, {"__le32", 4}, {"__be32", 4},
		{"uint32_t", 4}, {"int", 4}, {"unsigned", 4},
	};

	if (strchr(type, '*'))
		return 8;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
		if (has_word(type, sizes[i].word))
			return sizes[i].size;
	return 1;
}

static bool is_integer_size(unsigned int size)
{
	return size == 1 || size == 2 || size == 4 || size == 8;
}

/* "unsigned char name[16]", and the like: the text between `field:` and its semicolon. */
static int parse_declaration(struct tp_field *f, char *text, int is_signed)
{
	char *bracket, *name;
	bool plain_char;

	f->is_dynamic = strstr(text, "__data_loc ") || strstr(text, "__rel_loc ");
	/* The dimension is behind the name, but behind the type where the data is elsewhere. */
	if (f->is_dynamic && (bracket = strstr(text, "[]")) != NULL)
		memset(bracket, ' ', 2);
	bracket = strrchr(text, '[');
	if (bracket)
		*bracket = 0;
	for (size_t n = strlen(text); n && text[n - 1] == ' ';)
		text[--n] = 0;
	name = strrchr(text, ' ');
	if (!name || strlen(name + 1) >= sizeof(f->name))
		return -1;
	*name++ = 0;
	while (*name == '*')
		name++;
	strcpy(f->name, name);
	plain_char = has_word(text, "char") && !has_word(text, "unsigned") && !strchr(text, '*');
	f->is_signed = is_signed;
	f->is_pointer = strchr(text, '*') != NULL;
	f->is_bool = has_word(text, "bool");
	f->is_text = plain_char && (bracket || f->is_dynamic);
	if (bracket || f->is_dynamic || !is_integer_size(f->size)) {
		f->elem = size_of(text);
		if (!f->is_dynamic && f->size % f->elem)
			f->elem = 1;
		if (f->elem == 1 && !plain_char && !bracket && !f->is_dynamic)
			f->is_signed = false; /* a struct's bytes */
	}
	return 0;
}

static int by_offset(const void *a, const void *b)
{
	const struct tp_field *x = a, *y = b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static int read_format(struct tracepoint *tp, FILE *file)
{
	char line[1024];

	while (fgets(line, sizeof(line), file)) {
		struct tp_field f = {0}, *more;
		char text[512];
		int is_signed;

		if (sscanf(line, " field:%511[^;]; offset:%u; size:%u; signed:%d", text, &f.offset,
			   &f.size, &is_signed) != 4 ||
		    f.offset < TRACEPOINT_COMMON || !f.size)
			continue;
		more = realloc(tp->field, (tp->nr_fields + 1) * sizeof(f));
		if (!more || parse_declaration(&f, text, is_signed)) {
			tp->field = more ? more : tp->field;
			return -1;
		}
		tp->field = more;
		more[tp->nr_fields++] = f;
		if (strstr(line, "__rel_loc "))
			more[tp->nr_fields - 1].place = f.offset + 4; /* for now: what it counts from */
	}
	if (tp->nr_fields)
		qsort(tp->field, tp->nr_fields, sizeof(*tp->field), by_offset);
	return 0;
}

/* Where the dynamic fields' data comes to lie: all in places, but for the last text. */
static int lay_out(struct tracepoint *tp)
{
	struct tracepoint_config *c = &tp->config;
	struct tp_field *last = NULL;
	unsigned int nr = 0;

	for (size_t i = 0; i < tp->nr_fields; i++) {
		struct tp_field *f = &tp->field[i];

		if (f->offset + f->size - TRACEPOINT_COMMON > c->fixed)
			c->fixed = f->offset + f->size - TRACEPOINT_COMMON;
		if (f->is_dynamic && f->is_text)
			last = f;
	}
	c->places = ROUND8(c->fixed);
	for (size_t i = 0; i < tp->nr_fields; i++) {
		struct tp_field *f = &tp->field[i];
		struct tracepoint_dyn d = {(__u16)f->offset, (__u16)f->place, f->is_text, 0};

		if (!f->is_dynamic)
			continue;
		if (f == last) {
			f->is_last = true;
			c->last = d;
			continue;
		}
		if (nr == TRACEPOINT_DYN_MAX)
			return -1;
		f->place = c->places + nr * TRACEPOINT_PLACE;
		c->dyn[nr++] = d;
	}
	c->size = c->places + nr * TRACEPOINT_PLACE;
	if (last)
		last->place = c->size;
	return c->fixed <= TRACEPOINT_FIXED_MAX ? 0 : -1;
}

int tracepoint_open(struct tracepoint **out, const char *system, const char *name)
{
	struct tracepoint *tp = calloc(1, sizeof(*tp));
	char path[300];
	FILE *file;
	int err;

	if (!tp)
		return -1;
	snprintf(tp->system, sizeof(tp->system), "%.63s", system);
	snprintf(tp->name, sizeof(tp->name), "%.63s", name);
	snprintf(path, sizeof(path), EVENTS "/%s/%s/format", tp->system, tp->name);
	file = fopen(path, "re");
	if (!file) {
		say("cannot read %s: %s", path, strerror(errno));
		tracepoint_free(tp);
		return -1;
	}
	err = read_format(tp, file);
	fclose(file);
	if (err || lay_out(tp)) {
		say("%s:%s is left out: its format is not understood, or too large (%zu fields)",
		    system, name, tp->nr_fields);
		tracepoint_free(tp);
		return -1;
	}
	*out = tp;
	return 0;
}

void tracepoint_free(struct tracepoint *tp)
{
	if (tp)
		free(tp->field);
	free(tp);
}

/* ------------------------------------------------------------------------------- its schema */

static int element(const struct tp_field *f, struct htrace_schema_builder *b, unsigned int size)
{
	enum htrace_hint hint = f->is_pointer ? HTRACE_HINT_POINTER :
				f->is_bool    ? HTRACE_HINT_BOOL :
						HTRACE_HINT_NONE;
	bool is_signed = f->is_signed && !f->is_pointer;
	char name[16];

	snprintf(name, sizeof(name), "%c%u", is_signed ? 's' : 'u', size * 8);
	return htrace_builder_int(b, name, size, is_signed, hint);
}

static int type_of(const struct tp_field *f, struct htrace_schema_builder *b, unsigned int size)
{
	int elem;

	if (f->is_text)
		return htrace_builder_string(b, size);
	elem = element(f, b, f->elem ? f->elem : size);
	return elem < 0 || !f->elem ? elem : htrace_builder_array(b, elem, size / f->elem);
}

static int add(struct htrace_schema_member *m, const char *name, const char *suffix, int type,
	       unsigned int offset)
{
	if (type < 0)
		return type;
	snprintf(m->name, sizeof(m->name), "%.*s%s",
		 (int)(sizeof(m->name) - 1 - strlen(suffix)), name, suffix);
	m->type = (__u32)type;
	m->bit_off = offset * 8;
	return 0;
}

static int add_members(const struct tracepoint *tp, struct htrace_schema_builder *b,
		       struct htrace_schema_member *m, __u32 *nr)
{
	int ret = 0;

	for (size_t i = 0; i < tp->nr_fields && !ret; i++) {
		const struct tp_field *f = &tp->field[i];
		unsigned int at = f->offset - TRACEPOINT_COMMON;

		if (!f->is_dynamic)
			ret = add(&m[(*nr)++], f->name, "", type_of(f, b, f->size), at);
		else if (!f->is_text) /* the high half of its word */
			ret = add(&m[(*nr)++], f->name, "_len",
				  htrace_builder_int(b, "u16", 2, false, HTRACE_HINT_NONE), at + 2);
	}
	for (int last = 0; last < 2; last++) {
		for (size_t i = 0; i < tp->nr_fields && !ret; i++) {
			const struct tp_field *f = &tp->field[i];

			if (f->is_dynamic && f->is_last == last)
				ret = add(&m[(*nr)++], f->name, "",
					  type_of(f, b, last ? 0 : TRACEPOINT_PLACE), f->place);
		}
	}
	return ret;
}

int tracepoint_declare(const struct tracepoint *tp, struct htrace_schema_builder *b,
		       const char *name)
{
	struct htrace_schema_member *m = calloc(2 * tp->nr_fields + 1, sizeof(*m));
	__u32 nr = 0;
	int ret;

	if (!m)
		return -ENOMEM;
	ret = add_members(tp, b, m, &nr);
	if (!ret)
		ret = htrace_builder_struct(b, name, false, tp->config.size, m, nr);
	free(m);
	return ret < 0 ? ret : htrace_builder_event(b, name, ret);
}
