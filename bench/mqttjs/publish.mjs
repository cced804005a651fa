// MQTT.js as `mqttx bench pub` drives it: one process, a client per device connected at an interval, QoS 1, and a timer
// per client. Its pace comes from standard input, as bench/simulator_steps.py says. Run: node publish.mjs TASK
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import mqtt from "mqtt";

const HOST = "127.0.0.1";
const PREFIX = "bench-";
const SETTLE_SECONDS = 0.7;
const DRAIN_SECONDS = 10;
const CONNECT_INTERVAL_MS = 1;
const UNANSWERED_CONNECTS = 100;

const task = JSON.parse(process.argv[2]);
const payload = Buffer.alloc(task.payload_bytes, "x");
const seconds = () => Number(process.hrtime.bigint()) / 1e9;
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);

let published = 0;
let acknowledged = 0;

function connect(index, answered) {
  const name = PREFIX + String(index + 1).padStart(5, "0");
  const file = (ending) => readFileSync(`${task.folder}/devices/devices/${name}.${ending}`);
  const client = mqtt.connect({
    protocol: "mqtts",
    protocolVersion: 5,
    host: HOST,
    port: task.port,
    clientId: name,
    cert: file("pem"),
    key: file("key"),
    ca,
    reconnectPeriod: 0,
  });
  client.once("connect", () => answered(true));
  client.once("error", () => answered(false));
  return { client, topic: `bench/${name}` };
}

function publish({ client, topic }) {
  published += 1;
  client.publish(topic, payload, { qos: 1 }, (error) => {
    if (!error) acknowledged += 1;
  });
}

async function connectAll() {
  const devices = [];
  let answers = 0;
  let connected = 0;
  const answered = (accepted) => {
    answers += 1;
    connected += accepted ? 1 : 0;
  };
  for (let index = 0; index < task.devices; index += 1) {
    while (index - answers >= UNANSWERED_CONNECTS) await pause(1);
    devices.push(connect(index, answered));
    if (index % 5 === 4) await pause(CONNECT_INTERVAL_MS);
  }
  while (answers < task.devices) await pause(1);
  return { devices, connected };
}

async function measure(devices, step) {
  const intervalMs = (1000 * devices.length) / step.messages_per_second;
  // A timer per client, evenly staggered, with an async callback that publishes once each time: cli/src/lib/pub.ts.
  const timers = [];
  const starts = devices.map((device, index) =>
    setTimeout(
      () => {
        timers[index] = setInterval(async () => {
          if (device.client.connected) publish(device);
        }, intervalMs);
      },
      (intervalMs * index) / devices.length,
    ),
  );
  await pause(SETTLE_SECONDS * 1000);
  const [before, cpu, begin] = [acknowledged, process.cpuUsage(), seconds()];
  await pause(step.seconds * 1000);
  const [after, used, end] = [acknowledged, process.cpuUsage(cpu), seconds()];
  starts.forEach(clearTimeout);
  timers.forEach(clearInterval);
  const deadline = seconds() + DRAIN_SECONDS;
  while (acknowledged < published && seconds() < deadline) await pause(20);
  return {
    acknowledged: after - before,
    readings: after - before,
    seconds: end - begin,
    cpu_seconds: (used.user + used.system) / 1e6,
  };
}

const ca = readFileSync(`${task.folder}/devices/root-ca.pem`);
const memory = process.memoryUsage().rss;
const begin = seconds();
const { devices, connected } = await connectAll();
say({ connected, seconds: seconds() - begin, memory_bytes: process.memoryUsage().rss - memory });
for await (const line of createInterface({ input: process.stdin })) {
  say(await measure(devices, JSON.parse(line)));
}
process.exit(0);
