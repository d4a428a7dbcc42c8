/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The built-in BPF objects, as they come from the compiler. */
	.section .rodata

	.macro object name, file
	.balign 8
	.global \name\()_start, \name\()_end
\name\()_start:
	.incbin "\file"
\name\()_end:
	.endm

	object sched_bpf, "sched.bpf.o"
	object syscalls_bpf, "syscalls.bpf.o"
	object irq_bpf, "irq.bpf.o"
	object timer_bpf, "timer.bpf.o"
	object workqueue_bpf, "workqueue.bpf.o"
	object block_bpf, "block.bpf.o"
	object signal_bpf, "signal.bpf.o"
	object net_bpf, "net.bpf.o"
	object mm_bpf, "mm.bpf.o"
	object module_bpf, "module.bpf.o"
	object virtio_bpf, "virtio.bpf.o"
	object virtio_blk_bpf, "virtio_blk.bpf.o"
	object virtio_net_bpf, "virtio_net.bpf.o"
	object xen_bpf, "xen.bpf.o"
	object hypercalls_bpf, "hypercalls.bpf.o"
	object steal_bpf, "steal.bpf.o"
	object kvm_guest_bpf, "kvm_guest.bpf.o"
	object tracepoint_bpf, "tracepoint.bpf.o"
	object profile_bpf, "profile.bpf.o"
	object function_bpf, "function.bpf.o"

	.section .note.GNU-stack, "", %progbits
