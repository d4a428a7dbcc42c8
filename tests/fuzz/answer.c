// SPDX-License-Identifier: LGPL-2.1-or-later
/* What a guest's agent answers to commands: shown as a table, as JSON, as a line. */
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz_text.h"

#include "ctl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int fd = -1;
	struct input in = { data, size };
	__u64 how = take(&in, 1);
	bool json = how & 1;
	struct out *o;
	struct stat st;
	char *answer, *text;
	size_t len;

	if (fd < 0)
		fd = memfd_create("answer", MFD_CLOEXEC);
	CHECK(fd >= 0 && !ftruncate(fd, 0) && !lseek(fd, 0, SEEK_SET));
	answer = take_exact(&in, in.left, &len);
	if (!answer || out_open_fd(&o, fd)) {
		free(answer);
		return 0;
	}
	if (how & 2)
		ctl_show_list(o, answer, len, json);
	else
		ctl_show_text(o, "done", answer, len, json);
	CHECK(!out_close(o) && !fstat(fd, &st));
	free(answer);
	text = st.st_size ? mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0) : NULL;
	CHECK(text != MAP_FAILED);
	if (text) {
		check_lines(text, (size_t)st.st_size, json, 4096 + 64 * size);
		munmap(text, (size_t)st.st_size);
	}
	return 0;
}
