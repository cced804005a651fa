/* The page: navigation, range, theme, and the panels of the dashboard that is looked at. */
(function (preview) {
  "use strict";

  const { echarts } = globalThis;
  const { make } = preview.elements;
  const data = JSON.parse(document.getElementById("data").textContent);
  const main = document.getElementById("main");
  const nav = document.getElementById("dashboards");
  const live = [];

  const remembered = {
    get: (name) => { try { return localStorage.getItem(`fleet-preview-${name}`); } catch { return null; } },
    set: (name, value) => { try { localStorage.setItem(`fleet-preview-${name}`, value); } catch { /* a page from a file may be refused a store */ } },
  };

  const systemDark = matchMedia("(prefers-color-scheme: dark)");
  let chosenTheme = new URLSearchParams(location.hash.slice(1)).get("theme") || remembered.get("theme");
  const themeName = () => (chosenTheme === "dark" || chosenTheme === "light" ? chosenTheme : systemDark.matches ? "dark" : "light");

  /** What the address says is looked at, or the first that there is. */
  function state() {
    const wanted = new URLSearchParams(location.hash.slice(1));
    const dashboard = data.dashboards.find((each) => each.uid === wanted.get("d")) || data.dashboards[0];
    const page = dashboard.pages.find((each) => each.device === wanted.get("device")) || dashboard.pages[0];
    const chosen = data.ranges.find((each) => each.id === wanted.get("range"));
    const range = chosen || data.ranges.find((each) => each.id === dashboard.default_range) || data.ranges[0];
    return { dashboard, page, range, chosen: chosen ? chosen.id : "" };
  }

  /** A place in the page. A range goes with it only when somebody chose it: each dashboard has one of its own. */
  function address(dashboard, device, range) {
    const parts = new URLSearchParams({ d: dashboard });
    if (device) parts.set("device", device);
    if (range) parts.set("range", range);
    return `#${parts}`;
  }

  /** Where a link of Grafana's leads within this page, or null: not every device has a page here. */
  function findPage(uid, device) {
    const dashboard = data.dashboards.find((each) => each.uid === uid);
    if (!dashboard) return null;
    const has = !device || dashboard.pages.some((each) => each.device === device);
    return has ? address(uid, device, state().chosen) : null;
  }

  function showNavigation({ dashboard, page, chosen }) {
    nav.replaceChildren(...data.dashboards.map((each) => {
      const here = each === dashboard;
      const inner = each.pages.length > 1 && here
        ? make("ul", {}, ...each.pages.map((other) => make("li", {}, make("a", {
          href: address(each.uid, other.device, chosen), title: other.device, "aria-current": other === page ? "page" : null,
        }, other.device))))
        : null;
      return make("li", {}, make("a", { href: address(each.uid, "", chosen), "aria-current": here && !inner ? "page" : here ? "true" : null, title: each.description || each.title }, each.title), inner);
    }));
  }

  function heading({ dashboard, page, range }) {
    const result = page.results[range.id];
    return make("header", { class: "heading" },
      make("div", { class: "heading-text" },
        make("h1", {}, dashboard.title, page.device ? make("span", { class: "device", title: page.device }, page.device) : null),
        dashboard.description ? make("p", {}, dashboard.description) : null),
      make("div", { class: "controls" },
        make("div", { class: "ranges", role: "group", "aria-label": "Time range" }, ...data.ranges.map((each) => make("a", {
          href: address(dashboard.uid, page.device, each.id), "aria-current": each === range ? "true" : null,
        }, each.title))),
        make("p", { class: "span" }, preview.panels.rangeText(result.from, result.to))),
      page.variables.length ? make("ul", { class: "chips", "aria-label": "Variables" }, ...page.variables.map((variable) => make("li", { title: `${variable.label}: ${variable.value}` }, make("b", {}, variable.label), make("span", {}, variable.value)))) : null);
  }

  /** A title with the variables in it put in. */
  function named(text, variables) {
    return variables.reduce((all, { name, value }) => all.replaceAll(`\${${name}}`, value).replaceAll(`$${name}`, value), text || "");
  }

  function panelBox({ panel, x, y, w, h }, variables) {
    const id = `panel-${panel.id}`;
    const title = named(panel.title, variables);
    const description = named(panel.description, variables);
    return make("section", {
      class: `panel panel-${panel.type}${w <= 6 ? " small" : ""}`, "aria-labelledby": id,
      style: { "--x": x + 1, "--y": y + 1, "--w": w, "--h": h },
    },
    title ? make("h3", { id, title: description ? `${title}: ${description}` : title }, make("span", {}, title),
      description ? make("span", { class: "info", "aria-label": description, role: "img" }, "i") : null) : null,
    make("div", { class: "body" }));
  }

  function fillPanel(box, panel, page, range, theme) {
    const body = box.querySelector(".body");
    const outcome = page.results[range.id];
    body.className = "body";
    body.replaceChildren();
    const context = {
      now: data.generated, from: outcome.from, to: outcome.to, width: body.clientWidth, height: body.clientHeight,
      annotations: outcome.annotations, findPage,
    };
    const model = preview.panels.build(panel, outcome.panels[panel.id], theme, context);
    const chart = preview.bodies.fill(body, model, panel, theme, echarts);
    const old = box.querySelector(".note");
    if (old) old.remove();
    if (model.note) box.append(make("p", { class: "note" }, model.note));
    box.dataset.kind = model.kind;
    return chart;
  }

  function clear() {
    for (const each of live.splice(0)) {
      each.observer.disconnect();
      if (each.chart) each.chart.dispose();
    }
  }

  function show() {
    const now = state();
    const name = themeName();
    const theme = preview.themes[name];
    document.documentElement.dataset.theme = name;
    document.title = `${now.dashboard.title}${now.page.device ? ` ${now.page.device}` : ""} · Fleetledger`;
    clear();
    showNavigation(now);
    const grid = make("div", { class: "grid" });
    main.replaceChildren(heading(now), grid);
    const boxes = preview.grid.place(now.dashboard.models).map((place) => {
      if (place.row) {
        grid.append(make("h2", { class: "row", style: { "--y": place.y + 1 } }, place.row.title || ""));
        return null;
      }
      const box = panelBox(place, now.page.variables);
      grid.append(box);
      return [box, place.panel];
    }).filter(Boolean);
    // Charts ask for the size of their boxes, so all boxes come first.
    for (const [box, panel] of boxes) follow(box, panel, now.page, now.range, theme);
  }

  /** Draws a panel, and draws it again when its size changes. */
  function follow(box, panel, page, range, theme) {
    const body = box.querySelector(".body");
    const entry = { chart: fillPanel(box, panel, page, range, theme), observer: null };
    let width = body.clientWidth;
    let waiting = 0;
    entry.observer = new ResizeObserver(() => {
      if (body.clientWidth === width) return;
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        width = body.clientWidth;
        if (entry.chart) entry.chart.dispose();
        entry.chart = fillPanel(box, panel, page, range, theme);
      }, 120);
    });
    entry.observer.observe(body);
    live.push(entry);
  }

  const toggle = document.getElementById("theme");
  toggle.addEventListener("click", () => {
    chosenTheme = themeName() === "dark" ? "light" : "dark";
    remembered.set("theme", chosenTheme);
    show();
  });
  systemDark.addEventListener("change", show);
  addEventListener("hashchange", () => {
    show();
    scrollTo(0, 0);
  });
  document.getElementById("made").textContent = `${data.environment} · ${preview.units.time(data.generated).slice(0, 16)} UTC`;
  show();
  document.documentElement.dataset.ready = "true";
})((globalThis.FleetPreview = globalThis.FleetPreview || {}));
