/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Functions of programs and libraries, from the host's files, which are found by build-id only. */
#ifndef READER_ELF_SYMBOLS_H
#define READER_ELF_SYMBOLS_H

#include <stdbool.h>

#include <htrace/abi.h>

struct elf_symbols;

/* Works without libelf, too, and finds nothing then. */
struct elf_symbols *elf_symbols_new(void);
void elf_symbols_free(struct elf_symbols *s);
/*
 * The function that holds byte @file_offset of the file with @build_id, whose symbols' addresses are
 * by @bias above offsets (NULL: not known, take what the file says). NULL, or its name; it holds as
 * long as @s does.
 */
const char *elf_symbols_find(struct elf_symbols *s, const __u8 build_id[20], __u64 file_offset,
			     const __s64 *bias, __u64 *offset);

#endif
