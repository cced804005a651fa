// Draws every panel of a page on the server side, from the very options that the page's own scripts make.
// Usage: node preview_panels.cjs PAGE ECHARTS SCRIPT...; prints one JSON object per panel, page and range.
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const vm = require("node:vm");

const [page, library, ...scripts] = process.argv.slice(2);
const echarts = require(path.resolve(library));
for (const script of scripts) vm.runInThisContext(fs.readFileSync(script, "utf8"), { filename: script });
const preview = globalThis.FleetPreview;
const data = JSON.parse(/<script type="application\/json" id="data">(.*?)<\/script>/s.exec(fs.readFileSync(page, "utf8"))[1]);
const SIZE = { width: 640, height: 240 };

function draw(option) {
  const chart = echarts.init(null, null, { renderer: "svg", ssr: true, ...SIZE });
  chart.setOption(option);
  const svg = chart.renderToSVGString();
  const axis = chart.getModel().getComponent("xAxis");
  const extent = axis && axis.get("type") === "time" ? [0, 1].map((end) => axis.axis.coordToData(axis.axis.getExtent()[end])) : null;
  chart.dispose();
  return { svg, extent };
}

// A line without a point is a path too, but one that goes nowhere.
const shapes = (svg) => (svg.match(/<path [^>]*\bd="M[^"]+|<polyline [^>]*points="[^"]+|<(rect|circle|ellipse)\b/g) || []).length;

function judged(panel, result, theme, context) {
  const model = preview.panels.build(panel, result, theme, context);
  if (model.kind !== "chart") {
    const texts = JSON.stringify(model);
    return { kind: model.kind, marks: (model.items || model.rows || []).length, reason: model.text || "", bad: /NaN|undefined|Infinity/.test(texts), model };
  }
  const { svg, extent } = draw(model.option);
  // Marks are what is there with the values and not without: neither thresholds nor annotations, nor the axes, which
  // without values have other labels.
  const hidden = (axis) => (Array.isArray(axis) ? axis.map(hidden) : axis && { ...axis, show: false });
  const alone = { ...model.option, xAxis: hidden(model.option.xAxis), yAxis: hidden(model.option.yAxis) };
  const bare = draw({ ...alone, series: alone.series.map((series) => ({ ...series, data: [] })) }).svg;
  return { kind: "chart", marks: shapes(draw(alone).svg) - shapes(bare), reason: "", bad: /NaN|undefined|Infinity/.test(svg) || /NaN|undefined/.test(JSON.stringify(model.legend)), summary: model.summary, extent, texts: [...svg.matchAll(/<text[^>]*>([^<]*)</g)].map((found) => found[1]) };
}

for (const dashboard of data.dashboards) {
  for (const view of dashboard.pages) {
    for (const [range, result] of Object.entries(view.results)) {
      const context = { now: data.generated, from: result.from, to: result.to, ...SIZE, annotations: result.annotations, findPage: () => null };
      for (const { panel } of preview.grid.place(dashboard.models).filter((place) => place.panel)) {
        for (const theme of Object.values(preview.themes)) {
          const found = judged(panel, result.panels[panel.id], theme, context);
          console.log(JSON.stringify({ uid: dashboard.uid, device: view.device, range, panel: panel.title, type: panel.type, theme: theme.name, ...found }));
        }
      }
    }
  }
}
