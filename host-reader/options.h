/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The command line. */
#ifndef READER_OPTIONS_H
#define READER_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

#include <htrace/filter.h>

#define MAX_SOURCES 64
#define MAX_OUTPUTS 16

enum source_kind {
	SOURCE_IVSHMEM, /* a file that backs an ivshmem device, or lies where one would */
	SOURCE_LOCAL,   /* a region of this machine's processes */
	SOURCE_FILE,    /* a capture */
	SOURCE_DOORBELL, /* an ivshmem device with a doorbell, which we serve */
	SOURCE_QMP,      /* an ivshmem device that we plug into a VM that runs */
	SOURCE_STREAM,   /* a byte stream from an agent */
	SOURCE_KVM,      /* what this host's KVM does */
	SOURCE_PID,      /* a VM that runs, without a device: its memory, in its process */
	SOURCE_BOOTRING, /* the ring in which a guest's kernel records its boot, in the guest's memory */
};

extern const char *const source_kind_name[];

struct source_spec {
	enum source_kind kind;
	char *path;
	__u64 size; /* of the device that is served, or plugged in (0: as it fits); of the ring; that a stream may take */
	__u64 at;   /* of the ring, in the file of guest RAM */
	char *formats, *symbols; /* files of the guest's kernel that it is read by */
	char *ram; /* file of guest RAM; NULL: found among the VMM's mappings */
	char *console; /* what the guest's console says goes there, too; or NULL */
	int pid;   /* the VMM; 0: found by the region's file; of KVM: all */
	bool aggregate; /* KVM's exits with what they were for */
	bool nested;  /* a guest of that VM's writes there: of its virtual CPUs and clock this host's KVM says nothing */
	bool trusted; /* what its producers wrote may go to disk without a copy that is checked */
	unsigned int of; /* of a capture the source with this number; 0: the only one */
	struct source_stream *stream; /* that was begun before all others; or NULL */
};

enum view_kind {
	VIEW_EVENTS, /* no --view: events as they come */
	VIEW_SUMMARY,
	VIEW_TABLES, /* in the place of text */
};

struct view_ops;

struct options {
	struct source_spec source[MAX_SOURCES];
	unsigned int nr_sources;
	const char *output[MAX_OUTPUTS]; /* SINK[:FILE] */
	unsigned int nr_outputs;
	enum view_kind view;
	const struct view_ops *tables;
	unsigned int view_number; /* given with the view; 0: none was */
	const char *sync;
	bool tell_guest;
	bool clock;         /* show the host's times, and at the end by which model */
	bool no_sandbox;
	const char *events; /* patterns, or NULL: all */
	struct htrace_filter *filter; /* NULL: show all */
	bool copy; /* whoever is trusted */
	struct {
		__u64 bytes; /* that are held of each ring; 0: no flight recorder */
		char *events; /* patterns of those that ask for a snapshot, or NULL */
		struct htrace_filter *filter; /* that they have to match, or NULL */
	} snapshot;
	__u64 duration_ns;  /* 0: no end */
	__u64 stats_ns;     /* 0: none */
};

/* Cut off what comes before the first single comma, in place; doubled ones stand for themselves. NULL: no more. */
char *options_cut(char **rest);
/* A further source, @like another. Its number, or -1: there are too many. */
int options_add_source(struct options *o, const struct source_spec *like);
/* 0: go on. Else *@status is what to exit with: --help, --version, or an error that was said. */
int options_parse(struct options *o, int argc, char **argv, int *status);
void options_free(struct options *o);

#endif
