/* Where panels stand: Grafana's grid of 24 columns, collapsed rows opened. */
(function (preview) {
  "use strict";

  /** The dashboard's panels and row headings in order, with `x`, `y`, `w` and `h`; every row is open. */
  function place(models) {
    const placed = [];
    let shift = 0;
    for (const model of models) {
      const { x = 0, y = 0, w = 24, h = 8 } = model.gridPos || {};
      if (model.type !== "row") {
        placed.push({ panel: model, x, y: y + shift, w, h });
        continue;
      }
      placed.push({ row: model, x: 0, y: y + shift, w: 24, h: 1 });
      const inner = model.panels || [];
      if (!inner.length) continue;
      const top = Math.min(...inner.map((each) => each.gridPos.y));
      const bottom = Math.max(...inner.map((each) => each.gridPos.y + each.gridPos.h));
      for (const each of inner) {
        placed.push({ panel: each, x: each.gridPos.x, y: each.gridPos.y - top + y + shift + 1, w: each.gridPos.w, h: each.gridPos.h });
      }
      shift += bottom - top;
    }
    return placed.sort((a, b) => a.y - b.y || a.x - b.x);
  }

  preview.grid = { place };
})((globalThis.FleetPreview = globalThis.FleetPreview || {}));
