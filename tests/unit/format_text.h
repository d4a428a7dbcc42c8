/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Format files of tracefs, as the kernel writes them, in strings. */
#ifndef FORMAT_TEXT_H
#define FORMAT_TEXT_H

#define COMMON_FIELDS                                                      \
	"\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n" \
	"\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;\n" \
	"\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;\n" \
	"\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n"
#define FIELD(declaration, offset, size, is_signed)                     \
	"\tfield:" declaration ";\toffset:" #offset ";\tsize:" #size ";" \
	"\tsigned:" #is_signed ";\n"
#define FORMAT(name, id, fields) "name: " name "\nID: " #id "\nformat:\n" COMMON_FIELDS fields "\nprint fmt: \"\"\n"

/* Of a boot, as Debian's 6.12 has them, but for their numbers: 1 to 6. */
#define BOOT_FORMATS \
	FORMAT("initcall_level", 1, FIELD("__data_loc char[] level", 8, 4, 0)) \
	FORMAT("initcall_start", 2, FIELD("initcall_t func", 8, 8, 0)) \
	FORMAT("initcall_finish", 3, FIELD("initcall_t func", 8, 8, 0) FIELD("int ret", 16, 4, 1)) \
	FORMAT("module_load", 4, FIELD("unsigned int taints", 8, 4, 0) FIELD("__data_loc char[] name", 12, 4, 0)) \
	FORMAT("sched_process_exec", 5, FIELD("__data_loc char[] filename", 8, 4, 0) FIELD("pid_t pid", 12, 4, 1) \
	       FIELD("pid_t old_pid", 16, 4, 1)) \
	FORMAT("sched_process_fork", 6, FIELD("char parent_comm[16]", 8, 16, 0) FIELD("pid_t parent_pid", 24, 4, 1) \
	       FIELD("char child_comm[16]", 28, 16, 0) FIELD("pid_t child_pid", 44, 4, 1))

#endif /* FORMAT_TEXT_H */
