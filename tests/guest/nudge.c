/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Keeps the interrupts of an emulated machine going that runs a guest of its own. QEMU 7.2 loses the
 * interrupt that comes in the instant of a guest's exit: the exit's change of its pending interrupts and
 * the device's are not ordered. If it was the timer's, that CPU never sees another one. Any interrupt
 * that follows brings it back, so each CPU sends one to all the others from time to time, by waking a
 * thread there that goes before whatever runs.
 *
 * It also has a VM, which never runs: with the first virtual CPU and after the last one the kernel
 * changes its own code, also that of the scheduler; and other CPUs of that emulator now and then go on
 * with what was there in between (tools/README.md).
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define MAX_CPUS 8
#define PERIOD_US 20000

static sem_t wanted[MAX_CPUS];
static long nr_cpus;

static void stay_on(long cpu)
{
	cpu_set_t here;

	CPU_ZERO(&here);
	CPU_SET((size_t)cpu, &here);
	sched_setaffinity(0, sizeof(here), &here);
}

static void *be_woken(void *arg)
{
	const struct sched_param first = { .sched_priority = 1 };

	stay_on((long)arg);
	if (sched_setscheduler(0, SCHED_FIFO, &first))
		perror("nudge: SCHED_FIFO");
	for (;;)
		sem_wait(&wanted[(long)arg]);
	return NULL;
}

static void *wake_others(void *arg)
{
	stay_on((long)arg);
	for (;;) {
		usleep(PERIOD_US);
		for (long i = 0; i < nr_cpus; i++)
			if (i != (long)arg)
				sem_post(&wanted[i]);
	}
	return NULL;
}

static int make_vm(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);

	return vm < 0 ? -1 : ioctl(vm, KVM_CREATE_VCPU, 0);
}

int main(void)
{
	pthread_t thread;

	if (make_vm() < 0) {
		perror("nudge: a VM");
		return 1;
	}

	nr_cpus = sysconf(_SC_NPROCESSORS_ONLN);
	if (nr_cpus > MAX_CPUS)
		nr_cpus = MAX_CPUS;
	for (long i = 0; i < nr_cpus; i++) {
		sem_init(&wanted[i], 0, 0);
		if (pthread_create(&thread, NULL, be_woken, (void *)i) ||
		    pthread_create(&thread, NULL, wake_others, (void *)i)) {
			fprintf(stderr, "nudge: no thread\n");
			return 1;
		}
	}
	for (;;)
		pause();
}
