// The vendor's JavaScript client against the emulator: node replicate_client.mjs URL KEY
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.VACE_NODE_MODULES}/`);
const Replicate = require("replicate");
const [baseUrl, auth] = process.argv.slice(2);
const client = new Replicate({ auth, baseUrl: `${baseUrl}/v1`, useFileOutput: false });

const version = "51299232dc3d0946d5f5ed74935d85243e172698f747d291460db1e6ef3669fb";
const input = { prompt: "a fox", seed: 7 };
const created = await client.predictions.create({ version, input });
assert.equal(created.status, "starting");
const done = await client.wait(created, { interval: 10 });
assert.equal(done.status, "succeeded");
const output = await client.run(`prunaai/vace-14b:${version}`, { input });
assert.match(output, /\.mp4$/);
const another = await client.predictions.create({ version, input });
await client.predictions.cancel(another.id);
const ids = [];
for await (const page of client.paginate(client.predictions.list)) ids.push(...page.map((p) => p.id));
assert.equal(ids.length, 3);
assert.equal(ids[2], created.id);
const file = await client.files.create(new Blob(["image"]));
assert.equal(file.size, 5);
assert.equal((await client.files.list()).results.length, 1);
await client.files.delete(file.id);
await assert.rejects(client.files.get(file.id));
console.log("lives");
