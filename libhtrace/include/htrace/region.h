/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * Regions: memory that guest and host (or two processes) share. docs/format.md has the layout.
 *
 * Functions return 0 or -errno unless they say otherwise. None may be called from a signal
 * handler. A handle may be used by one thread at a time; but while one thread uses a region's, any number
 * may htrace_producer_get() and htrace_producer_put() (producer.h). It is released behind the last of them.
 */
#ifndef HTRACE_REGION_H
#define HTRACE_REGION_H

#include <htrace/abi.h>
#include <htrace/ring.h>
#include <htrace/version.h>

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* ------------------------------------------------------- the writing side: guest, or local */

struct htrace_region;

struct htrace_region_opts {
	size_t sz; /* sizeof(struct htrace_region_opts) */
	/*
	 * Rings to make; 0 rings = none. Placement LOCAL or IVSHMEM puts the images into the region,
	 * VSHMEM only describes them (the caller owns the memory, see htrace_vshmem_publish()).
	 */
	__u32 placement; /* enum htrace_placement */
	__u32 policy;    /* enum htrace_policy */
	__u32 kind;      /* enum htrace_ring_kind */
	__u32 nr_rings;
	__u64 ring_size;  /* data bytes per ring, power of two; 0: as large as fits */
	__u64 block_size; /* power of two; 0: ring_size / 16, within 4 KiB ... 64 KiB */
	/*
	 * enum htrace_clock_id. 0: for rings of threads that are in the region, HTRACE_CLOCK_TSC if it
	 * is invariant (htrace_clock_best()); else CLOCK_MONOTONIC, which is all that BPF programs have.
	 */
	__u32 clock_id;
	__u32 nr_cpus;    /* 0: those configured */
	bool io_memory;   /* htrace_bar_io_memory(): no atomics, fences matter */
	bool relay;       /* VSHMEM: also make mirrors of the rings in the region, as ring set 1 */
	/*
	 * Producers wake a reader that sleeps and asks for it: threads that htrace_producer_get() gives
	 * a ring do; of other rings the caller promises it (docs/format.md, "Waking the reader").
	 */
	bool bell;
	bool packed; /* records of the rings may be packed (pack.h), which readers before 1.1 of the format refuse */
};

/* Geometry of a ring image for a ring and block size. -EINVAL if it cannot be. */
int htrace_geometry_init(struct htrace_geometry *g, __u64 ring_size, __u64 block_size,
			 enum htrace_policy policy);
/* Bytes of one ring image: header, descriptors, data and slack; a multiple of @page_size. */
__u64 htrace_image_size(const struct htrace_geometry *g, size_t page_size);

/*
 * Make a region anew in @size bytes at @mem (shared, writable, page-aligned), which stay the
 * caller's and must outlive it. An older session there ends. The superblock is *not* published
 * yet: fill the areas, then call htrace_region_publish().
 * -EINVAL: options make no sense, @size is above HTRACE_REGION_MAX (no reader would take it), or @mem is
 * not aligned.
 * -ENOSPC: @size is too small for them. -EOPNOTSUPP: this machine
 * does not have the clock that was asked for (htrace_clock_check() says why).
 */
int htrace_region_format(struct htrace_region **out, void *mem, size_t size,
			 const struct htrace_region_opts *opts);
/*
 * Take over the region at @mem that an earlier process of this boot left: rings, session and
 * schema stay as they are. -ENOENT: there is none of this boot (boot_id, version, clean state).
 */
int htrace_region_adopt(struct htrace_region **out, void *mem, size_t size, bool io_memory);
/*
 * Set the magic, last: from now on readers may attach. Where times are TSC ticks, this may wait
 * for 2 ms, for a second clock sample by which readers know how long ticks are.
 */
void htrace_region_publish(struct htrace_region *r);
/* Would htrace_region_format() make one in @size bytes? 0, or its error. Touches no memory. */
int htrace_region_fits(size_t size, const struct htrace_region_opts *opts);
/* Give up the handle; the memory stays as it is. */
void htrace_region_release(struct htrace_region *r);

