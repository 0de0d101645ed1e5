// A metric over days: its windows and days, its range, and what happened, drawn on it. The same values are in the table below it.

import uPlot from "./uplot.js";
import { address, html, useEffect } from "./parts.js";
import { number, say } from "./words.js";

const { useRef } = globalThis.React;

const seconds = (day) => Date.parse(`${day}T00:00:00Z`) / 1000;
const isoDay = (stamp) => new Date(stamp * 1000).toISOString().slice(0, 10);
const COLOURS = { "champion": "#38a169", "rolled back to": "#d69e2e", "roll-back undone": "#d69e2e", "warned": "#e53e3e", "drifted": "#805ad5", "worse": "#dd6b20", "attempt": "#3182ce" };

function style() {
  if (document.getElementById("esteira-uplot")) return;
  const link = Object.assign(document.createElement("link"), { id: "esteira-uplot", rel: "stylesheet", href: address("static/uplot.css").href });
  document.head.append(link);
}

/** `series` is [{label, points: [[day, value]], dash?}], `marks` [{day, kind, text}], `limit` {min, max}. */
export function Plot({ series, marks, limit, label }) {
  const place = useRef(null);
  useEffect(() => {
    style();
    const measured = series.flatMap((each) => each.points.map(([day]) => day)).sort();
    const days = [...new Set([...measured, ...marks.map((mark) => mark.day).filter((day) => day >= measured[0])])].sort();
    if (!measured.length || !place.current) return undefined;
    const ink = getComputedStyle(place.current).color;
    const faint = "rgba(128, 128, 128, 0.25)";
    const data = [days.map(seconds), ...series.map((each) => {
      const by = new Map(each.points);
      return days.map((day) => by.get(day) ?? null);
    })];
    const bounds = [limit?.min, limit?.max].filter((each) => each !== undefined && each !== null);
    const draw = (plot) => {
      const { ctx, bbox } = plot;
      const line = (from, to, colour, dash) => {
        ctx.save(); ctx.strokeStyle = colour; ctx.lineWidth = devicePixelRatio; ctx.setLineDash(dash);
        ctx.beginPath(); ctx.moveTo(...from); ctx.lineTo(...to); ctx.stroke(); ctx.restore();
      };
      bounds.forEach((bound) => {
        const y = plot.valToPos(bound, "y", true);
        line([bbox.left, y], [bbox.left + bbox.width, y], "#e53e3e", [6, 4]);
      });
      marks.forEach((mark) => {
        const x = plot.valToPos(seconds(mark.day), "x", true);
        if (x >= bbox.left && x <= bbox.left + bbox.width) line([x, bbox.top], [x, bbox.top + bbox.height], COLOURS[mark.kind] ?? ink, [2, 2]);
      });
    };
    const axis = { stroke: ink, grid: { stroke: faint }, ticks: { stroke: faint } };
    const values = (_, value) => (value === null || value === undefined ? "–" : number(value));
    const palette = ["#3182ce", "#a0aec0", "#d69e2e", "#38a169"];
    const plot = new uPlot({
      width: place.current.clientWidth || 800,
      height: 260,
      tzDate: (stamp) => uPlot.tzDate(new Date(stamp * 1000), "UTC"),
      hooks: { draw: [draw] },
      axes: [{ ...axis, values: (_, stamps) => stamps.map((stamp) => isoDay(stamp).slice(5)) }, axis],
      scales: { y: { range: (_, low, high) => {
        const [from, to] = [Math.min(low, ...bounds), Math.max(high, ...bounds)];
        const room = (to - from || 1) * 0.08;
        return [from - room, to + room];
      } } },
      series: [{ label: say("day"), value: (_, stamp) => (stamp ? isoDay(stamp) : "–") },
        ...series.map((each, index) => ({ label: each.label, stroke: palette[index % palette.length], width: index ? 1 : 2, dash: each.dash, value: values, spanGaps: true, points: { show: !index } }))],
    }, data, place.current);
    const follow = new ResizeObserver(() => place.current && plot.setSize({ width: place.current.clientWidth, height: 260 }));
    follow.observe(place.current);
    return () => { follow.disconnect(); plot.destroy(); };
  }, [series, marks, limit]);
  return html`<div ref=${place} role="img" aria-label=${label} style=${{ width: "100%" }} />
    <ul style=${{ display: "flex", flexWrap: "wrap", gap: "0.75rem", fontSize: "0.8rem", listStyle: "none" }}>
      ${[...new Set(marks.map((each) => each.kind))].map((kind) => html`<li key=${kind}><span style=${{ color: COLOURS[kind] }}>┆</span> ${say(kind)}</li>`)}
    </ul>`;
}
