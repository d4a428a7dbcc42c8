/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * An event's struct, declared in C (C11 or later) or C++ (C++11 or later): the compiler says where
 * its members are, how large, and of which sign.
 *
 *	struct call { __u64 id; __u32 tid; enum function function; char file[32]; };
 *
 *	static const struct htrace_enumerator function[] = {
 *		HTRACE_VALUE(OPEN), HTRACE_VALUE(CLOSE),
 *	};
 *	static const struct htrace_field call_fields[] = {
 *		HTRACE_FIELD(struct call, id),
 *		HTRACE_FIELD_AS(struct call, tid, HTRACE_HINT_TID),
 *		HTRACE_FIELD_ENUM(struct call, function, function),
 *		HTRACE_FIELD_TEXT(struct call, file),
 *	};
 *	static const struct htrace_struct call = HTRACE_STRUCT(struct call, call_fields);
 *
 *	id = htrace_region_declare(region, "call", &call, why, sizeof(why));
 *
 * Members are listed in the order of the struct; those left out are not shown to readers. Of what
 * lies over each other (an anonymous union) one may be listed. What a macro is not for does not
 * compile. A plain char has the sign that this compiler gives it (arm64: none, x86-64 and BPF: one):
 * where small numbers are meant, declare them signed char or __u8.
 */
#ifndef HTRACE_DECLARE_H
#define HTRACE_DECLARE_H

#include <htrace/region.h>
#include <htrace/schema.h>

#include <stddef.h>
#include <string.h>

#ifdef __cplusplus
#include <type_traits>
#endif

/* What the macros below fill in. */
enum htrace_field_form {
	HTRACE_FORM_SCALAR = 1,
	HTRACE_FORM_ENUM = 2,
	HTRACE_FORM_TEXT = 3,
	HTRACE_FORM_ARRAY = 4,
	HTRACE_FORM_STRUCT = 5,
	HTRACE_FORM_STRUCTS = 6,
	HTRACE_FORM_BITS = 7,
	HTRACE_FORM_REST_TEXT = 8,
	HTRACE_FORM_REST = 9,
};

#define HTRACE_SCALAR_SIGNED 1
#define HTRACE_SCALAR_BOOL 2
#define HTRACE_SCALAR_CHAR 4
#define HTRACE_SCALAR_POINTER 8

struct htrace_field {
	const char *name;
	__u32 off;    /* bytes from the struct's start; of a bit-field: bits */
	__u32 size;   /* of the member; of a bit-field: bits */
	__u32 elem;   /* of its elements, or of a bit-field's type */
	__u8 form;    /* enum htrace_field_form */
	__u8 scalar;  /* HTRACE_SCALAR_... of what it consists of */
	__u8 hint;    /* enum htrace_hint */
	__u8 reserved;
	const void *of; /* enumerators, or the struct's description */
	const char *of_name;
	__u32 nr_of;
	__u32 reserved2;
};

struct htrace_struct {
	size_t sz;         /* sizeof(struct htrace_struct) */
	size_t field_size; /* sizeof(struct htrace_field) */
	const char *name;  /* as C has it: "struct call" */
	__u32 size;
	__u32 nr_fields;
	const struct htrace_field *fields;
	bool is_union;
};

/* A struct's or union's description. @fields: the array itself, not a pointer. */
#define HTRACE_STRUCT(type, fields) HTRACE_COMPOUND_(type, fields, false)
#define HTRACE_UNION(type, fields) HTRACE_COMPOUND_(type, fields, true)

/* A value's name, in an array of struct htrace_enumerator. */
#define HTRACE_VALUE(value) { (__s64)(value), #value }

/*
 * A member that is an integer, bool, character, enum (shown as its number) or pointer (shown as an
 * address); HTRACE_FIELD_AS: shown as @hint (enum htrace_hint) says.
 */
#define HTRACE_FIELD(type, member) HTRACE_FIELD_AS(type, member, HTRACE_HINT_NONE)
#define HTRACE_FIELD_AS(type, member, hint)                                                   \
	HTRACE_FIELD_(type, member, HTRACE_SIZE_(type, member), HTRACE_SIZE_(type, member),   \
		      HTRACE_FORM_SCALAR, HTRACE_SCALAR_(HTRACE_OF_(type, member)), hint, NULL, \
		      NULL, 0)
