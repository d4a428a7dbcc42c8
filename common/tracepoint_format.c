// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A tracepoint's `format` file: its fields, where their data comes to lie in a record, and the
 * schema. The text is the kernel's, but modules make it too: nothing in it is taken on trust.
 */
#include "tracepoint_format.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define ROUND8(n) (((n) + 7u) & ~7u)

#define MAX_FIELDS 256
#define MAX_OFFSET 65535u /* of the kernel's records, which fit a page */

struct tp_field {
	char name[HTRACE_NAME_MAX];
	unsigned int offset, size;
	unsigned int elem; /* bytes of an element; 0: not an array */
	bool is_signed, is_text, is_pointer, is_bool;
	bool is_dynamic; /* the field is a word that says where the data is */
	bool is_last;    /* its text ends the record */
	unsigned int base;  /* what its word counts from */
	unsigned int place; /* of the data in the payload */
};

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

static bool is_identifier(const char *name)
{
	if (!isalpha((unsigned char)*name) && *name != '_')
		return false;
	while (isalnum((unsigned char)*name) || *name == '_')
		name++;
	return !*name;
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
	if (!name)
		return -EINVAL;
	*name++ = 0;
	while (*name == '*')
		name++;
	if (!is_identifier(name) || strlen(name) >= sizeof(f->name))
		return -EINVAL;
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

/* One line; 1: a field; 0: something else, or a field that all events have. */
static int parse_line(struct tp_field *f, const char *line)
{
	int is_signed, n, err;
	char text[512];

	n = sscanf(line, " field:%511[^;]; offset:%u; size:%u; signed:%d", text, &f->offset,
		   &f->size, &is_signed);
	if (n != 4) /* or else a field would be missing without a word */
		return strncmp(line + strspn(line, " \t"), "field:", 6) ? 0 : -EINVAL;
	if (f->offset < TRACEPOINT_COMMON || !f->size)
		return 0;
	if (f->offset > MAX_OFFSET || f->size > MAX_OFFSET)
		return -E2BIG;
	err = parse_declaration(f, text, is_signed);
	if (err)
		return err;
	if (f->is_dynamic && f->size != 4)
		return -EINVAL;
	if (strstr(line, "__rel_loc "))
		f->base = f->offset + 4;
	return 1;
}

static int read_format(struct tracepoint *tp, FILE *file)
{
	char line[1024];

	while (fgets(line, sizeof(line), file)) {
		struct tp_field f = {0}, *more;
		int ret = parse_line(&f, line);

		if (ret < 0)
			return ret;
		if (!ret)
			continue;
		if (tp->nr_fields == MAX_FIELDS)
			return -E2BIG;
		more = realloc(tp->field, (tp->nr_fields + 1) * sizeof(f));
		if (!more)
			return -ENOMEM;
		tp->field = more;
		more[tp->nr_fields++] = f;
	}
	if (tp->nr_fields)
		qsort(tp->field, tp->nr_fields, sizeof(*tp->field), by_offset);
	return 0;
}

/* Fields lie behind each other, and have a name each: else the event could not be declared. */
static int check_fields(const struct tracepoint *tp)
{
	for (size_t i = 1; i < tp->nr_fields; i++) {
		const struct tp_field *f = &tp->field[i];

		if (f->offset < f[-1].offset + f[-1].size)
			return -EINVAL;
		for (size_t j = 0; j < i; j++)
			if (!strcmp(f->name, tp->field[j].name))
				return -EINVAL;
	}
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
		struct tracepoint_dyn d = {(__u16)f->offset, (__u16)f->base, f->is_text, 0};

		if (!f->is_dynamic)
			continue;
		if (f == last) {
			f->is_last = true;
			c->last = d;
			continue;
		}
		if (nr == TRACEPOINT_DYN_MAX)
			return -E2BIG;
		f->place = c->places + nr * TRACEPOINT_PLACE;
		c->dyn[nr++] = d;
	}
	c->size = c->places + nr * TRACEPOINT_PLACE;
	if (last)
		last->place = c->size;
	return c->fixed <= TRACEPOINT_FIXED_MAX ? 0 : -E2BIG;
}

int tracepoint_parse(struct tracepoint *tp, FILE *format)
{
	int err = read_format(tp, format);

	if (!err)
		err = check_fields(tp);
	return err ? err : lay_out(tp);
}

void tracepoint_free(struct tracepoint *tp)
{
	if (tp)
		free(tp->field);
	free(tp);
}

/* ------------------------------------------------------------------------------- a record of it */

/* The data of a dynamic field, of a record of @len bytes: as much of it as is there. */
static const unsigned char *dynamic(const struct tracepoint_dyn *d, const unsigned char *record, size_t len,
				    size_t *n)
{
	__u16 half[2];
	size_t from;

	*n = 0;
	if ((size_t)d->word + sizeof(half) > len)
		return record;
	memcpy(half, record + d->word, sizeof(half));
	from = (size_t)d->base + half[0];
	if (from > len)
		return record;
	*n = half[1] < len - from ? half[1] : len - from;
	return record + from;
}

static size_t text_len(const unsigned char *text, size_t len)
{
	const unsigned char *end = memchr(text, 0, len);

	return end ? (size_t)(end - text) : len;
}

