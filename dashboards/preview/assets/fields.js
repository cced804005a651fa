/* Fields of query results with their configuration (defaults and overrides), and what a value looks like. */
(function (preview) {
  "use strict";

  /** Every field of the panel's results: numeric ones with the times they belong to. */
  function fieldsOf(panel, frames, theme) {
    const found = [];
    for (const frame of frames) {
      if (frame.series) {
        for (const series of frame.series) {
          found.push({ name: series.name, type: "number", values: series.values, times: frame.times[series.t], refId: frame.refId });
        }
      } else {
        const clock = frame.columns.find((column) => column.type === "time");
        for (const column of frame.columns) {
          found.push({ ...column, times: clock && clock !== column ? clock.values : null, refId: frame.refId });
        }
      }
    }
    const several = new Set(found.map((field) => field.refId)).size > 1;
    let number = 0;
    for (const field of found) {
      field.config = configOf(panel, field, several);
      field.title = field.config.displayName ? field.config.displayName.replace(/\$\{__field\.name\}/g, field.name) : field.name;
      if (field.type === "number") field.base = seriesColor(field, number++, theme);
    }
    return found;
  }

  function matches(matcher, field) {
    switch (matcher.id) {
      case "byName": return field.name === matcher.options;
      case "byRegexp": return pattern(matcher.options).test(field.name);
      case "byType": return field.type === matcher.options;
      case "byFrameRefID": return field.refId === matcher.options;
      case "byNames": return ((matcher.options && matcher.options.names) || []).includes(field.name);
      default: return false;
    }
  }

  function pattern(text) {
    const parts = /^\/(.*)\/([a-z]*)$/.exec(text);
    return parts ? new RegExp(parts[1], parts[2]) : new RegExp(text);
  }

  function configOf(panel, field) {
    const source = panel.fieldConfig || {};
    const config = { ...(source.defaults || {}), custom: { ...((source.defaults || {}).custom || {}) } };
    for (const override of source.overrides || []) {
      if (!matches(override.matcher, field)) continue;
      for (const { id, value } of override.properties) {
        if (id.startsWith("custom.")) config.custom[id.slice(7)] = value;
        else config[id] = value;
      }
    }
    return config;
  }

  function seriesColor(field, number, theme) {
    const { mode, fixedColor } = field.config.color || {};
    if (mode === "fixed" || mode === "shades") return preview.color(theme, fixedColor) || theme.palette[0];
    return theme.palette[number % theme.palette.length];
  }

  /** The steps of a field's thresholds as `{value, color}`, in the field's own unit; the first has value -Infinity. */
  function steps(config, theme, low, high) {
    const { thresholds } = config;
    if (!thresholds || !thresholds.steps) return [];
    return thresholds.steps.map((step) => {
      const own = step.value === null || step.value === undefined ? -Infinity : step.value;
      const value = thresholds.mode === "percentage" && own > -Infinity ? low + ((high - low) * own) / 100 : own;
      return { value, color: preview.color(theme, step.color) || theme.text };
    });
  }

  function thresholdColor(config, value, theme) {
    const low = config.min === undefined || config.min === null ? 0 : config.min;
    const high = config.max === undefined || config.max === null ? 100 : config.max;
    const reached = steps(config, theme, low, high).filter((step) => value >= step.value);
    return reached.length ? reached[reached.length - 1].color : null;
  }

  function mapped(config, value, theme) {
    for (const mapping of config.mappings || []) {
      const options = mapping.options || {};
      let result = null;
      if (mapping.type === "value") result = options[String(value)];
      else if (mapping.type === "range" && typeof value === "number") {
        const from = options.from === null || options.from === undefined ? -Infinity : options.from;
        const to = options.to === null || options.to === undefined ? Infinity : options.to;
        if (value >= from && value <= to) result = options.result;
      } else if (mapping.type === "regex" && typeof value === "string" && pattern(options.pattern).test(value)) {
        result = options.result;
      } else if (mapping.type === "special") {
        const kinds = { null: value === null, nan: false, "null+nan": value === null, true: value === true, false: value === false, empty: value === "" };
        if (kinds[options.match]) result = options.result;
      }
      if (result) return { text: result.text, color: preview.color(theme, result.color) };
    }
    return null;
  }

  /** What a value of a field looks like: `{text, prefix, number, suffix, color}`; color null where nothing gives it one. */
  function display(field, value, theme, context) {
    const { config } = field;
    const plain = (text, color) => ({ text, prefix: "", number: text, suffix: "", color: color || null });
    const mapping = mapped(config, value, theme);
    if (mapping && mapping.text !== undefined && mapping.text !== null && mapping.text !== "") {
      return plain(String(mapping.text), mapping.color || (typeof value === "number" ? valueColor(config, value, theme) : null));
    }
    if (value === null || value === undefined) return plain(config.noValue || "–", null);
    if (typeof value === "number") {
      const unit = config.unit || (field.type === "time" ? "dateTimeAsIso" : "");
      const parts = preview.units.parts(value, unit, config.decimals, context);
      const color = (mapping && mapping.color) || valueColor(config, value, theme);
      return { ...parts, text: parts.prefix + parts.number + parts.suffix, color };
    }
    if (typeof value === "boolean") return plain(value ? "Yes" : "No", mapping && mapping.color);
    return plain(String(value), mapping && mapping.color);
  }

  function valueColor(config, value, theme) {
    const { mode, fixedColor } = config.color || {};
    if (mode === "fixed") return preview.color(theme, fixedColor);
    if (mode && mode.startsWith("palette")) return null;
    return thresholdColor(config, value, theme);
  }

  const CALCULATIONS = {
    last: (values) => values[values.length - 1],
    lastNotNull: (values, known) => known[known.length - 1],
    first: (values) => values[0],
    firstNotNull: (values, known) => known[0],
    min: (values, known) => known.reduce((a, b) => Math.min(a, b), Infinity),
    max: (values, known) => known.reduce((a, b) => Math.max(a, b), -Infinity),
    mean: (values, known) => known.reduce((a, b) => a + b, 0) / known.length,
    sum: (values, known) => known.reduce((a, b) => a + b, 0),
    count: (values) => values.length,
    range: (values, known) => CALCULATIONS.max(values, known) - CALCULATIONS.min(values, known),
    diff: (values, known) => known[known.length - 1] - known[0],
  };
  const CALCULATION_NAMES = { lastNotNull: "last", firstNotNull: "first", mean: "avg", sum: "total" };

  /** One value of many, as a Grafana reducer does it; null when there is none. */
  function reduce(calculation, values) {
    const known = values.filter((value) => value !== null && value !== undefined);
    if (!known.length) return null;
    if (typeof known[0] !== "number" && !["last", "lastNotNull", "first", "firstNotNull", "count"].includes(calculation)) return null;
    const found = (CALCULATIONS[calculation] || CALCULATIONS.lastNotNull)(values, known);
    return found === undefined || Number.isNaN(found) ? null : found;
  }

  preview.fields = {
    fieldsOf, display, steps, thresholdColor, reduce, pattern,
    calculationName: (calculation) => CALCULATION_NAMES[calculation] || calculation,
  };
})((globalThis.FleetPreview = globalThis.FleetPreview || {}));
