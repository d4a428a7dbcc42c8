/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "plug.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <htrace/schema.h>

#include "clock.h"

#define EJECT_NS 15000000000ULL /* a PCIe port blinks for 5 s first */
#define LOOK_NS 500000000ULL    /* between two looks whether it is gone */
#define PORTS 256               /* that are looked at */
#define ROOM_I440FX (1ULL << 30)
#define ROOM_PORT (2ULL << 20)  /* what firmware leaves a port for hot-plug by itself */

#define PERIPHERAL "/machine/peripheral"

/* --------------------------------------------------------------------------------- what there is */

/* The type of @path's property @name ("child<...>" if it is an object); "": there is none. */
static int type_of(struct qmp *q, const char *path, const char *name, char *type, size_t len, char *err,
		   size_t errlen)
{
	json_t *list = NULL, *item;
	size_t i;
	int ret = qmp_do(q, "qom-list", json_pack("{s:s}", "path", path), &list, err, errlen);

	*type = 0;
	if (ret)
		return ret;
	json_array_foreach(list, i, item) {
		const char *its = json_string_value(json_object_get(item, "name"));
		const char *t = json_string_value(json_object_get(item, "type"));

		if (its && t && !strcmp(its, name))
			snprintf(type, len, "%s", t);
	}
	json_decref(list);
	return 0;
}

static int get(struct qmp *q, const char *path, const char *property, json_t **value, char *err, size_t errlen)
{
	return qmp_do(q, "qom-get", json_pack("{s:s, s:s}", "path", path, "property", property), value, err, errlen);
}

/* What may not be ours is not touched. */
static int not_ours(const char *what, const char *id, const char *type, char *err, size_t errlen)
{
	char shown[4 * 64 + 1];

	shown[htrace_escape(shown, sizeof(shown) - 1, type, strnlen(type, 64))] = 0;
	snprintf(err, errlen, "the VM has a%s %s called '%s' that is not ours (%s)", *what == 'o' ? "n" : "", what, id,
		 shown);
	return -EEXIST;
}

static int look_at_memory(struct qmp *q, const char *file, struct plug_place *p, char *err, size_t errlen)
{
	char type[64];
	json_t *path = NULL;
	int ret = type_of(q, "/objects", PLUG_MEMORY, type, sizeof(type), err, errlen);

	if (ret || !*type)
		return ret;
	if (strcmp(type, "child<memory-backend-file>"))
		return not_ours("object", PLUG_MEMORY, type, err, errlen);
	ret = get(q, "/objects/" PLUG_MEMORY, "mem-path", &path, err, errlen);
	if (ret)
		return ret;
	p->memory = true;
	p->same = json_is_string(path) && !strcmp(json_string_value(path), file);
	json_decref(path);
	return 0;
}

static int look_at_device(struct qmp *q, struct plug_place *p, char *err, size_t errlen)
{
	char type[64];
	int ret = type_of(q, PERIPHERAL, PLUG_DEVICE, type, sizeof(type), err, errlen);

	if (ret || !*type)
		return ret;
	if (strcmp(type, "child<ivshmem-plain>"))
		return not_ours("device", PLUG_DEVICE, type, err, errlen);
	p->device = true;
	return 0;
}

/* Also those that may be added: the guest's kernel makes room for them. 1 if the machine does not tell. */
static int look_at_cpus(struct qmp *q, struct plug_place *p, char *err, size_t errlen)
{
	json_t *list = NULL, *item;
	double sum = 0;
	size_t i;
	int ret = qmp_do(q, "query-hotpluggable-cpus", NULL, &list, err, errlen);

	p->vcpus = 1;
	if (ret)
		return ret == -EREMOTEIO ? 0 : ret;
	json_array_foreach(list, i, item)
		sum += json_number_value(json_object_get(item, "vcpus-count"));
	json_decref(list);
	if (sum >= 1 && sum <= 65536)
		p->vcpus = (unsigned int)sum;
	return 0;
}

int plug_look(struct qmp *q, const char *file, struct plug_place *p, char *err, size_t errlen)
{
	json_t *type = NULL;
	int ret;

	memset(p, 0, sizeof(*p));
	ret = get(q, "/machine", "type", &type, err, errlen);
	if (ret)
		return ret;
	if (json_is_string(type))
		snprintf(p->type, sizeof(p->type), "%s", json_string_value(type));
	json_decref(type);
	ret = look_at_memory(q, file, p, err, errlen);
	if (!ret)
		ret = look_at_device(q, p, err, errlen);
	return ret ? ret : look_at_cpus(q, p, err, errlen);
}

