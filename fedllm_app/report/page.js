"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const print_width = 690; // pixels: a sheet of A4 between the margins of the style sheet
  const font = { family: "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", size: 12.5 };

  function palette() {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim();
    return { ink: read("--ink"), muted: read("--muted"), grid: read("--grid"), line: read("--line") };
  }

  // Lines that have a role instead of a colour follow the page.
  function dressed(trace, colors) {
    const role = trace.line && trace.line.color;
    const color = role === "ink" || role === "muted" ? colors[role] : null;
    return color ? { ...trace, line: { ...trace.line, color } } : trace;
  }

  function axis(own, colors) {
    return {
      automargin: true, gridcolor: colors.grid, zeroline: false, linecolor: colors.line, fixedrange: true,
      tickfont: { color: colors.muted }, ...own,
      ...(own && own.title ? { title: { standoff: 10, font: { size: 12.5 }, ...own.title } } : {}),
    };
  }

  function layout(figure, colors, width) {
    const { xaxis, yaxis, ...own } = figure.layout;
    const named = new Set(figure.traces.filter((t) => t.showlegend !== false && t.name).map((t) => t.name));
    return {
      font: { ...font, color: colors.ink }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 48, r: 12, t: 16, b: 44 }, showlegend: named.size > 0 && figure.traces[0].type !== "heatmap",
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, xanchor: "left", traceorder: "normal", font: { size: 12 } },
      hovermode: figure.traces[0].type === "scatter" && figure.traces[0].mode !== "markers" ? "x unified" : "closest",
      hoverlabel: { bgcolor: "#262b35", bordercolor: "#262b35", font: { color: "#fff" } },
      autosize: !width, ...(width ? { width } : {}), height: figure.height,
      xaxis: axis(xaxis, colors), yaxis: axis(yaxis, colors), ...own,
    };
  }

  function draw(width) {
    const colors = palette();
    for (const place of document.querySelectorAll("[data-figure]")) {
      const figure = figures[place.dataset.figure];
      const traces = figure.traces.map((trace) => dressed(trace, colors));
      Plotly.react(place, traces, layout(figure, colors, width), { responsive: true, displayModeBar: false });
    }
  }

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
  addEventListener("beforeprint", () => draw(print_width));
  addEventListener("afterprint", () => draw());
})();
