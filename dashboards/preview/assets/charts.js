/* The other charts: bars by category, pies, gauges, heatmaps, states over time. */
(function (preview) {
  "use strict";

  const { axes, fields, faded } = preview;
  const base = (theme) => ({ animation: false, useUTC: true, textStyle: { fontFamily: theme.font }, legend: { show: false } });
  const numbers = (all) => all.filter((field) => field.type === "number" && !(field.config.custom.hideFrom || {}).viz);
  const calculation = (panel) => (((panel.options || {}).reduceOptions || {}).calcs || [])[0] || "lastNotNull";

  function label(field, value, theme, context) {
    return fields.display(field, value, theme, context).text;
  }

  function barchart(panel, all, theme, context) {
    const options = panel.options || {};
    const category = all.find((field) => field.name === options.xField) || all.find((field) => field.type === "string") || all.find((field) => field.type === "time");
    const shown = numbers(all).filter((field) => field !== category);
    if (!category || !shown.length || !category.values.length) return null;
    const names = category.values.map((value) => label(category, value, theme, context));
    const lying = options.orientation === "horizontal";
    const room = lying ? Math.min(180, context.width * 0.4) : Math.max(40, (context.width - 60) / names.length - 6);
    const names_axis = axes.categoryAxis(theme, names, { width: room, interval: lying || names.length <= 12 ? 0 : "auto" });
    const stacked = options.stacking === "normal" || options.stacking === "percent";
    const byThreshold = (field) => (field.config.color || {}).mode === "thresholds";
    const values_axis = { ...axes.valueAxis(theme, shown[0].config, [...shown.flatMap((field) => field.values), 0]), position: undefined };
    return {
      kind: "chart",
      option: {
        ...base(theme), grid: axes.grid({ top: options.showValue === "always" ? 22 : 12 }),
        xAxis: lying ? values_axis : names_axis,
        yAxis: lying ? { ...names_axis, inverse: true } : values_axis,
        series: shown.map((field) => ({
          type: "bar", name: field.title, color: field.base, barMaxWidth: 36, stack: stacked ? "all" : undefined,
          data: field.values.map((value) => byThreshold(field)
            ? { value, itemStyle: { color: fields.thresholdColor(field.config, value, theme) || field.base } } : value),
          label: { show: options.showValue === "always", position: lying ? "right" : "top", color: theme.text, fontSize: 11, formatter: (point) => label(field, point.value, theme, context) },
        })),
        tooltip: axes.tooltip(theme, (points) => preview.tooltips.ofCategory(points, shown, theme, context)),
      },
      legend: shown.length > 1 ? { placement: "bottom", table: false, calcs: [], entries: shown.map((field) => ({ name: field.title, color: field.base, values: [] })) } : null,
      summary: `Bar chart of ${shown.map((field) => field.title).join(", ")} by ${category.title}`,
    };
  }

  /** Name and value of every slice: rows of a table, or one reduced value per series. */
  function slices(panel, all, theme) {
    const wantsRows = ((panel.options || {}).reduceOptions || {}).values === true;
    const name = all.find((field) => field.type === "string");
    if (wantsRows && name) {
      const value = numbers(all)[0];
      return value ? name.values.map((each, index) => ({ name: String(each), value: value.values[index], field: value })) : [];
    }
    return numbers(all).map((field) => ({ name: field.title, value: fields.reduce(calculation(panel), field.values), field }));
  }

  function piechart(panel, all, theme, context) {
    const found = slices(panel, all, theme).filter((slice) => typeof slice.value === "number" && slice.value > 0);
    if (!found.length) return null;
    const total = found.reduce((sum, slice) => sum + slice.value, 0);
    const data = found.map((slice, index) => ({
      name: slice.name, value: slice.value,
      itemStyle: { color: (slice.field.config.color || {}).mode === "fixed" ? slice.field.base : theme.palette[index % theme.palette.length] },
    }));
    const share = (value) => `${((100 * value) / total).toFixed(value / total < 0.1 ? 1 : 0)}%`;
    return {
      kind: "chart",
      option: {
        ...base(theme),
        series: [{
          type: "pie", radius: (panel.options || {}).pieType === "donut" ? ["52%", "88%"] : "88%", center: ["50%", "50%"], data,
          label: { show: false }, itemStyle: { borderColor: theme.panel, borderWidth: 2 }, emphasis: { scale: false },
        }],
        tooltip: axes.tooltip(theme, (point) => preview.tooltips.ofItem(point.name, `${label(found[point.dataIndex].field, point.value, theme, context)} · ${share(point.value)}`, point.color), "item"),
      },
      legend: {
        placement: "right", table: true, calcs: ["value", "share"],
        entries: found.map((slice, index) => ({ name: slice.name, color: data[index].itemStyle.color, values: [label(slice.field, slice.value, theme, context), share(slice.value)] })),
      },
      summary: `Pie chart: ${found.slice(0, 8).map((slice) => `${slice.name} ${share(slice.value)}`).join(", ")}`,
    };
  }

  function gauge(panel, all, theme, context) {
    const found = numbers(all).map((field) => ({ field, value: fields.reduce(calculation(panel), field.values) })).filter((each) => each.value !== null);
    if (!found.length) return null;
    const columns = Math.ceil(Math.sqrt((found.length * context.width) / Math.max(1, context.height)));
    const wide = Math.max(1, Math.min(found.length, columns));
    const high = Math.ceil(found.length / wide);
    const size = Math.min(context.width / wide, (context.height / high) * 1.15);
    const series = found.map(({ field, value }, index) => {
      const low = field.config.min === undefined || field.config.min === null ? 0 : field.config.min;
      const top = field.config.max === undefined || field.config.max === null ? Math.max(100, value) : field.config.max;
      const steps = fields.steps(field.config, theme, low, top);
      const stops = steps.map((step, at) => [Math.min(1, Math.max(0, ((steps[at + 1] ? steps[at + 1].value : top) - low) / (top - low))), step.color]);
      const color = fields.thresholdColor(field.config, value, theme) || field.base;
      return {
        type: "gauge", min: low, max: top, startAngle: 205, endAngle: -25, radius: size * 0.44,
        center: [`${((index % wide) + 0.5) * (100 / wide)}%`, `${(Math.floor(index / wide) + 0.58) * (100 / high)}%`],
        progress: { show: true, width: size * 0.07, itemStyle: { color } }, pointer: { show: false }, anchor: { show: false },
        axisLine: { lineStyle: { width: size * 0.07, color: stops.length ? stops.map(([to, css]) => [to, faded(css, 0.22)]) : [[1, theme.grid]] } },
        axisTick: { show: false }, splitLine: { show: false }, axisLabel: { show: false },
        detail: { offsetCenter: [0, "-2%"], fontSize: Math.max(14, Math.min(30, size * 0.13)), fontWeight: 600, color, fontFamily: theme.font, formatter: () => label(field, value, theme, context) },
        title: { show: found.length > 1, offsetCenter: [0, "48%"], fontSize: 12, color: theme.muted, width: size * 0.8, overflow: "truncate" },
        data: [{ value, name: field.title }],
      };
    });
    return { kind: "chart", option: { ...base(theme), series }, legend: null, summary: found.map(({ field, value }) => `${field.title}: ${label(field, value, theme, context)}`).join(", ") };
  }

  function heatmap(panel, all, theme, context) {
    const rows = numbers(all).filter((field) => field.times);
    const data = [];
    let most = 0;
    rows.forEach((field, row) => field.times.forEach((time, index) => {
      const value = field.values[index];
      if (value === null || value === 0) return;
      most = Math.max(most, value);
      data.push([time, row, value]);
    }));
    if (!data.length) return null;
    const stamps = [...new Set(rows.flatMap((field) => field.times))].sort((a, b) => a - b);
    const at = new Map(stamps.map((time, index) => [time, index]));
    const span = (context.to - context.from) / 1000;
    return {
      kind: "chart",
      option: {
        ...base(theme), grid: axes.grid({ right: 18 }),
        xAxis: axes.categoryAxis(theme, stamps.map((time) => preview.units.time(time, span)), { hideOverlap: true }),
        yAxis: axes.categoryAxis(theme, rows.map((field) => field.title), { width: 120 }),
        visualMap: { show: false, min: 0, max: most, inRange: { color: theme.name === "light" ? ["#dfeaff", "#2f6fde", "#14306b"] : ["#1c2c49", "#4f8cf0", "#d6e5ff"] } },
        series: [{ type: "heatmap", data: data.map(([time, row, value]) => [at.get(time), row, value]), itemStyle: { borderColor: theme.panel, borderWidth: 1 } }],
        tooltip: axes.tooltip(theme, (point) => preview.tooltips.ofItem(`${rows[point.value[1]].title}, ${preview.units.time(stamps[point.value[0]])}`, label(rows[point.value[1]], point.value[2], theme, context), point.color), "item"),
      },
      legend: null, summary: `Heatmap of ${rows.length} rows over time`,
    };
  }

  /** Spans of equal state per row; of a status history every value is a span of its own. */
  function spansOf(field, row, joined, context) {
    const gap = field.times.length > 1 ? Math.min(...field.times.slice(1).map((time, index) => time - field.times[index]).filter((each) => each > 0)) : (context.to - context.from) / 20;
    const spans = [];
    field.times.forEach((time, index) => {
      const value = field.values[index];
      const end = joined && index + 1 < field.times.length ? field.times[index + 1] : Math.min(time + gap, Math.max(context.to, time));
      const before = spans[spans.length - 1];
      if (value === null) return;
      if (joined && before && before.value === value && before.to >= time) before.to = end;
      else spans.push({ row, from: time, to: end, value });
    });
    return spans;
  }

  function states(panel, all, theme, context) {
    const rows = all.filter((field) => field.times && field.type !== "time");
    const joined = panel.type === "state-timeline";
    const spans = rows.flatMap((field, row) => spansOf(field, row, joined && (panel.options || {}).mergeValues !== false, context));
    if (!spans.length) return null;
    const colors = new Map();
    const shownOf = (span) => fields.display(rows[span.row], span.value, theme, context);
    for (const span of spans) {
      const shown = shownOf(span);
      span.text = shown.text;
      span.color = shown.color || colors.get(shown.text) || theme.palette[colors.size % theme.palette.length];
      if (!colors.has(shown.text)) colors.set(shown.text, span.color);
    }
    const height = (panel.options || {}).rowHeight || 0.85;
    const draw = (params, api) => {
      const span = spans[params.dataIndex];
      const [left, middle] = api.coord([Math.max(span.from, context.from), span.row]);
      const [right] = api.coord([Math.min(Math.max(span.to, context.from), context.to), span.row]);
      const size = Math.min(34, api.size([0, 1])[1] * height);
      const width = Math.max(1, right - left - (joined ? 0 : 2));
      const children = [{ type: "rect", shape: { x: left, y: middle - size / 2, width, height: size, r: 2 }, style: { fill: span.color, opacity: 0.85 } }];
      if ((panel.options || {}).showValue !== "never" && width > span.text.length * 7 + 8 && size >= 14) {
        children.push({ type: "text", style: { text: span.text, x: left + width / 2, y: middle, align: "center", verticalAlign: "middle", fill: theme.name === "light" ? "#ffffff" : "#10151b", font: `11px ${theme.font}` } });
      }
      return { type: "group", children };
    };
    const discrete = colors.size <= 8 && rows.every((field) => field.type !== "number" || (field.config.mappings || []).length);
    return {
      kind: "chart",
      option: {
        ...base(theme), grid: axes.grid(),
        xAxis: axes.timeAxis(theme, context),
        yAxis: { ...axes.categoryAxis(theme, rows.map((field) => field.title), { width: Math.min(150, context.width * 0.3), interval: 0 }), inverse: true },
        series: [{ type: "custom", renderItem: draw, encode: { x: [0, 1], y: 2 }, data: spans.map((span) => [span.from, span.to, span.row]), clip: true }],
        tooltip: axes.tooltip(theme, (point) => {
          const span = spans[point.dataIndex];
          return preview.tooltips.ofItem(`${rows[span.row].title}, ${preview.units.time(span.from)}`, span.text, span.color);
        }, "item"),
      },
      legend: discrete ? { placement: "bottom", table: false, calcs: [], fixed: true, entries: [...colors].map(([name, color]) => ({ name, color, values: [] })) } : null,
      summary: `States over time of ${rows.slice(0, 10).map((field) => field.title).join(", ")}`,
    };
  }

  preview.charts = { barchart, piechart, gauge, heatmap, states, slices };
})((globalThis.FleetPreview = globalThis.FleetPreview || {}));
