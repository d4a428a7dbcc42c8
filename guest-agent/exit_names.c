/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "exit_names.h"

#include <stdio.h>

#define COUNT(a) (sizeof(a) / sizeof(*(a)))
#define SVM_HIGH 0x400u
#define SVM_INVALID 0xffffffffu

/* Basic exit reasons, Intel's manual, volume 3, appendix C. */
static const char *const vmx[] = {
	[0] = "exception_nmi", [1] = "external_interrupt", [2] = "triple_fault",
	[3] = "init_signal", [4] = "sipi_signal", [6] = "other_smi", [7] = "interrupt_window",
	[8] = "nmi_window", [9] = "task_switch", [10] = "cpuid", [12] = "hlt", [13] = "invd",
	[14] = "invlpg", [15] = "rdpmc", [16] = "rdtsc", [18] = "vmcall", [19] = "vmclear",
	[20] = "vmlaunch", [21] = "vmptrld", [22] = "vmptrst", [23] = "vmread",
	[24] = "vmresume", [25] = "vmwrite", [26] = "vmoff", [27] = "vmon", [28] = "cr_access",
	[29] = "dr_access", [30] = "io_instruction", [31] = "msr_read", [32] = "msr_write",
	[33] = "invalid_state", [34] = "msr_load_fail", [36] = "mwait",
	[37] = "monitor_trap_flag", [39] = "monitor", [40] = "pause", [41] = "mce_during_entry",
	[43] = "tpr_below_threshold", [44] = "apic_access", [45] = "eoi_induced",
	[46] = "gdtr_idtr", [47] = "ldtr_tr", [48] = "ept_violation", [49] = "ept_misconfig",
	[50] = "invept", [51] = "rdtscp", [52] = "preemption_timer", [53] = "invvpid",
	[54] = "wbinvd", [55] = "xsetbv", [56] = "apic_write", [57] = "rdrand",
	[58] = "invpcid", [59] = "vmfunc", [60] = "encls", [61] = "rdseed", [62] = "pml_full",
	[63] = "xsaves", [64] = "xrstors", [67] = "umwait", [68] = "tpause", [74] = "bus_lock",
	[75] = "notify",
};

/* Exit codes, AMD's manual, volume 2, appendix C; registers and exceptions are below. */
static const char *const svm[] = {
	[0x60] = "intr", [0x61] = "nmi", [0x62] = "smi", [0x63] = "init", [0x64] = "vintr",
	[0x65] = "cr0_sel_write", [0x66] = "idtr_read", [0x67] = "gdtr_read",
	[0x68] = "ldtr_read", [0x69] = "tr_read", [0x6a] = "idtr_write", [0x6b] = "gdtr_write",
	[0x6c] = "ldtr_write", [0x6d] = "tr_write", [0x6e] = "rdtsc", [0x6f] = "rdpmc",
	[0x70] = "pushf", [0x71] = "popf", [0x72] = "cpuid", [0x73] = "rsm", [0x74] = "iret",
	[0x75] = "swint", [0x76] = "invd", [0x77] = "pause", [0x78] = "hlt", [0x79] = "invlpg",
	[0x7a] = "invlpga", [0x7b] = "io", [0x7c] = "msr", [0x7d] = "task_switch",
	[0x7e] = "ferr_freeze", [0x7f] = "shutdown", [0x80] = "vmrun", [0x81] = "vmmcall",
	[0x82] = "vmload", [0x83] = "vmsave", [0x84] = "stgi", [0x85] = "clgi",
	[0x86] = "skinit", [0x87] = "rdtscp", [0x88] = "icebp", [0x89] = "wbinvd",
	[0x8a] = "monitor", [0x8b] = "mwait", [0x8c] = "mwait_cond", [0x8d] = "xsetbv",
	[0x8e] = "rdpru", [0x8f] = "efer_write_trap", [0xa2] = "invpcid",
};

static const char *const svm_high[] = {
	[0] = "npf", [1] = "avic_incomplete_ipi", [2] = "avic_unaccelerated", [3] = "vmgexit",
};

static const char *svm_name(__u32 reason, char *buf, size_t len)
{
	static const char *const registers[] = { "read_cr", "write_cr", "read_dr", "write_dr", "excp_", "excp_" };

	if (reason < 0x60)
		snprintf(buf, len, "%s%u", registers[reason >> 4],
			 reason < 0x40 ? reason & 0xf : reason - 0x40);
	else if (reason >= 0x90 && reason < 0xa0)
		snprintf(buf, len, "cr%u_write_trap", reason & 0xf);
	else if (reason < COUNT(svm) && svm[reason])
		return svm[reason];
	else if (reason - SVM_HIGH < COUNT(svm_high))
		return svm_high[reason - SVM_HIGH];
	else if (reason == SVM_INVALID)
		return "invalid";
	else
		snprintf(buf, len, "svm_%#x", reason);
	return buf;
}

const char *exit_name(__u32 isa, __u32 reason, char *buf, size_t len)
{
	if (reason == HTRACE_TOLD_OTHER)
		return "other";
	if (isa == HTRACE_ISA_SVM)
		return svm_name(reason, buf, len);
	if (isa == HTRACE_ISA_VMX && reason < COUNT(vmx) && vmx[reason])
		return vmx[reason];
	snprintf(buf, len, isa == HTRACE_ISA_VMX ? "vmx_%u" : "unknown_%#x", reason);
	return buf;
}

bool exit_is_halt(__u32 isa, __u32 reason)
{
	if (isa == HTRACE_ISA_VMX)
		return reason == 12 || reason == 36;
	return isa == HTRACE_ISA_SVM && (reason == 0x78 || reason == 0x8b || reason == 0x8c);
}