/* ---------------------------------------------------------------------------------- where it could go */

/* Of a name that goes into a path of ours: nothing that leads elsewhere. */
static bool is_plain(const char *name)
{
	size_t len = strnlen(name, 64);

	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)name[i]) && !strchr("._-[]", name[i]))
			return false;
	return len && len < 64;
}

static bool is_port(const char *type)
{
	return !strcmp(type, "child<pcie-root-port>") || !strcmp(type, "child<ioh3420>") ||
	       !strcmp(type, "child<xio3130-downstream>");
}

/* The name of the port's bus, if nothing is on it; else "". */
static int free_bus(struct qmp *q, const char *port, char bus[64], char *err, size_t errlen)
{
	json_t *list = NULL, *item;
	char path[256];
	bool taken = false;
	size_t i;
	int ret = qmp_do(q, "qom-list", json_pack("{s:s}", "path", port), &list, err, errlen);

	*bus = 0;
	if (ret)
		return ret;
	json_array_foreach(list, i, item) {
		const char *name = json_string_value(json_object_get(item, "name"));
		const char *type = json_string_value(json_object_get(item, "type"));

		if (name && type && is_plain(name) && !strcmp(type, "child<PCIE>"))
			snprintf(bus, 64, "%s", name);
	}
	json_decref(list);
	if (!*bus)
		return 0;
	snprintf(path, sizeof(path), "%s/%s", port, bus);
	ret = qmp_do(q, "qom-list", json_pack("{s:s}", "path", path), &list, err, errlen);
	if (ret)
		return ret;
	json_array_foreach(list, i, item) {
		const char *name = json_string_value(json_object_get(item, "name"));

		taken |= name && !strncmp(name, "child[", 6);
	}
	json_decref(list);
	if (taken)
		*bus = 0;
	return 0;
}

/* Of a port, as far as it says; -errno only if the connection is of no more use. */
static int look_at_port(struct qmp *q, const char *port, bool *pluggable, __u64 *room, char *err, size_t errlen)
{
	json_t *value = NULL;
	double reserve;
	int ret = get(q, port, "hotplug", &value, err, errlen);

	*pluggable = ret || !json_is_false(value); /* older ones always are */
	if (!ret)
		json_decref(value);
	if (ret && ret != -EREMOTEIO)
		return ret;
	ret = get(q, port, "pref64-reserve", &value, err, errlen);
	*room = ROOM_PORT;
	if (ret)
		return ret == -EREMOTEIO ? 0 : ret;
	reserve = json_number_value(value);
	json_decref(value);
	while (reserve >= 2.0 * (double)*room && reserve < 1e15 && *room < ROOM_I440FX)
		*room *= 2;
	return 0;
}

/* One port: the best of those that are free is kept. */
static int try_port(struct qmp *q, const char *port, struct plug_place *p, char *err, size_t errlen)
{
	bool pluggable;
	char bus[64];
	__u64 room;
	int ret = free_bus(q, port, bus, err, errlen);

	if (!ret && *bus)
		ret = look_at_port(q, port, &pluggable, &room, err, errlen);
	if (ret || !*bus || !pluggable || room <= p->room)
		return ret;
	snprintf(p->bus, sizeof(p->bus), "%s", bus);
	p->room = room;
	return 0;
}

static int find_ports(struct qmp *q, const char *where, struct plug_place *p, unsigned int *seen, char *err,
		      size_t errlen)
{
	json_t *list = NULL, *item;
	char path[160];
	size_t i;
	int ret = qmp_do(q, "qom-list", json_pack("{s:s}", "path", where), &list, err, errlen);

	if (ret)
		return ret;
	json_array_foreach(list, i, item) {
		const char *name = json_string_value(json_object_get(item, "name"));
		const char *type = json_string_value(json_object_get(item, "type"));

		if (!name || !type || !is_port(type) || !is_plain(name) || ret || *seen == PORTS)
			continue;
		++*seen;
		snprintf(path, sizeof(path), "%s/%s", where, name);
		ret = try_port(q, path, p, err, errlen);
	}
	json_decref(list);
	return ret;
}

