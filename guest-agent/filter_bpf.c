/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Filters and sampling as BPF instructions. The filters' results are those of libhtrace's evaluation, in a place where
 * all context is known. All that is made can be reached, as the verifier wants it: what always or never
 * holds is left out.
 */
#include "filter_bpf.h"

#include <stddef.h>
#include <string.h>

#include "../libhtrace/filter_tree.h"

/* Offsets in struct htrace_filter_scratch. */
#define AT_TID 0
#define AT_PID 4
#define AT_CPU 8
#define AT_COMM 16
#define AT_RECORD 64
#define COMM_SIZE 16

#define RESULT BPF_REG_0
#define SCRATCH BPF_REG_1
#define NUMBER BPF_REG_2
#define FIRST_TEMP BPF_REG_3
#define LAST_TEMP BPF_REG_5

struct gen {
	struct filter_code *code;
	const struct htrace_filter_bound *b;
	const struct htrace_filter *f;
	__u32 fixed; /* bytes that each record has */
};

static void gen_test(struct gen *g, __u16 n, bool sense, __u16 label);

static void fail(struct filter_code *c, const char *why)
{
	if (!c->error)
		c->error = why;
}

static void emit(struct filter_code *c, __u8 op, __u8 dst, __u8 src, __u16 off, __s32 imm)
{
	if (c->nr == HTRACE_FILTER_INSNS) {
		fail(c, "it takes too many instructions");
		return;
	}
	c->insn[c->nr++] = (struct bpf_insn){
		.code = op, .dst_reg = dst, .src_reg = src, .off = (__s16)off, .imm = imm};
}

static __u16 new_label(struct filter_code *c)
{
	if (c->nr_labels == HTRACE_FILTER_INSNS) {
		fail(c, "it takes too many instructions");
		return 0;
	}
	return c->nr_labels++;
}

static void place_label(struct filter_code *c, __u16 label)
{
	c->label[label] = (__u16)c->nr;
}

static void emit_jump(struct filter_code *c, __u8 op, __u8 dst, __u8 src, __s32 imm, __u16 label)
{
	if (c->nr < HTRACE_FILTER_INSNS) { /* at most one for each instruction */
		c->jump[c->nr_jumps].at = (__u16)c->nr;
		c->jump[c->nr_jumps++].label = label;
	}
	emit(c, op, dst, src, 0, imm);
}

static void resolve(struct filter_code *c)
{
	for (size_t i = 0; i < c->nr_jumps; i++)
		c->insn[c->jump[i].at].off =
			(__s16)(c->label[c->jump[i].label] - c->jump[i].at - 1);
}

/* --------------------------------------------------------------------------------------- values */

static __u8 load_of(__u32 size)
{
	return BPF_LDX | BPF_MEM | (size == 1 ? BPF_B : size == 2 ? BPF_H : size <= 4 ? BPF_W : BPF_DW);
}

static bool is_small(struct filter_value v)
{
	return (__s64)v.bits == (__s32)v.bits;
}

static void gen_constant(struct filter_code *c, struct filter_value v, __u8 reg)
{
	if (is_small(v)) {
		emit(c, BPF_ALU64 | BPF_MOV | BPF_K, reg, 0, 0, (__s32)v.bits);
		return;
	}
	emit(c, BPF_LD | BPF_DW | BPF_IMM, reg, 0, 0, (__s32)v.bits);
	emit(c, 0, 0, 0, 0, (__s32)(v.bits >> 32));
}

static void gen_field(struct gen *g, const struct filter_place *p, __u8 reg)
{
	__u32 size = p->size == 3 ? 4 : p->size > 4 ? 8 : p->size;

	if (p->size > 8 || p->off + p->size > g->fixed || p->off + size > HTRACE_FILTER_RECORD) {
		fail(g->code, "it looks at what not every record has");
		return;
	}
	emit(g->code, load_of(size), reg, SCRATCH, (__u16)(AT_RECORD + p->off), 0);
	if (p->bits == 8 * size && !p->is_signed)
		return;
	if (p->shift + p->bits < 64)
		emit(g->code, BPF_ALU64 | BPF_LSH | BPF_K, reg, 0, 0, 64 - p->shift - p->bits);
	if (p->bits < 64)
		emit(g->code, BPF_ALU64 | (p->is_signed ? BPF_ARSH : BPF_RSH) | BPF_K, reg, 0, 0,
		     64 - p->bits);
}

