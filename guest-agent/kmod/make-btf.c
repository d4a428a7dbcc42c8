// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * make-btf BASE MODULE.ko OUT
 *
 * Writes to OUT the BTF that BPF programs need to call the module's functions: the functions' types,
 * as a part split from BASE, the BTF of the kernel that the module is built for (raw, or in a
 * vmlinux). And fills their numbers into the module's .BTF_ids, as the kernel's resolve_btfids does.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bpf/btf.h>
#include <gelf.h>

enum type { INT, U32, POINTER };

/* Those of write.c, in the order in which they stand there. */
static const struct function {
	const char *name;
	struct {
		const char *name;
		enum type type;
	} arg[5];
} functions[] = {
	{"htrace_write", {{"id", U32}, {"schema", U32}, {"data", POINTER}, {"data__sz", U32}}},
	{"htrace_refuse", {{NULL, INT}}},
	{"htrace_doorbell", {{"peer", U32}, {"vector", U32}}},
};
#define NR (sizeof(functions) / sizeof(*functions))

static int number[NR];

static void __attribute__((noreturn, format(printf, 1, 2))) die(const char *format, ...)
{
	va_list ap;

	fprintf(stderr, "make-btf: ");
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fprintf(stderr, "\n");
	exit(1);
}

static int good(int ret)
{
	if (ret < 0)
		die("cannot make BTF: %s", strerror(-ret));
	return ret;
}

static int base_type(const struct btf *base, const char *name, __u32 kind)
{
	int id = btf__find_by_name_kind(base, name, kind);

	if (id < 0)
		die("the kernel's BTF has no '%s': is it a kernel's?", name);
	return id;
}

static void add_functions(struct btf *btf, const struct btf *base)
{
	int type[] = {
		[INT] = base_type(base, "int", BTF_KIND_INT),
		[U32] = base_type(base, "u32", BTF_KIND_TYPEDEF),
		[POINTER] = good(btf__add_ptr(btf, good(btf__add_const(btf, 0)))),
	};

	for (size_t i = 0; i < NR; i++) {
		int proto = good(btf__add_func_proto(btf, type[INT]));

		for (int k = 0; functions[i].arg[k].name; k++)
			good(btf__add_func_param(btf, functions[i].arg[k].name,
						 type[functions[i].arg[k].type]));
		number[i] = good(btf__add_func(btf, functions[i].name, BTF_FUNC_STATIC, proto));
	}
	for (size_t i = 0; i < NR; i++)
		good(btf__add_decl_tag(btf, "bpf_kfunc", number[i], -1));
}

static void write_btf(const struct btf *btf, const char *path)
{
	__u32 size;
	const void *data = btf__raw_data(btf, &size);
	FILE *f = fopen(path, "w");

	if (!data || !f || fwrite(data, 1, size, f) != size || fclose(f))
		die("cannot write %s: %s", path, strerror(errno));
}

/* ----------------------------------------------------------------------------------- .BTF_ids */

/* What a symbol of .BTF_ids is to hold; 0: nothing of ours. */
static __u32 value_of(const char *symbol)
{
	char prefix[80];

	if (!strncmp(symbol, "__BTF_ID__set8__", 16))
		return NR;
	for (size_t i = 0; i < NR; i++) {
		snprintf(prefix, sizeof(prefix), "__BTF_ID__func__%s__", functions[i].name);
		if (!strncmp(symbol, prefix, strlen(prefix)))
			return (__u32)number[i];
	}
	return 0;
}

static Elf_Scn *section(Elf *elf, const char *name, GElf_Shdr *header)
{
	Elf_Scn *scn = NULL;
	size_t names;

	if (elf_getshdrstrndx(elf, &names))
		return NULL;
	while ((scn = elf_nextscn(elf, scn)))
		if (gelf_getshdr(scn, header) &&
		    !strcmp(elf_strptr(elf, names, header->sh_name) ?: "", name))
			return scn;
	return NULL;
}

/*
 * In place, byte by byte of what is there: the module's layout is not libelf's to change. A set is
 * sorted by number, which it is, numbers being given in the set's order.
 */
static void fill_ids(const char *path)
{
	int fd = open(path, O_RDWR), found = 0;
	GElf_Shdr ids, symbols;
	Elf_Scn *ids_scn, *scn;
	Elf_Data *data;
	GElf_Sym symbol;
	Elf *elf;

	elf_version(EV_CURRENT);
	elf = fd < 0 ? NULL : elf_begin(fd, ELF_C_READ, NULL);
	if (!elf)
		die("cannot read %s: %s", path, fd < 0 ? strerror(errno) : elf_errmsg(-1));
	ids_scn = section(elf, ".BTF_ids", &ids);
	scn = section(elf, ".symtab", &symbols);
	data = scn ? elf_getdata(scn, NULL) : NULL;
	if (!ids_scn || !data)
		die("%s is not the module: it has no .BTF_ids", path);
	for (int i = 0; gelf_getsym(data, i, &symbol); i++) {
		const char *name = elf_strptr(elf, symbols.sh_link, symbol.st_name);
		__u32 value;

		if (symbol.st_shndx != elf_ndxscn(ids_scn) || !name)
			continue;
		value = value_of(name);
		if (!value || symbol.st_value + sizeof(value) > ids.sh_size)
			continue;
		if (pwrite(fd, &value, sizeof(value), (off_t)(ids.sh_offset + symbol.st_value)) !=
		    sizeof(value))
			die("cannot write %s: %s", path, strerror(errno));
		found++;
	}
	if (found != (int)NR + 1)
		die("%s has %d of %zu numbers of functions: it and make-btf are of different "
		    "versions", path, found, NR + 1);
	elf_end(elf);
	close(fd);
}

int main(int argc, char **argv)
{
	struct btf *base, *btf;

	if (argc != 4) {
		fprintf(stderr, "usage: make-btf BASE MODULE.ko OUT\n");
		return 2;
	}
	base = btf__parse(argv[1], NULL);
	if (!base)
		die("%s holds no BTF: %s", argv[1], strerror(errno));
	btf = btf__new_empty_split(base);
	if (!btf)
		die("cannot make BTF: %s", strerror(errno));
	add_functions(btf, base);
	write_btf(btf, argv[3]);
	fill_ids(argv[2]);
	btf__free(btf);
	btf__free(base);
	return 0;
}