static int no_place(const struct plug_place *p, unsigned int ports, char *err, size_t errlen)
{
	char type[4 * 64 + 1];

	type[htrace_escape(type, sizeof(type) - 1, p->type, strlen(p->type))] = 0;
	if (ports)
		snprintf(err, errlen, "none of the VM's %u PCIe root ports is free (machine %s); ", ports, type);
	else
		snprintf(err, errlen, "the VM (machine %s) has no PCIe root port, and only there can be plugged in; ", type);
	snprintf(err + strlen(err), errlen - strlen(err), "a port cannot be added to a VM that runs: start it with "
		 "-device pcie-root-port,id=htrace-port,chassis=99,pref64-reserve=64M on QEMU's command line (libvirt: "
		 "<controller type='pci' model='pcie-root-port'/>), or free one by device_del");
	return -ENOSPC;
}

int plug_find_bus(struct qmp *q, struct plug_place *p, char *err, size_t errlen)
{
	unsigned int ports = 0;
	int ret;

	if (strstr(p->type, "i440fx") || !strncmp(p->type, "pc-0.", 5) || !strncmp(p->type, "pc-1.", 5)) {
		strcpy(p->bus, "pci.0");
		p->room = ROOM_I440FX;
		return 0;
	}
	p->room = 0;
	ret = find_ports(q, PERIPHERAL, p, &ports, err, errlen);
	if (!ret)
		ret = find_ports(q, PERIPHERAL "-anon", p, &ports, err, errlen);
	if (ret)
		return ret;
	return *p->bus ? 0 : no_place(p, ports, err, errlen);
}

/* ------------------------------------------------------------------------------------- in, and out */

static int delete_memory(struct qmp *q, char *err, size_t errlen)
{
	return qmp_do(q, "object-del", json_pack("{s:s}", "id", PLUG_MEMORY), NULL, err, errlen);
}

int plug_put(struct qmp *q, const char *file, __u64 size, const struct plug_place *p, char *err, size_t errlen)
{
	char ignored[256];
	int ret;

	ret = qmp_do(q, "object-add", json_pack("{s:s, s:s, s:I, s:s, s:b}", "qom-type", "memory-backend-file", "id",
						PLUG_MEMORY, "size", (json_int_t)size, "mem-path", file, "share", 1),
		     NULL, err, errlen);
	if (ret)
		return ret;
	qmp_forget(q);
	ret = qmp_do(q, "device_add", json_pack("{s:s, s:s, s:s, s:s}", "driver", "ivshmem-plain", "id", PLUG_DEVICE,
						"memdev", PLUG_MEMORY, "bus", p->bus), NULL, err, errlen);
	if (ret)
		delete_memory(q, ignored, sizeof(ignored));
	return ret;
}

/* Its event may have been another client's: looks, too. */
static int await_ejection(struct qmp *q, char *err, size_t errlen)
{
	__u64 end = clock_now() + EJECT_NS;
	char type[64];
	int ret = 0;

	while (clock_now() < end && !qmp_deleted(q)) {
		ret = qmp_wait(q, LOOK_NS);
		if (ret || qmp_refused(q) || qmp_deleted(q))
			break;
		ret = type_of(q, PERIPHERAL, PLUG_DEVICE, type, sizeof(type), err, errlen);
		if (ret || !*type)
			return ret;
	}
	if (ret) {
		snprintf(err, errlen, "QEMU's monitor went away before the guest had given the device back");
		return ret;
	}
	if (qmp_deleted(q))
		return 0;
	snprintf(err, errlen, "the guest does not give the device back: its kernel has to eject it (ACPI or PCIe hot-plug), and "
		 "does not while it is paused, in its firmware or dead; it goes at the latest when the VM is reset");
	return -EBUSY;
}

int plug_take(struct qmp *q, char *err, size_t errlen)
{
	struct plug_place p;
	int ret = plug_look(q, "", &p, err, errlen);

	qmp_forget(q);
	if (!ret && p.device) {
		/* Asked a second time it says that it is under way, which is as good. */
		ret = qmp_do(q, "device_del", json_pack("{s:s}", "id", PLUG_DEVICE), NULL, err, errlen);
		if (!ret || ret == -EREMOTEIO)
			ret = await_ejection(q, err, errlen);
	}
	return ret || !p.memory ? ret : delete_memory(q, err, errlen);
}