static void gen_value(struct gen *g, __u16 n, __u8 reg)
{
	const struct filter_node *at = &g->f->node[n];
	const struct filter_place *p = &g->b->place[n];

	if (reg > LAST_TEMP) {
		fail(g->code, "it is too deeply nested");
		return;
	}
	if (at->kind == FILTER_MASK) {
		gen_value(g, at->child, reg);
		for (__u16 c = g->f->node[at->child].next; c; c = g->f->node[c].next) {
			gen_value(g, c, reg + 1);
			emit(g->code, BPF_ALU64 | BPF_AND | BPF_X, reg, reg + 1, 0, 0);
		}
		return;
	}
	switch (p->what) {
	case WHAT_CONST:
		gen_constant(g->code, p->value, reg);
		break;
	case WHAT_INT:
		gen_field(g, p, reg);
		break;
	case WHAT_TID:
	case WHAT_PID:
		g->code->wants_task = true;
		emit(g->code, load_of(4), reg, SCRATCH, p->what == WHAT_TID ? AT_TID : AT_PID, 0);
		break;
	case WHAT_CPU:
		g->code->wants_cpu = true;
		emit(g->code, load_of(4), reg, SCRATCH, AT_CPU, 0);
		break;
	default:
		fail(g->code, "it cannot be compiled");
	}
}

/* Can it be below 0, or above what 64 bits with a sign hold? Never both. */
struct range {
	bool negative, big;
};

static struct range range_of(const struct gen *g, __u16 n)
{
	const struct filter_node *at = &g->f->node[n];
	const struct filter_place *p = &g->b->place[n];
	struct range r = {at->kind == FILTER_MASK, false};
	bool bounded = false;

	if (at->kind == FILTER_MASK) {
		for (__u16 c = at->child; c; c = g->f->node[c].next) {
			struct range one = range_of(g, c);

			r.negative &= one.negative;
			r.big |= one.big;
			bounded |= !one.negative && !one.big;
		}
		r.big &= !bounded;
	} else if (p->what == WHAT_CONST) {
		r.negative = p->value.negative;
		r.big = !p->value.negative && p->value.bits >> 63;
	} else if (p->what == WHAT_INT) {
		r.negative = p->is_signed;
		r.big = !p->is_signed && p->bits == 64;
	}
	return r;
}

static enum filter_op inverse(enum filter_op op)
{
	static const enum filter_op of[] = {
		[FILTER_NONE] = FILTER_NONE, [FILTER_EQ] = FILTER_NE, [FILTER_NE] = FILTER_EQ,
		[FILTER_LT] = FILTER_GE, [FILTER_GE] = FILTER_LT,
		[FILTER_LE] = FILTER_GT, [FILTER_GT] = FILTER_LE,
	};

	return of[op];
}

static __u8 jump_of(enum filter_op op, bool is_signed)
{
	switch (op) {
	case FILTER_EQ:
		return BPF_JEQ;
	case FILTER_LT:
		return is_signed ? BPF_JSLT : BPF_JLT;
	case FILTER_LE:
		return is_signed ? BPF_JSLE : BPF_JLE;
	case FILTER_GT:
		return is_signed ? BPF_JSGT : BPF_JGT;
	case FILTER_GE:
		return is_signed ? BPF_JSGE : BPF_JGE;
	default:
		return BPF_JNE;
	}
}

/*
 * One side may be below 0 and the other beyond what has a sign: if it is below 0, that decides, and
 * their bits must not be compared.
 */
static void gen_mixed(struct gen *g, enum filter_op op, bool left_negative, bool sense, __u16 label,
		      __u16 end)
{
	bool result = filter_holds(op, left_negative ? -1 : 1);

	emit_jump(g->code, BPF_JMP | BPF_JSLT | BPF_K, left_negative ? FIRST_TEMP : FIRST_TEMP + 1, 0,
		  0, result == sense ? label : end);
}