/* Cut to @room bytes with its NUL; the bytes that it takes. */
static size_t put_text(unsigned char *to, const unsigned char *text, size_t len, size_t room)
{
	len = text_len(text, len);
	len = len < room ? len : room - 1;
	memcpy(to, text, len);
	to[len] = 0;
	return len + 1;
}

size_t tracepoint_payload(const struct tracepoint *tp, const void *record, size_t len,
			  unsigned char out[TRACEPOINT_PAYLOAD_MAX])
{
	const struct tracepoint_config *c = &tp->config;
	const unsigned char *from;
	size_t n;

	if (len < TRACEPOINT_COMMON + (size_t)c->fixed)
		return 0;
	memset(out, 0, c->size);
	memcpy(out, (const unsigned char *)record + TRACEPOINT_COMMON, c->fixed);
	for (int i = 0; i < TRACEPOINT_DYN_MAX; i++) {
		unsigned char *place = out + c->places + i * TRACEPOINT_PLACE;

		if (!c->dyn[i].word)
			continue;
		from = dynamic(&c->dyn[i], record, len, &n);
		if (c->dyn[i].is_text)
			put_text(place, from, n, TRACEPOINT_PLACE);
		else
			memcpy(place, from, n < TRACEPOINT_PLACE ? n : TRACEPOINT_PLACE);
	}
	if (!c->last.word)
		return c->size;
	from = dynamic(&c->last, record, len, &n);
	return c->size + put_text(out + c->size, from, n, TRACEPOINT_TEXT_MAX);
}

bool tracepoint_field(const struct tracepoint *tp, const void *record, size_t len, const char *name,
		      struct tracepoint_value *v)
{
	if (!strcmp(name, "common_pid") && len >= TRACEPOINT_COMMON) {
		*v = (struct tracepoint_value){(const unsigned char *)record + 4, 4, false, true};
		return true;
	}
	for (size_t i = 0; i < tp->nr_fields; i++) {
		const struct tp_field *f = &tp->field[i];
		struct tracepoint_dyn d = {.word = (__u16)f->offset, .base = (__u16)f->base};

		if (strcmp(f->name, name))
			continue;
		if (f->offset + f->size > len)
			return false;
		*v = (struct tracepoint_value){(const unsigned char *)record + f->offset, f->size, f->is_text,
					       f->is_signed};
		if (f->is_dynamic)
			v->at = dynamic(&d, record, len, &v->len);
		if (v->is_text)
			v->len = text_len(v->at, v->len);
		return true;
	}
	return false;
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

/* As the initcall events have it. */
static bool is_function(const struct tp_field *f)
{
	return !strcmp(f->name, "func");
}

static int type_of(const struct tp_field *f, struct htrace_schema_builder *b, unsigned int size, int functions)
{
	int elem;

	if (f->is_text)
		return htrace_builder_string(b, size);
	if (functions && f->size == 8 && !f->elem)
		return functions;
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

static bool has_field(const struct tracepoint *tp, const char *name, const char *suffix)
{
	size_t len = strlen(name);

	for (size_t i = 0; i < tp->nr_fields; i++)
		if (!strncmp(tp->field[i].name, name, len) &&
		    !strcmp(tp->field[i].name + len, suffix))
			return true;
	return false;
}

static int add_members(const struct tracepoint *tp, struct htrace_schema_builder *b,
		       struct htrace_schema_member *m, __u32 *nr)
{
	int ret = 0;

	for (size_t i = 0; i < tp->nr_fields && !ret; i++) {
		const struct tp_field *f = &tp->field[i];
		unsigned int at = f->offset - TRACEPOINT_COMMON;

		if (!f->is_dynamic)
			ret = add(&m[(*nr)++], f->name, "", type_of(f, b, f->size, is_function(f) ? tp->functions : 0), at);
		else if (!f->is_text) /* the high half of its word */
			ret = add(&m[(*nr)++], f->name,
				  has_field(tp, f->name, "_len") ? "_size" : "_len",
				  htrace_builder_int(b, "u16", 2, false, HTRACE_HINT_NONE), at + 2);
	}
	for (int last = 0; last < 2; last++) {
		for (size_t i = 0; i < tp->nr_fields && !ret; i++) {
			const struct tp_field *f = &tp->field[i];

			if (f->is_dynamic && f->is_last == last)
				ret = add(&m[(*nr)++], f->name, "",
					  type_of(f, b, last ? 0 : TRACEPOINT_PLACE, 0), f->place);
		}
	}
	return ret;
}

int tracepoint_declare(const struct tracepoint *tp, struct htrace_schema_builder *b,
		       const char *name, const struct htrace_schema_member *front, __u32 nr_front)
{
	struct htrace_schema_member *m =
		calloc(nr_front + 2 * tp->nr_fields + 1, sizeof(*m));
	__u32 nr = nr_front;
	int ret;

	if (!m)
		return -ENOMEM;
	if (nr_front)
		memcpy(m, front, nr_front * sizeof(*m));
	ret = add_members(tp, b, m, &nr);
	for (__u32 i = nr_front; i < nr; i++)
		m[i].bit_off += 64 * nr_front;
	if (!ret)
		ret = htrace_builder_struct(b, name, false, tp->config.size + 8 * nr_front, m, nr);
	free(m);
	return ret < 0 ? ret : htrace_builder_event(b, name, ret);
}
