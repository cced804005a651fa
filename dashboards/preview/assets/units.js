/* Values as Grafana shows them: unit ids, decimals, times. */
(function (preview) {
  "use strict";

  const BINARY = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  const DECIMAL = ["B", "kB", "MB", "GB", "TB", "PB"];
  const SHORT = ["", " K", " M", " B", " T"];
  const SUFFIXES = {
    none: "", short: "", locale: "", string: "", percent: "%", humidity: "%", celsius: " °C", fahrenheit: " °F", kelvin: " K",
    pressurehpa: " hPa", pressurembar: " mbar", pressurebar: " bar", pressurekpa: " kPa", pressurepsi: " psi",
    volt: " V", mvolt: " mV", amp: " A", watt: " W", hertz: " Hz", dB: " dB", dBm: " dBm", degree: "°", lengthm: " m",
    reqps: " req/s", ops: " ops/s", rps: " rd/s", wps: " wr/s", iops: " io/s", cps: "/s", eps: " evt/s", mps: " msg/s",
    recps: " rec/s", rowsps: " rows/s", opm: " ops/min", rpm: " rd/min", cpm: "/min", reqpm: " req/min", currencyUSD: "",
    pps: " p/s",
  };
  const DURATIONS = { ns: 1e-9, "µs": 1e-6, us: 1e-6, ms: 1e-3, s: 1, m: 60, h: 3600, d: 86400, dtdurations: 1, dtdurationms: 1e-3, clocks: 1, clockms: 1e-3 };
  const STEPS = [[86400, " d"], [3600, " h"], [60, " min"], [1, " s"], [1e-3, " ms"], [1e-6, " µs"], [1e-9, " ns"]];

  const NICE_SECONDS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 432000, 864000];

  /** About three significant digits: whole numbers stay whole. */
  function decimalsFor(value) {
    const size = Math.abs(value);
    if (!Number.isFinite(value) || size === 0 || Number.isInteger(value)) return 0;
    if (size >= 100) return Number(value.toFixed(1)) === Math.round(value) ? 0 : 1;
    if (size >= 10) return 1;
    if (size >= 1) return 2;
    return Math.min(6, 2 - Math.floor(Math.log10(size)));
  }

  function fixed(value, decimals, ungrouped) {
    const digits = decimals === null || decimals === undefined ? decimalsFor(value) : decimals;
    const text = value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits, useGrouping: !ungrouped });
    return /^-0(\.0*)?$/.test(text) ? text.slice(1) : text;
  }

  function scaled(value, decimals, base, names, rest) {
    let size = Math.abs(value);
    let step = 0;
    while (size >= base && step < names.length - 1) {
      size /= base;
      step += 1;
    }
    return { number: fixed(value / base ** step, decimals), suffix: names[step] + (rest || "") };
  }

  function duration(seconds, decimals) {
    const size = Math.abs(seconds);
    if (size === 0) return { number: "0", suffix: " s" };
    const step = STEPS.find(([each]) => size >= each * 0.9995) || STEPS[STEPS.length - 1];
    return { number: fixed(seconds / step[0], decimals), suffix: step[1] };
  }

  /** In two units, the larger ones first: `2 min 16 s`. */
  function longDuration(seconds) {
    const size = Math.abs(seconds);
    const at = STEPS.findIndex(([each]) => size >= each);
    if (at < 0 || size < 60) return duration(Math.round(seconds * 10) / 10, undefined);
    const [whole, part] = [STEPS[at], STEPS[at + 1]];
    let first = Math.floor(size / whole[0]);
    let second = Math.round((size - first * whole[0]) / part[0]);
    if (second * part[0] >= whole[0]) [first, second] = [first + 1, 0];
    return { number: `${seconds < 0 ? "-" : ""}${first}`, suffix: whole[1] + (second ? ` ${second}${part[1]}` : "") };
  }

  const two = (number) => String(number).padStart(2, "0");

  /** A point in time, UTC; as exact as the span shown asks for. */
  function time(milliseconds, spanSeconds) {
    const date = new Date(milliseconds);
    const day = `${date.getUTCFullYear()}-${two(date.getUTCMonth() + 1)}-${two(date.getUTCDate())}`;
    const clock = `${two(date.getUTCHours())}:${two(date.getUTCMinutes())}`;
    if (spanSeconds && spanSeconds > 2 * 86400) return `${day} ${clock}`;
    if (spanSeconds && spanSeconds <= 86400) return `${clock}:${two(date.getUTCSeconds())}`;
    return `${day} ${clock}:${two(date.getUTCSeconds())}`;
  }

  /** In tables the year is left out where it is that in which the page was made, and midnight is a day. */
  function shortTime(milliseconds, context) {
    const text = time(milliseconds);
    if (milliseconds % 86400000 === 0) return text.slice(0, 10);
    const made = context && context.now ? time(context.now) : "";
    return text.slice(0, 5) === made.slice(0, 5) ? text.slice(5) : text;
  }

  /** The step between an axis' labels: round in the unit that they are shown in, or undefined where ten is the base. */
  function step(span, unit) {
    const rough = span / 4;
    if (["bytes", "binBps"].includes(unit)) return 2 ** Math.ceil(Math.log2(rough));
    const factor = DURATIONS[unit];
    if (!factor || rough * factor < 1) return undefined;
    const seconds = NICE_SECONDS.find((each) => each >= rough * factor);
    return seconds ? seconds / factor : undefined;
  }

  function fromNow(milliseconds, now) {
    const { number, suffix } = duration(Math.round((now - milliseconds) / 1000), null);
    const whole = number.replace(/\.\d+$/, "");
    return now >= milliseconds ? `${whole}${suffix} ago` : `in ${whole.replace("-", "")}${suffix}`;
  }

  /** `{prefix, number, suffix}` of a number in a Grafana unit; `context.now` is when the page was made. */
  function parts(value, unit, decimals, context) {
    // An id, a version: what has no unit is no count either, and is not grouped.
    if (!unit) return { prefix: "", number: fixed(value, decimals, true), suffix: "" };
    const id = unit;
    const made = (number, suffix, prefix) => ({ prefix: prefix || "", number, suffix: suffix || "" });
    if (id.startsWith("suffix:")) return made(fixed(value, decimals), ` ${id.slice(7).trim()}`);
    if (id.startsWith("prefix:")) return made(fixed(value, decimals), "", id.slice(7));
    if (id.startsWith("dateTimeFromNow")) return made(fromNow(value, (context && context.now) || Date.now()));
    if (id.startsWith("dateTime") || id.startsWith("time:")) return made(shortTime(value, context));
    if (id === "bool_yes_no") return made(value ? "Yes" : "No");
    if (id === "bool_on_off") return made(value ? "On" : "Off");
    if (id === "bool") return made(value ? "True" : "False");
    if (id === "percentunit") return made(fixed(value * 100, decimals), "%");
    if (id === "currencyUSD") return made(fixed(value, decimals), "", "$");
    if (id in DURATIONS) {
      const found = id.startsWith("dtduration") ? longDuration(value * DURATIONS[id]) : duration(value * DURATIONS[id], decimals);
      return made(found.number, found.suffix);
    }
    const bytes = { bytes: [1024, BINARY], decbytes: [1000, DECIMAL], binBps: [1024, BINARY, "/s"], Bps: [1000, DECIMAL, "/s"] }[id];
    if (bytes) {
      const found = scaled(value, decimals, bytes[0], bytes[1].map((name) => ` ${name}`), bytes[2]);
      return made(found.number, found.suffix);
    }
    if (id === "short" || id === "sishort") {
      const found = Math.abs(value) < 100000 ? { number: fixed(value, decimals), suffix: "" } : scaled(value, decimals, 1000, SHORT);
      return made(found.number, found.suffix);
    }
    if (id in SUFFIXES) return made(fixed(value, decimals), SUFFIXES[id]);
    return made(fixed(value, decimals), ` ${id}`);
  }

  function text(value, unit, decimals, context) {
    const found = parts(value, unit, decimals, context);
    return found.prefix + found.number + found.suffix;
  }

  preview.units = { parts, text, time, fromNow, step };
})((globalThis.FleetPreview = globalThis.FleetPreview || {}));