static void gen_int(struct gen *g, __u16 n, bool sense, __u16 label)
{
	const struct filter_node *test = &g->f->node[n];
	__u16 left = test->child, right = g->f->node[left].next, end = new_label(g->code);
	enum filter_op op = sense ? test->op : inverse(test->op);
	struct range a = range_of(g, left), b;
	bool constant, mixed;

	gen_value(g, left, FIRST_TEMP);
	if (test->op == FILTER_NONE) {
		emit_jump(g->code, BPF_JMP | (sense ? BPF_JNE : BPF_JEQ) | BPF_K, FIRST_TEMP, 0, 0,
			  label);
		place_label(g->code, end);
		return;
	}
	b = range_of(g, right);
	mixed = (a.negative && b.big) || (a.big && b.negative);
	constant = g->f->node[right].kind != FILTER_MASK && g->b->place[right].what == WHAT_CONST &&
		   is_small(g->b->place[right].value) && !mixed;
	if (!constant)
		gen_value(g, right, FIRST_TEMP + 1);
	if (mixed)
		gen_mixed(g, test->op, a.negative, sense, label, end);
	emit_jump(g->code,
		  BPF_JMP | jump_of(op, !mixed && (a.negative || b.negative)) |
			  (constant ? BPF_K : BPF_X),
		  FIRST_TEMP, constant ? 0 : FIRST_TEMP + 1,
		  constant ? (__s32)g->b->place[right].value.bits : 0, label);
	place_label(g->code, end);
}

/* ----------------------------------------------------------------------------------------- text */

/*
 * The bytes that text must begin with: of a pattern without * but at its end, and nothing else
 * special. Without that * the NUL behind belongs to it, if there is room for one. 0: not so.
 */
static size_t prefix_of(const char *p, size_t len, size_t size, char *out)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		if (p[i] == '*' && i + 1 == len)
			return n;
		if (strchr("*?[", p[i]) || n == size)
			return 0;
		if (p[i] == '\\' && ++i == len)
			return 0;
		out[n++] = p[i];
	}
	if (n < size)
		out[n++] = 0;
	return n;
}

static void gen_text(struct gen *g, __u16 n, bool sense, __u16 label)
{
	const struct filter_node *test = &g->f->node[n];
	const struct filter_place *p = &g->b->place[test->child];
	const struct filter_node *pattern = &g->f->node[g->f->node[test->child].next];
	__u32 off = p->what == WHAT_COMM ? AT_COMM : AT_RECORD + p->off;
	__u32 size = p->what == WHAT_COMM ? COMM_SIZE : p->size, step;
	__u16 end = new_label(g->code);
	char bytes[HTRACE_FILTER_MAX + 1];
	size_t len;

	if (p->what == WHAT_COMM)
		g->code->wants_comm = true;
	else if (!size || p->off + size > g->fixed || p->off + size > HTRACE_FILTER_RECORD) {
		fail(g->code, "it looks at text of no fixed size");
		return;
	}
	len = prefix_of(g->f->text + pattern->text, pattern->len,
			size < HTRACE_FILTER_MAX ? size : HTRACE_FILTER_MAX, bytes);
	if (!len) {
		fail(g->code, "its pattern is more than a beginning of text");
		return;
	}
	sense = sense == (test->op == FILTER_EQ);
	for (__u32 i = 0; i < len; i += step) {
		__u32 word = 0;

		step = len - i >= 4 ? 4 : len - i >= 2 ? 2 : 1;
		memcpy(&word, bytes + i, step);
		emit(g->code, load_of(step), FIRST_TEMP, SCRATCH, (__u16)(off + i), 0);
		if (sense && i + step == len)
			emit_jump(g->code, BPF_JMP32 | BPF_JEQ | BPF_K, FIRST_TEMP, 0, (__s32)word, label);
		else
			emit_jump(g->code, BPF_JMP32 | BPF_JNE | BPF_K, FIRST_TEMP, 0, (__s32)word,
				  sense ? end : label);
	}
	place_label(g->code, end);
}

/* -------------------------------------------------------------------------------------- structure */

/* Children that always or never hold decide nothing here: else their parent would be constant. */
static void gen_list(struct gen *g, __u16 n, bool sense, __u16 label)
{
	bool decides = g->f->node[n].kind == FILTER_OR; /* what one child is enough for */
	__u16 end = new_label(g->code), last = 0;

	for (__u16 c = g->f->node[n].child; c; c = g->f->node[c].next)
		if (filter_constant(g->b, c) < 0)
			last = c;
	for (__u16 c = g->f->node[n].child; c; c = g->f->node[c].next) {
		if (filter_constant(g->b, c) >= 0)
			continue;
		if (sense == decides)
			gen_test(g, c, sense, label);
		else if (c == last)
			gen_test(g, c, sense, label);
		else
			gen_test(g, c, decides, end);
	}
	place_label(g->code, end);
}

