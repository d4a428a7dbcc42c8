/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* l2.c as it comes from the linker, for the VMM to load. */
	.section .rodata
	.balign 16
	.global l2_image, l2_image_end
l2_image:
	.incbin "l2.bin"
l2_image_end:
	.section .note.GNU-stack, "", %progbits
