/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The memory of a VM that runs, read in its VMM's process: those mappings that are guest RAM, and nothing else
 * there. A mapping counts as such if it is
 *
 *	a shared mapping of a file or memfd, or one of huge pages' file system, or
 *	private memory that forked processes do not get (MADV_DONTFORK, which QEMU asks for), or
 *	private memory without a reserve, larger than an arena of the C library's heap (Firecracker, kvmtool),
 *
 * writable, of MIN bytes or more, and none of a device. The process is the one that was there when it was opened,
 * whatever its number becomes. All descriptors are opened then: a confined process can do the rest.
 */
#ifndef READER_GUEST_RAM_H
#define READER_GUEST_RAM_H

#include <stdbool.h>
#include <stddef.h>

#include <linux/types.h>

#define GUEST_RAM_MAX 16 /* mappings */
#define GUEST_RAM_PAGE 4096u

struct guest_ram;

struct guest_ram_part {
	__u64 start, len; /* in the process */
	unsigned int id;  /* no other's, even of one that takes its number later; 0: it is gone */
	int file;         /* that is mapped there from its beginning on; -1: none, or it cannot be opened */
};

/* 0, or -errno with one line in @err, which says what to do. */
int guest_ram_open(struct guest_ram **out, int pid, char *err, size_t errlen);
/* NULL is allowed. */
void guest_ram_close(struct guest_ram *r);
/*
 * What there is by now: how many parts, or -ESRCH: the process is gone. Parts that were there before keep their numbers;
 * one that is gone has the length 0, and its number is taken again by one that comes later, under another id.
 */
int guest_ram_look(struct guest_ram *r);
/* Numbers of parts are below this. */
unsigned int guest_ram_nr(const struct guest_ram *r);
const struct guest_ram_part *guest_ram_part(const struct guest_ram *r, unsigned int i);
/*
 * Copy @len bytes from byte @off of part @i on. 0; -ERANGE: not wholly in it, nothing is read then; -ESRCH: the process
 * is gone; -EIO: it has no memory there any more.
 */
int guest_ram_read(const struct guest_ram *r, unsigned int i, __u64 off, void *to, size_t len);
/*
 * Which of the @nr pages from page @first on of part @i are in memory? The others were never touched, or are swapped
 * out; they are left alone. 0 or -errno.
 */
int guest_ram_present(const struct guest_ram *r, unsigned int i, __u64 first, bool *present, unsigned int nr);

#endif
