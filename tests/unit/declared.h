/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A struct of everything that can be declared in C, compiled three times: as C, as C++ and to BTF.
 * Readers must be told the same each time.
 */
#ifndef DECLARED_H
#define DECLARED_H

#ifdef __cplusplus
#define DECLARED_BOOL bool
#else
#define DECLARED_BOOL _Bool
#endif

enum shade { PALE, DIM = 5, DARK = 0x7fffffff };

struct spot {
	short x, y;
};

union word {
	unsigned int whole;
	unsigned char bytes[4];
};

struct declared {
	char letter;
	signed char tiny;
	unsigned char octet;
	DECLARED_BOOL yes;
	short s16;
	unsigned short u16;
	int s32;
	unsigned int u32;
	long s64;
	unsigned long long u64;
	__extension__ __int128 wide;
	enum shade shade, number;
	int tid;
	const void *where;
	const volatile unsigned int *pointer;
	const volatile int fixed;
	unsigned int three : 3;
	int five : 5;
	unsigned long long many : 41;
	DECLARED_BOOL flag : 1;
	char comm[16];
	unsigned char mac[6];
	int counts[3];
	void *frames[2];
	struct spot spots[2];
	struct spot spot;
	union word word;
	short last;
	char rest[];
};

#ifdef HTRACE_DECLARE_H
static const struct htrace_enumerator shade[] = {
	HTRACE_VALUE(PALE), HTRACE_VALUE(DIM), HTRACE_VALUE(DARK),
};

static const struct htrace_field spot_fields[] = {
	HTRACE_FIELD(struct spot, x),
	HTRACE_FIELD(struct spot, y),
};
static const struct htrace_struct spot = HTRACE_STRUCT(struct spot, spot_fields);

static const struct htrace_field word_fields[] = {
	HTRACE_FIELD(union word, whole),
	HTRACE_FIELD_ARRAY(union word, bytes),
};
static const struct htrace_struct word = HTRACE_UNION(union word, word_fields);

static int declare(struct htrace_schema_builder *b)
{
	const struct htrace_field fields[] = {
		HTRACE_FIELD(struct declared, letter),
		HTRACE_FIELD(struct declared, tiny),
		HTRACE_FIELD(struct declared, octet),
		HTRACE_FIELD(struct declared, yes),
		HTRACE_FIELD(struct declared, s16),
		HTRACE_FIELD(struct declared, u16),
		HTRACE_FIELD(struct declared, s32),
		HTRACE_FIELD(struct declared, u32),
		HTRACE_FIELD(struct declared, s64),
		HTRACE_FIELD(struct declared, u64),
		HTRACE_FIELD(struct declared, wide),
		HTRACE_FIELD_ENUM(struct declared, shade, shade),
		HTRACE_FIELD(struct declared, number),
		HTRACE_FIELD_AS(struct declared, tid, HTRACE_HINT_TID),
		HTRACE_FIELD(struct declared, where),
		HTRACE_FIELD(struct declared, pointer),
		HTRACE_FIELD(struct declared, fixed),
		HTRACE_FIELD_BITS(struct declared, three, unsigned int),
		HTRACE_FIELD_BITS(struct declared, five, int),
		HTRACE_FIELD_BITS(struct declared, many, unsigned long long),
		HTRACE_FIELD_BITS(struct declared, flag, DECLARED_BOOL),
		HTRACE_FIELD_TEXT(struct declared, comm),
		HTRACE_FIELD_ARRAY(struct declared, mac),
		HTRACE_FIELD_ARRAY(struct declared, counts),
		HTRACE_FIELD_ARRAY(struct declared, frames),
		HTRACE_FIELD_STRUCTS(struct declared, spots, spot),
		HTRACE_FIELD_STRUCT(struct declared, spot, spot),
		HTRACE_FIELD_STRUCT(struct declared, word, word),
		HTRACE_FIELD(struct declared, last),
		HTRACE_FIELD_REST_TEXT(struct declared, rest),
	};
	const struct htrace_struct declared = HTRACE_STRUCT(struct declared, fields);

	return htrace_builder_declare(b, "declared", &declared);
}
#endif

#endif /* DECLARED_H */
