/* What ECharts' cartesian charts have in common: grid, axes, tooltip. */
(function (preview) {
  "use strict";

  const { units } = preview;
  const HOUR = 3600;
  /** Units whose labels are written in larger or smaller ones. */
  const SCALED = /^(percentunit|ns|us|µs|ms|s|m|h|d|dtdurations|dtdurationms|bytes|decbytes|Bps|binBps)$/;

  function timeLabel(spanSeconds) {
    return (value) => {
      const date = new Date(value);
      const [day, clock] = date.toISOString().split("T");
      if (spanSeconds <= 900) return clock.slice(0, 8);
      if (spanSeconds <= 36 * HOUR) return clock.slice(0, 5);
      if (spanSeconds <= 5 * 24 * HOUR) return `${day.slice(5)} ${clock.slice(0, 5)}`;
      return day.slice(5);
    };
  }

  /** A time axis over the whole range, as in Grafana: also where there is no data. */
  function timeAxis(theme, context) {
    const span = (context.to - context.from) / 1000;
    return {
      type: "time", min: context.from, max: context.to,
      splitNumber: Math.max(2, Math.min(8, Math.round(context.width / 110))),
      axisLine: { lineStyle: { color: theme.axis } }, axisTick: { show: false }, splitLine: { show: false },
      axisLabel: { color: theme.muted, fontSize: 11, fontFamily: theme.font, hideOverlap: true, showMinLabel: false, showMaxLabel: false, formatter: timeLabel(span) },
      axisPointer: { label: { show: false } },
    };
  }

  function categoryAxis(theme, names, extra) {
    return {
      type: "category", data: names,
      axisLine: { lineStyle: { color: theme.axis } }, axisTick: { show: false },
      axisLabel: { color: theme.muted, fontSize: 11, fontFamily: theme.font, overflow: "truncate", ...extra },
    };
  }

  /** A value axis in the unit of a field. Charts of whole numbers do not get ticks between them. */
  function valueAxis(theme, config, values, right) {
    const known = values.filter((value) => typeof value === "number");
    const whole = known.every((value) => Number.isInteger(value));
    const custom = config.custom || {};
    const given = (limit, soft) => (limit !== undefined && limit !== null ? limit : soft);
    const low = known.reduce((a, b) => Math.min(a, b), Infinity);
    const high = known.reduce((a, b) => Math.max(a, b), -Infinity);
    // Labels differ by less than their own size where an axis does not begin at zero.
    const decimals = () => {
      const top = typeof axis.max === "number" ? axis.max : high;
      const span = top - (typeof axis.min === "number" ? axis.min : low) || Math.abs(high) * 0.02;
      return SCALED.test(config.unit || "") || span >= 40 || top >= 100000 || !(span > 0) ? undefined : Math.min(6, Math.max(0, Math.ceil(-Math.log10(span / 4)) + 1));
    };
    const axis = {
      type: "value", position: right ? "right" : "left", scale: true,
      min: given(config.min), max: given(config.max),
      name: custom.axisLabel || undefined, nameLocation: "middle", nameGap: 46, nameTextStyle: { color: theme.muted, fontSize: 11, fontFamily: theme.font },
      axisLine: { show: false }, axisTick: { show: false },
      splitLine: { show: !right, lineStyle: { color: theme.grid } }, splitNumber: 4,
      axisLabel: {
        color: theme.muted, fontSize: 11, fontFamily: theme.font,
        formatter: (value) => units.text(Number(value.toPrecision(12)), config.unit || "short", decimals(), {}).replace(/(\.\d*?)0+(?=\D|$)/, "$1").replace(/\.(?=\D|$)/, ""),
      },
    };
    if (whole && !SCALED.test(config.unit || "")) axis.minInterval = 1;
    if (axis.min === undefined && custom.axisSoftMin !== undefined && custom.axisSoftMin !== null && custom.axisSoftMin <= low) axis.min = custom.axisSoftMin;
    if (axis.max === undefined && custom.axisSoftMax !== undefined && custom.axisSoftMax !== null && custom.axisSoftMax >= high) axis.max = custom.axisSoftMax;
    // What never changes (but for the last bits of an average) would else fill the axis with fractions of itself.
    if (high - low <= Math.abs(high) * 1e-6) {
      const free = axis.min === undefined;
      if (free) axis.min = low >= 0 ? Math.max(0, Math.floor(low - Math.max(1, low * 0.1))) : undefined;
      if (free && axis.max === undefined) axis.max = Math.ceil(high + Math.max(1, Math.abs(high) * 0.1));
    } else if (axis.min === undefined && low >= 0 && low < high * 0.5) axis.min = 0;
    const bottom = typeof axis.min === "number" ? axis.min : low;
    const step = units.step((typeof axis.max === "number" ? axis.max : high) - bottom, config.unit);
    if (given(config.min) !== undefined && given(config.max) !== undefined) axis.interval = (config.max - config.min) / 4;
    else if (step && high > low) {
      axis.interval = step;
      axis.min = Math.floor(bottom / step) * step;
      axis.max = Math.ceil((typeof axis.max === "number" ? axis.max : high) / step) * step;
    }
    if (custom.scaleDistribution && custom.scaleDistribution.type === "log" && low > 0) {
      axis.type = "log";
      axis.logBase = custom.scaleDistribution.log || 10;
      axis.min = undefined;
    }
    return axis;
  }

  function grid(extra) {
    // ECharts 6 keeps axis labels inside of these bounds.
    return { left: 8, right: 14, top: 12, bottom: 6, containLabel: true, ...extra };
  }

  function tooltip(theme, formatter, trigger) {
    return {
      trigger: trigger || "axis", confine: true, transitionDuration: 0, formatter,
      backgroundColor: theme.raised, borderColor: theme.axis, padding: [6, 9],
      textStyle: { color: theme.text, fontSize: 12, fontFamily: theme.font },
      axisPointer: { type: "line", lineStyle: { color: theme.faint, type: "dashed" } },
    };
  }

  preview.axes = { timeAxis, categoryAxis, valueAxis, grid, tooltip };
})((globalThis.FleetPreview = globalThis.FleetPreview || {}));