/*
 * A local region in a new memfd (@path NULL) or file. Mapped, formatted, not published. htrace_region_
 * release() unmaps it. @fd, if not NULL, receives a descriptor that the caller closes.
 *
 * A file that is not there is created, for its owner only (mode 0600). An existing one is taken if it
 * is a regular file, no link, that this process may write, and
 *  - holds a region of a session that is closed; or whose maker is dead, before it was published
 *    or later, and all who own one of its rings; or that was made before this machine last booted; or
 *  - is empty (0 bytes); or
 *  - holds zeroes only, or a superblock of zeroes and the words of a reader that waits: made for this
 *    by host-reader or `truncate -s`. @size must be its size, or 0, which means that.
 * All else is refused with -EEXIST, and not touched. -EINVAL: also a @size that is not the file's.
 * -ENOSPC: also a file system that does not have the blocks. They are all reserved, where it can do that
 * (tmpfs, ext4, XFS, btrfs can): where not, a producer that meets a full one dies of SIGBUS.
 * So does one if somebody truncates the file, which is its maker's own: no handler is put into the
 * program that is traced. A memfd's size is sealed.
 * Two processes must not make a region of one file at a time. Who cannot be judged (a process of
 * another pid or time namespace, a guest) is alive: such a file is taken when it is closed, or when
 * somebody has removed it. Of a maker's child that has not taken a ring yet nobody knows: daemons make
 * their region after they have forked.
 */
int htrace_region_create_local(struct htrace_region **out, const char *path, size_t size,
			       const struct htrace_region_opts *opts, int *fd);

/* The handle's private copy of the superblock; valid until the handle is released. */
struct htrace_super *htrace_region_super(struct htrace_region *r);
/* The guest header in the region itself. */
struct htrace_guest *htrace_region_guest(struct htrace_region *r);
/* The areas' starts in the region; their lengths are in the superblock. */
struct htrace_schema_area *htrace_region_schema(struct htrace_region *r);
struct htrace_names *htrace_region_names(struct htrace_region *r);
/*
 * Tell readers the name of a task: it is shown where an event has a member with HTRACE_HINT_TID, from
 * @time on (region clock; 0: from the beginning). Of a task that is renamed readers keep both. At any
 * time; readers that are there look again. @comm: its first 15 bytes count. -ENOSPC: the table is
 * full, which readers are told. For regions that this process made.
 */
int htrace_region_add_name(struct htrace_region *r, __u32 tid, __u32 tgid, const char *comm,
			   __u64 time);
/*
 * Write the whole names table anew. Returns how many of @nr there was no room for. Readers that are
 * there look again when the guest header's names_served changes, which is the caller's to write.
 */
int htrace_region_set_names(struct htrace_region *r, const struct htrace_name *names, __u32 nr);
/* The host's words. Hostile or absent hosts: use them for nothing that matters but sleep. */
const struct htrace_host *htrace_region_host(const struct htrace_region *r);
/* Slot @slot of the host's ring words; NULL beyond HTRACE_MAX_RINGS. */
const struct htrace_host_ring *htrace_region_host_ring(const struct htrace_region *r, __u32 slot);
/* Ring @index of a set that lies in the region; NULL if it does not. */
struct htrace_ring *htrace_region_ring(struct htrace_region *r, __u32 set, __u32 index,
				       struct htrace_geometry *g);
/*
 * Take commands: @allows is of enum htrace_allow. One that was given before is not carried out, but answered
 * by HTRACE_REPLY_LOST. Again when what is allowed changes; 0 before the end.
 */
void htrace_region_control(struct htrace_region *r, __u64 allows);
/*
 * Has the host a command? Its length, in @text with a NUL behind; 0: there is none. Each is told once, and is
 * to be answered, by htrace_region_reply(), before the next one.
 */
size_t htrace_region_command(struct htrace_region *r, char text[HTRACE_CONTROL_MAX + 1]);
/* @len: what is beyond HTRACE_REPLY_MAX is cut off. @next: as in struct htrace_reply. */
void htrace_region_reply(struct htrace_region *r, enum htrace_reply_status status, const char *text,
			 size_t len, __u64 next);