/* Jump to @label if @n is @sense, else go on behind. */
static void gen_test(struct gen *g, __u16 n, bool sense, __u16 label)
{
	switch (g->f->node[n].kind) {
	case FILTER_NOT:
		gen_test(g, g->f->node[n].child, !sense, label);
		break;
	case FILTER_OR:
	case FILTER_AND:
		gen_list(g, n, sense, label);
		break;
	default:
		if (g->b->place[n].what == WHAT_TEST_TEXT)
			gen_text(g, n, sense, label);
		else
			gen_int(g, n, sense, label);
	}
}

/* Bytes that each record of the event has. */
static __u32 fixed_size(const struct htrace_event *e)
{
	const struct htrace_type *t = e->type;
	const struct htrace_member *last = t->nr ? &t->members[t->nr - 1] : NULL;

	return last && !last->type->size ? last->bit_off / 8 : t->size;
}

static int case_constant(const struct filter_case *c)
{
	return c->bound ? filter_constant(c->bound, c->bound->filter->root) : 1;
}

static void gen_root(struct filter_code *code, const struct filter_case *c, bool sense, __u16 label)
{
	struct gen g = {code, c->bound, c->bound->filter, fixed_size(c->event)};

	gen_test(&g, g.f->root, sense, label);
}

/*
 * One in so many, whichever: on to @end if it is another. The call takes r1 to r5, which nothing needs
 * any more, and leaves the result as it was.
 */
static void gen_sample(struct filter_code *code, const struct filter_case *c, __u16 end)
{
	if (c->sample < 2)
		return;
	emit(code, BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_get_prandom_u32);
	emit(code, BPF_ALU | BPF_MOD | BPF_K, RESULT, 0, 0, (__s32)c->sample);
	emit(code, BPF_ALU64 | BPF_MOV | BPF_X, FIRST_TEMP, RESULT, 0, 0);
	emit(code, BPF_ALU64 | BPF_MOV | BPF_K, RESULT, 0, 0, 0);
	emit_jump(code, BPF_JMP | BPF_JNE | BPF_K, FIRST_TEMP, 0, 0, end);
}

/* The program records one event: on to @end if it does not match. */
static void gen_only(struct filter_code *code, const struct filter_case *c, __u16 end)
{
	if (case_constant(c) < 0)
		gen_root(code, c, false, end);
	if (case_constant(c))
		gen_sample(code, c, end);
}

/* One event of several; behind it, the others. */
static void gen_case(struct filter_code *code, const struct filter_case *c, __u16 pass, __u16 end)
{
	int constant = case_constant(c);
	__u16 other;

	if (constant == 1 && c->sample < 2)
		return;
	other = new_label(code);
	emit_jump(code, BPF_JMP | BPF_JNE | BPF_K, NUMBER, 0, (__s32)c->number, other);
	if (c->sample > 1 && constant) {
		if (constant < 0)
			gen_root(code, c, false, end);
		gen_sample(code, c, end);
		emit_jump(code, BPF_JMP | BPF_JA, 0, 0, 0, pass);
		place_label(code, other);
		return;
	}
	if (constant < 0)
		gen_root(code, c, true, pass);
	emit_jump(code, BPF_JMP | BPF_JA, 0, 0, 0, end);
	place_label(code, other);
}

int filter_compile(struct filter_code *code, const struct filter_case *cases, size_t nr)
{
	__u16 pass, end;

	memset(code, 0, sizeof(*code));
	pass = new_label(code);
	end = new_label(code);
	emit(code, BPF_ALU64 | BPF_MOV | BPF_K, RESULT, 0, 0, 0);
	if (nr == 1) {
		gen_only(code, &cases[0], end);
	} else {
		for (size_t i = 0; i < nr; i++)
			gen_case(code, &cases[i], pass, end);
	}
	place_label(code, pass);
	if (nr > 1 || case_constant(&cases[0]) != 0)
		emit(code, BPF_ALU64 | BPF_MOV | BPF_K, RESULT, 0, 0, 1);
	place_label(code, end);
	resolve(code);
	return code->error ? -1 : 0;
}
