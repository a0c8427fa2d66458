// The vendor's JavaScript client: node javascript.mjs URL KEY, with VACE_NODE_MODULES and NODE_EXTRA_CA_CERTS.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.VACE_NODE_MODULES}/`);
const Replicate = require("replicate");
const [url, auth] = process.argv.slice(2);
const client = new Replicate({ auth, baseUrl: `${url}/v1` });

const model = "prunaai/vace-14b";
const version = "51299232dc3d0946d5f5ed74935d85243e172698f747d291460db1e6ef3669fb";
const input = { prompt: "a fox", seed: 7, frame_num: 5 };
const fails = (status) => (error) => error.response.status === status;
let made;

const actions = {
  create: async () => {
    made = await client.predictions.create({ version, input });
    assert.equal(made.status, "starting");
  },
  progress: async () => {
    for (let percentage = 0; !(percentage > 0 && percentage < 1); ) {
      const seen = await client.predictions.get(made.id);
      assert(["starting", "processing", "succeeded"].includes(seen.status), seen.status);
      percentage = Replicate.parseProgressFromLogs(seen)?.percentage ?? 0;
      // A busy machine may miss the whole run.
      if (seen.status === "succeeded") made = await client.predictions.create({ version, input });
    }
  },
  wait: async () => {
    const done = await client.wait(made, { interval: 20 });
    assert.equal(done.status, "succeeded");
    assert.equal(Replicate.parseProgressFromLogs(done).percentage, 1);
  },
  list: async () => {
    const ids = [];
    for await (const page of client.paginate(client.predictions.list)) ids.push(...page.map((p) => p.id));
    assert(ids.includes(made.id));
  },
  cancel: async () => {
    const another = await client.predictions.create({ version: `${model}:${version}`, input });
    assert.equal((await client.predictions.cancel(another.id)).status, "canceled");
  },
  run: async () => {
    const output = await client.run(`${model}:${version}`, { input });
    assert.match(output.url().href, /^https:.*\.mp4$/);
    const bytes = Buffer.from(await (await output.blob()).arrayBuffer());
    assert.equal(bytes.subarray(4, 8).toString(), "ftyp");
  },
  "run, polling": async () => {
    const wait = { mode: "poll", interval: 20 };
    assert.match(String(await client.run(`${model}:${version}`, { input, wait })), /\.mp4$/);
  },
  stream: async () => {
    const events = [];
    for await (const event of client.stream(`${model}:${version}`, { input })) events.push(event.event);
    assert.deepEqual(events, ["output", "done"]);
  },
  files: async () => {
    const [first, second] = [
      await client.files.create(new Blob(["image"]), { mine: 1 }),
      await client.files.create(new Blob(["image"])),
    ];
    assert.notEqual(first.id, second.id);
    assert.equal(first.size, 5);
    assert.deepEqual(first.metadata, { mine: 1 });
    assert.deepEqual((await client.files.list()).results.slice(0, 2).map((f) => f.id), [second.id, first.id]);
    assert.deepEqual((await client.files.get(first.id)).checksums, first.checksums);
    await client.files.delete(first.id);
    await assert.rejects(client.files.get(first.id), fails(404));
  },
  models: async () => {
    const [owner, name] = model.split("/");
    assert.equal((await client.models.get(owner, name)).latest_version.id, version);
    assert.deepEqual((await client.models.versions.list(owner, name)).results.map((v) => v.id), [version]);
    assert((await client.models.versions.get(owner, name, version)).openapi_schema.components.schemas.Input);
    assert((await client.models.list()).results.some((found) => found.name === name));
  },
  refusals: async () => {
    await assert.rejects(client.run(model, { input }), fails(404));
    await assert.rejects(client.run(`${model}:${"0".repeat(64)}`, { input }), fails(422));
  },
  "webhook secret": async () => {
    assert.match((await client.webhooks.default.secret.get()).key, /^whsec_/);
  },
};

const found = {};
for (const [name, action] of Object.entries(actions)) {
  try {
    await action();
    found[name] = "pass";
  } catch (error) {
    found[name] = String(error);
  }
}
console.log(JSON.stringify(found));
