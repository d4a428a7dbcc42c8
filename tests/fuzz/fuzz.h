/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What all fuzz targets share: an input that is consumed from its front, memory of which a copy is
 * kept, and failing allocations. A target is LLVMFuzzerTestOneInput() of libFuzzer.
 *
 * Plain bytes would stop at the first magic or length. So most targets take a valid image that the
 * library itself made, and the input says what to do to it: values at places, and operations.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <htrace/abi.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* What must hold whatever the input is; libFuzzer keeps the input that it does not hold for. */
#define CHECK(c)                                                                         \
	do {                                                                             \
		if (!(c)) {                                                              \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #c); \
			abort();                                                         \
		}                                                                        \
	} while (0)

/* ----------------------------------------------------------------------------------------- input */

struct input {
	const uint8_t *at;
	size_t left;
};

/* Little-endian; behind the input's end there are zeros. */
static inline __u64 take(struct input *in, unsigned int bytes)
{
	size_t n = in->left < bytes ? in->left : bytes;
	__u64 v = 0;

	memcpy(&v, in->at, n);
	in->at += n;
	in->left -= n;
	return v;
}

/* A number of any size in few bytes; those near the edges of types in two. */
static inline __u64 take_number(struct input *in)
{
	__u64 v = take(in, 1);

	if (v < 200)
		return v;
	if (v < 216)
		return take(in, v < 208 ? 2 : v < 212 ? 4 : 8);
	if (v < 240)
		return (1ULL << take(in, 1) % 64) + (v % 3) - 1;
	return v - 256; /* -16 ... -1 */
}

/* At most @most bytes of the input, in memory of exactly that size: a sanitizer sees a read behind. */
void *take_exact(struct input *in, size_t most, size_t *len);

/* ---------------------------------------------------------------------------------------- memory */

/* Where in a memory something lies that is worth to be changed. */
struct place {
	size_t off, len;
};

/* What one input changes in it is put back for the next. */
struct memory {
	char *at, *was;
	size_t size;
	const struct place *places;
	unsigned int nr_places, nr_touched;
	struct place touched[256];
};

/* Keep what is there now. */
void memory_keep(struct memory *m, void *at, size_t size, const struct place *places,
		 unsigned int nr_places);
void memory_touch(struct memory *m, size_t off, size_t len);
void memory_put_back(struct memory *m);

/* A value at a place, as the input says; it takes four bytes or more. */
struct patch {
	size_t off;
	unsigned int width; /* 1, 2, 4, 8 */
	__u64 value;
};

bool take_patch(struct memory *m, struct input *in, struct patch *p);
void apply_patch(struct memory *m, const struct patch *p);
/* Up to @most of them. */
void take_patches(struct memory *m, struct input *in, unsigned int most);

/* ----------------------------------------------------------------------------------- allocations */

/* The @nth allocation, or mapping, from now on fails; 0: none does. Only of the code under test. */
void fail_allocation(unsigned int nth);

/* All of it was written: MemorySanitizer knows, where the target was built with it. */
#if defined(__has_feature)
#if __has_feature(memory_sanitizer)
#include <sanitizer/msan_interface.h>
#define check_written(p, len) __msan_check_mem_is_initialized((p), (len))
#endif
#endif
#ifndef check_written
#define check_written(p, len) ((void)(p), (void)(len))
#endif

/* A directory of this process that goes at its end; files in it are made at first. */
const char *fuzz_dir(void);
/* Remove what is in the directory @path, and it too if @itself. */
void remove_tree(const char *path, bool itself);

#endif
