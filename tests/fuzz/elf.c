// SPDX-License-Identifier: LGPL-2.1-or-later
/* Symbols of a file on the host that says it has the build-id: a small ELF file, spoilt, or any. */
#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "elf_symbols.h"
#include "fuzz.h"

#define ID 0x42 /* each byte of the build-id */

struct note {
	Elf64_Nhdr head;
	char name[4];
	__u8 id[20];
};

/* All that is looked at, and nothing else. */
struct image {
	Elf64_Ehdr head;
	Elf64_Phdr segment[3];
	struct note note;
	Elf64_Sym symbol[8], dynamic[4];
	char text[64];
	Elf64_Shdr section[6];
};

static struct image image;
static struct memory memory;
static int fd;

#define AT(member) offsetof(struct image, member)
#define LEN(member) sizeof(image.member)

static void fill_sections(void)
{
	Elf64_Shdr *s = image.section;

	s[1] = (Elf64_Shdr){ .sh_type = SHT_NOTE, .sh_offset = AT(note), .sh_size = LEN(note),
			     .sh_addralign = 4 };
	s[2] = (Elf64_Shdr){ .sh_type = SHT_SYMTAB, .sh_offset = AT(symbol), .sh_size = LEN(symbol),
			     .sh_link = 4, .sh_entsize = sizeof(Elf64_Sym), .sh_addralign = 8 };
	s[3] = (Elf64_Shdr){ .sh_type = SHT_DYNSYM, .sh_offset = AT(dynamic), .sh_size = LEN(dynamic),
			     .sh_link = 4, .sh_entsize = sizeof(Elf64_Sym), .sh_addralign = 8 };
	s[4] = (Elf64_Shdr){ .sh_type = SHT_STRTAB, .sh_offset = AT(text), .sh_size = LEN(text),
			     .sh_addralign = 1 };
	s[5] = (Elf64_Shdr){ .sh_type = SHT_NOBITS, .sh_offset = AT(text), .sh_size = 1 << 20 };
}

static void make_image(void)
{
	image.head = (Elf64_Ehdr){
		.e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
		.e_type = ET_DYN, .e_machine = EM_X86_64, .e_version = EV_CURRENT,
		.e_phoff = AT(segment), .e_shoff = AT(section), .e_ehsize = sizeof(Elf64_Ehdr),
		.e_phentsize = sizeof(Elf64_Phdr), .e_phnum = ARRAY_SIZE(image.segment),
		.e_shentsize = sizeof(Elf64_Shdr), .e_shnum = ARRAY_SIZE(image.section), .e_shstrndx = 4,
	};
	image.segment[0] = (Elf64_Phdr){ .p_type = PT_NOTE, .p_offset = AT(note), .p_filesz = LEN(note),
					 .p_align = 4 };
	image.segment[1] = (Elf64_Phdr){ .p_type = PT_LOAD, .p_vaddr = 0x1000, .p_filesz = 64 };
	image.segment[2] = (Elf64_Phdr){ .p_type = PT_LOAD, .p_flags = PF_X, .p_vaddr = 0x2000,
					 .p_offset = 0x1000, .p_filesz = 4096 };
	image.note = (struct note){ { 4, 20, NT_GNU_BUILD_ID }, "GNU", { 0 } };
	memset(image.note.id, ID, sizeof(image.note.id));
	for (unsigned int i = 1; i < ARRAY_SIZE(image.symbol); i++) {
		image.symbol[i] = (Elf64_Sym){ .st_name = i, .st_shndx = 1, .st_value = 0x2000 + i * 32,
					       .st_size = i % 3 * 16,
					       .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC) };
		if (i < ARRAY_SIZE(image.dynamic))
			image.dynamic[i] = image.symbol[i];
	}
	strcpy(image.text + 1, "a_function_of_some_name");
	fill_sections();
}

/* It lies where such files do, and is one of memory. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const struct place places[] = {
		{ AT(head), LEN(head) }, { AT(segment), LEN(segment) }, { AT(note), LEN(note) },
		{ AT(symbol), LEN(symbol) }, { AT(dynamic), LEN(dynamic) }, { AT(text), LEN(text) },
		{ AT(section), LEN(section) },
	};
	char path[600], file[64];

	make_image();
	memory_keep(&memory, &image, sizeof(image), places, ARRAY_SIZE(places));
	fd = memfd_create("elf", 0);
	snprintf(file, sizeof(file), "/proc/self/fd/%d", fd);
	setenv("HOME", fuzz_dir(), 1);
	snprintf(path, sizeof(path), "%s/.debug", fuzz_dir());
	CHECK(!mkdir(path, 0700));
	strcat(path, "/.build-id");
	CHECK(!mkdir(path, 0700));
	snprintf(path + strlen(path), 4, "/%02x", ID);
	CHECK(!mkdir(path, 0700));
	strcat(path, "/");
	for (int i = 1; i < 20; i++)
		snprintf(path + strlen(path), 3, "%02x", ID);
	CHECK(!symlink(file, path));
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	__u64 how = take(&in, 1), off;
	struct elf_symbols *s;
	__u8 id[20];
	__s64 bias = (__s64)take_number(&in);
	size_t len = sizeof(image);

	if (how & 1) {
		CHECK(!ftruncate(fd, 0) && pwrite(fd, in.at, in.left, 0) == (ssize_t)in.left);
	} else {
		take_patches(&memory, &in, 16);
		if (how & 2)
			len = take(&in, 2) % (len + 1);
		CHECK(!ftruncate(fd, 0) && pwrite(fd, &image, len, 0) == (ssize_t)len);
		memory_put_back(&memory);
	}
	memset(id, ID, sizeof(id));
	if (how & 4)
		memset(id + 8, 0, 12); /* a short one: another file, which is not there */
	fail_allocation(how >= 128 ? (unsigned int)how - 127 : 0);
	s = elf_symbols_new();
	for (int i = 0; i < 6 && s; i++) {
		__u64 at = i < 2 ? 0x1020 + (__u64)i * 33 : take_number(&in);
		const char *name = elf_symbols_find(s, id, at, i & 1 ? &bias : NULL, &off);

		CHECK(!name || strnlen(name, 1100) < 1100);
	}
	elf_symbols_free(s);
	fail_allocation(0);
	return 0;
}
