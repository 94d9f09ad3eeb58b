// Verifies the history of jobs as docs/proof.md has it. Needs nothing but Node:
// node verify-history.mjs FILE VERIFIER_KEY
import { createHash, createPublicKey, verify } from "node:crypto";
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const fail = (what) => process.exit(console.error(what) ?? 1), hold = (so, what) => so || fail(what);
process.on("uncaughtException", (error) => fail(`this cannot be verified: ${error.message}`));
const hex = (value) => Buffer.from(value, "hex"), base64 = (value) => Buffer.from(value, "base64");
const crc32 = (content) => gzipSync(content, { level: 0 }).subarray(-8).readUInt32LE(); // gzip ends with it
const sha256 = (...parts) => createHash("sha256").update(Buffer.concat(parts)).digest();
const little = (size) => (...numbers) => Buffer.concat(numbers.map((number) => {
    const bytes = Buffer.alloc(size);
    return bytes.writeUIntLE(number, 0, size) && bytes;
}));
const u16 = little(2), u32 = little(4), long = (number) => hex(BigInt(number).toString(16).padStart(16, "0"));
const field = (bytes) => Buffer.concat([long(bytes.length), bytes]);
const number = (value) => field(long(value)), text = (value) => field(Buffer.from(value));

// The container: read, made anew, compared.
const vkey = process.argv[3] ?? fail("give FILE and VERIFIER_KEY"), file = readFileSync(process.argv[2]);
const names = ["README.txt", "history.jsonl", "history.html", "checkpoint"], members = {}, front = [], back = [];
let place = 0;
for (const name of names) {
    const size = file.readUInt32LE(place + 18), begin = place + 30 + name.length;
    const content = members[name] = file.subarray(begin, begin + size);
    const measures = u32(crc32(content), size, size);
    front.push(hex("504b0304"), u16(20, 0, 0, 0, 33), measures, u16(name.length, 0), Buffer.from(name), content);
    back.push(hex("504b0102"), u16(20, 20, 0, 0, 0, 33), measures, u16(name.length, 0, 0, 0, 0), u32(0, place), Buffer.from(name));
    place = begin + size;
}
const end = [hex("504b0506"), u16(0, 0, 4, 4), u32(Buffer.concat(back).length, place), u16(0)];
hold(Buffer.concat([...front, ...back, ...end]).equals(file), "the file is not the one that its members make");

// The signatures.
const [name, id] = vkey.split("+"), key = base64(vkey.slice(`${name}+${id}+`.length));
hold(key[0] === 1 && sha256(Buffer.from(`${name}\n`), key).toString("hex", 0, 4) === id, "this is no verifier key");
const der = Buffer.concat([hex("302a300506032b6570032100"), key.subarray(1)]);
const publicKey = createPublicKey({ key: der, format: "der", type: "spki" });
const open = (note) => {
    const [signed, line] = note.split("\n\n"), signature = base64(line.split(" ")[2]), lines = signed.split("\n");
    hold(line === `— ${name} ${signature.toString("base64")}\n`, "the signature is of another name");
    hold(signature.toString("hex", 0, 4) === id && lines[0] === name, "the signature is by another key");
    hold(verify(null, Buffer.from(`${signed}\n`), publicKey, signature.subarray(4)), "the signature is wrong");
    return { position: +lines[1], hash: base64(lines[2]).toString("hex"), time: lines[3], extension: lines[4] };
};
const checkpoint = open(members.checkpoint.toString());
const listed = names.slice(0, 3).map((name) => `${sha256(members[name]).toString("hex")}  ${name}\n`).join("");
hold(checkpoint.extension === `history ${sha256(Buffer.from(listed)).toString("hex")}`, "it is not what was signed");

// The events.
const [header, ...events] = members["history.jsonl"].toString().trimEnd().split("\n").map((line) => JSON.parse(line));
hold(header.format === "uwsd-history/1", "the format is another one");
const jobs = new Map(header.jobs.map((job) => [`job/${job}`, { events: 0 }]));
const through = header.through && open(header.through);
let last = { position: 0 }, begin = 0, reached = 0;
for (const event of events) {
    const position = event.position, at = `position ${position}:`, job = jobs.get(event.stream);
    const linked = begin > 0 && position === last.position + 1;
    hold(position > last.position && linked === !event.previous, `${at} it does not stand where it belongs`);
    hold(position > 1 || event.previous === "0".repeat(64), `${at} something is said to stand before it`);
    if (!linked) begin = position;
    const data = event.data_base64 ? base64(event.data_base64) : Buffer.from(event.data ?? "");
    const digest = event.salt && sha256(field(hex(event.salt)), text(event.metadata ?? ""), field(data)).toString("hex");
    hold(event.salt ? digest === event.digest : !event.data, `${at} payload or metadata are not those of its digest`);
    const facts = [number(position), number(event.version), number(event.time), field(hex(event.digest))];
    facts.push(text(event.stream), text(event.id), text(event.type));
    const hash = sha256(field(hex(event.previous ?? last.hash)), ...facts).toString("hex");
    hold(hash === event.hash, `${at} the event or one before it was changed`);
    if (job) hold(event.version === ++job.events, `${at} an event of its job is missing`) && (job.first ??= position <= through?.position && begin);
    if (position === through?.position) reached = hold(hash === through.hash, `${at} the checkpoint saw another`) && begin;
    last = event;
}
hold([...jobs.values()].every((job) => job.events), "there is nothing of one of the jobs");
hold(!through || [...jobs.values()].every((job) => job.first === reached), "no chain leads to the earlier checkpoint");
hold(last.position < checkpoint.position || last.hash === checkpoint.hash, "the checkpoint saw another end");
console.log(`${events.length} events verified, job ${header.jobs.join(", job ")}`);
console.log(`signed at ${checkpoint.time.slice(5)} by ${name}`);
if (through) console.log(`up to position ${through.position} as it was at ${through.time.slice(5)}`);