/* Order earlier stores into the region before later ones, in WC memory too. */
void htrace_region_fence(const struct htrace_region *r);
/*
 * Append a clock sample (reads TSC and clocks) and beat the heart. Where times are TSC ticks, who
 * beats now and then makes them as exact in a reader after the program's end as they can be; without,
 * there are samples from publishing, from producers that come and go, and from the state's last change.
 */
void htrace_region_beat(struct htrace_region *r, __u64 agent_cpu_ns);
/*
 * Answer the reader's questions for this machine's TSC, if there is one: then more may follow at once, so
 * listen for @wait_ns after each, busily, and 4 ms at most. To be called with each beat of the heart, and
 * after one answer some more times in the 30 ms that follow. How many were answered; none where there is
 * no TSC.
 */
unsigned int htrace_region_answer(struct htrace_region *r, __u64 wait_ns);
/* Announce a state (enum htrace_guest_state), ordered after all that was written before. */
void htrace_region_set_state(struct htrace_region *r, __u32 state);
/*
 * Append @len bytes of schema entries (multiple of 8). -ENOSPC if the area is full. The schema is
 * validated by htrace_schema_parse() as a reader would; -EINVAL if that refuses it.
 */
int htrace_region_add_schema(struct htrace_region *r, const void *entries, size_t len);
/* The entries so far, in the handle's own memory (an adopted region's were copied once). */
const void *htrace_region_schema_entries(const struct htrace_region *r, size_t *len);

/* ---------------------------------------------------------------------- guest: ivshmem BAR */

struct htrace_bar;

enum htrace_bar_content {
	HTRACE_BAR_EMPTY,   /* all of the superblock is zero, no host waits */
	HTRACE_BAR_WAITED,  /* likewise, but a host's reader waits for a guest there */
	HTRACE_BAR_REGION,  /* a region of ours */
	HTRACE_BAR_FOREIGN, /* something else: not to be touched */
};

/*
 * Find and map the ivshmem BAR2 to use. @which: NULL or "auto", or a PCI address. Among several
 * devices the one that holds a region wins, then one whose host waits, then the only empty one.
 * -ENODEV: no device. -ENOTUNIQ: cannot choose. -ENOSPC: BAR below HTRACE_REGION_MIN.
 * -EEXIST: foreign content. -EPERM/-EACCES: not root, or lockdown. @err gets one line.
 */
int htrace_bar_open(struct htrace_bar **out, const char *which, char *err, size_t errlen);
/* Unmap and close; the device's memory stays as it is. NULL is allowed. */
void htrace_bar_close(struct htrace_bar *bar);
/* Where it is mapped, until it is closed, and how large it is. */
void *htrace_bar_mem(const struct htrace_bar *bar, size_t *size);
/* Its device's address, as 0000:00:03.0. */
const char *htrace_bar_pci(const struct htrace_bar *bar);
/* Mapped as device memory, not by the kernel module? Then its region's io_memory is to be true. */
bool htrace_bar_io_memory(const struct htrace_bar *bar);
/* What is in a mapped BAR, or in a file that is mapped instead? @size: at least HTRACE_REGION_MIN. */
enum htrace_bar_content htrace_bar_content(const void *mem, size_t size);

/* ------------------------------------------------------------- guest: rings in guest memory */

/*
 * Publish the @len bytes at @mem (mapped, resident, locked pages such as a BPF map's) as the
 * vshmem space of the region: writes anchors and page runs, and puts nonces into each image's
 * header and last page. Before htrace_region_publish() only.
 * -EPERM: page frame numbers are hidden (CAP_SYS_ADMIN). -ENOSPC: more runs than fit.
 */
int htrace_vshmem_publish(struct htrace_region *r, void *mem, size_t len);
/* Do the page runs in the (adopted) region still describe @mem? 0 or -ESTALE. */
int htrace_vshmem_check(struct htrace_region *r, void *mem, size_t len);
/* Clear all nonces, ordered before any later release of the pages. */
void htrace_vshmem_retire(struct htrace_region *r, void *mem, size_t len);

