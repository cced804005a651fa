/* What each panel shows, as plain values: a chart's options, a table's cells, a number's text. No document is touched here. */
(function (preview) {
  "use strict";

  const { charts, fields, timeseries, units } = preview;

  const reduceOptions = (panel) => (panel.options || {}).reduceOptions || {};

  /** The fields that stat, gauge and bar gauge panels are about. */
  function chosen(panel, all) {
    const { fields: wanted } = reduceOptions(panel);
    if (wanted) return all.filter((field) => fields.pattern(wanted).test(field.name) || fields.pattern(wanted).test(field.title));
    return all.filter((field) => field.type === "number");
  }

  /** `{title, display, spark, value, field}` per value shown: one per series, or one per row. */
  function items(panel, all, theme, context) {
    const { calcs, values, limit } = reduceOptions(panel);
    const shown = chosen(panel, all);
    const item = (field, value, title, spark) => ({
      title, value, field, spark, display: fields.display(field, value, theme, context),
      link: linkOf(panel, field, null, context),
    });
    if (values) {
      const name = all.find((field) => field.type === "string" && !shown.includes(field));
      const rows = shown.flatMap((field) => field.values.slice(0, limit || 60).map((value, index) => item(field, value, rowTitle(field, name, index, shown.length), null)));
      return rows;
    }
    return shown.map((field) => item(field, fields.reduce((calcs || [])[0] || "lastNotNull", field.values), field.title, field.times));
  }

  function rowTitle(field, name, index, columns) {
    if (!name) return field.title;
    return columns > 1 ? `${name.values[index]} ${field.title}` : String(name.values[index]);
  }

  function stat(panel, all, theme, context) {
    const found = items(panel, all, theme, context);
    const { noValue } = (panel.fieldConfig || {}).defaults || {};
    if (!found.length && noValue) return { kind: "stat", colorMode: "value", items: [{ title: "", display: { text: noValue, prefix: "", number: noValue, suffix: "" }, missing: true }] };
    if (!found.length) return null;
    const options = panel.options || {};
    const mode = options.textMode || "auto";
    const named = mode.includes("name") || (mode === "auto" && found.length > 1);
    return {
      kind: "stat", colorMode: options.colorMode || "value",
      items: found.map((item) => ({
        title: named ? item.title : "", display: item.display, link: item.link, missing: item.value === null,
        spark: options.graphMode !== "none" && item.spark && item.field.values.filter((value) => value !== null).length > 1 ? sparkOf(item.field) : null,
        color: item.display.color || ((item.field.config.color || {}).mode === "palette-classic" ? item.field.base : null),
      })),
    };
  }

  function sparkOf(field) {
    return { times: field.times, values: field.values };
  }

  function bargauge(panel, all, theme, context) {
    const found = items(panel, all, theme, context).filter((item) => typeof item.value === "number");
    if (!found.length) return null;
    const highest = found.reduce((most, item) => Math.max(most, Math.abs(item.value)), 0);
    return {
      kind: "bars",
      items: found.map((item) => {
        const { min, max } = item.field.config;
        const low = min === undefined || min === null ? 0 : min;
        const top = max === undefined || max === null ? highest : max;
        const share = top > low ? (item.value - low) / (top - low) : 0;
        return { title: item.title, display: item.display, link: item.link, share: Math.min(1, Math.max(0, share)), color: item.display.color || item.field.base };
      }),
    };
  }

  function cellType(field) {
    const { cellOptions, displayMode } = field.config.custom;
    return (cellOptions && cellOptions.type) || displayMode || "auto";
  }

  function table(panel, all, theme, context) {
    const columns = all.filter((field) => !field.config.custom.hidden && !(field.config.custom.hideFrom || {}).viz);
    const count = columns.reduce((most, field) => Math.max(most, field.values.length), 0);
    if (!columns.length || !count) return null;
    const rows = Array.from({ length: count }, (_, row) => columns.map((field) => cell(panel, all, field, row, theme, context)));
    const sortBy = ((panel.options || {}).sortBy || [])[0];
    const sorted = sortBy ? columns.findIndex((field) => [field.title, field.name].includes(sortBy.displayName)) : -1;
    return {
      kind: "table", rows,
      columns: columns.map((field) => ({
        title: field.title, numeric: field.type === "number" && !(field.config.custom.align === "left"),
        align: field.config.custom.align, width: field.config.custom.width || null, type: field.type, hidden: false,
      })),
      sort: sorted >= 0 ? { column: sorted, descending: Boolean(sortBy.desc) } : null,
    };
  }

  function cell(panel, all, field, row, theme, context) {
    const value = field.values[row] === undefined ? null : field.values[row];
    const display = fields.display(field, value, theme, context);
    const type = cellType(field);
    const made = { value, text: value === null ? "–" : display.text, link: value === null ? null : linkOf(panel, field, { all, row }, context) };
    if (["color-text", "color-background", "color-background-solid"].includes(type) && value !== null) {
      made.color = display.color === theme.text ? null : display.color;
      made.filled = type !== "color-text";
    }
    if (["gauge", "basic", "gradient-gauge", "lcd-gauge"].includes(type) && typeof value === "number") {
      const { min, max } = field.config;
      const known = field.values.filter((each) => typeof each === "number");
      const low = min === undefined || min === null ? 0 : min;
      const top = max === undefined || max === null ? Math.max(...known, low + 1) : max;
      made.share = Math.min(1, Math.max(0, (value - low) / (top - low)));
      made.color = display.color || field.base;
    }
    return made;
  }

  /** A data link with its variables put in: `{dashboard, device}` where it leads to a dashboard, else null. */
  function linkOf(panel, field, at, context) {
    const link = (field.config.links || []).find((each) => /\/d\//.test(each.url || ""));
    if (!link) return null;
    const valueOf = (name) => {
      if (name === "__value.raw" || name === "__value.text") return at ? field.values[at.row] : "";
      const named = /^__data\.fields(?:\.([\w]+)|\["?([^\]"]+)"?\])$/.exec(name);
      if (named && at) {
        const other = at.all.find((each) => [each.name, each.title].includes(named[1] || named[2]));
        return other ? other.values[at.row] : "";
      }
      if (name === "__field.name") return field.name;
      return "";
    };
    const found = /\/d\/([\w-]+)[^?]*(?:\?(.*))?$/.exec(link.url);
    if (!found) return null;
    const device = /(?:^|&)var-device=([^&]*)/.exec(found[2] || "");
    const value = device ? device[1].replace(/\$\{([^}:]+)(?::[^}]*)?\}/g, (_, name) => String(valueOf(name) === null ? "" : valueOf(name))) : "";
    return context.findPage ? context.findPage(found[1], value) : null;
  }

  const BUILDERS = {
    timeseries: timeseries.build, graph: timeseries.build, barchart: charts.barchart, piechart: charts.piechart, gauge: charts.gauge,
    heatmap: charts.heatmap, "state-timeline": charts.states, "status-history": charts.states, stat, bargauge, table,
  };

  /**
   * The panel as `{kind: "chart" | "stat" | "bars" | "table" | "text" | "empty" | "error", ...}`.
   *
   * `result` is what the queries answered: `{frames, error, note, from, to}`; `context` has the page's `now`, the size
   * in pixels, the annotations, and `findPage(uid, device)`, which gives the address within the page or null.
   */
  function build(panel, result, theme, context) {
    if (panel.type === "text") return { kind: "text", text: (panel.options || {}).content || "" };
    if (!result || result.error) return { kind: "error", text: result ? result.error : "was not queried" };
    const sized = { ...context, from: result.from, to: result.to };
    const all = fields.fieldsOf(panel, result.frames, theme);
    const model = (BUILDERS[panel.type] || table)(panel, all, theme, sized);
    if (model && model.kind === "empty") return { ...model, range: rangeText(result.from, result.to) };
    if (model) return { ...model, note: result.note || "" };
    const { noValue } = (panel.fieldConfig || {}).defaults || {};
    return { kind: "empty", text: noValue || "No data in this range", range: rangeText(result.from, result.to) };
  }

  function rangeText(from, to) {
    const same = new Date(from).toISOString().slice(0, 10) === new Date(to).toISOString().slice(0, 10);
    const clock = (time) => units.time(time).slice(0, 16);
    return `${clock(from)} to ${same ? clock(to).slice(11) : clock(to)} UTC`;
  }

  preview.panels = { build, rangeText };
})((globalThis.FleetPreview = globalThis.FleetPreview || {}));
