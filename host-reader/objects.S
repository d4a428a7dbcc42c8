/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The reader's BPF objects, as they come from the compiler. */
	.section .rodata
	.balign 8
	.global kvm_events_bpf_start, kvm_events_bpf_end
kvm_events_bpf_start:
	.incbin "kvm_events.bpf.o"
kvm_events_bpf_end:

	.balign 8
	.global kvm_exit_bpf_start, kvm_exit_bpf_end
kvm_exit_bpf_start:
	.incbin "kvm_exit.bpf.o"
kvm_exit_bpf_end:

	.balign 8
	.global kvm_tell_bpf_start, kvm_tell_bpf_end
kvm_tell_bpf_start:
	.incbin "kvm_tell.bpf.o"
kvm_tell_bpf_end:

	.section .note.GNU-stack, "", %progbits
