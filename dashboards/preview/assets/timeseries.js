/* Time series: lines, bars, points, bands, stacks, thresholds, two axes, annotations. */
(function (preview) {
  "use strict";

  const { axes, fields, faded } = preview;

  /** The numeric fields with times that are to be drawn. */
  function drawn(all) {
    return all.filter((field) => field.type === "number" && field.times && !(field.config.custom.hideFrom || {}).viz);
  }

  function build(panel, all, theme, context) {
    const shown = drawn(all);
    const known = shown.filter((field) => field.values.some((value) => value !== null));
    if (!known.length) return null;
    const inside = (field) => field.times.some((time, index) => field.values[index] !== null && time >= context.from && time <= context.to);
    // A day's value stands at its beginning, which an hour does not reach; Grafana says the same.
    if (!known.some(inside)) return { kind: "empty", text: "Data outside of this range" };
    const unitOf = (field) => `${field.config.unit || ""}|${isRight(field)}`;
    const scales = [...new Set(shown.map(unitOf))].sort((a, b) => Number(a.endsWith("true")) - Number(b.endsWith("true"))).slice(0, 2);
    const axisOf = (field) => Math.max(0, scales.indexOf(unitOf(field)));
    const lowerNames = new Set(shown.map((field) => field.config.custom.fillBelowTo).filter(Boolean));
    const series = shown.flatMap((field) => seriesOf(field, shown, axisOf(field), lowerNames, theme, context));
    const marks = annotationMarks(context.annotations || [], theme, context);
    if (marks) series.push(marks);
    const right = scales.length > 1;
    const option = {
      animation: false, useUTC: true, textStyle: { fontFamily: theme.font }, legend: { show: false },
      grid: axes.grid(right ? { right: 8 } : {}),
      xAxis: axes.timeAxis(theme, context),
      yAxis: scales.map((scale, number) => {
        const own = shown.filter((field) => axisOf(field) === number);
        const values = own.flatMap((field) => field.values);
        return axes.valueAxis(theme, own[0].config, isStacked(own[0]) || drawStyle(own[0]) === "bars" ? [...totals(own), 0] : values, number === 1);
      }),
      series,
      tooltip: axes.tooltip(theme, (points) => preview.tooltips.ofTime(points, shown, theme, context)),
    };
    addThresholds(option, shown, axisOf, theme);
    return { kind: "chart", option, legend: legend(panel, shown, theme, context), summary: summary(shown, theme, context) };
  }

  const isRight = (field) => field.config.custom.axisPlacement === "right";
  const drawStyle = (field) => field.config.custom.drawStyle || "line";
  const isStacked = (field) => ["normal", "percent"].includes((field.config.custom.stacking || {}).mode);

  /** Sums per time of stacked fields: what the axis must reach. */
  function totals(own) {
    if (!isStacked(own[0])) return own.flatMap((field) => field.values);
    const sums = new Map();
    for (const field of own) field.times.forEach((time, index) => sums.set(time, (sums.get(time) || 0) + (field.values[index] || 0)));
    return [...sums.values()];
  }

  function pointsOf(field) {
    return field.times.map((time, index) => [time, field.values[index]]);
  }

  const LONE_BAR_PIXELS = 8;

  /** A lone bar with an empty place beside it: ECharts takes the distance of bars for their slot, and widens the axis by it. */
  function barsOf(field) {
    const points = pointsOf(field);
    return field.times.length === 1 ? [[field.times[0] - intervalOf(field), null], ...points] : points;
  }

  function seriesOf(field, shown, axis, lowerNames, theme, context) {
    const { custom } = field.config;
    const color = seriesColor(field, theme);
    const style = drawStyle(field);
    const few = field.values.filter((value) => value !== null).length <= 30;
    const common = {
      name: field.title, data: pointsOf(field), yAxisIndex: axis, color, z: 3,
      stack: isStacked(field) ? `${(custom.stacking || {}).group || "A"}-${axis}` : undefined,
      emphasis: { focus: "none" },
    };
    if (style === "bars") {
      const slot = (Math.max(60, context.width - 70) * intervalOf(field)) / (context.to - context.from);
      return [{ ...common, data: barsOf(field), type: "bar", barMaxWidth: 28, barMinWidth: 1, barWidth: field.times.length === 1 ? LONE_BAR_PIXELS : Math.max(1, Math.min(28, slot * 0.8 / (isStacked(field) ? 1 : shown.length))), itemStyle: { opacity: 0.9 } }];
    }
    if (style === "points") return [{ ...common, type: "scatter", symbolSize: custom.pointSize || 5 }];
    const step = { stepBefore: "start", stepAfter: "end" }[custom.lineInterpolation];
    const opacity = (custom.fillOpacity === undefined ? 0 : custom.fillOpacity) / 100;
    const line = {
      ...common, type: "line", step: step || false, smooth: custom.lineInterpolation === "smooth" ? 0.3 : false, smoothMonotone: "x",
      connectNulls: custom.spanNulls === true, showSymbol: custom.showPoints === "always" || (few && custom.showPoints !== "never"), symbol: "circle", symbolSize: few ? 5 : 4,
      lineStyle: { width: custom.lineWidth === undefined ? 1.5 : custom.lineWidth, type: (custom.lineStyle || {}).fill === "dash" ? "dashed" : "solid" },
      areaStyle: opacity > 0 && !custom.fillBelowTo ? { opacity: Math.min(0.8, opacity * 0.7), color } : undefined,
      sampling: field.values.length > 2000 ? "lttb" : undefined,
    };
    const lower = custom.fillBelowTo && shown.find((other) => [other.name, other.title].includes(custom.fillBelowTo));
    if (!lower) return [line];
    return [line, ...band(field, lower, axis, color, Math.max(0.12, opacity * 0.7))];
  }

  /** The area between two lines: an invisible one, and on it what is between them. */
  function band(upper, lower, axis, color, opacity) {
    const below = new Map(lower.times.map((time, index) => [time, lower.values[index]]));
    const both = upper.times.map((time, index) => [time, below.get(time), upper.values[index]]).map(
      ([time, low, high]) => (typeof low === "number" && typeof high === "number" ? [time, low, high - low] : [time, null, null]));
    const hidden = { type: "line", yAxisIndex: axis, symbol: "none", lineStyle: { opacity: 0 }, silent: true, tooltip: { show: false }, stackStrategy: "all", stack: `band-${upper.name}`, z: 2 };
    return [
      { ...hidden, id: `band-low-${upper.name}`, name: upper.title, data: both.map(([time, low]) => [time, low]) },
      { ...hidden, id: `band-high-${upper.name}`, name: upper.title, data: both.map(([time, , size]) => [time, size]), areaStyle: { color, opacity } },
    ];
  }

  function seriesColor(field, theme) {
    const { mode } = field.config.color || {};
    if (mode === "thresholds") {
      const last = fields.reduce("lastNotNull", field.values);
      return (last !== null && fields.thresholdColor(field.config, last, theme)) || field.base;
    }
    return field.base;
  }

  function intervalOf(field) {
    let smallest = Infinity;
    for (let index = 1; index < field.times.length; index += 1) {
      const gap = field.times[index] - field.times[index - 1];
      if (gap > 0) smallest = Math.min(smallest, gap);
    }
    return Number.isFinite(smallest) ? smallest : 60000;
  }

  function addThresholds(option, shown, axisOf, theme) {
    const field = shown.find((each) => ((each.config.custom.thresholdsStyle || {}).mode || "off") !== "off");
    if (!field) return;
    const { mode } = field.config.custom.thresholdsStyle;
    const axis = option.yAxis[axisOf(field)];
    const reached = fields.steps(field.config, theme, axis.min || 0, axis.max || 100).filter((step) => step.value > -Infinity && step.color !== "transparent");
    const carrier = option.series.find((each) => each.name === field.title && !each.silent);
    if (!reached.length || !carrier) return;
    if (mode.startsWith("line") || mode.startsWith("dashed")) {
      carrier.markLine = {
        silent: true, symbol: "none", label: { show: false },
        data: reached.map((step) => ({ yAxis: step.value, lineStyle: { color: step.color, width: 1, type: mode.startsWith("dashed") ? "dashed" : "solid", opacity: 0.8 } })),
      };
    }
    if (mode.includes("area")) {
      carrier.markArea = {
        silent: true,
        data: reached.map((step, index) => [
          { yAxis: step.value, itemStyle: { color: faded(step.color, 0.08) } },
          { yAxis: reached[index + 1] ? reached[index + 1].value : "max" },
        ]),
      };
    }
  }

  function annotationMarks(annotations, theme, context) {
    const lines = [];
    const areas = [];
    for (const { events, color } of annotations) {
      const css = preview.color(theme, color) || theme.named.red;
      for (const event of events) {
        const from = Math.max(event.time, context.from);
        if (from > context.to) continue;
        if (event.time >= context.from) lines.push({ xAxis: from, lineStyle: { color: css, width: 1, type: "dashed", opacity: 0.75 } });
      }
      for (const [from, to] of united(events, context)) areas.push([{ xAxis: from, itemStyle: { color: faded(css, theme.name === "light" ? 0.06 : 0.1) } }, { xAxis: to }]);
    }
    if (!lines.length && !areas.length) return null;
    return {
      type: "line", id: "annotations", data: [], silent: true, tooltip: { show: false }, z: 1,
      markLine: { silent: true, symbol: ["none", "triangle"], symbolSize: 5, label: { show: false }, data: lines },
      markArea: { silent: true, data: areas },
    };
  }

  /** The spans of events as few that do not overlap: colour upon colour would hide the chart. */
  function united(events, context) {
    const spans = events.filter((event) => event.end && event.end > context.from && event.time < context.to)
      .map((event) => [Math.max(event.time, context.from), Math.min(event.end, context.to)])
      .sort((a, b) => a[0] - b[0]);
    const found = [];
    for (const [from, to] of spans) {
      const last = found[found.length - 1];
      if (last && from <= last[1]) last[1] = Math.max(last[1], to);
      else found.push([from, to]);
    }
    return found;
  }

  function legend(panel, shown, theme, context) {
    const options = (panel.options || {}).legend || {};
    if (options.showLegend === false || options.displayMode === "hidden") return null;
    const calcs = (options.calcs || []).filter((calc) => calc !== "");
    const entries = shown.filter((field) => !(field.config.custom.hideFrom || {}).legend);
    return {
      placement: options.placement === "right" ? "right" : "bottom", table: options.displayMode === "table",
      calcs: calcs.map(fields.calculationName),
      entries: entries.map((field) => ({
        name: field.title, ...appearance(field, theme),
        values: calcs.map((calc) => fields.display(field, fields.reduce(calc, field.values), theme, context).text),
      })),
    };
  }

  /** A band without a line of its own is named by its two edges. */
  function appearance(field, theme) {
    const { fillBelowTo, lineWidth } = field.config.custom;
    const color = seriesColor(field, theme);
    return fillBelowTo && lineWidth === 0 ? { label: `${fillBelowTo} to ${field.title}`, color: faded(color, 0.4) } : { color };
  }

  function summary(shown, theme, context) {
    const parts = shown.slice(0, 6).map((field) => `${field.title}: ${fields.display(field, fields.reduce("lastNotNull", field.values), theme, context).text}`);
    return `Chart over time, last values: ${parts.join(", ")}${shown.length > 6 ? ` and ${shown.length - 6} more` : ""}`;
  }

  preview.timeseries = { build };
})((globalThis.FleetPreview = globalThis.FleetPreview || {}));