/* An enum, or integer, of which values have names; the array's name becomes the enum's. */
#define HTRACE_FIELD_ENUM(type, member, values)                                              \
	HTRACE_FIELD_(type, member, HTRACE_SIZE_(type, member), HTRACE_SIZE_(type, member),  \
		      HTRACE_FORM_ENUM, HTRACE_SCALAR_(HTRACE_OF_(type, member)),            \
		      HTRACE_HINT_NONE, values, #values, sizeof(values) / sizeof((values)[0]))
/* An array of characters that holds text, to its NUL or end. */
#define HTRACE_FIELD_TEXT(type, member)                                                     \
	HTRACE_FIELD_(type, member, HTRACE_SIZE_(type, member), HTRACE_CHAR_(type, member), \
		      HTRACE_FORM_TEXT, 0, HTRACE_HINT_NONE, NULL, NULL, 0)
/* An array, of one dimension, of what HTRACE_FIELD takes. */
#define HTRACE_FIELD_ARRAY(type, member) HTRACE_FIELD_ARRAY_AS(type, member, HTRACE_HINT_NONE)
#define HTRACE_FIELD_ARRAY_AS(type, member, hint)                                           \
	HTRACE_FIELD_(type, member, HTRACE_SIZE_(type, member), HTRACE_SIZE_(type, member[0]), \
		      HTRACE_FORM_ARRAY, HTRACE_SCALAR_(HTRACE_OF_(type, member[0])), hint, NULL, \
		      NULL, 0)
/* A struct or union, or an array of them, that @description (HTRACE_STRUCT) describes. */
#define HTRACE_FIELD_STRUCT(type, member, description)                                      \
	HTRACE_FIELD_(type, member, HTRACE_SIZE_(type, member), 0, HTRACE_FORM_STRUCT, 0,   \
		      HTRACE_HINT_NONE, &(description), NULL, 0)
#define HTRACE_FIELD_STRUCTS(type, member, description)                                     \
	HTRACE_FIELD_(type, member, HTRACE_SIZE_(type, member), HTRACE_SIZE_(type, member[0]), \
		      HTRACE_FORM_STRUCTS, 0, HTRACE_HINT_NONE, &(description), NULL, 0)
/*
 * The last member, without a size (`char name[];`): text, or an array, to the end of the record. In
 * the event's own struct only.
 */
#define HTRACE_FIELD_REST_TEXT(type, member)                                              \
	HTRACE_FIELD_(type, member, 0, HTRACE_CHAR_(type, member), HTRACE_FORM_REST_TEXT, 0, \
		      HTRACE_HINT_NONE, NULL, NULL, 0)
#define HTRACE_FIELD_REST(type, member) HTRACE_FIELD_REST_AS(type, member, HTRACE_HINT_NONE)
#define HTRACE_FIELD_REST_AS(type, member, hint)                                            \
	HTRACE_FIELD_(type, member, 0, HTRACE_SIZE_(type, member[0]), HTRACE_FORM_REST,     \
		      HTRACE_SCALAR_(HTRACE_OF_(type, member[0])), hint, NULL, NULL, 0)
/*
 * A bit-field declared as @base (`int member : 5;`: int). C cannot tell where a bit-field is but at
 * run time: an array of fields with one in it must be a variable of a function, not static (C++: any).
 */
#define HTRACE_FIELD_BITS(type, member, base) \
	HTRACE_FIELD_BITS_AS(type, member, base, HTRACE_HINT_NONE)
#define HTRACE_FIELD_BITS_AS(type, member, base, hint)                                         \
	HTRACE_NOW_(({                                                                         \
		__u64 ones_ = ~0ULL;                                                           \
		unsigned char at_[sizeof(type)] __attribute__((aligned)) = { 0 };              \
		((type *)(void *)at_)->member = (base)ones_;                                   \
		HTRACE_RESULT_ htrace_field_bits(#member, at_, sizeof(at_), sizeof(base),      \
						 HTRACE_SCALAR_(*(base *)0), hint);            \
	}))

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/*
 * Declare event @event, which consists of @s. Its record id, > 0, new or that of an equal event;
 * -EEXIST: there is an unequal one of this name; -EINVAL: a name is not allowed, members are not in
 * order, overlap or do not fit; -ENOSPC; -ENOMEM. htrace_builder_error() says what was wrong.
 */
int htrace_builder_declare(struct htrace_schema_builder *b, const char *event,
			   const struct htrace_struct *s);
/*
 * Likewise, into region @r at once: readers know the event from then on. One line in @err. -ENOSPC:
 * also if the region's schema area is full.
 */
int htrace_region_declare(struct htrace_region *r, const char *event, const struct htrace_struct *s,
			  char *err, size_t errlen);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

/* ------------------------------------------------------------- how the macros come to know it */

#define HTRACE_COMPOUND_(type, fields, is_union)                                         \
	{ sizeof(struct htrace_struct), sizeof(struct htrace_field), #type, sizeof(type), \
	  sizeof(fields) / sizeof((fields)[0]), fields, is_union }
#define HTRACE_FIELD_(type, member, size, elem, form, scalar, hint, of, of_name, nr)             \
	{ #member, offsetof(type, member), size, elem, form, scalar, hint, 0, of, of_name, nr, 0 }
#define HTRACE_OF_(type, member) (((type *)0)->member)
#define HTRACE_SIZE_(type, member) sizeof(HTRACE_OF_(type, member))

/* @at is a zeroed object of @size bytes, but that all bits of one bit-field are set. */
static inline struct htrace_field htrace_field_bits(const char *name, const void *at, size_t size,
						    size_t base, int scalar, int hint)
{
	struct htrace_field f = { name, 0, 0, (__u32)base, HTRACE_FORM_BITS, (__u8)scalar,
				  (__u8)hint, 0, NULL, NULL, 0, 0 };
	const unsigned char *bytes = (const unsigned char *)at;

	for (__u32 bit = 0; bit < size * 8; bit++) {
		if (!(bytes[bit / 8] >> bit % 8 & 1))
			continue;
		if (!f.size)
			f.off = bit;
		f.size = bit - f.off + 1;
	}
	return f;
}

#define HTRACE_WRONG_SCALAR_                                                              \
	"this macro takes an integer, bool, enum or pointer of 1, 2, 4, 8 or 16 bytes: for others " \
	"there are HTRACE_FIELD_ARRAY, HTRACE_FIELD_TEXT and HTRACE_FIELD_STRUCT"
#define HTRACE_WRONG_CHAR_ "this macro takes an array of characters"

#ifdef __cplusplus
extern "C++" {
namespace htrace_declare {

template <typename T> struct is_wide : std::false_type {};
__extension__ template <> struct is_wide<__int128> : std::true_type {};
__extension__ template <> struct is_wide<unsigned __int128> : std::true_type {};

template <typename T, bool is_enum> struct integer {
	typedef T type;
};
template <typename T> struct integer<T, true> {
	typedef typename std::underlying_type<T>::type type;
};

template <typename Reference> constexpr int scalar()
{
	typedef typename std::remove_cv<typename std::remove_reference<Reference>::type>::type T;
	typedef typename integer<T, std::is_enum<T>::value>::type I;
	static_assert(std::is_integral<I>::value || is_wide<I>::value || std::is_pointer<I>::value,
		      HTRACE_WRONG_SCALAR_);
	return std::is_pointer<I>::value	? HTRACE_SCALAR_POINTER :
	       std::is_same<I, bool>::value	? HTRACE_SCALAR_BOOL :
	       std::is_same<I, char>::value	? HTRACE_SCALAR_CHAR |
						  (std::is_signed<I>::value ? HTRACE_SCALAR_SIGNED : 0) :
	       I(-1) < I(1)			? HTRACE_SCALAR_SIGNED :
						  0;
}

template <typename Reference> constexpr size_t character()
{
	typedef typename std::remove_reference<Reference>::type T;
	typedef typename std::remove_cv<typename std::remove_extent<T>::type>::type C;
	static_assert(std::is_array<T>::value && std::is_integral<C>::value && sizeof(C) == 1,
		      HTRACE_WRONG_CHAR_);
	return 1;
}

} /* namespace */
}
#define HTRACE_SCALAR_(x) htrace_declare::scalar<decltype(x)>()
#define HTRACE_CHAR_(type, member) htrace_declare::character<decltype(((type *)0)->member)>()
#define HTRACE_BARE_(...) __VA_ARGS__
#define HTRACE_NOW_(body) []() HTRACE_BARE_ body()
#define HTRACE_RESULT_ return
#else
__extension__ typedef __int128 htrace_s128_;
__extension__ typedef unsigned __int128 htrace_u128_;

#define HTRACE_MUST_(condition, why) \
	(0 * (int)sizeof(struct { _Static_assert(condition, why); int one_; }))
/* Not an array, which becomes another type where it is a value, nor a struct, or floating. */
#define HTRACE_IS_POINTER_(x)                                                        \
	(__builtin_types_compatible_p(__typeof__(x), __typeof__(1 ? (x) : (x))) &&   \
	 __builtin_classify_type(x) == __builtin_classify_type((char *)0))
#define HTRACE_BY_TYPE_(x, yes, no, truth, letter, other)                                    \
	_Generic((x), _Bool: (truth), char: (letter), signed char: (yes), short: (yes),      \
		int: (yes), long: (yes), long long: (yes), htrace_s128_: (yes),              \
		unsigned char: (no), unsigned short: (no), unsigned int: (no),               \
		unsigned long: (no), unsigned long long: (no), htrace_u128_: (no), default: (other))
#define HTRACE_SCALAR_(x)                                                                      \
	(HTRACE_BY_TYPE_(x, HTRACE_SCALAR_SIGNED, 0, HTRACE_SCALAR_BOOL,                       \
			 HTRACE_SCALAR_CHAR | ((char)-1 < 0), HTRACE_SCALAR_POINTER) +         \
	 HTRACE_MUST_(HTRACE_BY_TYPE_(x, 1, 1, 1, 1, HTRACE_IS_POINTER_(x)), HTRACE_WRONG_SCALAR_))
#define HTRACE_CHAR_(type, member)                                                             \
	(sizeof(((type *)0)->member[0]) +                                                      \
	 HTRACE_MUST_(HTRACE_BY_TYPE_(((type *)0)->member[0], 1, 1, 0, 1, 0) &&                \
		      sizeof(((type *)0)->member[0]) == 1, HTRACE_WRONG_CHAR_))
#define HTRACE_NOW_(body) __extension__ body
#define HTRACE_RESULT_
#endif

#endif
