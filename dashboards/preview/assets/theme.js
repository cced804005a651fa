/* Colours: Grafana's names in tones that are readable on light and on dark ground. */
(function (preview) {
  "use strict";

  const light = {
    name: "light", text: "#1b2430", muted: "#566274", faint: "#8a95a5", grid: "#e6e9ee", axis: "#c9d0da", panel: "#ffffff", raised: "#f3f5f8",
    font: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif",
    palette: ["#2f6fde", "#d9730d", "#1a8f56", "#9b4fd1", "#0b8a9e", "#d1345b", "#8a7000", "#5b5fc7", "#b0489b", "#5f6f84"],
    named: {
      green: "#1a8f56", yellow: "#b58900", orange: "#d9730d", red: "#d02f44", blue: "#2f6fde", purple: "#8a4fd1",
      gray: "#6b7787", white: "#ffffff", black: "#000000", text: "#1b2430", transparent: "transparent",
    },
  };
  const dark = {
    name: "dark", text: "#e6eaf0", muted: "#a3aebd", faint: "#76828f", grid: "#262d37", axis: "#3a4350", panel: "#171c23", raised: "#1f2630",
    font: light.font,
    palette: ["#6ea3ff", "#f59b4c", "#54c98a", "#c08bf2", "#48c3d6", "#ff7d97", "#e0c04a", "#9a9dff", "#ec8bd3", "#a7b4c6"],
    named: {
      green: "#4cc38a", yellow: "#e5c04b", orange: "#f59b4c", red: "#ff6b7d", blue: "#6ea3ff", purple: "#c08bf2",
      gray: "#98a4b3", white: "#ffffff", black: "#000000", text: "#e6eaf0", transparent: "transparent",
    },
  };

  /** A Grafana colour ("dark-green", "#d02f44", "text") as CSS, or null where it names a scheme. */
  function color(theme, name) {
    if (!name) return null;
    if (/^(#|rgb)/.test(name)) return name;
    const bare = name.replace(/^(super-light|semi-dark|light|dark)-/, "");
    return theme.named[bare] || null;
  }

  /** The colour with an opacity, from #rrggbb or rgb(). */
  function faded(css, opacity) {
    const hex = /^#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})$/i.exec(css || "");
    return hex ? `rgba(${hex.slice(1).map((each) => parseInt(each, 16)).join(", ")}, ${opacity})` : css;
  }

  preview.themes = { light, dark };
  preview.color = color;
  preview.faded = faded;
})((globalThis.FleetPreview = globalThis.FleetPreview || {}));