/* ------------------------------------------------------------------------- the reading side */

/* A region as its reader sees it: geometry copied once, validated, private from then on. */
struct htrace_view;

/*
 * Map the file at @path for reading, with the host area writable (read-only files: no host area,
 * rings then are read without telling the producers). @writable_host false maps all read-only.
 * The file may be empty of a guest yet: see htrace_view_attach().
 * -ENOENT, -EACCES...: as open(2). -ENOSPC: shorter than HTRACE_REGION_MIN. -EINVAL: not a file.
 * -EMFILE: also, 256 mappings are there: a view takes one, one more if the host area is writable, and one
 * more for guest RAM.
 */
int htrace_view_open(struct htrace_view **out, const char *path, bool writable_host, char *err,
		     size_t errlen);
/* Likewise for an open descriptor (a memfd); @fd stays the caller's. */
int htrace_view_open_fd(struct htrace_view **out, int fd, bool writable_host, char *err,
			size_t errlen);
/* Unmap all and free; images and pointers from this view are invalid afterwards. */
void htrace_view_close(struct htrace_view *v);

/*
 * Copy the superblock and validate everything in it.
 * 0: attached; -EAGAIN: no guest yet (nothing there, or being made); -EPROTO: not a region, or
 * refused, @err says what is wrong; -EPROTONOSUPPORT: another major version.
 * Can be called again (after the session changed), which invalidates what was handed out. Of a view that
 * never attached there is nothing to be had: functions below give zeroes, 0, -EAGAIN, -EINVAL or -ENXIO.
 */
int htrace_view_attach(struct htrace_view *v, char *err, size_t errlen);
/* The validated copy. */
const struct htrace_super *htrace_view_super(const struct htrace_view *v);
/* Is the session that was attached to still the region's? One load. */
bool htrace_view_current(const struct htrace_view *v);
/*
 * Was it made under the kernel that runs here? Then its clocks are this machine's, and
 * htrace_clock_take() gives samples of them. By the boot id, which is the maker's word.
 */
bool htrace_view_same_boot(const struct htrace_view *v);
/* Did the file shrink under the mapping (SIGBUS was caught)? */
bool htrace_view_shrunk(const struct htrace_view *v);
/* Bytes mapped. */
size_t htrace_view_size(const struct htrace_view *v);
/* Device and inode of the backing file. */
void htrace_view_file(const struct htrace_view *v, __u64 *dev, __u64 *ino);

/* Consistent private copy of the guest header, without the arrays at its end if @arrays false. */
void htrace_view_guest(const struct htrace_view *v, struct htrace_guest *copy, bool arrays);
/* The guest's heartbeat and enum htrace_guest_state, each by one load (acquire). */
__u64 htrace_view_heartbeat(const struct htrace_view *v);
__u32 htrace_view_state(const struct htrace_view *v);
/* Latest clock sample; -EAGAIN if there is none or it kept changing. */
int htrace_view_clock(const struct htrace_view *v, struct htrace_clock_sample *s);
/*
 * The clock samples that came since the last call, in order: how many were stored to @s. *@next is the
 * number of the next one; 0 at first: the oldest that is there.
 */
int htrace_view_clock_samples(const struct htrace_view *v, __u64 *next,
			      struct htrace_clock_sample s[HTRACE_CLOCK_SAMPLES]);
/*
 * Copy the schema entries if their generation differs from *@generation (0: never read).
 * 1: *@buf (malloc'd, the caller frees it) and *@len hold them, *@generation is new. 0: unchanged.
 */
int htrace_view_schema(const struct htrace_view *v, __u64 *generation, void **buf, size_t *len);
/* Copy the names table. Number of entries in *@names (malloc'd), -EAGAIN: being written. */
int htrace_view_names(const struct htrace_view *v, __u64 *generation, struct htrace_name **names);

