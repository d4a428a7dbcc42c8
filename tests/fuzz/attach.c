// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Attaching: superblock and areas as the input has them; then everything that a view offers, and
 * every ring of it. The file may shrink meanwhile, or get another session.
 */
#include <errno.h>
#include <unistd.h>

#include <htrace/consumer.h>
#include <htrace/schema.h>

#include "fuzz.h"
#include "fuzz_region.h"

static void read_ring(const struct htrace_image *img)
{
	struct htrace_consumer *c;
	struct htrace_batch b;

	if (htrace_consumer_new(&c, img, NULL))
		return;
	for (int i = 0; i < 8 && htrace_consumer_read(c, &b) == 1; i++)
		CHECK(b.len <= 1u << HTRACE_BLOCK_SHIFT_MAX);
	htrace_consumer_free(c);
}

static void use_rings(const struct htrace_view *v)
{
	const struct htrace_super *s = htrace_view_super(v);
	unsigned int most = 8;
	struct htrace_image img;

	for (__u32 set = 0; set < s->nr_ringsets; set++)
		for (__u32 i = 0; i < s->ringset[set].nr_rings; i++) {
			__u64 len = 1ULL << s->ringset[set].ring_shift;
			int ret = htrace_view_ring(v, set, i, &img);

			CHECK(!ret || ret == -ENXIO);
			/* None is large: it lies in the region. */
			CHECK(ret || len + s->ringset[set].data_off <= htrace_view_size(v));
			if (!ret && most) {
				most--;
				read_ring(&img);
			}
		}
	CHECK(htrace_view_ring(v, s->nr_ringsets, 0, &img) == -ENXIO || s->nr_ringsets == 4);
}

static void use_areas(struct htrace_view *v)
{
	__u64 generation = 0, dev, ino;
	struct htrace_clock_sample sample;
	struct htrace_guest guest;
	struct htrace_name *names;
	struct htrace_schema *schema;
	char err[160];
	size_t len;
	void *buf;
	int nr;

	htrace_view_guest(v, &guest, true);
	CHECK(guest.nr_progs <= HTRACE_MAX_PROGS);
	htrace_view_guest(v, &guest, false);
	htrace_view_heartbeat(v);
	htrace_view_state(v);
	htrace_view_clock(v, &sample);
	if (htrace_view_schema(v, &generation, &buf, &len) == 1) {
		CHECK(len <= htrace_view_size(v));
		check_written(buf, len);
		if (!htrace_schema_parse(&schema, buf, len, err, sizeof(err)))
			htrace_schema_free(schema);
		free(buf);
		CHECK(htrace_view_schema(v, &generation, &buf, &len) == 0);
	}
	nr = htrace_view_names(v, &generation, &names);
	CHECK(nr <= (int)(htrace_view_size(v) / sizeof(*names)));
	for (int i = 0; i < nr; i++)
		CHECK(names[i].tid | 1);
	free(names);
	htrace_view_file(v, &dev, &ino);
	CHECK(!htrace_view_host_ring(v, HTRACE_MAX_RINGS));
	if (htrace_view_host(v))
		CHECK(htrace_view_host_ring(v, HTRACE_MAX_RINGS - 1));
}

/* All of it, or of what is left of it, from anywhere. */
static void raw(struct guest *g, struct input *in)
{
	size_t at = take(in, 2) * 8 % REGION_SIZE, len = in->left < REGION_SIZE - at ? in->left : REGION_SIZE - at;

	memory_touch(&g->memory, at, len);
	memcpy(g->mem + at, in->at, len);
	in->left = 0;
}

/* Another set of the shape of the last one, mirror or not: lies in it, unless the input moves it. */
static void add_set(struct guest *g)
{
	struct htrace_super *s = (void *)g->mem;

	memory_touch(&g->memory, 0, sizeof(*s));
	if (s->nr_ringsets && s->nr_ringsets < HTRACE_MAX_RINGSETS) {
		s->ringset[s->nr_ringsets] = s->ringset[s->nr_ringsets - 1];
		s->nr_ringsets++;
	}
}

/* What is no file of a region. */
static void open_other(__u64 which)
{
	static char small[300], large[300];
	const char *path[] = { "/dev/null", "/nonexistent", fuzz_dir(), small, large };
	struct htrace_view *v;
	char err[256] = "";
	int ret;

	if (!small[0]) {
		snprintf(small, sizeof(small), "%s/small", fuzz_dir());
		snprintf(large, sizeof(large), "%s/large", fuzz_dir());
		for (int i = 3; i < 5; i++) {
			FILE *f = fopen(path[i], "w");

			CHECK(f && !ftruncate(fileno(f), i == 3 ? 4096 : (off_t)HTRACE_REGION_MAX * 2));
			fclose(f);
		}
	}
	ret = htrace_view_open(&v, path[which / 2 % ARRAY_SIZE(path)], which & 1, err, sizeof(err));
	CHECK(ret < 0 && err[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	__u64 how = take(&in, 1), more = take(&in, 1);
	struct guest *g = guest_get(how % NR_SHAPES);
	bool shrink = (how >> 4) == 15, empty = (more & 14) == 14;
	struct htrace_image none;
	struct htrace_view *v;
	char err[256] = "";
	int ret;

	if ((how >> 4) == 12) {
		open_other(more);
		return 0;
	}
	if ((how >> 4) == 11)
		add_set(g);
	if (empty) { /* the host waits for a guest */
		memory_touch(&g->memory, 0, 4096);
		memset(g->mem, 0, 4096);
	}
	if (how & 8)
		take_patches(&g->memory, &in, 16);
	if ((how >> 4) == 14)
		raw(g, &in);
	fail_allocation((how >> 4) == 13 ? (unsigned int)(more >> 4) : 0);
	ret = more & 1 ? htrace_view_open(&v, g->path, more & 2, err, sizeof(err)) :
			 htrace_view_open_fd(&v, g->fd, more & 2, err, sizeof(err));
	CHECK(!ret || ret == -ENOMEM);
	if (ret)
		goto out;
	ret = htrace_view_attach(v, err, sizeof(err));
	CHECK(!ret || ret == -EAGAIN || ((ret == -EPROTO || ret == -EPROTONOSUPPORT) && err[0]));
	for (const char *p = err; *p; p++)
		CHECK(*p >= ' ' && *p <= '~');
	CHECK(htrace_view_current(v) == !ret);
	if (ret) {
		use_areas(v);
		CHECK(htrace_view_ring(v, 0, 0, &none) == -ENXIO);
		CHECK(htrace_view_claim(v) == (more & 2 ? -EINVAL : -EACCES));
	} else {
		if (shrink)
			CHECK(!ftruncate(g->fd, (off_t)(more << 12)));
		take_patches(&g->memory, &in, shrink ? 0 : 8); /* after it was checked */
		use_areas(v);
		use_rings(v);
		if (shrink && more < 3)
			CHECK(htrace_view_shrunk(v) && !htrace_view_current(v));
		if (!shrink && !htrace_view_attach(v, err, sizeof(err)))
			use_rings(v);
	}
	htrace_view_close(v);
out:
	fail_allocation(0);
	if (shrink) {
		CHECK(!ftruncate(g->fd, REGION_SIZE));
		memory_touch(&g->memory, 0, REGION_SIZE);
	}
	guest_put_back(g);
	return 0;
}
