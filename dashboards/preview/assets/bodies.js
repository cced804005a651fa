/* A panel's body in the document: one function per kind of model. */
(function (preview) {
  "use strict";

  const { make, markdown, swatch } = preview.elements;

  function chart(body, model, echarts) {
    const canvas = make("div", { class: "chart", role: "img", "aria-label": model.summary });
    const legend = model.legend ? legendOf(model.legend, (name, shown) => drawn.dispatchAction({ type: shown ? "legendSelect" : "legendUnSelect", name })) : null;
    body.classList.add(model.legend && model.legend.placement === "right" ? "beside" : "stacked");
    body.append(canvas);
    if (legend) body.append(legend);
    const drawn = echarts.init(canvas, null, { renderer: "canvas" });
    drawn.setOption(model.option);
    return drawn;
  }

  function legendOf(legend, toggle) {
    const line = (entry) => {
      const button = make("button", {
        type: "button", class: "legend-name", title: entry.name, "aria-pressed": legend.fixed ? null : "true", disabled: legend.fixed || false,
        onclick: () => {
          const shown = button.getAttribute("aria-pressed") !== "true";
          button.setAttribute("aria-pressed", String(shown));
          toggle(entry.name, shown);
        },
      }, swatch(entry.color), make("span", {}, entry.label || entry.name));
      return button;
    };
    if (!legend.table && !legend.calcs.length) return make("div", { class: "legend" }, ...legend.entries.map(line));
    if (!legend.table) {
      return make("div", { class: "legend" }, ...legend.entries.map((entry) => make("span", { class: "legend-item" }, line(entry),
        ...entry.values.map((value, index) => make("span", { class: "legend-value" }, make("i", {}, legend.calcs[index]), ` ${value}`)))));
    }
    return make("div", { class: "legend legend-table", tabindex: "0" }, make("table", {},
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, make("span", { class: "unseen" }, "series")), ...legend.calcs.map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...legend.entries.map((entry) => make("tr", {}, make("td", {}, line(entry)), ...entry.values.map((value) => make("td", { class: "number" }, value)))))));
  }

  function linked(link, className, attributes, ...children) {
    return make(link ? "a" : "span", { class: className, href: link || null, ...attributes }, ...children);
  }

  function stat(body, model, theme) {
    body.classList.add("stats");
    const wide = body.clientWidth;
    const high = body.clientHeight;
    const most = Math.max(1, Math.min(model.items.length, Math.floor(wide / 120)));
    const lines = Math.ceil(model.items.length / most);
    const perLine = Math.ceil(model.items.length / lines);
    body.style.setProperty("grid-template-columns", `repeat(${perLine}, minmax(0, 1fr))`);
    const longest = model.items.reduce((most, item) => Math.max(most, item.display.text.length), 1);
    const size = Math.max(15, Math.min(40, (wide / perLine - 20) / (longest * 0.6), (high / lines - (model.items[0].title ? 24 : 4)) * 0.8));
    for (const item of model.items) {
      const filled = model.colorMode.startsWith("background") && item.color;
      const color = item.missing ? theme.muted : model.colorMode === "none" ? theme.text : item.color || theme.text;
      body.append(linked(item.link, `stat${filled ? " filled" : ""}`, { style: filled ? { background: preview.faded(item.color, 0.16), "border-color": item.color } : {} },
        item.title ? make("span", { class: "stat-title", title: item.title }, item.title) : null,
        make("span", { class: "stat-value", title: item.display.text, style: { color, "font-size": `${size.toFixed(1)}px` } },
          item.display.prefix, item.display.number, make("small", {}, item.display.suffix)),
        item.spark ? spark(item.spark, color) : null));
    }
  }

  /** A line of the values, stretched over the panel's foot. */
  function spark({ times, values }, color) {
    const known = values.map((value, index) => [times[index], value]).filter(([, value]) => value !== null);
    const [first, last] = [known[0][0], known[known.length - 1][0]];
    const low = Math.min(...known.map(([, value]) => value));
    const high = Math.max(...known.map(([, value]) => value));
    const at = ([time, value]) => `${((100 * (time - first)) / (last - first || 1)).toFixed(2)} ${(high > low ? 28 - (26 * (value - low)) / (high - low) : 15).toFixed(2)}`;
    const path = `M${known.map(at).join("L")}`;
    return make("svg", { class: "spark", viewBox: "0 0 100 30", preserveAspectRatio: "none", "aria-hidden": "true" },
      make("path", { d: `${path}L100 30L0 30Z`, fill: color, opacity: "0.12" }),
      make("path", { d: path, fill: "none", stroke: color, "stroke-width": "1.5", "vector-effect": "non-scaling-stroke" }));
  }

  function bars(body, model) {
    body.classList.add("bars");
    for (const item of model.items) {
      body.append(linked(item.link, "bar", {},
        make("span", { class: "bar-name", title: item.title }, item.title),
        make("span", { class: "bar-track" }, make("span", { class: "bar-fill", style: { width: `${(item.share * 100).toFixed(2)}%`, background: item.color } })),
        make("span", { class: "bar-value", style: { color: item.color } }, item.display.text)));
    }
  }

  function compare(a, b) {
    if (a === b) return 0;
    if (a === null) return 1;
    if (b === null) return -1;
    return typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a < b ? -1 : 1;
  }

  function table(body, model, panel) {
    body.classList.add("table-body");
    body.setAttribute("tabindex", "0");
    const foot = make("tbody", {});
    let sort = model.sort;
    const heads = model.columns.map((column, index) => make("th", {
      scope: "col", class: column.numeric ? "number" : column.align === "center" ? "center" : "", style: column.width ? { width: `${column.width}px` } : {},
    }, make("button", { type: "button", title: `Sort by ${column.title}`, onclick: () => order({ column: index, descending: sort && sort.column === index ? !sort.descending : column.numeric }) }, column.title)));
    function order(wanted) {
      sort = wanted;
      heads.forEach((head, index) => {
        if (sort && sort.column === index) head.setAttribute("aria-sort", sort.descending ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      });
      const rows = [...model.rows];
      if (sort) rows.sort((a, b) => {
        const [left, right] = [a[sort.column].value, b[sort.column].value];
        return left === null || right === null ? compare(left, right) : (sort.descending ? -1 : 1) * compare(left, right);
      });
      foot.replaceChildren(...rows.map((cells) => make("tr", {}, ...cells.map((cell, index) => cellOf(cell, model.columns[index])))));
    }
    order(sort);
    const wide = model.columns.length * 78;
    body.append(make("table", { class: "data", style: { "min-width": `${Math.min(wide, 900)}px` } }, make("caption", { class: "unseen" }, panel.title), make("thead", {}, make("tr", {}, ...heads)), foot));
  }

  function cellOf(cell, column) {
    const style = cell.color ? (cell.filled ? { background: preview.faded(cell.color, 0.18) } : cell.share === undefined ? { color: cell.color, "font-weight": "600" } : {}) : {};
    const text = make(cell.link ? "a" : "span", { href: cell.link || null }, cell.text);
    const gauge = cell.share === undefined ? null : make("span", { class: "cell-track" }, make("span", { class: "bar-fill", style: { width: `${(cell.share * 100).toFixed(1)}%`, background: cell.color } }));
    return make("td", { class: `${column.numeric ? "number" : column.align === "center" ? "center" : ""}${gauge ? " gauged" : ""}`, style, title: cell.text }, gauge, text);
  }

  function fill(body, model, panel, theme, echarts) {
    switch (model.kind) {
      case "chart": return chart(body, model, echarts);
      case "stat": stat(body, model, theme); break;
      case "bars": bars(body, model); break;
      case "table": table(body, model, panel); break;
      case "text": body.classList.add("text"); body.append(...markdown(model.text)); break;
      case "error": body.append(make("div", { class: "failed", role: "alert" }, make("strong", {}, "This query failed"), make("span", {}, model.text))); break;
      default: body.append(make("div", { class: "nothing" }, make("span", {}, model.text), make("small", {}, model.range)));
    }
    return null;
  }

  preview.bodies = { fill };
})((globalThis.FleetPreview = globalThis.FleetPreview || {}));