/* The host's words. NULL if mapped read-only. */
struct htrace_host *htrace_view_host(struct htrace_view *v);
/* Slot @slot of them; NULL if mapped read-only or beyond HTRACE_MAX_RINGS. */
struct htrace_host_ring *htrace_view_host_ring(struct htrace_view *v, __u32 slot);

/*
 * A region has one reader that says in the host's words what it does; others may look on, with views
 * that are read-only. These are for the one. Each is -EACCES if the view is mapped read-only, and -EINVAL,
 * with nothing written, if htrace_view_attach() would refuse the file as no region, or if it takes a session
 * (all but htrace_view_beat() and the announcements WAITING, GONE and REFUSED) and the view is not attached.
 *
 * htrace_view_claim(): become it, after each attach, before consumers are made: an older session's
 * `consumed` and `drained` end, and the file is locked (flock(2)) as host-reader does, until the view is
 * closed: by a descriptor of the view's own, unless the one that it was opened with holds the lock. -EBUSY:
 * another reader is.
 *
 * htrace_view_announce(): what it does. HTRACE_HOST_WAITING and HTRACE_HOST_GONE leave the session as
 * it is: whoever comes next to it goes on from `consumed`. HTRACE_HOST_ATTACHED: it reads @session;
 * @verified: and its rings in guest RAM were found, which tells the agent to stop relaying.
 * HTRACE_HOST_REFUSED: it cannot read @session, for @reason.
 *
 * htrace_view_beat(): it is alive; at least once a second. htrace_view_session_drained(): all of the
 * attached session, which is closing, was read. htrace_view_ask_names(): the names table should be
 * written anew.
 */
int htrace_view_claim(struct htrace_view *v);
int htrace_view_announce(struct htrace_view *v, enum htrace_host_state state, __u64 session,
			 bool verified, enum htrace_host_reason reason);
int htrace_view_beat(struct htrace_view *v);
int htrace_view_session_drained(struct htrace_view *v);
int htrace_view_ask_names(struct htrace_view *v);

/*
 * Commands for a running agent, of a host whose user need not be the region's reader. One at a time: who
 * gives one holds a lock of the file (of its open description, so until the view is closed).
 *
 * htrace_view_control(): enum htrace_allow, what the agent of the attached session takes; 0: it takes no
 * commands.
 * htrace_view_command(): give it one. -EBUSY: another one has the lock, or the one before is not answered
 * yet; -EOPNOTSUPP: see htrace_view_control(); -EMSGSIZE: it is empty, or longer than HTRACE_CONTROL_MAX;
 * -EACCES, -EINVAL: see htrace_view_claim().
 * htrace_view_reply(): the answer to it, in private memory; it may say anything. -EAGAIN: not yet. -EPROTO:
 * what is there makes no sense.
 */
__u64 htrace_view_control(const struct htrace_view *v);
int htrace_view_command(struct htrace_view *v, const char *text);
int htrace_view_reply(const struct htrace_view *v, struct htrace_reply *reply);
/* What answers said of the guest's TSC less ours, modulo 2^64, at one time. */
struct htrace_pong {
	__u64 tsc; /* ours then */
	__u64 low, high; /* it was from low to high, if the guest tells the truth */
	__u32 rounds; /* questions answered */
	__u32 reserved;
};

/*
 * Ask the guest for its TSC; it answers with the next beat of its heart. -EOPNOTSUPP: nobody is there
 * who would, or this machine has none. -EACCES, -EINVAL: see htrace_view_host().
 */
int htrace_view_ping(struct htrace_view *v);
/*
 * Did it answer? Then it listens, and is asked some more, for 4 ms at most. -EAGAIN: not yet; -EPROTO:
 * answers that contradict each other.
 */
int htrace_view_pong(struct htrace_view *v, struct htrace_pong *p);
/*
 * Ask producers to wake us, or with @sync 0 no more: HTRACE_SYNC_RING, of a device with the vector in it.
 * htrace_view_claim(), HTRACE_HOST_WAITING and HTRACE_HOST_GONE store 0. Before htrace_consumer_arm().
 */
