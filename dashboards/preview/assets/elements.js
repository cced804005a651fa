/* Elements made of plain values. Texts from the database only ever become text nodes. */
(function (preview) {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";

  /** An element with attributes, and children that are elements or texts; a `style` object goes through the CSSOM, which the page's policy allows. */
  function make(tag, attributes, ...children) {
    const element = ["svg", "path", "rect", "circle", "title", "line"].includes(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "style") for (const [property, css] of Object.entries(value)) element.style.setProperty(property, css);
      else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value === true ? "" : String(value));
    }
    element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
    return element;
  }

  /** The few signs of Markdown that text panels use: headings, lists, bold, code, links as text. */
  function markdown(text) {
    const blocks = [];
    let list = null;
    for (const line of text.split("\n")) {
      const heading = /^(#{1,4})\s+(.*)$/.exec(line);
      const bullet = /^\s*[-*]\s+(.*)$/.exec(line);
      if (!bullet) list = null;
      if (heading) blocks.push(make(`h${Math.min(6, heading[1].length + 3)}`, {}, ...inline(heading[2])));
      else if (bullet) {
        if (!list) blocks.push((list = make("ul", {})));
        list.append(make("li", {}, ...inline(bullet[1])));
      } else if (line.trim()) blocks.push(make("p", {}, ...inline(line)));
    }
    return blocks;
  }

  function inline(text) {
    return text.split(/(\*\*[^*]+\*\*|`[^`]+`|\[[^\]]+\]\([^)]+\))/).filter(Boolean).map((part) => {
      if (part.startsWith("**")) return make("strong", {}, part.slice(2, -2));
      if (part.startsWith("`")) return make("code", {}, part.slice(1, -1));
      const link = /^\[([^\]]+)\]/.exec(part);
      return link ? link[1] : part;
    });
  }

  const swatch = (color) => make("span", { class: "swatch", style: { background: color }, "aria-hidden": "true" });

  function tooltipLine(name, text, color) {
    return make("div", { class: "tip-line" }, swatch(color), make("span", { class: "tip-name" }, name), make("span", { class: "tip-value" }, text));
  }

  const tooltips = {
    ofTime(points, shown, theme, context) {
      if (!points.length) return "";
      const at = points[0].axisValue;
      const span = (context.to - context.from) / 1000;
      const lines = shown
        .filter((field) => !(field.config.custom.hideFrom || {}).tooltip && points.some((point) => point.seriesName === field.title))
        .map((field) => ({ field, value: field.values[field.times.indexOf(at)] }))
        .filter(({ value }) => value !== undefined && value !== null);
      const near = (context.annotations || []).flatMap(({ name, color, events }) => events
        .filter((event) => (event.end ? event.time <= at && event.end >= at : Math.abs(event.time - at) < span * 8))
        .slice(0, 4).map((event) => tooltipLine(name, event.text, preview.color(theme, color) || theme.named.red)));
      return make("div", {},
        make("div", { class: "tip-head" }, `${preview.units.time(at, span)} UTC`),
        ...lines.slice(0, 14).map(({ field, value }) => tooltipLine(field.title, preview.fields.display(field, value, theme, context).text, field.base)),
        lines.length > 14 ? make("div", { class: "tip-head" }, `and ${lines.length - 14} more`) : null,
        ...near);
    },
    ofCategory(points, shown, theme, context) {
      if (!points.length) return "";
      return make("div", {}, make("div", { class: "tip-head" }, points[0].name),
        ...points.map((point) => {
          const field = shown.find((each) => each.title === point.seriesName);
          return tooltipLine(point.seriesName, preview.fields.display(field, field.values[point.dataIndex], theme, context).text, point.color);
        }));
    },
    ofItem(head, text, color) {
      return make("div", {}, make("div", { class: "tip-head" }, head), tooltipLine("", text, color));
    },
  };

  preview.elements = { make, markdown, swatch };
  preview.tooltips = tooltips;
})((globalThis.FleetPreview = globalThis.FleetPreview || {}));