int htrace_view_set_sync(struct htrace_view *v, __u32 sync);
/* The word that producers of a local region change to wake us; NULL: they do not. See sync.h. */
const __u32 *htrace_view_bell(const struct htrace_view *v);

/*
 * Map the vshmem space: @pid's guest RAM (0: found as the process that maps the region's file),
 * or the RAM file @ram (NULL: found among the process's mappings). Read-only. Verified by the
 * anchors, every page run within the bounds of the verified file.
 * -ESRCH: no such process. -ENOENT: it has no shared guest RAM. -EPROTO: runs refused.
 * -ENXIO: no anchor found where it should be. -ENOMEM: vm.max_map_count. @err gets one line.
 */
int htrace_view_map_ram(struct htrace_view *v, int pid, const char *ram, char *err, size_t errlen);
/*
 * Likewise in two steps, for a reader that may not look into other processes, and has another one do the
 * first. htrace_ram_find(): what may be guest RAM of the process that maps the region's file, which is
 * @dev, @ino and has @size bytes, or of @pid: at most @max descriptors to @fd, the caller's to close;
 * *@vmm is the process (0: several). Their number, -ESRCH or -ENOENT. htrace_view_map_ram_fds(): maps
 * what is right of @nr such files, which stay the caller's. As htrace_view_map_ram(); -EINVAL: none or
 * too many.
 */
int htrace_ram_find(__u64 dev, __u64 ino, __u64 size, int pid, int *fd, int max, int *vmm, char *err,
		    size_t errlen);
int htrace_view_map_ram_fds(struct htrace_view *v, const int *fd, int nr, char *err, size_t errlen);
/* What was mapped, for messages: "/dev/shm/ram, 3 runs". */
const char *htrace_view_ram_name(const struct htrace_view *v);
/* The process whose memory it is; 0 if it was given as a file, or several map the region. */
int htrace_view_vmm_pid(const struct htrace_view *v);

/* A ring's image in this process: read-only memory, valid until the view attaches again. */
struct htrace_image {
	const struct htrace_ring *ring;
	struct htrace_geometry geometry;
	__u32 kind; /* enum htrace_ring_kind */
	__u32 placement;
	__u32 index;
	__u32 slot;
	__u64 anchor; /* value that ring->anchor has while the memory is the session's; 0: none */
	__u64 packed; /* not 0: its records may be packed */
};
/* Fill in *@img for ring @index of set @set. -ENXIO: no such ring, not mapped, or not anchored. */
int htrace_view_ring(const struct htrace_view *v, __u32 set, __u32 index, struct htrace_image *img);

enum htrace_owner_state {
	HTRACE_OWNER_NONE = 0,  /* free, or not a ring that threads take */
	HTRACE_OWNER_LIVES = 1, /* or cannot be judged: another machine's, another pid namespace's */
	HTRACE_OWNER_COMES = 2, /* it is being taken */
	HTRACE_OWNER_DIED = 3,  /* nobody produces any more, until the ring begins anew */
};

struct htrace_owner {
	size_t sz;        /* sizeof(struct htrace_owner) */
	__u32 state;      /* enum htrace_owner_state */
	__u32 pid, tid;   /* as the ring says; tid 0 while it is being taken */
	__u32 drained;    /* died, and a reader said that it has read all of it */
	__u64 generation; /* of the ring */
};
/*
 * Whose is the ring, and does that process live? Looks into /proc, or asks for a pidfd; nothing is
 * ever sent to the process, which the ring's words may name wrongly. A verdict may be 100 ms old.
 * -EINVAL: sz. -EAGAIN: it changed meanwhile.
 */
int htrace_view_owner(struct htrace_view *v, const struct htrace_image *img, struct htrace_owner *o);
/*
 * Say that all of the ring's life @generation was read, after HTRACE_OWNER_DIED, with
 * htrace_consumer_finish(): it may be used again. Does nothing if the host area is not writable, or
 * the session is not the region's any more.
 */
void htrace_view_drained(struct htrace_view *v, const struct htrace_image *img, __u64 generation);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
